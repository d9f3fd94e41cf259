"""A run from its directory alone: what it was to do, and which of its edits to try again."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from msbd_dist.batch.manifest import Manifest
from msbd_dist.batch.record import (
    QUARANTINE,
    EditResult,
    Launch,
    StoredEdits,
    load_edit,
    load_run,
)
from msbd_dist.batch.status import Row, load_status
from msbd_dist.canvas.files import Files
from msbd_dist.canvas.ledger import Ledger
from msbd_dist.core.spec import Result
from msbd_dist.errors import InputError, MsbdError, RunError


def stored_run(out: Files) -> tuple[Manifest, Launch]:
    """What a run does, and on what. RunError where there is none."""
    run = load_run(out)
    if run is None:
        raise RunError(f"{out.url}: holds no run; give the --out of `msbd run`")
    return Manifest(path=Path(run.manifest), models=run.models, edits=StoredEdits(out)), run.launch


def results_of(out: Files) -> tuple[EditResult, ...]:
    """What has become of each edit of a run, from what is stored."""
    rows = {row.id: row for row in load_status(out).edits}
    return tuple(_result(out, spec.id, rows.get(spec.id)) for spec in StoredEdits(out))


def _result(out: Files, name: str, row: Row | None) -> EditResult:
    with suppress(FileNotFoundError, ValueError):
        record = load_edit(out / name)
        if done := Ledger(out / name / record.key / "ledger").get("export"):
            return EditResult(id=name, state="kept", output=done["output"], seed=record.seed)
    if row is not None and row.error is not None:
        return EditResult(id=name, state=row.state, error=MsbdError(row.error))
    return EditResult(id=name, state="stopped")


def release(
    out: Files, names: Collection[str], *, failed: bool, quarantined: bool
) -> frozenset[str]:
    """The edits to try again: those that are named, and those in these states. What was set aside
    is so no more. With an edit that uses another one's result comes that one too.

    InputError where a name is none of the run's.
    """
    bases = {
        spec.id: spec.image.edit if isinstance(spec.image, Result) else None
        for spec in StoredEdits(out)
    }
    for name in names:
        if name not in bases:
            raise InputError(f"{out.url}: has no edit {name!r}; see `msbd status`")
    states = [*(["failed"] if failed else []), *(["quarantined"] if quarantined else [])]
    chosen = {*names, *(row.id for row in load_status(out).edits if row.state in states)}
    for name in chosen:
        (out / name).remove(QUARANTINE)
    for name in list(chosen):
        base = bases[name]
        while base is not None and base not in chosen:
            chosen.add(base)
            base = bases[base]
    return frozenset(chosen)
