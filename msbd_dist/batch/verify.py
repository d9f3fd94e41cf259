"""Whether finished edits are still what was made of them: what is there is hashed, and made again.

inputs   image, mask, models and code are what they were
disk     the output and the stored chunks are what was written, by their digests in the ledger
again    the edit, made anew elsewhere from its record, has the same digests
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from msbd_dist.batch.changes import since
from msbd_dist.batch.describe import record_of
from msbd_dist.batch.manifest import Manifest
from msbd_dist.batch.record import (
    EditRecord,
    ExecutorKind,
    StoredEdits,
    load_edit,
    load_run,
    package_versions,
)
from msbd_dist.batch.run import run_manifest
from msbd_dist.batch.steps import digest_at, ledger_of
from msbd_dist.canvas.files import Files, open_files
from msbd_dist.canvas.ledger import Ledger
from msbd_dist.canvas.store import StoredChunks
from msbd_dist.errors import ClusterError, InputError, MsbdError, RunError

REMOVED = "removed.json"  # beside an edit's work: what gc has removed of it, and when

Findings = Iterator[tuple[str, str]]
"""What differs, and how."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found of one edit."""

    edit: str
    compared: int  # chunks and outputs, on the disk and made again
    differing: tuple[str, ...]  # of them, by name
    how: dict[str, str]  # each of these differs
    inputs: tuple[str, ...]  # what is not any more what it was made of; then it is not made again
    notes: tuple[str, ...]  # what could not be compared, and why that is no fault
    again: bool  # it was made again
    changed: dict[str, tuple[str, str]]  # versions of packages, then and now

    @property
    def equal(self) -> bool:
        return not self.differing and not self.inputs


@dataclass(frozen=True, kw_only=True)
class Launched:
    """On what edits are made again; None: they are not."""

    workers: int | None = None
    executor: ExecutorKind = "ray"
    address: str | None = None


def verdicts(out: Files, names: Iterable[str], launched: Launched | None) -> Iterator[Verdict]:
    """Of finished edits, one after another. RunError, before any work, where one is none."""
    records = [finished(out, name) for name in names]
    return (_verdict(out, record, launched) for record in records)


def finished(out: Files, name: str) -> EditRecord:
    """The record of a finished edit. RunError where it is not finished."""
    record = record_of(out, name)
    assert record is not None
    if "export" not in ledger_of(out / name, record):
        raise RunError(f"{name}: is not finished; `msbd resume {out.url}` goes on with it")
    return record


def all_edits(out: Files) -> tuple[list[str], list[str]]:
    """Which edits of a run are finished, and which are not."""
    done: list[str] = []
    left: list[str] = []
    for spec in StoredEdits(out):
        try:
            done.append(finished(out, spec.id).spec.id)
        except RunError:
            left.append(spec.id)
    return done, left


def _verdict(out: Files, record: EditRecord, launched: Launched | None) -> Verdict:
    name = record.spec.id
    ledger = ledger_of(out / name, record)
    wanted, notes = digests_of(record, ledger), list(_notes(out / name, record))
    how = dict(_on_disk(out / name, record, ledger))
    inputs = () if record.spec.in_place else tuple(since(record))
    again = launched is not None and not record.spec.in_place and not inputs
    if again:
        assert launched is not None
        for what, words in _made_again(record, ledger, wanted, launched):
            how[what] = f"{how[what]}, and {words}" if what in how else words
    then, now = _versions(out), package_versions()
    return Verdict(
        edit=name,
        compared=len(wanted),
        differing=tuple(how),
        how=how,
        inputs=inputs,
        notes=tuple(notes),
        again=again,
        changed={k: (v, now.get(k, "none")) for k, v in then.items() if now.get(k) != v},
    )


def _versions(out: Files) -> dict[str, str]:
    run = load_run(out)
    return {} if run is None else run.versions


def _notes(files: Files, record: EditRecord) -> Iterator[str]:
    if record.spec.in_place:
        yield "was made in its image itself, and can't be made again"
    if (when := removed_by_gc(files, record)) and not _has_canvas(files, record):
        yield f"its stored pixels were removed by gc ({when})"


def _has_canvas(files: Files, record: EditRecord) -> bool:
    return "canvas.zarr" in (files / record.key).folders()


def removed_by_gc(files: Files, record: EditRecord) -> str | None:
    """When gc removed what was stored of an edit; None where it did not."""
    try:
        return str(json.loads((files / record.key).read(REMOVED))["canvas.zarr"])
    except (FileNotFoundError, ValueError, KeyError):
        return None


# -- on the disk -----------------------------------------------------------------------------------


def _on_disk(files: Files, record: EditRecord, ledger: Ledger) -> Findings:
    exported = ledger["export"]
    place = exported["output"]
    if record.spec.output is None and not record.spec.in_place:  # the run may have been moved
        place = f"{files.url}/{place.rsplit('/', 1)[1]}"
    found = digest_at(place)
    if found is None:
        yield "output", f"is gone ({place})"
    elif found != exported["sha256"]:
        yield "output", f"is not what was written ({place})"
    for task in record.plan.tasks(record.spec.id):
        if task.name not in ledger and task.kind != "measure":  # it may not have been measured
            yield task.name, "has no marker any more"
    if _has_canvas(files, record):
        yield from _of_canvas(files, record, ledger)
    elif removed_by_gc(files, record) is None:
        yield "canvas", "is gone, and gc has not removed it"


def _of_canvas(files: Files, record: EditRecord, ledger: Ledger) -> Findings:
    chunks = StoredChunks(files / record.key)
    taken_in = ["mask"] if record.direct else ["mask", "source"]
    for name in taken_in:
        if lost := chunks.lost(f"{name}/{ledger['ingest']['attempt']}"):
            yield name, lost
    for task in record.plan.tasks(record.spec.id):
        for chunk, digest in (ledger.get(task.name) or {}).get("stored", {}).items():
            if wrong := chunks.wrong(chunk, digest):
                yield _without_attempt(chunk), wrong


# -- made again ------------------------------------------------------------------------------------


def _made_again(
    record: EditRecord, ledger: Ledger, wanted: dict[str, str], launched: Launched
) -> Findings:
    with tempfile.TemporaryDirectory(prefix="msbd-verify-") as folder:
        again = Path(folder) / Path(ledger["export"]["output"]).name
        spec = replace(record.spec, seed=record.seed, output=str(again))
        manifest = Manifest(path=Path(folder), models=record.models, edits=(spec,))
        try:
            made = _digests_made(manifest, Path(folder) / "run", launched)
        except ClusterError:
            raise
        except MsbdError as error:
            yield "made again", f"fails: {error}"
            return
    for what, digest in wanted.items():
        if made.get(what) != digest:
            yield what, "comes out otherwise when it is made again"


def _digests_made(manifest: Manifest, out: Path, launched: Launched) -> dict[str, str]:
    run = run_manifest(
        manifest,
        out,
        workers=launched.workers,
        executor=launched.executor,
        address=launched.address,
    )
    (result,) = run.edits
    if result.error is not None:
        raise result.error
    if result.state == "stopped":
        raise InputError(f"was stopped: {run.stopped}")
    files = open_files(out) / result.id
    record = load_edit(files)
    return digests_of(record, ledger_of(files, record))


def digests_of(record: EditRecord, ledger: Ledger) -> dict[str, str]:
    """Of an edit's stored chunks and of its output, by names without attempts."""
    found = {"output": ledger["export"]["sha256"]}
    for task in record.plan.tasks(record.spec.id):
        for chunk, digest in (ledger.get(task.name) or {}).get("stored", {}).items():
            found[_without_attempt(chunk)] = digest
    return found


def _without_attempt(chunk: str) -> str:
    array, where = chunk.rsplit(" ", 1)
    return f"{array.rsplit('/', 1)[0]} {where}"
