"""What the driver itself does for an edit: plan it, take its pixels in, compose a stage, export.

The driver holds pixels of one band or one chunk's segments at a time, besides one edit's mask.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from msbd_dist.batch.record import EditRecord, load_edit, save_edit, sha256
from msbd_dist.canvas.images import Picture, check_target, from_float, losses, write_edited
from msbd_dist.canvas.ledger import Ledger
from msbd_dist.canvas.masks import feather, mask_bbox, read_mask
from msbd_dist.canvas.store import Canvas
from msbd_dist.core.compose import Floats, compose_chunk, stage_view
from msbd_dist.core.geometry import Box
from msbd_dist.core.plan import Plan, Stage, make_plan
from msbd_dist.core.spec import EditSpec, ModelSpec
from msbd_dist.errors import RunError
from msbd_dist.models.card import Card

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """An edit that can be run: its record and its picture."""

    record: EditRecord
    folder: Path
    picture: Picture

    @property
    def id(self) -> str:
        return self.record.spec.id


@dataclass(frozen=True)
class Edit:
    """An edit at work: what is stored of it, and what is done."""

    record: EditRecord
    folder: Path
    picture: Picture
    canvas: Canvas
    ledger: Ledger

    @property
    def id(self) -> str:
        return self.record.spec.id


def target_of(spec: EditSpec, folder: Path) -> Path:
    """Where an edit's finished picture goes."""
    return Path(spec.output) if spec.output else folder / "output.png"


def plan_edit(spec: EditSpec, card: Card) -> tuple[Plan, Picture]:
    """Read a picture and its mask, and plan the edit. Errors are one line about this edit."""
    picture = Picture.open(spec.image)
    mask = read_mask(spec.mask, picture)

    def any_mask(box: Box) -> bool:
        return bool(mask[box.slices].any())

    plan = make_plan(
        picture.size, mask_bbox(mask), any_mask, family=card.family, method=spec.method
    )
    if len(plan.stages) > 1:
        card.checkpoint(spec.method.upscaler)  # a missing one is an error now, not after stage 1
    return plan, picture


def prepare(
    spec: EditSpec,
    folder: Path,
    *,
    card: Card,
    models: ModelSpec,
    earlier: EditRecord | None = None,
) -> Prepared:
    """Plan an edit and check everything that can be checked before any model runs.

    ``earlier`` is the record that an interrupted run left of this very edit: its seed is kept.
    """
    plan, picture = plan_edit(spec, card)
    target = target_of(spec, folder)
    require_writable(target)
    check_target(picture, target)
    picture.check()
    for loss in losses(picture, target.suffix):
        log.warning("edit %s: %s", spec.id, loss)
    drawn = earlier.seed if earlier else secrets.randbelow(2**31)
    record = EditRecord(
        spec=spec,
        seed=drawn if spec.seed is None else spec.seed,
        plan=plan,
        dtype=str(picture.dtype),
        inputs=earlier.inputs if earlier else inputs_of(spec),
        models=models,
    )
    return Prepared(record, folder, picture)


def require_writable(target: Path) -> None:
    """RunError where an output can't be put: in place of a folder, or where writing is refused."""
    if target.is_dir():
        raise RunError(f"{target}: is a folder; give the output a file's name")
    parent = next(p for p in target.parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise RunError(f"{parent}: can't be written to; choose another output")


def inputs_of(spec: EditSpec) -> dict[str, str]:
    """What the input files hold, as SHA-256."""
    return {"image": sha256(spec.image), "mask": sha256(spec.mask)}


def earlier_record(spec: EditSpec, folder: Path, models: ModelSpec) -> EditRecord | None:
    """What an earlier run left of this very edit: same spec, same models, same input files."""
    try:
        record = load_edit(folder)
    except (OSError, ValueError):
        return None
    same = record.spec == spec and record.models == models and record.inputs == inputs_of(spec)
    return record if same else None


def is_finished(record: EditRecord, folder: Path) -> bool:
    """Whether the edit was exported and its output is still there."""
    exported = "export" in Ledger(folder / "ledger")
    return exported and target_of(record.spec, folder).exists()


def begun(prepared: Prepared) -> Ledger | None:
    """The ledger that an interrupted run of this very plan left; None where there is none."""
    ledger = Ledger(prepared.folder / "ledger")
    with contextlib.suppress(OSError, ValueError):  # unreadable: begin anew
        if "ingest" in ledger and load_edit(prepared.folder) == prepared.record:
            return ledger
    return None


def remaining_cost(prepared: Prepared) -> float:
    """Work that is left, in the units of `Plan.cost`."""
    plan, ledger = prepared.record.plan, begun(prepared)
    tasks = plan.tasks(prepared.id)
    return sum(plan.cost(t) for t in tasks if ledger is None or t.name not in ledger)


def ingest(prepared: Prepared) -> Edit:
    """Open an edit's canvas: the one left by an interrupted run, or a new one with its pixels."""
    record, folder, picture = prepared.record, prepared.folder, prepared.picture
    ledger = begun(prepared)
    if ledger is not None:
        return Edit(record, folder, picture, Canvas(folder / "canvas.zarr", record.plan), ledger)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_edit(folder, record)
    plan = record.plan
    canvas = Canvas.create(folder / "canvas.zarr", plan, np.dtype(record.dtype))
    box, mask = plan.source_box, read_mask(record.spec.mask, picture)
    for y0 in range(box.y0, box.y1, plan.family.stride):
        band = Box(y0, box.x0, min(y0 + plan.family.stride, box.y1), box.x1)
        canvas.write_source(band, picture.read(band), mask[band.slices])
    ledger = Ledger(folder / "ledger")
    ledger.commit("ingest", {"image": picture.format, "plan": plan.digest})
    return Edit(record, folder, picture, canvas, ledger)


def compose_stage(canvas: Canvas, stage: Stage) -> None:
    """Segments -> composed stage, chunk by chunk; only chunks that a planned segment meets."""
    slot_of = {index: slot for slot, index in enumerate(stage.segments)}
    method = canvas.plan.method
    for row, column, box in stage.grid.chunks():
        slots = [slot_of[index] for index in stage.grid.meeting(box) if index in slot_of]
        if not slots:
            continue
        pixels = compose_chunk(
            stage.grid,
            ((stage.segments[slot], canvas.segment(stage, slot)) for slot in slots),
            partial(stage_view, canvas.source, stage, box),
            box,
            kind=method.compose,
        )
        canvas.write_composed(stage, row, column, pixels)


def export(edit: Edit) -> dict[str, Any]:
    """Paste the final stage into the picture and write it; returns facts."""
    plan = edit.record.plan
    patch, changed = edited_patch(edit.canvas, plan, np.dtype(edit.record.dtype))
    target = target_of(edit.record.spec, edit.folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_edited(edit.picture, patch, plan.bbox, target)
    return {"output": str(target), "changed_samples": changed}


def edited_patch(canvas: Canvas, plan: Plan, dtype: np.dtype[Any]) -> tuple[npt.NDArray[Any], int]:
    """The mask's bounding box of the finished picture: (3, h, w) in the picture's own integers.

    ``x_out = m * x_n + (1 - m) * x_in``, rounded; where m = 0 the input's own samples. Also returns
    how many samples inside the mask differ from the input.
    """
    box = plan.bbox
    edited = canvas.composed(plan.final, box.relative_to(plan.final.region))
    source = canvas.source_integers(box)
    mask = canvas.mask(box)
    alpha = _alpha(canvas, plan)
    mixed = alpha * edited + (1 - alpha) * canvas.source(box)
    patch = np.where(mask, from_float(mixed, dtype), source)
    return patch, int(np.count_nonzero(patch != source))


def _alpha(canvas: Canvas, plan: Plan) -> Floats:
    """How much of the edit shows in the mask's bounding box: (h, w) in [0, 1]."""
    pixels = plan.method.feather
    wide = plan.bbox.grown(pixels + 1).intersection(Box.of(plan.image))
    assert wide is not None
    inner = plan.bbox.relative_to(wide)
    return np.asarray(feather(canvas.mask(wide), pixels)[inner.slices])
