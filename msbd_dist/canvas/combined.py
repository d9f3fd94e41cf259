"""Masks made of masks: united, turned inside out, grown.

    make_mask(spec, picture)    the Mask of an edit, whatever it is made from
    look_at_mask(spec, picture) the same, with what may be wrong with it
    mask_digest(spec)           names what it is made from

Nothing is computed before a window is asked for, and what a window shows does not depend on where
it begins and ends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property, reduce
from math import ceil, sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msbd_dist.canvas.digests import content_digest
from msbd_dist.canvas.images import Picture
from msbd_dist.canvas.levels import Bools
from msbd_dist.canvas.masks import Mask, drawn_share, read_mask, scale_mask
from msbd_dist.canvas.outlines import is_outlines, read_outlines, refuse_others
from msbd_dist.canvas.shapes import Shapes
from msbd_dist.core.geometry import Box, Rect, Size
from msbd_dist.core.naming import differing
from msbd_dist.core.spec import Combined, Drawn, MaskFile, MaskSpec, mask_files
from msbd_dist.errors import MaskError

Tell = Callable[[str], None]

_TILE = Size(1024, 1024)  # pixels that are looked at together
_COUNTED = 1 << 22  # pixels of a grown mask that are counted one by one
_MOST = 0.8  # of a picture, from which on a mask may be meant the other way round


@dataclass(frozen=True)
class Looked:
    """A mask, and a line for each thing that may be meant otherwise."""

    mask: Mask
    notes: tuple[str, ...] = ()

    @cached_property
    def percent(self) -> float:
        """How much of the picture it covers."""
        return round(100 * self.mask.share, 2)


def look_at_mask(spec: MaskSpec, picture: Picture) -> Looked:
    """A mask of a picture, from its files and shapes, with what may be wrong with it.

    MaskError where it, or a part of it, is empty, does not fit or can't be understood; ImageError
    for a file that can't be read.
    """
    notes: list[str] = []
    mask = _made(spec, picture, notes.append)
    large = mask.bbox.size.area > _MOST * mask.size.area and mask.share > _MOST
    if large and _is_open(spec):
        notes.append(_too_much(spec, mask))
    return Looked(mask, tuple(notes))


def make_mask(spec: MaskSpec, picture: Picture) -> Mask:
    """The mask alone; errors as above."""
    return _made(spec, picture, lambda note: None)


def _made(spec: MaskSpec, picture: Picture, tell: Tell) -> Mask:
    if isinstance(spec, Drawn):
        return Shapes(picture.size, boxes=spec.boxes, polygons=spec.polygons)
    if isinstance(spec, str):
        spec = MaskFile(file=spec)
    if isinstance(spec, MaskFile):
        if not is_outlines(spec.file):
            return _of_pixels(spec, picture, tell)
        masks = read_outlines(spec, picture, tell)
        return masks[0] if len(masks) == 1 else United(masks)
    parts = tuple(_made(part, picture, tell) for part in spec.any)
    mask = parts[0] if len(parts) == 1 else United(parts)
    if spec.invert:
        mask = Inverted.of(mask)
    return Grown(mask, spec.grow) if spec.grow else mask


def _is_open(spec: MaskSpec) -> bool:
    """Whether a file alone says what is edited, and may be meant the other way round."""
    return isinstance(spec, str) or (isinstance(spec, Combined) and any(map(_is_open, spec.any)))


def _too_much(spec: MaskSpec, mask: Mask) -> str:
    name = ", ".join(Path(place).name for place in mask_files(spec))
    switch = "off" if isinstance(spec, Combined) and spec.invert else "on"
    remedy = f"mask: {{file: {name}, invert: on}}" if isinstance(spec, str) else f"invert: {switch}"
    share = f"{100 * mask.share:.1f} %"
    return f"the mask ({name}) covers {share} of the picture; if the rest is meant, write {remedy}"


def _of_pixels(spec: MaskFile, picture: Picture, tell: Tell) -> Mask:
    refuse_others(spec.file)
    if spec.image_id is not None or spec.category:
        key = "category" if spec.category else "image_id"
        raise MaskError(f"{spec.file}: is a picture, and `{key}` is of outlines; leave it out")
    return read_mask(spec, picture, tell)


def mask_digest(spec: MaskSpec) -> str:
    """Names the content of all files of a mask and how they are combined. OSError for a file that
    can't be read."""
    if isinstance(spec, str):
        return content_digest(spec)
    if isinstance(spec, MaskFile):
        return _sha256(f"({content_digest(spec.file)!r}, {_named(replace(spec, file=''))})")
    if isinstance(spec, Combined):
        parts = tuple(mask_digest(part) for part in spec.any)
        return _sha256(f"{(parts, spec.invert, spec.grow)!r}")
    return _sha256(_named(spec))


_FIRST = ("file", "from_", "values", "image_id", "category", "boxes", "polygons")


def _named(spec: MaskFile | Drawn) -> str:
    """A mask's options by name: the first ones always, later ones where they are not off."""
    later = differing(spec)
    names = (f.name for f in fields(spec) if f.name in _FIRST or f.name in later)
    return f"{type(spec).__name__}({', '.join(f'{n}={getattr(spec, n)!r}' for n in names)})"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class United:
    """What any of several masks of one picture holds."""

    masks: tuple[Mask, ...]

    @property
    def size(self) -> Size:
        return self.masks[0].size

    @property
    def bbox(self) -> Box:
        return reduce(Box.union, (mask.bbox for mask in self.masks))

    def window(self, box: Box) -> Bools:
        return reduce(np.logical_or, (mask.window(box) for mask in self.masks))

    @property
    def share(self) -> float:
        return drawn_share(self)

    def any(self, box: Box) -> bool:
        return any(mask.any(box) for mask in self.masks)


@dataclass(frozen=True)
class Inverted:
    """What a mask leaves out of its picture; ``bbox`` takes a look at what may decide it."""

    mask: Mask
    bbox: Box

    @classmethod
    def of(cls, mask: Mask) -> Inverted:
        """MaskError where the mask leaves nothing out."""
        whole = Box.of(mask.size)
        edges = list(_left_out(mask, whole))
        if not edges:
            raise MaskError("the mask holds the whole picture, so that inverted it is empty")
        return cls(mask, reduce(Box.union, edges))

    @property
    def size(self) -> Size:
        return self.mask.size

    @property
    def share(self) -> float:
        return 1 - self.mask.share

    def window(self, box: Box) -> Bools:
        return ~self.mask.window(box)

    def any(self, box: Box) -> bool:
        if not self.mask.bbox.contains(box):
            return True
        return any(not self.mask.window(part).all() for part in box.tiles(_TILE))


def _left_out(mask: Mask, whole: Box) -> Iterator[Box]:
    """Boxes whose union is the bounding box of what a mask leaves out.

    Around the mask's own box it is known without a look; if that box is as large as the picture
    along an axis, its pixels decide.
    """
    held = mask.bbox
    around = [
        Box(whole.y0, whole.x0, held.y0, whole.x1),
        Box(held.y1, whole.x0, whole.y1, whole.x1),
        Box(whole.y0, whole.x0, whole.y1, held.x0),
        Box(whole.y0, held.x1, whole.y1, whole.x1),
    ]
    known = [box for box in around if box.height > 0 and box.width > 0]
    yield from known
    if known and reduce(Box.union, known) == whole:
        return
    for part in held.tiles(_TILE):
        left = ~mask.window(part)
        if left.any():
            ys, xs = np.flatnonzero(left.any(axis=1)), np.flatnonzero(left.any(axis=0))
            found = Box(int(ys[0]), int(xs[0]), int(ys[-1]) + 1, int(xs[-1]) + 1)
            yield found.shifted(part.y0, part.x0)


@dataclass(frozen=True)
class Grown:
    """A mask and all that is within ``pixels`` of it: centres of pixels, as the crow flies.

    A window is made in tiles, each of which sees ``pixels`` beyond its edges.
    """

    mask: Mask
    pixels: int

    @property
    def size(self) -> Size:
        return self.mask.size

    @property
    def bbox(self) -> Box:
        box = self.mask.bbox.grown(self.pixels).intersection(Box.of(self.size))
        assert box is not None
        return box

    @property
    def share(self) -> float:
        """Where the box is large, as if the mask were drawn in larger pixels."""
        box = self.bbox
        step = ceil(sqrt(box.size.area / _COUNTED))
        if step == 1:
            return drawn_share(self)
        size = Size(-(-box.height // step), -(-box.width // step))
        coarse = scale_mask(self.mask.window, Rect(box.y0, box.x0, box.y1, box.x1), size)
        near = _within(coarse, round(self.pixels / step), Box.of(size))
        return float(near.mean()) * box.size.area / self.size.area

    def window(self, box: Box) -> Bools:
        out = np.zeros(box.size.shape, np.bool_)
        for part in box.tiles(_TILE):
            out[part.relative_to(box).slices] = self._part(part)
        return out

    def any(self, box: Box) -> bool:
        if self.mask.any(box):
            return True
        return any(self._reaches(part, box) for part in self._near(box).tiles(_TILE))

    def _reaches(self, part: Box, box: Box) -> bool:
        """Is a pixel of the mask in one box near enough to the nearest pixel of another?"""
        if not self.mask.any(part):
            return False
        dy = _away(np.arange(part.y0, part.y1), box.y0, box.y1)
        dx = _away(np.arange(part.x0, part.x1), box.x0, box.x1)
        near = dy[:, None] ** 2 + dx**2 <= self.pixels**2
        return bool((self.mask.window(part) & near).any())

    def _near(self, box: Box) -> Box:
        near = box.grown(self.pixels).intersection(Box.of(self.size))
        assert near is not None
        return near

    def _part(self, box: Box) -> Bools:
        near = self._near(box)
        if not self.mask.any(near):
            return np.zeros(box.size.shape, np.bool_)
        return _within(self.mask.window(near), self.pixels, box.relative_to(near))


def _away(places: NDArray[np.int64], start: int, stop: int) -> NDArray[np.int64]:
    """How far each is from [start, stop)."""
    return np.maximum(np.maximum(start - places, places - (stop - 1)), 0)


def _within(mask: Bools, pixels: int, box: Box) -> Bools:
    """Which pixels of a box inside an array that is not all False are near a True one? In exact
    integers."""
    from scipy import ndimage  # takes long to load, and most masks don't need it

    nearest: NDArray[np.int32] = ndimage.distance_transform_edt(
        ~mask, return_distances=False, return_indices=True
    )
    ys, xs = (nearest[axis][box.slices].astype(np.int64) for axis in (0, 1))
    dy = ys - np.arange(box.y0, box.y1)[:, None]
    dx = xs - np.arange(box.x0, box.x1)
    near: Bools = dy * dy + dx * dx <= pixels * pixels
    return near
