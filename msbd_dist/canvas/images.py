"""Picture files as windows of samples.

    Picture.open(path)     the header only: size, depth, bands, what must be refused
    picture.read(box)      (3, h, w) of the file's own integers, never colour-managed
    picture.strips(rows)   all of it, streamed from top to bottom

What decodes a file is chosen by what it is, never by its name (`open_reader`). Samples keep the
file's depth: uint8 or uint16. ``to_float`` and ``from_float`` are the only conversion between them
and floats in [0, 1].

A picture is shown upright: its EXIF orientation is undone when it is read and applied again when it
is written. The tag stays, so stored samples outside the edit are bit-equal to the source's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from msbd_dist.canvas.archives import inside
from msbd_dist.canvas.fetched import FetchedReader
from msbd_dist.canvas.ome import OmeReader, is_zarr
from msbd_dist.canvas.places import first_bytes, is_url, local_copy
from msbd_dist.canvas.reader import Metadata, Reader, Samples
from msbd_dist.canvas.tiff import Several, TiffReader, describe
from msbd_dist.canvas.vips import VIPS_CODECS, VipsReader, expands
from msbd_dist.core.geometry import Box, Size
from msbd_dist.errors import ImageError, NonFiniteError

log = logging.getLogger(__name__)

_STRIP = 64 << 20  # bytes of a decoded strip that may be held

# ---------------------------------------------------------------- integers and floats


def to_float(samples: NDArray[Any]) -> NDArray[np.float32]:
    """uint8 0..255 or uint16 0..65535 of any shape -> float32 in [0, 1]."""
    return (samples / np.float32(_peak(samples.dtype))).astype(np.float32, copy=False)


def from_float(values: NDArray[Any], dtype: DTypeLike) -> Samples:
    """Floats of any shape -> uint8 or uint16, clipped to [0, 1] and rounded to the nearest integer.

    Raises NonFiniteError where a value is NaN or infinite.
    """
    if not np.isfinite(values).all():
        raise NonFiniteError("pixels to be stored hold NaN or infinity")
    scaled = np.clip(values, 0, 1, dtype=np.float32) * np.float32(_peak(dtype))
    return cast(Samples, np.rint(scaled).astype(dtype))


def _peak(dtype: DTypeLike) -> int:
    peaks = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
    try:
        return peaks[np.dtype(dtype)]
    except KeyError:
        raise TypeError(f"samples are uint8 or uint16, not {np.dtype(dtype)}") from None


# ---------------------------------------------------------------- EXIF orientation

# orientation: (swap the axes, then flip y, flip x) turns stored samples upright
_TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def turn_upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """(..., y, x) as stored -> (..., y, x) as meant to be seen; a view."""
    swap, flip_y, flip_x = _TURNS[orientation]
    turned = array.swapaxes(-1, -2) if swap else array
    return turned[..., :: -1 if flip_y else 1, :: -1 if flip_x else 1]


def turn_stored(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """The inverse of ``turn_upright``; a view."""
    swap, flip_y, flip_x = _TURNS[orientation]
    turned = array[..., :: -1 if flip_y else 1, :: -1 if flip_x else 1]
    return turned.swapaxes(-1, -2) if swap else turned


_INVERSE = {6: 8, 8: 6}  # the other turns undo themselves


def _turned_box(box: Box, size: Size, orientation: int) -> Box:
    """Where a box of the upright picture (of ``size``) lies in the stored one."""
    swap, flip_y, flip_x = _TURNS[orientation]
    y0, y1 = (size.height - box.y1, size.height - box.y0) if flip_y else (box.y0, box.y1)
    x0, x1 = (size.width - box.x1, size.width - box.x0) if flip_x else (box.x0, box.x1)
    return Box(x0, y0, x1, y1) if swap else Box(y0, x0, y1, x1)


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class Picture:
    """One picture file of uint8 or uint16 samples, grey or RGB, with or without alpha.

    ``size`` is that of the upright picture, ``stored_size`` that of the file.
    """

    path: str  # local, or a URL
    reader: Reader

    @classmethod
    def open(cls, path: Path | str) -> Picture:
        """Look at the header. Raises ImageError, in one line, for what can't be edited exactly."""
        return cls(str(path), open_reader(str(path)))

    @property
    def kind(self) -> str:
        """PNG, JPEG, TIFF, WebP or OME-Zarr with its version."""
        return self.reader.kind

    @property
    def dtype(self) -> np.dtype[np.uint8 | np.uint16]:
        return self.reader.dtype

    @property
    def bands(self) -> int:
        """Colours only: 1 or 3."""
        return self.reader.bands

    @property
    def has_alpha(self) -> bool:
        return self.reader.has_alpha

    @property
    def orientation(self) -> int:
        """The EXIF tag, 1 to 8; 1 is upright."""
        return self.reader.orientation if self.reader.orientation in _TURNS else 1

    @property
    def random(self) -> bool:
        """Whether a window costs what it holds; else all that is above it is decoded too."""
        return self.reader.random

    @property
    def metadata(self) -> Metadata:
        return self.reader.metadata

    @property
    def stored_size(self) -> Size:
        """Of the file's rows and columns, before its EXIF orientation is undone."""
        return self.reader.size

    @property
    def size(self) -> Size:
        stored = self.reader.size
        return Size(stored.width, stored.height) if _TURNS[self.orientation][0] else stored

    @property
    def pixel_bytes(self) -> int:
        return (self.bands + self.has_alpha) * self.dtype.itemsize

    @property
    def raw_bytes(self) -> int:
        """Of all its samples, uncompressed."""
        return self.size.area * self.pixel_bytes

    @property
    def format(self) -> str:
        """For people, width first: ``JPEG 1803x2117 RGB 8-bit, ICC profile, EXIF``."""
        colours = ("grey" if self.bands == 1 else "RGB") + (" + alpha" if self.has_alpha else "")
        parts = [f"{self.kind} {width_x_height(self.size)} {colours} {8 * self.dtype.itemsize}-bit"]
        parts += self.metadata.names
        if any(loss and loss.name == "geo" for loss, _ in self.metadata.own):
            parts.append("geo tags")
        if self.orientation != 1:
            parts.append(f"orientation {self.orientation}")
        return ", ".join(parts)

    def read(self, box: Box) -> Samples:
        """Colour samples of a window of the upright picture: (3, h, w), grey in all three.

        Raises ValueError for a box that is empty or leaves the picture, ImageError where the file
        is damaged.
        """
        if box.height < 1 or box.width < 1 or not Box.of(self.size).contains(box):
            raise ValueError(f"{self.path}: box {box} is not inside the picture of {self.size}")
        return self.seen(self.reader.window(self.stored_box(box)))

    def strips(self, rows: int = 512) -> Iterator[tuple[int, Samples]]:
        """The stored picture from top to bottom, decoded once: (y, (h, W, bands + alpha)).

        Not turned upright. Raises ImageError at the first damaged strip. JPEG and WebP carry no
        checksum: a changed byte in them is found only where it breaks the code.
        """
        return self.reader.strips(rows)

    def stored_box(self, box: Box) -> Box:
        """Where a box of the upright picture lies in the stored one."""
        return _turned_box(box, self.size, self.orientation)

    def upright_box(self, box: Box) -> Box:
        """Where a box of the stored picture lies in the upright one."""
        return _turned_box(box, self.stored_size, _INVERSE.get(self.orientation, self.orientation))

    def seen(self, stored: Samples) -> Samples:
        """Stored samples (h, w, bands + alpha) of some box, upright and RGB: (3, h, w)."""
        pixels = stored[..., : self.bands].transpose(2, 0, 1)
        upright = turn_upright(pixels, self.orientation)
        return np.array(np.broadcast_to(upright, (3, *upright.shape[1:])), order="C")

    def unseen(self, colours: Samples) -> Samples:
        """The inverse of ``seen``, without alpha: (3, h, w) -> (h, w, bands) as stored.

        A grey picture takes the luma (Rec. 709, rounded), which is the grey itself where the three
        are equal.
        """
        stored = grey(colours) if self.bands == 1 else colours
        return np.ascontiguousarray(turn_stored(stored, self.orientation).transpose(1, 2, 0))


def grey(colours: Samples) -> Samples:
    """(3, h, w) -> (1, h, w): Rec. 709 luma, in float64, so that equal samples give themselves."""
    luma = np.tensordot((0.2126, 0.7152, 0.0722), colours, axes=1)
    return cast(Samples, np.rint(luma).astype(colours.dtype)[None])


def width_x_height(size: Size) -> str:
    """The way people write picture sizes."""
    return f"{size.width}x{size.height}"


# ---------------------------------------------------------------- what decodes a file


def open_reader(place: str) -> Reader:
    """The reader for what is at a path or URL. ImageError for what nobody can read exactly."""
    reader: Reader
    if place.startswith("zip://"):
        reader = OmeReader.open(inside(place))
    elif is_zarr(place):
        reader = OmeReader.open(place)
    elif (kind := _kind_of(place)) == "zip":
        reader = OmeReader.open(inside(place))
    else:
        reader = _tiff(place) if kind == "TIFF" else _by_vips(place, kind)
    log.debug("%s: read by %s", place, type(reader).__name__)
    return reader


def _by_vips(place: str, kind: str) -> VipsReader:
    return FetchedReader.of(place, kind) if is_url(place) else VipsReader.open(Path(place), kind)


def _tiff(place: str) -> Reader:
    """libvips expands palettes and few bits, and reads strips of any length a row at a time."""
    try:
        reader = TiffReader.open(place)
    except Several:
        raise
    except ImageError:
        if expands(local_copy(place)):
            return _by_libvips(place)
        raise
    if (
        not reader.random
        and reader.page.segment_bytes > _STRIP
        and reader.page.codec in VIPS_CODECS
    ):
        return _by_libvips(place)
    return reader


def _by_libvips(place: str) -> Reader:
    metadata, unkept = describe(place)
    return replace(_by_vips(place, "TIFF"), metadata=metadata, unkept=unkept)


def _kind_of(place: str) -> str:
    """PNG, JPEG, TIFF, WebP or zip by the first bytes, whatever the file is called."""
    try:
        start = first_bytes(place, 12)
    except FileNotFoundError:
        raise ImageError(f"{place}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{place}: is a folder, not a picture") from None
    except ConnectionError:
        raise
    except OSError as error:
        raise ImageError(f"{place}: can't be read ({error.strerror or error})") from error
    if start[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if start[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WebP"
    if start[:4] == b"PK\3\4":
        return "zip"
    found = "empty" if not start else "not a PNG, JPEG, TIFF or WebP picture"
    raise ImageError(f"{place}: is {found}; convert it to PNG or TIFF")
