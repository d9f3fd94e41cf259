"""What the driver itself does for an edit: plan it, take its pixels in, preview a stage, export.

The driver holds pixels of one band or one chunk's segments at a time, besides the edge of one
edit's mask.
"""

from __future__ import annotations

import logging
import random
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from msbd_dist.batch.look import Look, gone_without, how_of, target_of
from msbd_dist.batch.notes import Saying
from msbd_dist.batch.patch import Patch
from msbd_dist.batch.record import (
    SCHEMA,
    EditRecord,
    load_edit,
    peak_memory_mb,
    save_edit,
    versions_of,
)
from msbd_dist.canvas.combined import make_mask, mask_digest
from msbd_dist.canvas.digests import content_digest
from msbd_dist.canvas.export import (
    Edited,
    How,
    verify,
    write_edited,
)
from msbd_dist.canvas.files import Files, open_files
from msbd_dist.canvas.images import Picture
from msbd_dist.canvas.ledger import Facts, Ledger
from msbd_dist.canvas.ome import OmeReader, patch_in_place
from msbd_dist.canvas.places import is_url
from msbd_dist.canvas.reader import Samples
from msbd_dist.canvas.store import Canvas, canvas_group
from msbd_dist.canvas.urls import store_errors
from msbd_dist.core.geometry import Box
from msbd_dist.core.naming import differing
from msbd_dist.core.plan import Plan, Stage
from msbd_dist.core.spec import EditSpec, ModelSpec, Verify, mask_files
from msbd_dist.errors import ImageError
from msbd_dist.fleet.retry import Attempt, History, RetryPolicy, persevere
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
    say: Saying = field(default_factory=Saying, compare=False)

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
    def plan(self) -> Plan:
        return self.record.plan

    @property
    def direct(self) -> bool:
        return self.record.direct

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
            done and self.is_written_as(done["how"]) and digest_at(self.target) == done["sha256"]
        )

    def is_written_as(self, how: Any) -> bool:
        """Whether a finished picture was written the way that is wanted; ``how`` is its fact."""
        return How.of(how) == self.how


def digest_at(target: str) -> str | None:
    """Of the content at a local path or URL; None where nothing is."""
    try:
        return content_digest(target)
    except (FileNotFoundError, NotADirectoryError):
        return None


def inputs_of(spec: EditSpec) -> dict[str, str]:
    """Digests of what an edit reads. OSError where something can't be read."""
    return {"image": content_digest(spec.source), "mask": mask_digest(spec.mask)}


def prepare(spec: EditSpec, files: Files, models: Models) -> Edit:
    """Plan an edit and check everything that can be checked before any model runs.

    What an earlier run has stored of this very edit is taken up: its seed too, where one is drawn.
    """
    try:
        inputs = inputs_of(spec)
    except OSError:  # what opens pictures has the better words
        make_mask(spec.mask, Picture.open(spec.source))
        raise
    earlier = _earlier(spec, files, models, inputs)
    if earlier is not None:
        edit = Edit(earlier, files, Picture.open(spec.source), ledger_of(files, earlier))
        if edit.is_finished:
            return edit
    look = Look(spec, files, models.card)
    look.through()
    models.say(spec.id, look.warnings)
    assert look.plan is not None
    drawn = earlier.seed if earlier else secrets.randbelow(2**31)
    record = EditRecord(
        spec=spec,
        seed=drawn if spec.seed is None else spec.seed,
        plan=look.plan,
        dtype=str(look.picture.dtype),
        inputs=earlier.inputs if earlier else inputs,
        models=models.spec,
        weights=models.weights,
        files=dict(models.files),
        bands=look.picture.bands,
        direct=look.direct,
        former_key=earlier.former_key if earlier and earlier.plan == look.plan else None,
    )
    edit = Edit(record, files, look.picture, ledger_of(files, record))
    if earlier is None and "ingest" in edit.ledger:  # its record was damaged
        save_edit(files, record)
    return edit


def ledger_of(files: Files, record: EditRecord) -> Ledger:
    """What is done of an edit."""
    return Ledger(files / record.key / "ledger")


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
    box, mask = plan.source_box, make_mask(record.spec.mask, picture)
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
    if former and (former["output"] != edit.target or not edit.is_written_as(former["how"])):
        still_ours()
        edit.ledger.forget("export")
    edited, patch = edited_of(edit, partial(tell, edit.id, "writing"))
    lost = gone_without(edit.record.spec, edit.target, edit.picture)
    facts: Facts = {"output": edit.target, "how": differing(edit.how), "lost": lost}

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
