"""One look at an edit before any work: all that can be known of it without a model's weights.

    Look(spec, files, card).through()   picture, mask, plan, output
    require_room(edits)                 the disks hold what is stored and written
    require_run_directory(files, ...)   a run can be kept there

`prepare` looks so before a run, and `msbd validate` and `msbd plan` instead of one (`foresee`).
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from msbd_dist.batch.fits import misfits
from msbd_dist.batch.notes import Note, notes_of
from msbd_dist.batch.record import load_run
from msbd_dist.batch.tiles import most_bytes
from msbd_dist.canvas.combined import Looked, look_at_mask
from msbd_dist.canvas.export import (
    How,
    check_target,
    kind_of,
    largest_bytes,
    left_out,
    losses,
    memory_bytes,
    why_no_copy,
)
from msbd_dist.canvas.files import Files, LocalFiles
from msbd_dist.canvas.images import Picture
from msbd_dist.canvas.ome import OmeReader, can_patch, is_zarr
from msbd_dist.canvas.places import is_url
from msbd_dist.canvas.urls import why_read_only
from msbd_dist.core.plan import Plan, make_plan
from msbd_dist.core.spec import EditSpec, MaskSpec, ModelSpec
from msbd_dist.errors import ImageError, RunError
from msbd_dist.models.card import Card

WINDOW = 1000  # edits that are looked at before any work, and from then on ahead of it


@dataclass
class Look:
    """One look at an edit: all that can be known of it without a model's weights.

    ``through`` fills in the rest. ``key`` is what it looks at, for whoever is told of an error.
    """

    spec: EditSpec
    files: Files  # OUT/<edit>
    card: Card | None  # None: nothing can be planned
    look_at_mask: Callable[[MaskSpec, Picture], Looked] = look_at_mask
    key: str = "image"
    picture: Picture = field(init=False)
    mask: Looked = field(init=False)
    plan: Plan | None = field(init=False, default=None)
    target: str = field(init=False)
    lost: list[str] = field(init=False, default_factory=list)  # what the output lacks, in words

    def through(self, picture: Picture | None = None) -> None:
        """Read the picture's header and the mask, plan the edit, and check everything that can be
        checked before any model runs. Errors are one line about this edit.

        ``picture``: what the image will be, where it is not there yet.
        """
        self.key = "image"
        self.picture = picture or Picture.open(self.spec.source)
        self.key = "mask"
        self.mask = self.look_at_mask(self.spec.mask, self.picture)
        if self.card is not None:
            self._plan(self.card)
        self.key = "in_place" if self.spec.in_place else "output"
        self.target = target_of(self.spec, self.files, self.picture)
        check_edit(self.spec, self.target, self.picture)
        self.lost = gone_without(self.spec, self.target, self.picture)

    def _plan(self, card: Card) -> None:
        mask, method, size = self.mask.mask, self.spec.method, self.picture.size
        self.plan = make_plan(size, mask.bbox, mask.any, family=card.family, method=method)
        for key, error in misfits(self.spec, card, stages=len(self.plan.stages)):
            self.key = key
            raise error

    @property
    def notes(self) -> tuple[Note, ...]:
        """What may be meant otherwise, by the key that it is about."""
        lost = (Note("output", text) for text in self.lost)
        return (*(Note("mask", text) for text in self.mask.notes), *self._of_words, *lost)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The same as lines that need no key."""
        return (*self.mask.notes, *map(str, self._of_words), *self.lost)

    @property
    def _of_words(self) -> tuple[Note, ...]:
        return tuple(notes_of(self.spec, self.card, self.plan)) if self.card else ()

    @property
    def writes(self) -> str:
        """What is written, and how, in words."""
        assert self.plan is not None
        anew = why_no_copy(self.picture, self.target, self.how)
        way = f"a new file: {anew}" if anew else "a copy with only the edit written anew"
        size = largest_bytes(self.picture, self.target, self.how, self.plan.bbox) / 1e6
        memory = memory_bytes(self.picture, self.target) / 1e6
        return (
            f"writes {Path(self.target).name}, at most {size:,.0f} MB, {way}; "
            f"the driver takes at most {memory:,.0f} MB for it"
        )

    @property
    def how(self) -> How:
        return how_of(self.spec)

    @property
    def direct(self) -> bool:
        """Whether workers read the picture where it is."""
        local = isinstance(self.files, LocalFiles)
        return self.picture.random and (local or is_url(self.spec.source))


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


def check_edit(spec: EditSpec, target: str, picture: Picture) -> None:
    """Whether the edited picture can be written where it is to be, and fits in memory on the way.

    ImageError or RunError in one line; what is lost and may be is told by `gone_without`.
    """
    how = how_of(spec)
    if spec.in_place:
        if not isinstance(picture.reader, OmeReader):
            kind = picture.kind
            raise ImageError(f"{spec.source}: is a {kind}; only an OME-Zarr is edited in place")
        if why := can_patch(picture.reader):
            raise ImageError(f"{spec.source}: can't be edited in place: {why}; write a copy")
    require_writable(target)
    check_target(picture, target, how)
    need, free = memory_bytes(picture, target), psutil.virtual_memory().available
    if need > free:
        raise ImageError(
            f"{spec.source}: takes {need / 1e9:.1f} GB of memory from {picture.kind} to {target}, "
            f"{free / 1e9:.1f} GB are free; save it as a tiled TIFF or an OME-Zarr, and write one"
        )


def gone_without(spec: EditSpec, target: str, picture: Picture) -> list[str]:
    """What the written file lacks of a picture's, in words."""
    how = how_of(spec)
    lost = ", ".join(map(str, losses(picture, target, how)))
    left = ", ".join(left_out(picture, target, how))
    said = [f"not kept: {lost}"] if lost else []
    return said + [f"left out, because the old picture shows in it: {left}"] * bool(left)


# ---------------------------------------------------------------- where things are put


def require_writable(target: str) -> None:
    """RunError where an output can't be put: in place of a folder, where writing is refused, under
    a name that is too long, behind a URL that can only be read."""
    if is_url(target):
        if why := why_read_only(target):
            raise RunError(f"{target}: {why}; choose another output")
        return
    path = Path(target)
    parent = next(p for p in path.parents if _exists(p))
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise RunError(f"{parent}: can't be written to; choose another output")
    require_short(path, parent)
    kind = kind_of(path)
    if path.is_dir() and not (kind == "OME-Zarr" and is_zarr(target)):
        raise RunError(f"{path}: is a folder; give the output a file's name")
    if path.is_dir() and not os.access(path, os.W_OK):
        raise RunError(f"{path}: can't be written to; choose another output")
    tiles = path.with_name(f"{path.stem}_files")
    if kind == "DeepZoom" and tiles.exists() and not path.exists():
        raise RunError(f"{tiles}: is in the way of the tiles of {path.name}; rename the output")


def require_short(path: Path, parent: Path) -> None:
    """RunError where a name below a folder that is there is longer than its file system takes."""
    most, longest = (os.pathconf(parent, name) for name in ("PC_NAME_MAX", "PC_PATH_MAX"))
    for name in (*path.relative_to(parent).parts, *_beside(path)):
        if 0 < most < (length := len(os.fsencode(name))):
            raise RunError(
                f"{path}: the name has {length} bytes and may have {most}; give a shorter one"
            )
    if 0 < longest <= (length := len(os.fsencode(path)) + most):
        raise RunError(f"{path}: the path is too long ({length - most} bytes); give a shorter one")


def _beside(path: Path) -> tuple[str, ...]:
    """The names of what is written beside an output."""
    return (f"{path.stem}_files",) if path.suffix.lower() == ".dzi" else ()


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False


def require_run_directory(out: Files, models: ModelSpec, *, any_models: bool = False) -> None:
    """RunError unless a run of these models can be kept in ``out``: empty, or with such a run."""
    if isinstance(out, LocalFiles):
        if out.path.exists() and not out.path.is_dir():
            raise RunError(f"{out.url}: is a file; give --out a folder's name")
        there = next(p for p in (out.path, *out.path.parents) if _exists(p))
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise RunError(f"{there}: can't be written to; choose another --out")
        require_short(out.path, there)
    elif why := why_read_only(out.url):
        raise RunError(f"{out.url}: {why}; choose another --out")
    earlier = load_run(out)  # a store that can't be reached is an error before any work
    if earlier is None:
        if not out.is_empty:
            raise RunError(f"{out.url}: holds files that are not of a run; choose an empty --out")
    elif not any_models and earlier.models != models:
        raise RunError(
            f"{out.url}: holds a run with models {earlier.models.family}, this one has "
            f"{models.family}; choose another --out"
        )


# ---------------------------------------------------------------- room


class Planned(Protocol):
    """An edit that was looked at."""

    @property
    def files(self) -> Files: ...
    @property
    def picture(self) -> Picture: ...
    @property
    def plan(self) -> Plan | None: ...
    @property
    def target(self) -> str: ...
    @property
    def how(self) -> How: ...
    @property
    def direct(self) -> bool: ...


class Room:
    """What edits will store and write at most, by the file systems where they do."""

    def __init__(self) -> None:
        self._needed: dict[int, int] = defaultdict(int)
        self._places: dict[int, Path] = {}

    def add(self, edit: Planned) -> None:
        """Nothing, where no plan says how much."""
        plan, picture = edit.plan, edit.picture
        if plan is None:
            return
        taken_in = 0 if edit.direct else plan.source_box.size.area * 3 * picture.dtype.itemsize
        written = largest_bytes(picture, edit.target, edit.how, plan.bbox)
        self._add(edit.files.url, plan.stored_bytes + taken_in + most_bytes(plan))
        self._add(edit.target, written)

    def _add(self, place: str, count: int) -> None:
        if not is_url(place):
            there = next(p for p in (Path(place), *Path(place).parents) if p.exists())
            device = there.stat().st_dev
            self._needed[device] += count
            self._places[device] = there

    def require(self) -> None:
        """RunError where a disk can't hold it."""
        for device, count in self._needed.items():
            free = shutil.disk_usage(self._places[device]).free
            if count > free:
                raise RunError(
                    f"{self._places[device]}: has {free / 1e9:.1f} GB free and the run may need "
                    f"{count / 1e9:.1f} GB; make room, or run fewer edits at a time"
                )


def require_room(edits: Iterable[Planned]) -> None:
    """RunError where a disk can't hold what the edits will store and write at most."""
    room = Room()
    for edit in edits:
        room.add(edit)
    room.require()
