"""What would become of a manifest's edits, as far as it can be known without a model's weights.

    for seen in foresee(manifest, card, out): ...    each edit, looked at as a run would

`msbd validate` and `msbd plan` tell what is seen here; what is checked of an edit is what a run
checks (`Look`). Beyond that, pictures are decoded as far as the run would decode them, and of
an edit that begins with another's result it is told what that result will be like.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from msbd_dist.batch.edits import Listed, Located
from msbd_dist.batch.look import WINDOW, Look, Room, require_run_directory
from msbd_dist.batch.manifest import Manifest
from msbd_dist.canvas.combined import Looked, look_at_mask
from msbd_dist.canvas.export import kind_of, why_no_copy
from msbd_dist.canvas.files import Files, open_files
from msbd_dist.canvas.images import Picture
from msbd_dist.canvas.outlines import is_outlines
from msbd_dist.canvas.reader import Loss, Metadata, Samples
from msbd_dist.canvas.save import to_be_written
from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.spec import EditSpec, MaskSpec, Result, mask_files
from msbd_dist.errors import ImageError, InputError, MsbdError
from msbd_dist.models.card import Card

_MASKS = 8  # that are held
_REMEMBERED = 1024  # pictures that were decoded: many edits may have the same
_TILE = Size(2048, 2048)


@dataclass(frozen=True)
class Seen:
    """An edit that was looked at; ``look`` is complete where there is no error."""

    each: Located
    look: Look
    error: MsbdError | None = None

    @property
    def id(self) -> str:
        return self.each.spec.id

    @property
    def at(self) -> tuple[str | int, ...]:
        """The key that the error is about."""
        return (*self.each.at, self.look.key)

    def said(self, text: str, key: str | None = None) -> str:
        """``file:line: key: text``."""
        at = self.at if key is None else (*self.each.at, key)
        return str(self.each.where.error(at, text, None))


def foresee(manifest: Manifest, card: Card | None, out: Files) -> Iterator[Seen]:
    """Look at each edit; one that begins with another's result comes after that one.

    ``out``: the run directory. Without a card nothing is planned. RunError at the end where a disk
    has no room for what a run would see at its beginning.
    """
    assert isinstance(manifest.edits, Listed)
    room, count = Room(), 0
    for seen in _Foresight(card, out, manifest.edits).all():
        if seen.error is None and count < WINDOW:
            room.add(seen.look)
            count += 1
        yield seen
    room.require()


def run_directory(manifest: Manifest, out: str | None) -> Files:
    """The run directory that is meant; beside the manifest where nobody says. RunError where a run
    can't be kept there."""
    if out is None:
        return open_files(manifest.path.resolve().parent)
    files = open_files(out)
    require_run_directory(files, manifest.models)
    return files


@dataclass(frozen=True)
class _Ended:
    """An edit that another one begins with: what its result will be, as far as it is known."""

    picture: Picture | None
    fails: bool


@dataclass
class _Foresight:
    card: Card | None
    out: Files
    edits: Listed
    sound: OrderedDict[Any, None] = field(default_factory=OrderedDict)
    masks: OrderedDict[Any, Looked] = field(default_factory=OrderedDict)
    results: dict[str, _Ended] = field(default_factory=dict)

    def all(self) -> Iterator[Seen]:
        begun_with = {s.image.edit for s in self.edits if isinstance(s.image, Result)}
        aside: defaultdict[str, list[Located]] = defaultdict(list)
        for located in self.edits.located():
            todo = [located]
            while todo:
                each = todo.pop()
                if (before := _before(each.spec)) and before not in self.results:
                    aside[before].append(each)
                    continue
                seen = self._look(each)
                if seen.id in begun_with:
                    self.results[seen.id] = _ended(seen)
                    todo += reversed(aside.pop(seen.id, []))
                yield seen

    def _look(self, each: Located) -> Seen:
        spec, given = each.spec, None
        before = self.results.get(_before(spec) or "")
        look = Look(spec, self.out / spec.id, self.card, self._look_at_mask)
        try:
            if before and before.picture:
                given = before.picture
                look.spec = _of_result(spec, given)
            if given or not before:
                look.through(given)
            look.key = "image"
            if before and before.fails:
                raise InputError(f"edit {_before(spec)}, whose result it uses, fails")
            if not given:
                self._decode(look)
        except Exception as error:  # whatever it is, a run would end this edit with it
            return Seen(each, look, _one_line(error))
        return Seen(each, look)

    def _decode(self, look: Look) -> None:
        """ImageError where what the run reads of a picture is damaged."""
        picture, box = look.picture, None
        if picture.random and why_no_copy(picture, look.target, look.how) is None:
            if look.plan is None:
                return
            box = look.plan.source_box
        key = picture.path, box
        if key in self.sound:
            return
        for _ in _samples(picture, box):
            pass
        _remember(self.sound, key, None, _REMEMBERED)

    def _look_at_mask(self, spec: MaskSpec, picture: Picture) -> Looked:
        """As `look_at_mask` does, once for edits that follow one another and have the same."""
        key = mask_key(spec, picture)
        if key not in self.masks:
            _remember(self.masks, key, look_at_mask(spec, picture), _MASKS)
        return self.masks[key]


def mask_key(spec: MaskSpec, picture: Picture) -> object:
    """What is the same for edits whose masks are."""
    outlined = any(map(is_outlines, mask_files(spec)))  # they may be placed by the picture's tags
    return (picture.path if outlined else None), spec, picture.size, picture.orientation


def _remember(known: OrderedDict[Any, Any], key: object, value: object, most: int) -> None:
    known[key] = value
    if len(known) > most:
        known.popitem(last=False)


def _before(spec: EditSpec) -> str | None:
    """The edit that an edit begins with the result of."""
    return spec.image.edit if isinstance(spec.image, Result) else None


def _samples(picture: Picture, box: Box | None) -> Iterator[object]:
    """A picture's samples in a box, or all of them."""
    if box is None:
        yield from picture.strips()
        return
    for tile in box.tiles(_TILE):
        yield picture.read(tile)


def _one_line(error: Exception) -> MsbdError:
    """Any error as one that is shown to the user."""
    if isinstance(error, MsbdError):
        return error
    first = next(iter(str(error).strip().splitlines()), "")
    return MsbdError(first if isinstance(error, OSError) else f"{type(error).__name__}: {first}")


# ---------------------------------------------------------------- results that are to be


@dataclass(frozen=True, kw_only=True)
class _ToBe:
    """A file that will be written, as a `Reader` without samples."""

    kind: str
    size: Size
    dtype: np.dtype[np.uint8 | np.uint16]
    bands: int
    has_alpha: bool
    orientation: int
    random: bool
    held_bytes: int
    metadata: Metadata
    unkept: tuple[Loss, ...] = ()

    def window(self, box: Box) -> Samples:
        raise ImageError("is not written yet")

    def strips(self, rows: int) -> Iterator[tuple[int, Samples]]:
        raise ImageError("is not written yet")


def _of_result(spec: EditSpec, picture: Picture) -> EditSpec:
    """An edit of a result, with its place as image; a new TIFF may be copied, which is known when
    it is there."""
    how = "auto" if picture.kind == "TIFF" and spec.tiff == "copy" else spec.tiff
    return replace(spec, image=picture.path, tiff=how)


def _ended(seen: Seen) -> _Ended:
    if seen.error is None:
        return _Ended(_result(seen.look), fails=False)
    return _Ended(getattr(seen.look, "picture", None), fails=True)


def _result(look: Look) -> Picture:
    """The finished picture of an edit, as far as its header goes; where it begins from, as long as
    it is a copy of that."""
    picture, how = look.picture, look.how
    if why_no_copy(picture, look.target, how) is None:
        return picture
    kind = kind_of(look.target)
    eight, reader = kind in ("WebP", "JPEG"), picture.reader
    metadata, _ = to_be_written(picture, kind)
    to_be = _ToBe(
        kind=f"OME-Zarr {how.ome_zarr or '0.5'}" if kind == "OME-Zarr" else kind,
        size=reader.size,
        dtype=np.dtype(np.uint8) if eight else reader.dtype,
        bands=3 if kind == "WebP" else reader.bands,
        has_alpha=reader.has_alpha and kind != "JPEG",
        orientation=reader.orientation,
        random=kind in ("TIFF", "OME-Zarr"),
        held_bytes=4 * reader.size.area if kind == "WebP" else 0,
        metadata=replace(metadata, pages=(), others=()),
    )
    return replace(picture, reader=to_be)
