"""Label masks: files of pixels whose values are numbers of things.

    by_values(source, values)     a `Bitmap` of the pixels that have one of these, of a picture file
    ome_labels(place, values)     the same of the labels of an OME-Zarr
    wide_labels(place)            strips of a TIFF of 32 bits, or with a sign
    has_palette(source)           whether colours stand for numbers

Values are those that are stored: a palette's numbers, ones and zeros of a file of one bit, and zero
where a TIFF says that zero is white.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from msbd_dist.canvas.bitmap import Bitmap
from msbd_dist.canvas.images import Picture
from msbd_dist.canvas.levels import Bools, is_grey
from msbd_dist.canvas.ome import open_labels
from msbd_dist.canvas.places import first_bytes, local_copy
from msbd_dist.canvas.reader import Samples
from msbd_dist.canvas.tiff_tags import Tags, open_bytes
from msbd_dist.canvas.vips import VIPS_CODECS, damage, tiff_tags
from msbd_dist.core.geometry import Box, Size
from msbd_dist.errors import MaskError

Numbers = NDArray[np.integer]
_WIDE = {"char": "i1", "short": "i2", "uint": "u4", "int": "i4"}  # libvips' words, numpy's
_NAMED = 16  # values that are listed
_KNOWN = 1000  # and that are remembered
_ROWS = 1 << 22  # pixels that are looked at together


def by_values(
    source: Picture, strips: Iterable[tuple[int, Samples]], values: tuple[int, ...]
) -> tuple[Bitmap, tuple[str, ...]]:
    """Pixels of a file whose stored value is one of these, or above 0 where there are none.

    Transparent ones are left out. Also what may be wrong with it. MaskError for a file of colours
    and one in which there is no such pixel.
    """
    numbers = _numbers_of(source)
    half = (int(np.iinfo(source.dtype).max) + 1) // 2

    def stored() -> Iterator[tuple[int, Numbers, Bools | None]]:
        for y, strip in strips:
            solid = strip[..., -1] >= half if source.has_alpha else None
            yield y, numbers(strip[..., : source.bands]), solid

    return _chosen(source.path, source.stored_size, stored(), values)


def ome_labels(
    place: str, values: tuple[int, ...], *, asked: bool
) -> tuple[Bitmap, tuple[str, ...]] | None:
    """The same of a label image of an OME-Zarr, or of the one that its group of labels has; with
    ``asked`` of any zarr array, too. None where there are no labels."""
    level = open_labels(place, asked=asked)
    if level is None:
        return None
    size = level.size
    rows = max(1, _ROWS // size.width // level.unit.height) * level.unit.height

    def stored() -> Iterator[tuple[int, Numbers, None]]:
        for y in range(0, size.height, rows):
            box = Box(y, 0, min(y + rows, size.height), size.width)
            yield y, level.read(box)[..., 0], None

    return _chosen(place, size, stored(), values)


def wide_labels(place: str) -> Wide | None:
    """A TIFF of one channel of whole numbers that no picture has; None for any other file."""
    try:
        start = first_bytes(place, 4)
    except OSError:
        return None
    if start not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return None
    path = local_copy(place)
    if tiff_tags(path).get(259, 1) not in VIPS_CODECS:
        return None
    with damage(path):
        image = pyvips.Image.tiffload(str(path), access="sequential", fail_on="warning")
    many = image.get_typeof("n-pages") and image.get("n-pages") > 1
    usable = image.format in _WIDE and image.bands == 1 and not many
    return Wide(place, path, image) if usable else None


@dataclass(frozen=True)
class Wide:
    """A TIFF that libvips has opened."""

    place: str
    path: Path
    image: Any

    def chosen(self, values: tuple[int, ...]) -> tuple[Bitmap, tuple[str, ...]]:
        """As `by_values`."""
        return _chosen(self.place, Size(self.image.height, self.image.width), self._rows(), values)

    def _rows(self) -> Iterator[tuple[int, Numbers, None]]:
        width, height, kind = self.image.width, self.image.height, _WIDE[self.image.format]
        region = pyvips.Region.new(self.image)
        step = max(1, _ROWS // width)
        for y in range(0, height, step):
            rows = min(step, height - y)
            with damage(self.path):
                data = region.fetch(0, y, width, rows)
            yield y, np.frombuffer(data, kind).reshape(rows, width), None


def _chosen(
    place: str,
    size: Size,
    stored: Iterable[tuple[int, Numbers, Bools | None]],
    values: tuple[int, ...],
) -> tuple[Bitmap, tuple[str, ...]]:
    known: set[int] = set()

    def strips() -> Iterator[tuple[int, Bools]]:
        for y, numbers, solid in stored:
            if len(known) < _KNOWN:
                known.update(map(int, np.unique(numbers)))
            chosen = np.isin(numbers, _fitting(values, numbers)) if values else numbers > 0
            yield y, chosen if solid is None else chosen & solid

    bitmap = Bitmap(size, strips())
    if bitmap.bbox is None:
        wanted = f"of the value {' or '.join(map(str, values))}" if values else "but of value 0"
        raise MaskError(f"{place}: has no pixel {wanted}; it has {_listed(known)}")
    missing = [value for value in values if value not in known] if len(known) < _KNOWN else []
    held = f"it has {_listed(known)}"
    return bitmap, tuple(f"{place}: has no pixel of the value {n}; {held}" for n in missing)


def _fitting(values: tuple[int, ...], numbers: Numbers) -> list[int]:
    """Those that such numbers can have."""
    most = np.iinfo(numbers.dtype).max
    return [value for value in values if value <= most]


def _listed(known: set[int]) -> str:
    some = ", ".join(map(str, sorted(known)[:_NAMED]))
    return some + (" and more" if len(known) > _NAMED else "")


# ---------------------------------------------------------------- what is stored


def _numbers_of(source: Picture) -> Callable[[Samples], Numbers]:
    """What turns samples as they are read, (h, w, bands), into the values that are stored."""
    palette = _palette(source)
    if palette is not None:
        return _Palette(palette)
    bits, inverted = _bits(source)
    peak = int(np.iinfo(source.dtype).max)
    step = peak // (2**bits - 1) if bits < 8 else 1

    def numbers(colours: Samples) -> Numbers:
        if not is_grey(colours):
            raise MaskError(
                f"{source.path}: has colours and no values; save its labels as grey, or as a "
                "palette"
            )
        values = colours[..., 0]
        return (peak - values if inverted else values) // step

    return numbers


@dataclass(frozen=True)
class _Palette:
    """Colours as the numbers that they have in a palette; of equal ones, the first."""

    colours: NDArray[np.uint8]  # (n, 3)

    def __call__(self, pixels: Samples) -> Numbers:
        packed = _packed(self.colours)
        order = np.argsort(packed, kind="stable")
        places = np.searchsorted(packed[order], _packed(pixels))
        return order[np.minimum(places, len(order) - 1)]


def _packed(colours: NDArray[np.uint8 | np.uint16]) -> NDArray[np.int64]:
    wide = colours.astype(np.int64)
    return wide[..., 0] << 16 | wide[..., 1 % wide.shape[-1]] << 8 | wide[..., -1]


def has_palette(source: Picture) -> bool:
    """Whether a file's colours stand for numbers."""
    return _palette(source) is not None


def _palette(source: Picture) -> NDArray[np.uint8] | None:
    if source.kind == "PNG":
        return _png_palette(source.path)
    if source.kind == "TIFF":
        tags = _tags(source.path)
        if tags.get(262, [1])[0] == 3 and 320 in tags:
            return (np.array(tags[320]).reshape(3, -1).T >> 8).astype(np.uint8)
    return None


def _bits(source: Picture) -> tuple[int, bool]:
    """Bits of a sample in the file, and whether its zero is white."""
    if source.kind == "PNG":
        with local_copy(source.path).open("rb") as file:
            return file.read(25)[24], False
    if source.kind == "TIFF":
        tags = _tags(source.path)
        return tags.get(258, [1])[0], is_inverted(source)
    return 8 * source.dtype.itemsize, False


def is_inverted(source: Picture) -> bool:
    """Whether a TIFF says that its zero is white."""
    return source.kind == "TIFF" and _tags(source.path).get(262, [1])[0] == 0


def _tags(place: str) -> dict[int, list[int]]:
    """Bits, colours and palette of a TIFF's first page."""
    tags = Tags(open_bytes(place))
    entries = tags.directory(tags.first).entries
    return {
        code: tags.integers(entries[code]).tolist() for code in (258, 262, 320) if code in entries
    }


def _png_palette(place: str) -> NDArray[np.uint8] | None:
    with local_copy(place).open("rb") as file:
        if file.read(26)[25] != 3:  # the kind of colour, in the first chunk
            return None
        position = 8
        while True:
            file.seek(position)
            length, name = struct.unpack(">I4s", file.read(8))
            if name == b"PLTE":
                return np.frombuffer(file.read(length), np.uint8).reshape(-1, 3)
            position += 12 + length
