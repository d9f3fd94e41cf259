"""TIFFs of any compression as windows of samples: only the tiles that a window meets are decoded.

    reader = TiffReader.open("slide.tif")      # or s3://bucket/slide.tif; the header only
    reader.window(box)                         # (h, w, bands + alpha) as stored

imagecodecs decodes. Whether a file may be read is decided when it is opened, by its tags alone:
each tile must lie inside the file, and what can't be edited and put back exactly is refused. A
file of several pages is read where the others are smaller versions of the first (a pyramid), its
mask or previews or, in an Aperio slide, its label and overview (`tiff_pages`).

`tiff_copy` copies such a file with some of its tiles changed; `tiff_tags` knows directories.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias, cast

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from msbd_dist.canvas.exif import DESCRIPTION, IPTC, PHOTOSHOP
from msbd_dist.canvas.photoshop import parted
from msbd_dist.canvas.previews import without_previews
from msbd_dist.canvas.reader import Loss, Metadata, Samples
from msbd_dist.canvas.tiff_add import Grafted, can_graft
from msbd_dist.canvas.tiff_own import EXTRA_CHANNEL, own_tags, unknown, without_values
from msbd_dist.canvas.tiff_pages import (
    area_of,
    flags_of,
    is_aperio,
    is_thumbnail,
    name_of,
    require_whole,
    role,
    slices,
)
from msbd_dist.canvas.tiff_tags import (
    Bytes,
    Damaged,
    Directory,
    Entry,
    LocalBytes,
    Tags,
    exif_of,
    open_bytes,
)
from msbd_dist.core.geometry import Box, Size
from msbd_dist.errors import ImageError

# ---------------------------------------------------------------- pages

NONE, LZW, JPEG, DEFLATE, PACKBITS, PNG = 1, 5, 7, 8, 32773, 34933
OLD_DEFLATE, JPEG2000, APERIO_RGB, LERC, LZMA = 32946, 34712, 33005, 34887, 34925
JPEG_XR, ZSTD, WEBP, JPEG_XL, JPEG_XL_DNG = 34934, 50000, 50001, 50002, 52546
PREDICTABLE = {LZW, DEFLATE, OLD_DEFLATE, LZMA, ZSTD}

MOST_PAGES = 256  # a file of more is no pyramid
_STRIP = 1 << 20  # bytes; uncompressed strips are read in such parts
_LARGE = 1 << 26  # bytes of a decoded tile, beyond which it should be worth it
_HUGE = 1 << 32
_MAX_TILE_COMPRESSION = 1 << 16  # times; zstd's best is 32768
_MAX_COMPRESSION = 1 << 20  # times, for a file: tiles that were never written take no room


@dataclass(frozen=True)
class Page:
    """One picture of a file, cut into segments (tiles or strips).

    Segments are numbered row by row, plane by plane where colours are stored apart.
    """

    tags: Tags
    directory: Directory
    size: Size
    segment: Size  # of a tile, or of a strip but the last
    tiled: bool
    samples: int  # of a pixel
    planes: int  # 1, or ``samples`` where each is stored on its own
    dtype: np.dtype[np.uint8 | np.uint16]
    codec: int
    colours: int  # 0 white is zero, 1 black is zero, 2 RGB, 6 YCbCr
    predictor: int
    reversed: bool  # bits in each byte
    extra: int | None  # what the last sample means; None where nothing is said
    empty: int  # the sample of a segment that was never written
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]

    @property
    def across(self) -> int:
        return -(-self.size.width // self.segment.width)

    @property
    def down(self) -> int:
        return -(-self.size.height // self.segment.height)

    @property
    def depth(self) -> int:
        """Samples of a pixel in one segment."""
        return self.samples if self.planes == 1 else 1

    @property
    def bands(self) -> int:
        """Colours: 1 or 3."""
        return 1 if self.colours in (0, 1) else 3

    @property
    def segment_bytes(self) -> int:
        """Of one decoded segment."""
        return self.segment.area * self.depth * self.dtype.itemsize

    def number(self, plane: int, row: int, column: int) -> int:
        return (plane * self.down + row) * self.across + column

    def box(self, row: int, column: int) -> Box:
        """The pixels of a segment, without what reaches beyond the picture."""
        y, x = row * self.segment.height, column * self.segment.width
        whole = Box(y, x, y + self.segment.height, x + self.segment.width)
        return cast(Box, whole.intersection(Box.of(self.size)))

    def meeting(self, box: Box) -> Iterator[tuple[int, int]]:
        """(row, column) of all segments that hold pixels of a box inside the picture."""
        height, width = self.segment.shape
        for row in range(box.y0 // height, -(-box.y1 // height)):
            for column in range(box.x0 // width, -(-box.x1 // width)):
                yield row, column

    @property
    def plain(self) -> bool:
        """Whether samples lie in the file as they are."""
        return self.codec == NONE and not self.reversed


def page_of(tags: Tags, directory: Directory) -> Page:
    """A page by its tags. Damaged where they contradict each other or the file's size.

    Tags are taken as they are: whether such samples can be used is asked by `refusal`.
    """
    entries = directory.entries

    def numbers(code: int, default: int | None = None) -> list[int]:
        if code in entries:
            return [int(n) for n in tags.integers(entries[code])[:64]]
        if default is None:
            raise Damaged(f"tag {code} is missing")
        return [default]

    def number(code: int, default: int | None = None) -> int:
        return numbers(code, default)[0]

    size = Size(number(257), number(256))
    samples, bits, planar = number(277, 1), numbers(258, 1), number(284, 1)
    tiled = 322 in entries
    segment = (
        Size(number(323), number(322))
        if tiled
        else Size(min(number(278, 2**32 - 1), size.height), size.width)
    )
    if min(*size.shape, *segment.shape, samples) < 1 or planar not in (1, 2):
        raise Damaged(f"{size} pixels of {samples} samples in pieces of {segment}")
    extra = numbers(338, -1)[-1:]
    page = Page(
        tags=tags,
        directory=directory,
        size=size,
        segment=segment,
        tiled=tiled,
        samples=samples,
        planes=samples if planar == 2 else 1,
        dtype=np.dtype(np.uint16 if set(bits) == {16} else np.uint8),
        codec=number(259, 1),
        colours=number(262, 2 if samples > 2 else 1),
        predictor=number(317, 1),
        reversed=number(266, 1) == 2,
        extra=extra[0] if extra and extra[0] >= 0 else None,
        empty=_nodata(tags, directory, 65535 if set(bits) == {16} else 255),
        offsets=np.zeros(0, np.int64),
        counts=np.zeros(0, np.int64),
    )
    return _with_segments(page)


SEGMENT_TAGS = {True: (324, 325), False: (273, 279)}


def _with_segments(page: Page) -> Page:
    """With where each segment lies, all inside the file."""
    entries, tags = page.directory.entries, page.tags
    where, length = SEGMENT_TAGS[page.tiled]
    number = page.planes * page.down * page.across
    if where not in entries or entries[where].count != number:
        raise Damaged(f"the places of its {number} tiles or strips are missing")
    offsets = tags.integers(entries[where])
    if length in entries:
        if entries[length].count != number:
            raise Damaged(f"the lengths of its {number} tiles or strips are missing")
        counts = tags.integers(entries[length])
    elif page.codec == NONE and number == 1:
        counts = np.array([page.segment_bytes])
    else:
        raise Damaged("the lengths of its tiles or strips are missing")
    held = counts > 0
    # int64 can't overflow here: what is beyond the file is found in each before they are added
    size = tags.file.size
    if ((counts < 0) | (held & ((offsets < 8) | (offsets > size) | (counts > size)))).any() or (
        held & (offsets + counts > size)
    ).any():
        raise Damaged("tiles or strips lie beyond its end")
    return replace(page, offsets=offsets, counts=counts)


def _nodata(tags: Tags, directory: Directory, peak: int) -> int:
    """GDAL's value for what was never written; 0 where there is none that samples can have."""
    entry = directory.entries.get(42113)
    if entry is None or entry.length > 64:
        return 0
    try:
        value = float(tags.raw(entry).rstrip(b" \0"))
    except ValueError:
        return 0
    return int(value) if 0 <= value <= peak and value == int(value) else 0


def _split(page: Page) -> Page:
    """Uncompressed strips as more and lower ones, so that none need be read whole."""
    row, full = page.segment.width * page.depth * page.dtype.itemsize, page.segment.height
    rows = max(1, _STRIP // row)
    if page.tiled or not page.plain or full <= rows:
        return page
    if page.down > 1:  # they must stay of one height
        rows = next(n for n in range(rows, 0, -1) if full % n == 0)
    skipped = np.arange(0, full, rows) * row  # bytes of a strip above each part of it
    offsets, counts = (a.reshape(page.planes, page.down, 1) for a in (page.offsets, page.counts))
    # one byte where a strip ends too soon: that is damage, while none is a strip never written
    parts = np.where(counts > 0, np.clip(counts - skipped, 1, rows * row), 0)
    low = replace(page, segment=Size(rows, page.segment.width))
    return replace(
        low,
        offsets=(offsets + skipped).reshape(page.planes, -1)[:, : low.down].ravel(),
        counts=parts.reshape(page.planes, -1)[:, : low.down].ravel(),
    )


# ---------------------------------------------------------------- what is refused

_NAMES = {2: "CCITT", 3: "CCITT", 4: "CCITT", 6: "old-style JPEG", 33003: "YCbCr JPEG 2000",
          34661: "JBIG", 34676: "LogLuv", 34892: "lossy JPEG of a DNG"}  # fmt: skip
_COLOURS = {3: "a palette", 4: "a mask", 5: "CMYK", 6: "YCbCr", 8: "Lab", 9: "Lab", 10: "Lab",
            32803: "a camera's raw mosaic", 34892: "a camera's raw samples"}  # fmt: skip
_FORMATS = {2: "signed integers", 3: "floats", 5: "complex", 6: "complex"}
_DNG = 50706


def refusal(page: Page) -> str | None:
    """Why a page's samples can't be edited and put back exactly, and what to do; None if they
    can."""
    tags, entries = page.tags, page.directory.entries
    bits = set(tags.integers(entries[258]).tolist()) if 258 in entries else {1}
    formats = set(tags.integers(entries[339]).tolist()) if 339 in entries else {1}
    depth = tags.integers(entries[32997]).tolist() if 32997 in entries else [1]
    preview = 254 in entries and tags.integers(entries[254])[0] & 1
    if preview or _DNG in entries:
        return "is a camera raw file or a preview; develop it to PNG or TIFF"
    if page.colours not in (0, 1, 2, 6) or (page.colours == 6 and page.codec != JPEG):
        name = _COLOURS.get(page.colours, f"code {page.colours}")
        return f"is a TIFF whose colours are {name}; convert it to RGB or grey"
    if formats - {1, 4}:
        name = _FORMATS.get((formats - {1, 4}).pop(), "of an unknown kind")
        return f"its samples are {name}; convert it to 8 or 16 bits"
    if bits not in ({8}, {16}):
        text = " and ".join(str(n) for n in sorted(bits))
        return f"has {text} bits per sample; convert it to 8 or 16"
    if depth != [1]:
        return "is a volume of several layers; save the one to edit as its own file"
    if page.codec not in _DECODERS:
        name = _NAMES.get(page.codec, f"code {page.codec}")
        return (
            f"is a TIFF compressed with {name}, which can't be decoded here; "
            "save it with deflate, LZW or no compression"
        )
    if page.samples not in (page.bands, page.bands + 1):
        return f"has {page.samples} channels; save it as grey or RGB, with one alpha at most"
    if page.colours == 6 and (page.samples != 3 or page.planes != 1):
        return "is a TIFF whose colours are YCbCr with more than three channels; convert it to RGB"
    if page.samples > page.bands and page.extra == 1:
        return (
            "its colours are multiplied by alpha, which can't be kept exact; "
            "save it with straight (unassociated) alpha"
        )
    if page.codec == NONE or page.codec == PACKBITS or page.codec in PREDICTABLE:
        allowed = (1, 2) if page.codec in PREDICTABLE else (1,)
        if page.predictor not in allowed:
            return (
                f"has a predictor (code {page.predictor}) that its compression can't have; "
                "save it with deflate or LZW"
            )
    return _absurd(page)


def _absurd(page: Page) -> str | None:
    """Whether the header declares far more samples than the file can hold."""
    stored, piece = page.tags.file.size, page.segment_bytes
    best = int(page.counts.max()) * (1 if page.plain else _MAX_TILE_COMPRESSION)
    declared = page.size.area * page.samples * page.dtype.itemsize
    huge = piece > _HUGE and not (page.plain and not page.tiled)
    if declared > stored * _MAX_COMPRESSION or huge or (piece > _LARGE and piece > best):
        return (
            f"declares {page.size} pixels, in tiles or strips of {page.segment}, in {stored} "
            "bytes; the file is damaged or cut off, get it again"
        )
    return None


# ---------------------------------------------------------------- decoding

_Decoder: TypeAlias = Callable[[Page, bytes, Any], Any]
"""(page, a segment's bytes, the length or the array that they are to fill) -> bytes or array."""


def _plainly(decode: Callable[..., Any]) -> _Decoder:
    """A codec that needs to know nothing of the page."""
    return lambda page, data, out: decode(data, out=out)


def _lerc(page: Page, data: bytes, out: Any) -> Any:
    entry = page.directory.entries.get(50674)  # (version, what it is packed with)
    packed = page.tags.integers(entry).tolist()[1:] if entry else [0]
    if packed == [1]:
        data = bytes(imagecodecs.zlib_decode(data))
    elif packed == [2]:
        data = bytes(imagecodecs.zstd_decode(data))
    return imagecodecs.lerc_decode(data, out=out)


def _webp(page: Page, data: bytes, out: Any) -> Any:
    # libwebp drops an alpha that is opaque all over
    return imagecodecs.webp_decode(data, hasalpha=page.samples == 4, out=out)


def _jpeg(page: Page, data: bytes, out: Any) -> Any:
    space: int | None = None
    wanted: int | None = None
    if page.planes > 1:
        wanted = 1
    elif page.samples == 3:
        wanted = 2
        if page.colours == 2 and data[6:10] != b"JFIF":  # Aperio's, which is RGB and doesn't say so
            space = 2
    entry = page.directory.entries.get(347)
    return imagecodecs.jpeg_decode(
        data,
        tables=page.tags.raw(entry) if entry else None,
        bitspersample=8 * page.dtype.itemsize,
        colorspace=space,
        outcolorspace=wanted,
        out=out,
    )


_DECODERS: dict[int, _Decoder] = {
    NONE: lambda page, data, out: data,
    LZW: _plainly(imagecodecs.lzw_decode),
    DEFLATE: _plainly(imagecodecs.deflate_decode),
    OLD_DEFLATE: _plainly(imagecodecs.deflate_decode),
    PACKBITS: _plainly(imagecodecs.packbits_decode),
    ZSTD: _plainly(imagecodecs.zstd_decode),
    LZMA: _plainly(imagecodecs.lzma_decode),
    LERC: _lerc,
    JPEG: _jpeg,
    WEBP: _webp,
    JPEG2000: _plainly(imagecodecs.jpeg2k_decode),
    APERIO_RGB: _plainly(imagecodecs.jpeg2k_decode),
    JPEG_XL: _plainly(imagecodecs.jpegxl_decode),
    JPEG_XL_DNG: _plainly(imagecodecs.jpegxl_decode),
    JPEG_XR: _plainly(imagecodecs.jpegxr_decode),
    PNG: _plainly(imagecodecs.png_decode),
}
BYTES = {NONE, PACKBITS} | PREDICTABLE


def decode(page: Page, data: bytes, box: Box) -> Samples:
    """One segment's bytes as (h, w, depth) samples of its box, as stored.

    Raises Damaged, or whatever the codec does, where they aren't that.
    """
    if page.reversed and page.codec in BYTES:
        data = bytes(imagecodecs.bitorder_decode(data))
    array = _of_bytes(page, data, box) if page.codec in BYTES else _of_image(page, data, box)
    if array.shape[:2] == box.size.shape:
        return array
    return array[: box.height, : box.width].copy()  # a view would hold the rest, too


def _of_bytes(page: Page, data: bytes, box: Box) -> Samples:
    """A segment by a codec that knows nothing of pictures."""
    decoded = _DECODERS[page.codec](page, data, page.segment_bytes)
    # a strip may end with the picture or be filled up to the height of the others
    full = page.tiled or len(decoded) >= page.segment_bytes
    shape = page.segment if full else Size(box.height, page.segment.width)
    number = shape.area * page.depth
    if len(decoded) < number * page.dtype.itemsize:
        raise Damaged(f"{len(decoded)} bytes of {number * page.dtype.itemsize}")
    stored = np.frombuffer(decoded, page.dtype.newbyteorder(page.tags.order), number)
    array: Samples = stored.reshape(*shape.shape, page.depth).astype(page.dtype)
    return imagecodecs.delta_decode(array, axis=-2) if page.predictor == 2 else array


def _of_image(page: Page, data: bytes, box: Box) -> Samples:
    """A segment by a codec of pictures: as large as all, or cut to what is seen of it.

    The codec gets the array to fill, since its own header might be damaged and declare anything.
    """
    wide = Size(box.height, page.segment.width)
    shapes = list(dict.fromkeys([page.segment.shape, box.size.shape, wide.shape]))
    for shape in shapes:
        array: Samples = np.zeros((*shape, page.depth), page.dtype)
        try:
            _DECODERS[page.codec](page, data, array[..., 0] if page.depth == 1 else array)
        except ValueError:  # another shape or another type
            if shape == shapes[-1]:
                raise
        else:
            return array
    raise AssertionError


_CACHE = 64 << 20  # bytes


class _Kept:
    """Decoded segments of all pages of this process: the last used ones, 64 MB or a single one."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._segments: OrderedDict[tuple[int, int], Samples] = OrderedDict()
        self._size = 0  # bytes

    def get(self, key: tuple[int, int]) -> Samples | None:
        with self._lock:
            if key in self._segments:
                self._segments.move_to_end(key)
            return self._segments.get(key)

    def put(self, key: tuple[int, int], segment: Samples) -> None:
        with self._lock:
            if key not in self._segments:  # another thread may have been here
                self._segments[key] = segment
                self._size += segment.nbytes
            while self._size > _CACHE and len(self._segments) > 1:
                self._size -= self._segments.popitem(last=False)[1].nbytes


_kept = _Kept()
_serial = count()


class Segments:
    """A page's segments, decoded when they are asked for."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._serial = next(_serial)  # names it among all

    def window(self, box: Box) -> Samples:
        """(h, w, samples) of a box inside the picture, as stored. ImageError for damage."""
        page = self.page
        window = np.empty((box.height, box.width, page.samples), page.dtype)
        for row, column in page.meeting(box):
            where = page.box(row, column)
            common = cast(Box, where.intersection(box))
            into = window[common.relative_to(box).slices]
            for plane in range(page.planes):
                part = self._segment(page.number(plane, row, column), where)
                cut = part[common.relative_to(where).slices]
                if page.planes == 1:
                    into[:] = cut
                else:
                    into[..., plane] = cut[..., 0]
        return window

    def _segment(self, number: int, where: Box) -> Samples:
        key = (self._serial, number)
        segment = _kept.get(key)
        if segment is None:
            segment = self._decoded(number, where)
            _kept.put(key, segment)
        return segment

    def _decoded(self, number: int, where: Box) -> Samples:
        page = self.page
        length = int(page.counts[number])
        if not length:  # never written
            return np.full((where.height, where.width, page.depth), page.empty, page.dtype)
        try:
            return decode(page, page.tags.file.read(int(page.offsets[number]), length), where)
        except (MemoryError, OSError):
            raise
        except Exception as error:  # codecs have errors of their own
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ImageError(
                f"{page.tags.file.name}: can't be decoded at {where} ({reason}); "
                "it is damaged: get it again"
            ) from error


# ---------------------------------------------------------------- the reader

_SHAPE = '{"shape":'  # so begins what tifffile writes as a description: no person's words
_UNITS = {2: 25.4, 3: 10.0}  # millimetres


class TiffReader:
    """A TIFF of uint8 or uint16 samples, grey or RGB; a `Reader`.

    Colours whose white is zero are handed out the usual way round. Windows may be asked for by
    several threads. Two readers of one file share nothing.
    """

    kind = "TIFF"

    def __init__(self, path: str, contents: Contents) -> None:
        page = contents.page
        tags = page.tags
        self.path = path
        self.page = page  # as it is stored
        self.contents = contents
        self.levels = contents.levels
        self.slide = is_aperio(tags, page.directory)
        self.size = page.size
        self.dtype = page.dtype
        self.bands = page.bands
        self.has_alpha = page.samples > page.bands
        self.orientation = _orientation(tags, page.directory)
        low = _split(page)
        self.random = low.segment_bytes <= _LARGE and (page.tiled or low is not page)
        self._segments = Segments(low)
        self.metadata, self.unkept = held_by(contents)

    @classmethod
    def open(cls, path: str) -> TiffReader:
        """Look at the header of a local file or of the object at an fsspec URL.

        Raises ImageError, in one line, for what is missing, damaged, cut off, or can't be edited
        and put back exactly.
        """
        with _told(path):
            contents = contents_of(open_bytes(path))
            if why := refusal(contents.page):
                raise ImageError(f"{path}: {why}")
            return cls(path, contents)

    def __reduce__(self) -> tuple[Callable[[str], TiffReader], tuple[str]]:
        return TiffReader.open, (self.path,)

    @property
    def local(self) -> Path | None:
        """The file, where it is one of this machine."""
        file = self.page.tags.file
        return Path(file.name) if isinstance(file, LocalBytes) else None

    @property
    def held_bytes(self) -> int:
        return 0

    def window(self, box: Box) -> Samples:
        """(h, w, bands + alpha) of a box inside the stored picture.

        Raises ValueError for a box that is empty or leaves the picture, ImageError where the file
        is damaged, OSError where a disk or a store doesn't answer.
        """
        if box.height < 1 or box.width < 1 or not Box.of(self.size).contains(box):
            raise ValueError(f"{self.path}: box {box} is not inside the picture of {self.size}")
        return as_seen(self.page, self._segments.window(box))

    def strips(self, rows: int) -> Iterator[tuple[int, Samples]]:
        """The stored picture from top to bottom, decoded once: (y, (h, W, bands + alpha)).

        Holds ``rows`` rows and one row of the file's tiles or strips. Raises ImageError at the
        first damaged one.
        """
        page = self._segments.page
        height, width = self.size.shape
        band, start = np.empty((0, width, page.samples), page.dtype), 0
        for y in range(0, height, rows):
            end = min(y + rows, height)
            parts = [band[y - start :]]
            have = max(y, start + len(band))
            if have < end:  # whole segments, each of them met here only
                start, tall = have, page.segment.height
                have = min(have - (have - end) // tall * tall, height)
                band = Segments(page).window(Box(start, 0, have, width))
                parts.append(band)
            yield y, as_seen(self.page, np.concatenate(parts)[: end - y])


def as_seen(page: Page, samples: Samples) -> Samples:
    """Stored samples with black as zero, and back; what isn't inverted is returned as it is."""
    if page.colours != 0:
        return samples
    turned = samples.copy()
    turned[..., 0] = np.iinfo(page.dtype).max - samples[..., 0]
    return turned


# ---------------------------------------------------------------- what else is in the file


class Several(ImageError):
    """A file that holds more than one picture."""


@dataclass(frozen=True)
class Contents:
    """All pages of a file."""

    page: Page  # the picture
    levels: tuple[Page, ...] = ()  # smaller versions, largest first
    masks: tuple[Directory, ...] = ()  # of what is seen, the picture's own first
    previews: tuple[Directory, ...] = ()  # smaller versions of another make
    beside: tuple[tuple[str, Directory], ...] = ()  # pictures of something else, by name


def describe(path: str) -> tuple[Metadata, tuple[Loss, ...]]:
    """What a TIFF that another library decodes holds besides samples, and what can't be kept of it.

    Raises ImageError in one line, Several for a file of more than one picture.
    """
    with _told(path):
        contents = contents_of(open_bytes(path))
        page = contents.page
        metadata, unkept = held_by(contents)
        lost = [*unkept, *map(page_loss, metadata.pages)]
        if page.colours == 3 or _bits(page) < 8:
            kept, others = without_values(metadata.own)
            metadata, lost = replace(metadata, own=kept), [*lost, *others]
        return replace(metadata, pages=()), tuple(lost)


@contextmanager
def _told(path: str) -> Iterator[None]:
    try:
        yield
    except Damaged as error:
        raise ImageError(
            f"{path}: is a TIFF that is damaged or was cut off ({error}); get it again"
        ) from None


def contents_of(file: Bytes) -> Contents:
    """The pages of a file by what they are for. Several for a file of more pictures than one."""
    tags = Tags(file)
    found = list(tags.pages(MOST_PAGES + 1))
    if not found:
        raise Damaged("it has no page")
    first, *rest = found
    page = page_of(tags, first)
    if (planes := slices(tags, first, *_room(page))) > 1:
        raise Several(
            f"{file.name}: is a stack of {planes} planes; save the one to edit as its own file, "
            "with no description of the others"
        )
    if len(found) > MOST_PAGES:
        raise Several(
            f"{file.name}: holds more than {MOST_PAGES} pages; save the one to edit as its own file"
        )
    contents = Contents(page)
    for at in _subifds(tags, first):
        contents = _with_page(contents, tags.directory(at), below=True)
    for directory in rest:
        contents = _with_page(contents, directory, below=False)
    if "page" in dict(contents.beside):
        raise Several(
            f"{file.name}: holds {len(found)} pages; save the one to edit as its own file"
        )
    levels = sorted(contents.levels, key=lambda level: level.size.area, reverse=True)
    return replace(contents, levels=tuple(levels))


def _bits(page: Page) -> int:
    entry = page.directory.entries.get(258)
    return int(page.tags.integers(entry)[0]) if entry else 1


def _room(page: Page) -> tuple[int, int | None]:
    """(bytes of the picture's samples, of the file behind them; None where it is compressed)."""
    plane = page.size.height * -(-page.size.width * page.samples * _bits(page) // 8)
    if page.codec != NONE or page.tiled:
        return plane, None
    return plane, page.tags.file.size - int((page.offsets + page.counts).max())


def _with_page(contents: Contents, directory: Directory, *, below: bool) -> Contents:
    tags, slide = contents.page.tags, is_aperio(contents.page.tags, contents.page.directory)
    require_whole(tags, directory)
    says, name = role(tags, directory), name_of(tags, directory) if slide else "page"
    if says == "mask":
        return replace(contents, masks=(*contents.masks, directory))
    if name in ("label", "macro"):
        return replace(contents, beside=(*contents.beside, (name, directory)))
    told = (below or slide or says == "smaller") and not is_thumbnail(directory)
    if told and (level := _level(contents.page, directory)):
        return replace(contents, levels=(*contents.levels, level))
    if says == "smaller" and area_of(tags, directory) < contents.page.size.area:
        return replace(contents, previews=(*contents.previews, directory))
    name = "picture" if slide or below else "page"
    return replace(contents, beside=(*contents.beside, (name, directory)))


def _level(page: Page, directory: Directory) -> Page | None:
    """A page that shows all of another one in fewer pixels; None if it shows something else."""
    entries, tags = directory.entries, page.tags
    smaller = page_of(tags, directory)
    (height, width), (h, w) = page.size.shape, smaller.size.shape
    aspect = abs(h * width - w * height) <= max(height, width)  # to within a pixel
    alike = smaller.samples == page.samples and smaller.bands == page.bands
    bits = tags.integers(entries[258]).tolist() if 258 in entries else []
    alike = alike and set(bits) == {8 * page.dtype.itemsize}
    return smaller if h < height and w < width and aspect and alike else None


def _subifds(tags: Tags, page: Directory) -> list[int]:
    entry = page.entries.get(330)
    if entry is None:
        return []
    if entry.count > MOST_PAGES:
        raise Damaged(f"{entry.count} pages below one")
    return [int(at) for at in tags.integers(entry)]


# ---------------------------------------------------------------- metadata


def held_by(contents: Contents) -> tuple[Metadata, tuple[Loss, ...]]:
    """What a file holds besides samples, and the names of what nobody can keep of it."""
    page = contents.page
    metadata, lost = _metadata(page)
    lost += unknown(page.directory)
    if page.samples > page.bands and page.extra is None:
        lost.append(EXTRA_CHANNEL)
    if contents.previews:
        lost.append(Loss("thumbnail", "a smaller version of another make", matters=False))
    pages = _beside(contents)
    lost += [page_loss(name) for name, page in pages if not _goes_along(name, page)]
    names = tuple(name for name, page in pages if _goes_along(name, page))
    return replace(metadata, pages=names), tuple(lost)


def grafted(contents: Contents) -> list[Grafted]:
    """The pages beside the picture that a new TIFF gets as they are: its mask, a slide's label."""
    return [page for name, page in _beside(contents) if _goes_along(name, page)]


def _beside(contents: Contents) -> list[tuple[str, Grafted]]:
    """All that isn't the picture, without the masks of its smaller versions."""
    tags = contents.page.tags
    masks = [("mask", mask) for mask in contents.masks if not flags_of(tags, mask) & 1]
    return [(name, Grafted(tags, page)) for name, page in (*masks, *contents.beside)]


def _goes_along(name: str, page: Grafted) -> bool:
    return name != "picture" and can_graft(page)


def _orientation(tags: Tags, page: Directory) -> int:
    entry = page.entries.get(274)
    value = int(tags.integers(entry)[0]) if entry else 1
    return value if 1 <= value <= 8 else 1


def _metadata(page: Page) -> tuple[Metadata, list[Loss]]:
    """What the page holds besides samples, and the names of what can't be read of it."""
    tags, entries = page.tags, page.directory.entries
    lost: list[Loss] = []
    try:
        exif = exif_of(tags, page.directory)
    except Damaged:
        exif, lost = None, [Loss("exif", "EXIF that is damaged")]
    unit = int(tags.integers(entries[296])[0]) if 296 in entries else 2
    x, y = (tags.ratio(entries[c]) if c in entries else 0.0 for c in (282, 283))
    known = unit in _UNITS and x > 0 and y > 0
    block = tags.raw(entries[PHOTOSHOP]) if PHOTOSHOP in entries else b""
    resources, iptc = parted(block)
    metadata = Metadata(
        icc=tags.raw(entries[34675]) if 34675 in entries else None,
        exif=exif,
        xmp=tags.raw(entries[700]) if 700 in entries else None,
        resolution=(x / _UNITS[unit], y / _UNITS[unit]) if known else None,
        iptc=_iptc(tags, entries[IPTC]) if IPTC in entries else iptc,
        photoshop=resources,
        description=_description(page),
        own=own_tags(tags, page.directory),
    )
    metadata, taken = without_previews(metadata)
    return metadata, [*lost, *taken]


def _description(page: Page) -> str | None:
    entry = page.directory.entries.get(DESCRIPTION)
    text = page.tags.raw(entry).rstrip(b"\0").decode("utf-8", "replace") if entry else ""
    return None if text.startswith(_SHAPE) else text or None


def _iptc(tags: Tags, entry: Entry) -> bytes | None:
    """Some programs say that its bytes are numbers, and turn them about with the others."""
    data = tags.raw(entry)
    if entry.kind == 4 and data[:1] != b"\x1c" and data[3:4] == b"\x1c":
        data = np.frombuffer(data, "<u4").byteswap().tobytes()
    return data or None


def page_loss(name: str) -> Loss:
    """A picture of a TIFF beside its main one, by `Metadata.pages`."""
    if name == "mask":
        return Loss("alpha", "the mask of what is seen")
    return Loss("second-picture", f"another picture ({name})")
