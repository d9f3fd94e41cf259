"""What the driver itself does for an edit: plan it, take its pixels in, preview a stage, export.

The driver holds pixels of one band or one chunk's segments at a time, besides the edge of one
edit's mask.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import psutil

from msbd_dist.batch.notes import notes_of
from msbd_dist.batch.patch import Patch
from msbd_dist.batch.record import (
    SCHEMA,
    EditRecord,
    load_edit,
    peak_memory_mb,
    save_edit,
    versions_of,
)
from msbd_dist.batch.tiles import most_bytes
from msbd_dist.canvas.combined import Looked, look_at_mask, make_mask, mask_digest
from msbd_dist.canvas.export import (
    Edited,
    How,
    check_target,
    kind_of,
    largest_bytes,
    left_out,
    losses,
    memory_bytes,
    verify,
    why_no_copy,
    write_edited,
)
from msbd_dist.canvas.files import Files, LocalFiles, open_files, store_errors
from msbd_dist.canvas.images import Picture
from msbd_dist.canvas.ledger import Facts, Ledger
from msbd_dist.canvas.masks import Mask
from msbd_dist.canvas.ome import OmeReader, can_patch, is_zarr, patch_in_place
from msbd_dist.canvas.places import content_digest, is_url
from msbd_dist.canvas.reader import Samples
from msbd_dist.canvas.store import Canvas, canvas_group
from msbd_dist.core.geometry import Box
from msbd_dist.core.plan import Plan, Stage, make_plan
from msbd_dist.core.spec import EditSpec, ModelSpec, Verify, mask_files
from msbd_dist.errors import ImageError, RunError
from msbd_dist.fleet.executor import Attempt, History, RetryPolicy, persevere
from msbd_dist.models.card import Card
from msbd_dist.models.fingerprint import fingerprint

log = logging.getLogger(__name__)

WRITTEN = ("id", "output", "tiff", "ome_zarr", "allow_loss", "in_place")  # they change no pixel
BAND_BYTES = 64 << 20  # of a picture that is taken in, at a time


@dataclass(frozen=True)
class Models:
    """The models of a run, as the driver knows them."""

    spec: ModelSpec
    card: Card
    files: Mapping[str, str]  # and their digests: `models.fingerprint.digests`

    @cached_property
    def weights(self) -> str:
        return fingerprint(self.files)


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
        return target_of(self.record.spec, self.files, self.picture)

    @property
    def how(self) -> How:
        return how_of(self.record.spec)

    def canvas(self, stage: Stage, attempt: str | None = None) -> Canvas:
        """What is stored so far, for a look at ``stage``."""
        record = self.record
        versions = versions_of(self.ledger, record.plan, stage) if "ingest" in self.ledger else {}
        group = canvas_group(self.work)
        picture = self.picture if record.direct else None
        dtype = np.dtype(record.dtype)
        return Canvas(group, record.plan, dtype, versions, attempt=attempt, picture=picture)

    @property
    def cost(self) -> float:
        """All of its work, in the units of `Plan.cost`."""
        return sum(map(self.record.plan.cost, self.record.plan.tasks(self.id)))

    @property
    def is_finished(self) -> bool:
        """Whether it was exported and its output is there as it was written."""
        done = self.ledger.get("export")
        return bool(
            done and done["how"] == repr(self.how) and digest_at(self.target) == done["sha256"]
        )


def target_of(spec: EditSpec, files: Files, picture: Picture) -> str:
    """Where an edit's finished picture goes: a local path or URL; by default in the run directory,
    as the kind of file that the image is, or as PNG."""
    if spec.in_place:
        return spec.source
    suffix = {"TIFF": ".tif", "OME-Zarr": ".ome.zarr"}.get(picture.kind.split()[0], ".png")
    return spec.output or f"{files.url}/output{suffix}"


def how_of(spec: EditSpec) -> How:
    """How an edit's finished picture is written."""
    return How(tiff=spec.tiff, ome_zarr=spec.ome_zarr, allow_loss=spec.allow_loss)


def digest_at(target: str) -> str | None:
    """Of the content at a local path or URL; None where nothing is."""
    try:
        return content_digest(target)
    except (FileNotFoundError, NotADirectoryError):
        return None


def mask_of(spec: EditSpec, picture: Picture) -> Mask:
    """An edit's mask, from files or drawn. MaskError where it is empty or does not fit."""
    return make_mask(spec.mask, picture)


def inputs_of(spec: EditSpec) -> dict[str, str]:
    """Digests of what an edit reads. OSError where something can't be read."""
    return {"image": content_digest(spec.source), "mask": mask_digest(spec.mask)}


def plan_edit(spec: EditSpec, card: Card) -> tuple[Plan, Picture, Looked]:
    """Read a picture and its mask, and plan the edit. Errors are one line about this edit."""
    picture = Picture.open(spec.source)
    looked = look_at_mask(spec.mask, picture)
    mask = looked.mask
    plan = make_plan(picture.size, mask.bbox, mask.any, family=card.family, method=spec.method)
    if len(plan.stages) > 1:
        card.checkpoint(spec.method.upscaler)  # a missing one is an error now, not after stage 1
    return plan, picture, looked


def plan_and_check(spec: EditSpec, card: Card) -> tuple[Plan, Picture, Looked, str]:
    """The same, checked as a run would; with a line on what is written, and how."""
    plan, picture, looked = plan_edit(spec, card)
    target = target_of(spec, open_files("."), picture)
    check_edit(spec, target, picture)
    anew = why_no_copy(picture, target, how_of(spec))
    way = f"a new file: {anew}" if anew else "a copy with only the edit written anew"
    size = largest_bytes(picture, target, how_of(spec), plan.bbox) / 1e6
    memory = memory_bytes(picture, target) / 1e6
    return (
        plan,
        picture,
        looked,
        (
            f"writes {Path(target).name}, at most {size:,.0f} MB, {way}; "
            f"the driver takes at most {memory:,.0f} MB for it"
        ),
    )


def prepare(spec: EditSpec, files: Files, models: Models) -> Edit:
    """Plan an edit and check everything that can be checked before any model runs.

    What an earlier run has stored of this very edit is taken up: its seed too, where one is drawn.
    """
    try:
        inputs = inputs_of(spec)
    except OSError:  # what opens pictures has the better words
        mask_of(spec, Picture.open(spec.source))
        raise
    earlier = _earlier(spec, files, models, inputs)
    if earlier is not None:
        edit = Edit(earlier, files, Picture.open(spec.source), ledger_of(files, earlier))
        if edit.is_finished:
            return edit
    plan, picture, looked = plan_edit(spec, models.card)
    for note in (*looked.notes, *notes_of(spec, models.card.family, plan)):
        log.warning("edit %s: %s", spec.id, note)
    check_edit(spec, target_of(spec, files, picture), picture)
    drawn = earlier.seed if earlier else secrets.randbelow(2**31)
    record = EditRecord(
        spec=spec,
        seed=drawn if spec.seed is None else spec.seed,
        plan=plan,
        dtype=str(picture.dtype),
        inputs=earlier.inputs if earlier else inputs,
        models=models.spec,
        weights=models.weights,
        files=dict(models.files),
        bands=picture.bands,
        direct=picture.random and (isinstance(files, LocalFiles) or is_url(spec.source)),
    )
    edit = Edit(record, files, picture, ledger_of(files, record))
    if earlier is None and "ingest" in edit.ledger:  # its record was damaged
        save_edit(files, record)
    return edit


def ledger_of(files: Files, record: EditRecord) -> Ledger:
    """What is done of an edit."""
    return Ledger(files / record.key / "ledger")


def check_edit(spec: EditSpec, target: str, picture: Picture) -> None:
    """Whether the edited picture can be written where it is to be, and fits in memory on the way.

    ImageError or RunError in one line; what is lost and may be is logged.
    """
    how = how_of(spec)
    if spec.in_place:
        if not isinstance(picture.reader, OmeReader):
            kind = picture.kind
            raise ImageError(f"{spec.source}: is a {kind}; only an OME-Zarr is edited in place")
        if why := can_patch(picture.reader):
            raise ImageError(f"{spec.source}: can't be edited in place: {why}; write a copy")
    if not is_url(target):
        require_writable(Path(target))
    check_target(picture, target, how)
    need, free = memory_bytes(picture, target), psutil.virtual_memory().available
    if need > free:
        raise ImageError(
            f"{spec.source}: takes {need / 1e9:.1f} GB of memory from {picture.kind} to {target}, "
            f"{free / 1e9:.1f} GB are free; save it as a tiled TIFF or an OME-Zarr, and write one"
        )
    if lost := losses(picture, target, how):
        words = ", ".join(map(str, lost))
        log.warning("edit %s: not kept in %s: %s", spec.id, target, words)
    if gone := left_out(picture, target, how):
        words = ", ".join(gone)
        log.warning(
            "edit %s: left out of %s, because the old picture shows in it: %s",
            spec.id,
            target,
            words,
        )


def require_room(edits: Iterable[Edit]) -> None:
    """RunError where a disk can't hold what the edits will store and write at most."""
    needed: dict[int, int] = defaultdict(int)  # by the file system
    places: dict[int, Path] = {}
    for edit in edits:
        plan, target = edit.record.plan, edit.target
        taken_in = (
            0 if edit.record.direct else plan.source_box.size.area * 3 * edit.picture.dtype.itemsize
        )
        written = largest_bytes(edit.picture, target, edit.how, plan.bbox)
        for place, count in (
            (edit.files.url, plan.stored_bytes + taken_in + most_bytes(plan)),
            (target, written),
        ):
            if not is_url(place):
                there = next(p for p in (Path(place), *Path(place).parents) if p.exists())
                device = there.stat().st_dev
                needed[device] += count
                places[device] = there
    for device, count in needed.items():
        free = shutil.disk_usage(places[device]).free
        if count > free:
            raise RunError(
                f"{places[device]}: has {free / 1e9:.1f} GB free and the run may need "
                f"{count / 1e9:.1f} GB; make room, or run fewer edits at a time"
            )


def require_writable(target: Path) -> None:
    """RunError where an output can't be put: in place of a folder, or where writing is refused."""
    if target.is_dir() and not (kind_of(target) == "OME-Zarr" and is_zarr(str(target))):
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
    same = record.weights == models.weights
    same = same and (record.inputs == inputs or _is_in_place(spec, files, record, inputs))
    written = {name: getattr(spec, name) for name in WRITTEN}
    same = same and replace(record.spec, **written) == spec
    return replace(record, spec=spec) if same and record.schema == SCHEMA else None


def _is_in_place(spec: EditSpec, files: Files, record: EditRecord, inputs: dict[str, str]) -> bool:
    """Whether an image differs from what an edit began with because it is edited in place: done,
    or interrupted; then what it was is in the journal, and put back before it is edited again."""
    if not spec.in_place or record.inputs["mask"] != inputs["mask"]:
        return False
    done = ledger_of(files, record).get("export")
    return done["sha256"] == inputs["image"] if done else bool(journal_of(files, record).names())


def journal_of(files: Files, record: EditRecord) -> Files:
    """Where the original chunks are of an image that is edited in place, until that is done."""
    return files / record.key / "journal"


@dataclass(frozen=True)
class Chore:
    """Work of the driver's own for an edit; committed like a task when it returns its facts."""

    edit: Edit
    name: str
    run: Callable[[str], Facts]  # of the attempt that writes

    def __call__(self, epoch: int) -> Facts:
        return persevere(self._try, History(epoch, RetryPolicy()), random.Random())

    def _try(self, attempt: Attempt) -> Facts:
        started = time.perf_counter()
        with store_errors(self.edit.files.url):
            facts = self.run(attempt.name)
        seconds = round(time.perf_counter() - started, 3)
        facts |= {"attempt": attempt.name, "seconds": seconds, "peak_mb": peak_memory_mb()}
        return self.edit.ledger.commit(self.name, facts)


Tell = Callable[[str, str, float], None]
"""An edit's name, what is done for it, and how much of that is done."""


def ingest(edit: Edit, tell: Tell, attempt: str) -> Facts:
    """Take an edit's pixels in: the part of the picture that its plan reads, and the mask."""
    record, picture, plan = edit.record, edit.picture, edit.record.plan
    with suppress(FileNotFoundError, ValueError):  # what was stored of the edit as it was before
        former = load_edit(edit.files).key
        if former != record.key:
            for name in (former, "candidates", "previews", "tiles", "edit.html"):
                edit.files.remove(name)
    save_edit(edit.files, record)
    save_edit(edit.work, record)
    canvas = edit.canvas(plan.stages[0], attempt)
    box, mask = plan.source_box, mask_of(record.spec, picture)
    for y0 in range(box.y0, box.y1, plan.family.stride):
        band = Box(y0, box.x0, min(y0 + plan.family.stride, box.y1), box.x1)
        canvas.write_mask(band, mask.window(band))
    if not record.direct:
        for part, pixels in streamed(picture, box, plan.family.stride):
            canvas.write_source(part, pixels)
            done = (picture.stored_box(part).y1) / picture.stored_size.height
            tell(edit.id, "taking in", done)
    for kind, digest in inputs_of(record.spec).items():
        if digest != record.inputs[kind]:
            spec = record.spec
            place = spec.source if kind == "image" else ", ".join(mask_files(spec.mask))
            raise ImageError(f"{place}: was changed while it was read; run the same command again")
    return {"image": picture.format, "plan": plan.digest}


def streamed(picture: Picture, box: Box, rows: int) -> Iterator[tuple[Box, Samples]]:
    """A part of a picture in bands: boxes of it with (3, h, w) of its samples.

    The whole picture is decoded once, from the top: damage anywhere is found before any work.
    """
    part, stored = picture.stored_box(box), picture.stored_size
    rows = max(16, min(rows, BAND_BYTES // (stored.width * picture.dtype.itemsize * 4)))
    for y, strip in picture.strips(rows):
        whole = Box(y, 0, y + len(strip), stored.width)
        common = whole.intersection(part)
        if common is not None:
            ys, xs = common.relative_to(whole).slices
            yield picture.upright_box(common), picture.seen(strip[ys, xs])


def export(
    edit: Edit,
    still_ours: Callable[[], None],
    show: Callable[[Edit, Edited], Facts],
    which: Verify,
    tell: Tell,
    attempt: str,
) -> Facts:
    """Paste the final stage into the picture, write it and compare it; returns facts.

    ``still_ours`` is asked last, before the file gets its name: it raises where another driver has
    taken the run over. ``show`` gets the finished picture, and returns facts of it.
    """
    former = edit.ledger.get("export")
    if former and (former["output"], former["how"]) != (edit.target, repr(edit.how)):
        still_ours()
        edit.ledger.forget("export")
    edited, patch = edited_of(edit, partial(tell, edit.id, "writing"))
    facts: Facts = {"output": edit.target, "how": repr(edit.how)}

    if edit.record.spec.in_place:
        return facts | edit_in_place(edit, edited, still_ours, show)

    def before(place: Path) -> None:
        facts["changed_samples"] = patch.changed  # up to here each was asked for once
        found = verify(replace(edited, tell=partial(tell, edit.id, "comparing")), place, which)
        facts["compared"], facts["pixels"] = found.compared, found.pixels
        if content_digest(edit.record.spec.source) != edit.record.inputs["image"]:
            raise ImageError(f"{edit.record.spec.source}: was changed during the run; run it again")
        facts.update(show(edit, edited))
        still_ours()

    if not is_url(edit.target):
        target = Path(edit.target)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_edited(edited, target, edit.how, before=before, attempt=attempt)
    else:
        folder, name = edit.target.rsplit("/", 1)
        with tempfile.TemporaryDirectory() as temporary:
            target = Path(temporary) / name
            write_edited(edited, target, edit.how, before=before)
            open_files(folder).put(name, target)
    return facts | {"sha256": content_digest(edit.target)}


def edited_of(edit: Edit, tell: Callable[[float], None] = lambda _: None) -> tuple[Edited, Patch]:
    """The edited picture as windows, from what is stored of it."""
    plan = edit.record.plan
    patch = Patch(edit.canvas(plan.final), np.dtype(edit.record.dtype))
    return Edited(edit.picture, plan.bbox, patch, patch, tell), patch


def edit_in_place(
    edit: Edit,
    edited: Edited,
    still_ours: Callable[[], None],
    show: Callable[[Edit, Edited], Facts],
) -> Facts:
    """Change the chunks of an OME-Zarr that the edit meets; their originals are in the journal."""
    image, journal = edit.record.spec.source, journal_of(edit.files, edit.record)
    begun = bool(journal.names())
    if not begun and content_digest(image) != edit.record.inputs["image"]:
        raise ImageError(f"{image}: was changed during the run; run it again")
    shown = {} if begun else show(edit, edited)  # begun, it shows half of the edit already
    still_ours()
    reader, patch = edited.picture.reader, edited.patch
    assert isinstance(reader, OmeReader)
    assert isinstance(patch, Patch)
    patch.changed = 0  # what was shown does not count
    counts = patch_in_place(reader, list(edited.blocks()), edited.window, journal.url)
    log.info("edit %s: %d chunks of %s written", edit.id, counts.written, image)
    return shown | {
        "changed_samples": patch.changed,
        "compared": 0,
        "pixels": edited.picture.size.area,
        "sha256": content_digest(image),
    }
