"""What is done with a run afterwards: another file of an edit, and tidying up."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from msbd_dist.batch.look import check_edit, gone_without, how_of
from msbd_dist.batch.record import EditRecord, StoredEdits, load_edit
from msbd_dist.batch.status import is_driven, load_status
from msbd_dist.batch.steps import Edit, edited_of, ledger_of
from msbd_dist.batch.verify import REMOVED, finished
from msbd_dist.canvas.digests import content_digest
from msbd_dist.canvas.export import Verified, verify, write_edited
from msbd_dist.canvas.files import Files
from msbd_dist.canvas.images import Picture
from msbd_dist.canvas.ledger import Ledger
from msbd_dist.core.plan import Stage
from msbd_dist.core.spec import Verify, mask_files
from msbd_dist.errors import ImageError, RunError

log = logging.getLogger(__name__)

_KEY = re.compile(r"[0-9a-f]{16}")


def export_edit(
    out: Files,
    name: str,
    target: Path,
    which: Verify = "sample",
    *,
    force: bool = False,
    **how: Any,
) -> Verified:
    """Write a finished edit once more, as another kind of file or to another place.

    What is there already is replaced only with ``force``, and never what edits of the run read.
    ``how`` are keys of an edit that say how it is written. RunError and ImageError in one line.
    """
    record = finished(out, name)
    if record.spec.in_place:
        raise RunError(f"{name}: was made in {record.spec.source} itself; copy that")
    _require_free(out, target.resolve(), force=force)
    spec = replace(record.spec, output=str(target.resolve()), **how)
    _require_same_image(record)
    picture = Picture.open(spec.source)
    edit = Edit(replace(record, spec=spec), out / name, picture, ledger_of(out / name, record))
    check_edit(spec, edit.target, picture)
    for note in gone_without(spec, edit.target, picture):
        log.warning("%s: %s", target, note)
    if "canvas.zarr" not in edit.work.folders():
        raise RunError(f"{name}: its canvas has been removed; run it in another --out")
    edited, _ = edited_of(edit)
    found: list[Verified] = []
    target.parent.mkdir(parents=True, exist_ok=True)
    write_edited(
        edited,
        Path(edit.target),
        how_of(spec),
        before=lambda place: found.append(verify(edited, place, which)),
    )
    return found[0]


def _require_free(out: Files, target: Path, *, force: bool) -> None:
    for spec in StoredEdits(out):
        read = [spec.image] if isinstance(spec.image, str) else []
        if str(target) in (*read, *mask_files(spec.mask)):
            raise RunError(f"{target}: is an input of edit {spec.id}; give it another name")
    if target.exists() and not force:
        raise RunError(f"{target}: is there already; give it another name, or say --force")


def _require_same_image(record: EditRecord) -> None:
    try:
        same = content_digest(record.spec.source) == record.inputs["image"]
    except FileNotFoundError:
        raise ImageError(f"{record.spec.source}: is not there any more; put it back") from None
    if not same:
        raise ImageError(f"{record.spec.source}: has changed since the edit was made; put it back")


@dataclass(frozen=True)
class Waste:
    """Something that a run needs no more."""

    name: str
    what: str
    size: int  # bytes


def clear(out: Files, one: Waste) -> None:
    """Remove it; of an edit's work it is written down first, so that it is not missed."""
    work, _, name = one.name.rpartition("/")
    if name == "canvas.zarr":
        when = {name: time.strftime("%Y-%m-%d %H:%M:%S")}
        out.write(f"{work}/{REMOVED}", json.dumps(when).encode())
    out.remove(one.name)


def waste(out: Files, *, finished: bool = False) -> Iterator[Waste]:
    """What can be removed of a run that nobody drives: what former inputs and settings left,
    attempts that don't count, and with ``finished`` all stored pixels of finished edits."""
    status = load_status(out)
    if status.state != "ended" and is_driven(out, status):
        raise RunError(f"{out.url}: is being run; wait for it, or `msbd cancel` it")
    for spec in StoredEdits(out):
        files = out / spec.id
        try:
            record = load_edit(files)
        except (FileNotFoundError, ValueError):
            continue
        for folder in files.folders():
            if _KEY.fullmatch(folder) and folder != record.key:
                name = f"{spec.id}/{folder}"
                yield Waste(name, "of other inputs or settings", out.size(name))
        yield from _of_work(out, f"{spec.id}/{record.key}", record, finished=finished)


def _of_work(out: Files, work: str, record: EditRecord, *, finished: bool) -> Iterator[Waste]:
    ledger = Ledger(out / work / "ledger")
    canvas = f"{work}/canvas.zarr"
    if finished and "export" in ledger:
        if size := out.size(canvas):
            yield Waste(canvas, "stored pixels of a finished edit", size)
        return
    counts = {facts["attempt"] for facts in ledger.facts()}
    for name in _arrays(out, canvas, record.plan.stages):
        for attempt in out.folders(name):
            if attempt[0].isdigit() and attempt not in counts:
                place = f"{name}/{attempt}"
                yield Waste(place, "an attempt that does not count", out.size(place))


def _arrays(out: Files, canvas: str, stages: tuple[Stage, ...]) -> Iterator[str]:
    yield from (f"{canvas}/{name}" for name in ("source", "mask", "candidates"))
    for stage in stages:
        for name in out.folders(f"{canvas}/{stage.index}"):
            yield f"{canvas}/{stage.index}/{name}"
