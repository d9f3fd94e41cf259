"""What the driver itself does for an edit: plan it, take its pixels in, preview a stage, export.

The driver holds pixels of one band or one chunk's segments at a time, besides the edge of one
edit's mask and, to write it, the edited window in the picture's own integers.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import secrets
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt

from msbd_dist.batch.record import (
    SCHEMA,
    EditRecord,
    load_edit,
    peak_memory_mb,
    save_edit,
    sha256,
    versions_of,
)
from msbd_dist.canvas.files import Files, LocalFiles, store_errors
from msbd_dist.canvas.images import (
    Picture,
    check_target,
    from_float,
    losses,
    to_float,
    write_edited,
)
from msbd_dist.canvas.ledger import Facts, Ledger
from msbd_dist.canvas.masks import feather, read_mask
from msbd_dist.canvas.store import Canvas, canvas_group
from msbd_dist.core.compose import Floats
from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.plan import Plan, Stage, make_plan
from msbd_dist.core.spec import EditSpec, ModelSpec
from msbd_dist.dist.executor import Attempt, History, RetryPolicy, persevere
from msbd_dist.errors import ImageError, RunError
from msbd_dist.models.card import Card

log = logging.getLogger(__name__)

PART = Size(1024, 1024)  # pixels that are pasted together


@dataclass(frozen=True)
class Models:
    """The models of a run, as the driver knows them."""

    spec: ModelSpec
    card: Card
    weights: str  # fingerprint


@dataclass(frozen=True)
class Edit:
    """An edit at work: what it is, where it is stored, and what is done."""

    record: EditRecord
    files: Files  # OUT/<edit>
    picture: Picture
    ledger: Ledger

    @property
    def id(self) -> str:
        return self.record.spec.id

    @property
    def work(self) -> Files:
        return self.files / self.record.key

    @property
    def target(self) -> str:
        return target_of(self.record.spec, self.files)

    def canvas(self, stage: Stage, attempt: str | None = None) -> Canvas:
        """What is stored so far, for a look at ``stage``."""
        record = self.record
        versions = versions_of(self.ledger, record.plan, stage) if "ingest" in self.ledger else {}
        group = canvas_group(self.work)
        return Canvas(group, record.plan, np.dtype(record.dtype), versions, attempt=attempt)

    @property
    def remaining_cost(self) -> float:
        """Work that is left, in the units of `Plan.cost`."""
        plan = self.record.plan
        return sum(plan.cost(t) for t in plan.tasks(self.id) if t.name not in self.ledger)

    @property
    def is_finished(self) -> bool:
        """Whether it was exported and its output is there as it was written."""
        return "export" in self.ledger and digest_at(self.target) == self.ledger["export"]["sha256"]


def target_of(spec: EditSpec, files: Files) -> str:
    """Where an edit's finished picture goes: a local path, or a URL in the run directory."""
    return spec.output or f"{files.url}/output.png"


def digest_at(target: str) -> str | None:
    """SHA-256 of what is at a local path or URL; None where nothing is."""
    try:
        with store_errors(target), fsspec.open(target) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return None


def plan_edit(spec: EditSpec, card: Card) -> tuple[Plan, Picture]:
    """Read a picture and its mask, and plan the edit. Errors are one line about this edit."""
    picture = Picture.open(spec.image)
    mask = read_mask(spec.mask, picture)
    plan = make_plan(picture.size, mask.bbox, mask.any, family=card.family, method=spec.method)
    if len(plan.stages) > 1:
        card.checkpoint(spec.method.upscaler)  # a missing one is an error now, not after stage 1
    return plan, picture


def prepare(spec: EditSpec, files: Files, models: Models) -> Edit:
    """Plan an edit and check everything that can be checked before any model runs.

    What an earlier run has stored of this very edit is taken up: its seed too, where one is drawn.
    """
    try:
        inputs = {"image": sha256(spec.image), "mask": sha256(spec.mask)}
    except OSError:  # what opens pictures has the better words
        read_mask(spec.mask, Picture.open(spec.image))
        raise
    earlier = _earlier(spec, files, models, inputs)
    if earlier is not None:
        edit = Edit(earlier, files, Picture.open(spec.image), ledger_of(files, earlier))
        if edit.is_finished:
            return edit
    plan, picture = plan_edit(spec, models.card)
    target = target_of(spec, files)
    if spec.output or isinstance(files, LocalFiles):
        require_writable(Path(target))
    check_target(picture, Path(target))
    picture.check()
    for loss in losses(picture, Path(target).suffix):
        log.warning("edit %s: %s", spec.id, loss)
    drawn = earlier.seed if earlier else secrets.randbelow(2**31)
    record = EditRecord(
        spec=spec,
        seed=drawn if spec.seed is None else spec.seed,
        plan=plan,
        dtype=str(picture.dtype),
        inputs=inputs,
        models=models.spec,
        weights=models.weights,
    )
    edit = Edit(record, files, picture, ledger_of(files, record))
    if earlier is None and "ingest" in edit.ledger:  # its record was damaged
        save_edit(files, record)
    return edit


def ledger_of(files: Files, record: EditRecord) -> Ledger:
    """What is done of an edit."""
    return Ledger(files / record.key / "ledger")


def require_writable(target: Path) -> None:
    """RunError where an output can't be put: in place of a folder, or where writing is refused."""
    if target.is_dir():
        raise RunError(f"{target}: is a folder; give the output a file's name")
    parent = next(p for p in target.parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise RunError(f"{parent}: can't be written to; choose another output")


def _earlier(
    spec: EditSpec, files: Files, models: Models, inputs: dict[str, str]
) -> EditRecord | None:
    """What an earlier run left of this very edit: same spec, same models, same input files."""
    try:
        record = load_edit(files)
    except (FileNotFoundError, ValueError):
        return None
    same = record.weights == models.weights and record.inputs == inputs
    same = same and replace(record.spec, id=spec.id, output=spec.output) == spec
    return replace(record, spec=spec) if same and record.schema == SCHEMA else None


@dataclass(frozen=True)
class Chore:
    """Work of the driver's own for an edit; committed like a task when it returns its facts."""

    edit: Edit
    name: str
    run: Callable[[str], Facts]  # of the attempt that writes

    def __call__(self, epoch: int) -> Facts:
        return persevere(self._try, History(epoch, RetryPolicy()), random.Random())

    def _try(self, attempt: Attempt) -> Facts:
        with store_errors(self.edit.files.url):
            facts = self.run(attempt.name)
        facts |= {"attempt": attempt.name, "peak_mb": peak_memory_mb()}
        return self.edit.ledger.commit(self.name, facts)


def ingest(edit: Edit, attempt: str) -> Facts:
    """Take an edit's pixels in: the part of the picture that its plan reads, and the mask."""
    record, picture, plan = edit.record, edit.picture, edit.record.plan
    with suppress(FileNotFoundError, ValueError):  # what was stored of the edit as it was before
        former = load_edit(edit.files).key
        if former != record.key:
            edit.files.remove(former)
    save_edit(edit.files, record)
    save_edit(edit.work, record)
    canvas = edit.canvas(plan.stages[0], attempt)
    box, mask = plan.source_box, read_mask(record.spec.mask, picture)
    for y0 in range(box.y0, box.y1, plan.family.stride):
        band = Box(y0, box.x0, min(y0 + plan.family.stride, box.y1), box.x1)
        canvas.write_source(band, picture.read(band), mask.window(band))
    for kind, path in (("image", record.spec.image), ("mask", record.spec.mask)):
        if sha256(path) != record.inputs[kind]:
            raise ImageError(f"{path}: was changed while it was read; run the same command again")
    return {"image": picture.format, "plan": plan.digest}


def export(edit: Edit, still_ours: Callable[[], None], show: Callable[[Edit, Path], None]) -> Facts:
    """Paste the final stage into the picture and write it; returns facts.

    ``still_ours`` is asked last, before the file gets its name: it raises where another driver has
    taken the run over. ``show`` gets the finished file while it is on this machine.
    """
    plan = edit.record.plan
    patch, changed = edited_patch(edit.canvas(plan.final), plan, np.dtype(edit.record.dtype))
    suffix = Path(edit.target).suffix
    local = edit.record.spec.output or isinstance(edit.files, LocalFiles)
    if local:
        target = Path(edit.target)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_edited(edit.picture, patch, plan.bbox, target, before=still_ours)
        digest = sha256(target)
        show(edit, target)
    else:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / f"output{suffix}"
            write_edited(edit.picture, patch, plan.bbox, target)
            digest = sha256(target)
            show(edit, target)
            still_ours()
            edit.files.put(f"output{suffix}", target)
    return {"output": edit.target, "changed_samples": changed, "sha256": digest}


def edited_patch(canvas: Canvas, plan: Plan, dtype: np.dtype[Any]) -> tuple[npt.NDArray[Any], int]:
    """The mask's bounding box of the finished picture: (3, h, w) in the picture's own integers.

    ``x_out = m * x_n + (1 - m) * x_in``, rounded; where m = 0 the input's own samples. Also returns
    how many samples inside the mask differ from the input.
    """
    box, changed = plan.bbox, 0
    patch = np.empty((3, *box.size.shape), dtype)
    for part in box.tiles(PART):
        edited = canvas.composed(plan.final, part.relative_to(plan.final.region))
        source, shown = canvas.source_integers(part), alpha(canvas, plan, part)
        mixed = shown * edited + (1 - shown) * to_float(source)
        pixels = np.where(canvas.mask(part), from_float(mixed, dtype), source)
        patch[(slice(None), *part.relative_to(box).slices)] = pixels
        changed += int(np.count_nonzero(pixels != source))
    return patch, changed


def alpha(canvas: Canvas, plan: Plan, box: Box) -> Floats:
    """How much of the edit shows in a part of the mask's bounding box: (h, w) in [0, 1]."""
    bounds = plan.bbox.grown(1).intersection(Box.of(plan.image))  # beyond it nothing is masked
    assert bounds is not None
    return feather(canvas.mask, plan.method.feather, box, bounds=bounds)
