"""Masks: which pixels of a picture may change, as windows.

read_mask(path, picture)      a Mask at the upright picture's size; True = edit
scale_mask(read, rect, size)  a window of it in another raster; nothing True is ever lost
feather(read, pixels, box)    float32 weights that rise from its edge inwards

What a window shows does not depend on where it begins and ends. Nothing here holds a mask as an
array: what is read of one at a time is bounded, however large the picture is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path
from threading import Lock
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from msbd_dist.canvas.bitmap import Bitmap
from msbd_dist.canvas.digests import content_digest
from msbd_dist.canvas.images import Picture, turn_stored, turn_upright, width_x_height
from msbd_dist.canvas.labels import by_values, has_palette, is_inverted, ome_labels, wide_labels
from msbd_dist.canvas.levels import Bools, Tally
from msbd_dist.canvas.ome import is_zarr
from msbd_dist.canvas.reader import Samples
from msbd_dist.core.geometry import Box, Rect, Size
from msbd_dist.core.spec import MaskFile
from msbd_dist.errors import ImageError, MaskError

Read = Callable[[Box], Bools]
"""The mask in a box: (h, w)."""

_SLACK = 1e-6  # an edge that is an integer but for rounding stays where it is
_STRIP = 1 << 25  # samples of a file that are read together, in 256 rows at most
_ROWS = 1 << 19  # and that are looked at together
_HELD = 64 << 20  # bytes of mask files that are remembered
_OWN = 1 << 12  # what each takes beside its pixels, about
_BAND = 1 << 24  # pixels of a mask that are counted together
_LARGE = 1 << 26  # pixels of a picture from which on they are not
_TILE = 1448  # pixels along each edge of what is scaled together: 2 million at most


class Mask(Protocol):
    """Which pixels of a picture of ``size`` may change; ``bbox`` holds them all, and no more."""

    @property
    def size(self) -> Size: ...

    @property
    def bbox(self) -> Box: ...

    @property
    def share(self) -> float:
        """How much of the picture may change, 0 to 1; about, where it is very large."""
        ...

    def window(self, box: Box) -> Bools:
        """The mask in a box inside the picture: (h, w), True = edit."""
        ...

    def any(self, box: Box) -> bool:
        """May any pixel of a box inside the picture change? Quick for boxes of any size."""
        ...


def read_mask(
    file: MaskFile | Path | str, picture: Picture, tell: Callable[[str], None] = lambda note: None
) -> Mask:
    """Read a mask file, once and in strips, as a mask at the picture's upright size.

    A pixel is True from half of the file's range upwards (128 of 255, 32768 of 65535), colours by
    their Rec. 709 luma, transparent parts as on black; or as the `MaskFile` says. What may be meant
    otherwise is told. The mask's own EXIF orientation is honoured; a mask drawn on the picture's
    stored rows (same size before the picture's own orientation is undone) is turned along with it.

    A mask of another size is scaled when its aspect agrees to within one pixel: with the longer
    edges made equal by shrinking the larger of the two rasters, the shorter edges differ by one
    pixel at most. It is scaled by maximum, down and up: a pixel is True where any True one
    of the file lies under it, so that a 1-pixel stroke survives.

    Raises MaskError for an empty mask, one of which it can't be told what is meant, and another
    aspect; ImageError for a file that can't be read.
    """
    spec = file if isinstance(file, MaskFile) else MaskFile(file=str(file))
    drawing = _kept.read(spec)
    for note in drawing.notes:
        tell(note)
    return _fit(stored_mask(drawing.bitmap, turn=drawing.orientation), spec.file, picture)


def stored_mask(bitmap: Bitmap, *, turn: int = 1) -> Mask:
    """A bitmap that is not empty as a mask; ``turn`` is an EXIF orientation to be undone."""
    return _turned(_Stored(bitmap), turn)


def drawn_share(mask: Mask) -> float:
    """A mask's share of its picture, by looking at all of its box."""
    box = mask.bbox
    bands = box.tiles(Size(max(1, _BAND // box.width), box.width))
    return sum(int(np.count_nonzero(mask.window(band))) for band in bands) / mask.size.area


def scale_mask(read: Read, rect: Rect, size: Size) -> Bools:
    """A window of a mask seen as ``size`` pixels, by maximum: (h, w).

    An output pixel is True when any True mask pixel lies under its footprint, the part of ``rect``
    (edges in mask pixels) that it covers. Whatever the scale, no True pixel inside ``rect`` is
    lost. ``read`` is asked for boxes inside ``rect``'s outer box, of 2 million pixels at most.
    """
    if rect.height <= 0 or rect.width <= 0:
        raise ValueError(f"a window has a positive extent, not {rect.height} x {rect.width}")
    box = rect.outer()
    inside = rect.relative_to(box)
    rows = _footprints(inside.y0, inside.height, size.height)
    columns = _footprints(inside.x0, inside.width, size.width)
    return _any_under(lambda part: read(part.shifted(box.y0, box.x0)), rows, columns, box.size)


def feather(read: Read, pixels: float, box: Box, *, bounds: Box) -> NDArray[np.float32]:
    """Weights in a box: (h, w) in [0, 1], 0 outside the mask, 1 from ``pixels`` inside its edge on.

    Between them the weight is the distance to the nearest pixel outside, over ``pixels``. The edge
    of ``bounds``, which holds the box and all that is read, is no edge of the mask. ``pixels`` of 0
    or 1 gives the mask itself as floats. Memory grows with the box and ``pixels``.
    """
    if pixels < 0:
        raise ValueError(f"a feather is 0 pixels or more, not {pixels}")
    mask = read(box)
    if pixels <= 1 or not mask.any():
        return mask.astype(np.float32)
    near = box.grown(ceil(pixels) + 1).intersection(bounds)  # all that is near enough to matter
    assert near is not None
    around = read(near)
    if around.all():
        return mask.astype(np.float32)
    from scipy import ndimage  # takes long to load, and most masks don't need it

    distance = ndimage.distance_transform_edt(around)[box.relative_to(near).slices]
    return np.minimum(distance / pixels, 1.0).astype(np.float32)


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class _Drawing:
    """A mask file as it was read: its stored pixels, how they are turned, what to say of it."""

    bitmap: Bitmap
    notes: tuple[str, ...]
    orientation: int = 1


class _Kept:
    """The mask files that were last read: 64 MB of their pixels, or a single one."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._drawings: OrderedDict[tuple[MaskFile, str], _Drawing] = OrderedDict()

    def read(self, spec: MaskFile) -> _Drawing:
        try:
            key = spec, content_digest(spec.file)
        except OSError:  # what opens pictures has the better words
            return _drawn(spec)
        with self._lock:
            found = self._drawings.get(key)
            if found is not None:
                self._drawings.move_to_end(key)
                return found
        found = _drawn(spec)
        with self._lock:
            self._drawings[key] = found
            while len(self._drawings) > 1 and self._bytes > _HELD:
                self._drawings.popitem(last=False)
        return found

    @property
    def _bytes(self) -> int:
        return sum(drawing.bitmap.nbytes + _OWN for drawing in self._drawings.values())


_kept = _Kept()


def _drawn(spec: MaskFile) -> _Drawing:
    """A file's pixels that are edited, in one pass over it."""
    asked = spec.from_ == "values"
    if spec.from_ == "pixels":
        raise MaskError(f"{spec.file}: is no file of outlines; leave `from: pixels` out")
    if is_zarr(spec.file) and (found := ome_labels(spec.file, spec.values, asked=asked)):
        return _Drawing(*found)
    try:
        source = Picture.open(spec.file)
    except ImageError as error:
        if (wide := wide_labels(spec.file)) is None:
            raise
        if not asked:
            named = f"{{file: {Path(spec.file).name}, from: values}}"
            raise MaskError(f"{error}, or, if these are labels, write {named}") from None
        return _Drawing(*wide.chosen(spec.values))
    if asked:
        bitmap, notes = by_values(source, _strips(source), spec.values)
    elif spec.from_ == "alpha":
        bitmap, notes = _by_alpha(source), ()
    else:
        bitmap, notes = _by_brightness(source, open_=spec.from_ is None)
    return _Drawing(bitmap, notes, source.orientation)


def _strips(source: Picture) -> Iterator[tuple[int, Samples]]:
    """All of a file, in parts that are looked at together."""
    samples = source.stored_size.width * (source.bands + source.has_alpha)  # of a row
    step = max(1, _ROWS // samples)
    for top, strip in source.strips(rows=min(256, max(1, _STRIP // samples))):
        for y in range(0, len(strip), step):
            yield top + y, strip[y : y + step]


def _by_brightness(source: Picture, *, open_: bool) -> tuple[Bitmap, tuple[str, ...]]:
    """With what may be meant otherwise, where the file has to say it by itself."""
    peak = int(np.iinfo(source.dtype).max)
    tally = Tally(peak, bands=source.bands, has_alpha=source.has_alpha)
    bitmap = Bitmap(source.stored_size, ((y, tally.lit(part)) for y, part in _strips(source)))
    palette = has_palette(source)
    if open_ and tally.ambiguous:
        raise MaskError(_about(source, tally.ambiguous))
    if bitmap.bbox is None:
        raise MaskError(_about(source, tally.empty(palette=palette)))
    lossy = source.kind in ("JPEG", "WebP")
    notes = tuple(tally.doubts(palette=palette, lossy=lossy)) if open_ else ()
    if open_ and is_inverted(source):
        notes = (*notes, _INVERTED)
    return bitmap, tuple(_about(source, note) for note in notes)


_INVERTED = (
    "is a TIFF in which 0 is white, so that its zeros are edited. For its ones write {file: "
    "{file}, from: values}, else from: luma"
)


def _about(source: Picture, text: str) -> str:
    """Words of a file, which it is called in."""
    return f"{source.path}: {text.replace('{file}', Path(source.path).name)}"


def _by_alpha(source: Picture) -> Bitmap:
    """What is opaque."""
    if not source.has_alpha:
        raise MaskError(f"{source.path}: has no alpha channel; leave `from: alpha` out")
    half = (int(np.iinfo(source.dtype).max) + 1) // 2
    bitmap = Bitmap(source.stored_size, ((y, s[..., -1] >= half) for y, s in _strips(source)))
    if bitmap.bbox is None:
        raise MaskError(
            f"{source.path}: is transparent everywhere; to edit that write `invert: on`, or give "
            "another mask"
        )
    return bitmap


@dataclass(frozen=True)
class _Stored:
    """A bitmap that is not empty, as it is."""

    bitmap: Bitmap

    @property
    def size(self) -> Size:
        return self.bitmap.size

    @property
    def bbox(self) -> Box:
        assert self.bitmap.bbox is not None
        return self.bitmap.bbox

    @property
    def share(self) -> float:
        return self.bitmap.count / self.size.area

    def window(self, box: Box) -> Bools:
        return self.bitmap.window(box)

    def any(self, box: Box) -> bool:
        return self.bitmap.any(box)


# ---------------------------------------------------------------- orientation


@dataclass(frozen=True)
class _Turned:
    """A mask with an EXIF orientation undone."""

    stored: Mask
    orientation: int

    @cached_property
    def _places(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Where each upright pixel is stored, y and x: views that take no memory."""
        height, width = self.stored.size.shape
        ys = np.broadcast_to(np.arange(height)[:, None], (height, width))
        xs = np.broadcast_to(np.arange(width), (height, width))
        return turn_upright(ys, self.orientation), turn_upright(xs, self.orientation)

    @property
    def size(self) -> Size:
        return Size(*self._places[0].shape)

    @property
    def bbox(self) -> Box:
        height, width = self.size.shape
        ys = np.broadcast_to(np.arange(height)[:, None], (height, width))
        xs = np.broadcast_to(np.arange(width), (height, width))
        upright = turn_stored(ys, self.orientation), turn_stored(xs, self.orientation)
        return _moved(self.stored.bbox, upright)

    @property
    def share(self) -> float:
        return self.stored.share

    def window(self, box: Box) -> Bools:
        turned = turn_upright(self.stored.window(_moved(box, self._places)), self.orientation)
        return np.ascontiguousarray(turned)

    def any(self, box: Box) -> bool:
        return self.stored.any(_moved(box, self._places))


def _turned(mask: Mask, orientation: int) -> Mask:
    return mask if orientation == 1 else _Turned(mask, orientation)


def _moved(box: Box, places: tuple[NDArray[np.intp], NDArray[np.intp]]) -> Box:
    """The box between the places of a box's corners."""
    ys, xs = (sorted((int(p[box.y0, box.x0]), int(p[box.y1 - 1, box.x1 - 1]))) for p in places)
    return Box(ys[0], xs[0], ys[1] + 1, xs[1] + 1)


# ---------------------------------------------------------------- size


def _fit(mask: Mask, place: str, picture: Picture) -> Mask:
    """The mask at the picture's upright size, turned along with it where it fits only unturned."""
    size, have = picture.size, mask.size
    if have == size:
        return mask
    if have == picture.stored_size:
        return _turned(mask, picture.orientation)
    if _same_aspect(have, size):
        return _Resized(mask, size)
    if _same_aspect(have, picture.stored_size):
        return _Resized(_turned(mask, picture.orientation), size)
    raise MaskError(
        f"{place}: the mask is {width_x_height(have)} and {picture.path} is "
        f"{width_x_height(size)}; give the mask the picture's size, or its aspect"
    )


def _same_aspect(a: Size, b: Size) -> bool:
    """Shrink the one with the longer edge until the longer edges agree: do the shorter, to 1 px?"""
    small, large = sorted((a, b), key=lambda size: size.long_edge)
    scale = small.long_edge / large.long_edge
    heights = abs(large.height * scale - small.height)
    widths = abs(large.width * scale - small.width)
    return max(heights, widths) <= 1


@dataclass(frozen=True)
class Ranges:
    """[low, high) for each pixel along one axis: those of another raster that it shows.

    Both ascend; every pixel of the other raster that lies between is in one of the ranges.
    """

    low: NDArray[np.intp]
    high: NDArray[np.intp]

    def __getitem__(self, part: slice) -> Ranges:
        return Ranges(self.low[part], self.high[part])

    def meeting(self, start: int, stop: int) -> slice:
        """The pixels whose range meets [start, stop)."""
        first = int(np.searchsorted(self.high, start, side="right"))
        return slice(first, int(np.searchsorted(self.low, stop, side="left")))

    def shifted(self, by: int) -> Ranges:
        return Ranges(self.low + by, self.high + by)


@dataclass(frozen=True)
class _Resized:
    """A mask at another size, by maximum."""

    mask: Mask
    size: Size

    @cached_property
    def _ranges(self) -> tuple[Ranges, Ranges]:
        lengths = zip(self.mask.size.shape, self.size.shape, strict=True)
        rows, columns = (_footprints(0.0, float(have), want) for have, want in lengths)
        return rows, columns

    @property
    def bbox(self) -> Box:
        rows, columns = self._ranges
        under = self.mask.bbox
        ys, xs = rows.meeting(under.y0, under.y1), columns.meeting(under.x0, under.x1)
        return Box(ys.start, xs.start, ys.stop, xs.stop)

    @property
    def share(self) -> float:
        return self.mask.share if self.size.area > _LARGE else drawn_share(self)

    def window(self, box: Box) -> Bools:
        ys, xs = box.slices
        rows, columns = self._ranges
        return _any_under(self.mask.window, rows[ys], columns[xs], self.mask.size)

    def any(self, box: Box) -> bool:
        rows, columns = self._ranges
        y0, x0 = int(rows.low[box.y0]), int(columns.low[box.x0])
        return self.mask.any(Box(y0, x0, int(rows.high[box.y1 - 1]), int(columns.high[box.x1 - 1])))


def _footprints(start: float, extent: float, count: int) -> Ranges:
    """Mask pixels under each of ``count`` equal parts of an interval of real edges."""
    edges = start + np.arange(count + 1) * (extent / count)
    low = np.floor(edges[:-1] + _SLACK).astype(np.intp)
    high = np.ceil(edges[1:] - _SLACK).astype(np.intp)
    return Ranges(low, np.maximum(high, low + 1))


def _any_under(read: Read, rows: Ranges, columns: Ranges, size: Size) -> Bools:
    """Is any pixel of ``rows[i]`` x ``columns[j]`` True? (i, j), for a raster of ``size``.

    It is read in tiles; outside of it everything is False.
    """
    out = np.zeros((len(rows.low), len(columns.low)), np.bool_)
    under = Box(
        int(rows.low[0]), int(columns.low[0]), int(rows.high[-1]), int(columns.high[-1])
    ).intersection(Box.of(size))
    for tile in under.tiles(Size(_TILE, _TILE)) if under else ():
        ys, xs = rows.meeting(tile.y0, tile.y1), columns.meeting(tile.x0, tile.x1)
        found = _any_along(read(tile), rows[ys].shifted(-tile.y0))
        out[ys, xs] |= _any_along(found.T, columns[xs].shifted(-tile.x0)).T
    return out


def _any_along(mask: Bools, ranges: Ranges) -> Bools:
    """Is any pixel of each range of rows True? (h, w) -> (ranges, w). Each meets the mask."""
    low, high = np.maximum(ranges.low, 0), np.minimum(ranges.high, len(mask))
    padded = np.pad(mask, [(0, 1), (0, 0)])  # where ranges that end with the mask begin anew
    return np.logical_or.reduceat(padded, np.stack((low, high), axis=1).ravel(), axis=0)[::2]
