"""PNG, JPEG, WebP and most TIFF files, by libvips: streamed from top to bottom, in a few rows of
memory.

libvips isn't asked whether a file may be edited: for compressions it was built without it can
return wrong samples, and it hands out YCbCr, premultiplied alpha and camera previews as if they
were the picture. Headers are looked at here, before anything is decoded.

    VipsReader.open(path, kind)   the header only
    Streamed(...)                 rows that Python makes, as an image that libvips can save
"""

from __future__ import annotations

import logging
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyvips

from msbd_dist.canvas import jpeg, png, webp
from msbd_dist.canvas.exif import orientation_of
from msbd_dist.canvas.previews import without_previews
from msbd_dist.canvas.reader import Loss, Metadata, Samples
from msbd_dist.core.geometry import Box, Size
from msbd_dist.errors import ImageError

log = logging.getLogger(__name__)

# A cached operation would return stale samples for a file that was written again under its name.
pyvips.cache_set_max(0)
# Many workers share a machine, and a decoder gains little past a few threads.
if "VIPS_CONCURRENCY" not in os.environ:
    pyvips.concurrency_set(min(4, os.cpu_count() or 1))

# ---------------------------------------------------------------- what libvips says

_at_work: list[str] = []  # files that libvips reads or writes now
_copies: dict[str, str] = {}  # paths of copies -> what they are of


def call_copy(path: str, place: str) -> None:
    """Let warnings about a copy name what it is of."""
    _copies[path] = place


@contextmanager
def naming(place: Path) -> Iterator[None]:
    """What libvips warns of within the block is said with the file's name."""
    name = _copies.get(str(place), str(place))
    _at_work.append(name)
    try:
        yield
    finally:
        _at_work.remove(name)


def _with_names(record: logging.LogRecord) -> bool:
    """libvips' own threads don't say which file they are at: all that are open are named."""
    if _at_work:
        names = ", ".join(dict.fromkeys(_at_work))
        record.msg, record.args = f"{names}: {record.getMessage().strip()}", ()
    return True


logging.getLogger("pyvips").addFilter(_with_names)

# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class VipsReader:
    """See `Reader`. A window costs what it takes to decode all of the file."""

    path: Path
    kind: str  # PNG, JPEG, TIFF or WebP
    size: Size
    dtype: np.dtype[np.uint8 | np.uint16]
    bands: int
    has_alpha: bool
    orientation: int
    metadata: Metadata
    interlaced: bool  # or progressive: decoded as a whole
    unkept: tuple[Loss, ...] = ()

    random = False

    @classmethod
    def open(cls, path: Path, kind: str) -> VipsReader:
        """Look at the header. Raises ImageError, in one line, for what can't be edited exactly.

        Of a TIFF the samples alone are looked at. A JPEG's header that viewers forgive is said.
        """
        found, lost = _READ[kind](path)
        held, taken = without_previews(found)
        image = _load(path, kind, access="random")
        _refuse_strange(path, image)
        told = _field(image, "orientation", 1) if kind == "TIFF" else orientation_of(held.exif)
        return cls(
            path=path,
            kind=kind,
            size=Size(image.height, image.width),
            dtype=np.dtype(np.uint8 if image.format == "uchar" else np.uint16),
            bands=1 if image.bands < 3 else 3,
            has_alpha=image.bands in (2, 4),
            orientation=told,
            metadata=held,
            interlaced=bool(_field(image, "interlaced", 0)),
            unkept=(*lost, *taken),
        )

    @property
    def held_bytes(self) -> int:
        whole = self.interlaced or self.kind == "WebP"
        pixel = 6 if self.kind == "JPEG" else 4 * self.dtype.itemsize
        return self.size.area * pixel if whole else 0

    def window(self, box: Box) -> Samples:
        """The first one decodes the whole file, into memory or, when large, into TMPDIR."""
        with damage(self.path):
            crop = self._image.crop(box.x0, box.y0, box.width, box.height)
            return self._array(crop.write_to_memory(), box.height, box.width)

    def strips(self, rows: int) -> Iterator[tuple[int, Samples]]:
        region = self._region("warning")
        for y in range(0, self.size.height, rows):
            box = Box(y, 0, min(y + rows, self.size.height), self.size.width)
            try:
                data = _fetched(self.path, region, box)
            except ImageError as error:
                if not self._forgives(error):
                    raise
                region = self._region("truncated")  # goes on from here: what is above was right
                data = _fetched(self.path, region, box)
            yield y, self._array(data, box.height, box.width)

    def _region(self, fail_on: str) -> Any:
        """One for all rows: a new pipeline per strip would look back."""
        image = _load(self.path, self.kind, access="sequential", fail_on=fail_on)
        return pyvips.Region.new(image)

    def _forgives(self, error: ImageError) -> bool:
        """Whether a decoder only found bytes between a JPEG's segments, which all viewers skip."""
        found = _STRAY.search(str(error)) if self.kind == "JPEG" else None
        if found:
            _warn(self.path, f"has {found[0]}; it is read as viewers do")
        return bool(found)

    @cached_property
    def _image(self) -> Any:
        try:
            image = _load(self.path, self.kind, access="random")
            _fetched(self.path, pyvips.Region.new(image), Box(0, 0, 1, 1))
        except ImageError as error:
            if not self._forgives(error):
                raise
            image = _load(self.path, self.kind, access="random", fail_on="truncated")
        return image

    def _array(self, data: Any, height: int, width: int) -> Samples:
        """libvips' bytes as (h, w, bands)."""
        samples: Samples = np.frombuffer(data, dtype=self.dtype)
        return samples.reshape(height, width, -1)


_STRAY = re.compile(r"\d+ extraneous bytes before marker 0x[0-9a-f]{2}")


def _warn(path: Path, what: str) -> None:
    _warn_once(_copies.get(str(path), str(path)), what)


@cache
def _warn_once(place: str, what: str) -> None:
    log.warning("%s: %s", place, what)


def _load(path: Path, kind: str, *, access: str, fail_on: str = "warning") -> Any:
    """A libvips image that decodes lazily and fails on the decoder's first warning."""
    options: dict[str, Any] = {"access": access, "fail_on": fail_on}
    if kind == "TIFF":
        options["unlimited"] = True  # it may be one strip of any size
    with damage(path):
        if kind == "JPEG" and (mended := _Mended.of(path)):
            return pyvips.Image.new_from_source(mended.source, "", **options)
        return pyvips.Operation.call(f"{kind.lower()}load", os.fsencode(path), **options)


def _fetched(path: Path, region: Any, box: Box) -> Any:
    with damage(path):
        return region.fetch(box.x0, box.y0, box.width, box.height)


class _Mended:
    """A JPEG's file with another beginning, for libvips to read."""

    def __init__(self, path: Path, head: bytes, skip: int) -> None:
        self._path, self._head, self._skip = path, head, skip
        self._size = len(head) + path.stat().st_size - skip
        self._position = 0
        self.source = pyvips.SourceCustom()
        self.source.on_read(self._read)
        self.source.on_seek(self._seek)

    @classmethod
    def of(cls, path: Path) -> _Mended | None:
        """None where the beginning is right."""
        with _mapped(path) as data:
            header = jpeg.header_of(data)
        return cls(path, header.mended, header.end) if header.mended else None

    def _read(self, count: int) -> bytes:
        at = self._position
        if at < len(self._head):
            data = self._head[at : at + count]
        else:
            with self._path.open("rb") as file:
                file.seek(at - len(self._head) + self._skip)
                data = file.read(count)
        self._position += len(data)
        return data

    def _seek(self, offset: int, whence: int) -> int:
        self._position = (0, self._position, self._size)[whence] + offset
        return self._position


@contextmanager
def _mapped(path: Path) -> Iterator[mmap]:
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        yield data


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """libvips' error as an ImageError."""
    try:
        with naming(path):
            yield
    except pyvips.Error as error:
        raise ImageError(
            f"{path}: can't be decoded ({reason(error)}); it is damaged, cut off or of a rare "
            "kind: get it again or save it anew as PNG or TIFF"
        ) from error


def reason(error: Exception) -> str:
    """The last distinct thing libvips said, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def _field(image: Any, name: str, default: Any) -> Any:
    return image.get(name) if image.get_typeof(name) else default


def _read_jpeg(path: Path) -> tuple[Metadata, list[Loss]]:
    with _mapped(path) as data:
        header = jpeg.header_of(data)
        end = jpeg.end_of_samples(data, header.end)
        held, lost = jpeg.metadata_of(header, gains=jpeg.gain_behind(data, end))
        lost += jpeg.after_end(data, header, end)
    wrong = ["its scan's header is wrong"] * header.wrong_scan
    wrong += [f"{header.stray} bytes of its header are no segment"] * bool(header.stray)
    if wrong:
        _warn(path, f"{' and '.join(wrong)}; it is read as viewers do")
    return held, lost


def _read_png(path: Path) -> tuple[Metadata, list[Loss]]:
    return png.metadata_of(png.chunks_of(path))


def _read_tiff(path: Path) -> tuple[Metadata, list[Loss]]:
    _look_at_tiff(path)
    return Metadata(), []


_READ: dict[str, Callable[[Path], tuple[Metadata, list[Loss]]]] = {
    "PNG": _read_png,
    "JPEG": _read_jpeg,
    "WebP": webp.metadata_of,
    "TIFF": _read_tiff,
}


# ---------------------------------------------------------------- what is refused


_SPACES = {"b-w": "grey", "grey16": "grey", "srgb": "RGB", "rgb16": "RGB", "rgb": "RGB"}
_MAX_COMPRESSION = 8192  # times; only CCITT and WebP, whose sizes have their own limits, do better


def _refuse_strange(path: Path, image: Any) -> None:
    """Whatever can't be edited and put back exactly."""
    pages = _field(image, "n-pages", 1)
    if pages > 1 and image.get("vips-loader") != "tiffload":  # those of a TIFF are known by now
        raise ImageError(f"{path}: holds {pages} pages; save the one to edit as its own file")
    space = image.interpretation
    if space not in _SPACES:
        raise ImageError(f"{path}: its colours are {space.upper()}; convert it to RGB or grey")
    if image.format not in ("uchar", "ushort"):
        raise ImageError(f"{path}: its samples are {image.format}; convert it to 8 or 16 bits")
    if image.bands not in ((1, 2) if _SPACES[space] == "grey" else (3, 4)):
        raise ImageError(
            f"{path}: has {image.bands} channels; save it as grey or RGB, with one alpha at most"
        )
    _refuse_absurd(path, image)


def _refuse_absurd(path: Path, image: Any) -> None:
    """A header that declares far more samples than the file can hold, before any is allocated."""
    loader, bits = image.get("vips-loader"), _field(image, "bits-per-sample", 8)
    exempt = loader == "webpload" or (loader == "tiffload" and bits == 1)
    declared = image.width * image.height * image.bands * bits // 8
    stored = path.stat().st_size
    if exempt or declared <= stored * _MAX_COMPRESSION:
        return
    raise ImageError(
        f"{path}: declares {image.width}x{image.height} pixels in {stored} bytes; "
        "the file is damaged or cut off, get it again"
    )


# what this libvips decodes: none, CCITT (three), LZW, JPEG, deflate (two), PackBits, WebP
VIPS_CODECS = {1, 2, 3, 4, 5, 7, 8, 32946, 32773, 50001}
_TIFF_REFUSED = {6: "old-style JPEG", 34712: "JPEG 2000", 34887: "LERC", 34925: "LZMA",
                 50000: "zstd", 50002: "JPEG XL"}  # fmt: skip
_TIFF_COLOURS = {4: "a mask", 5: "CMYK", 6: "YCbCr", 8: "Lab", 9: "Lab", 10: "Lab",
                 32803: "a camera's raw mosaic", 34892: "a camera's raw samples"}  # fmt: skip


def _look_at_tiff(path: Path) -> None:
    """Refuse what libvips would decode to wrong samples."""
    tags = tiff_tags(path)
    codec, colours, extra = tags.get(259, 1), tags.get(262, 1), tags.get(338)
    if codec not in VIPS_CODECS:
        raise ImageError(
            f"{path}: is a TIFF compressed with {_TIFF_REFUSED.get(codec, f'code {codec}')}, which "
            "can't be decoded here; save it with deflate, LZW or no compression"
        )
    if tags.get(254, 0) & 1 or 50706 in tags:
        raise ImageError(f"{path}: is a camera raw file or a preview; develop it to PNG or TIFF")
    if colours > 3 and not (colours == 6 and codec == 7):  # a JPEG's YCbCr is decoded to RGB
        name = _TIFF_COLOURS.get(colours, f"code {colours}")
        raise ImageError(f"{path}: is a TIFF whose colours are {name}; convert it to RGB or grey")
    if extra == 1:
        raise ImageError(
            f"{path}: its colours are multiplied by alpha, which can't be kept exact; "
            "save it with straight (unassociated) alpha"
        )


def expands(path: Path) -> bool:
    """Whether a TIFF has a palette, or fewer than 8 bits: libvips makes 8-bit colours of them."""
    tags = tiff_tags(path)
    return tags.get(262) == 3 or tags.get(258, 1) in (1, 2, 4)


def tiff_tags(path: Path) -> dict[int, int]:
    """Tags of the first page of a classic or big TIFF: the first value where it is a short integer
    kept in the directory itself, else 0."""
    try:
        with path.open("rb") as file:
            return dict(_tiff_entries(file))
    except (struct.error, ValueError, OSError):  # the last two: an absurd offset
        raise ImageError(f"{path}: is a TIFF without its tags; it was cut off") from None


def _tiff_entries(file: BinaryIO) -> Iterator[tuple[int, int]]:
    order = "<" if file.read(2) == b"II" else ">"

    def take(layout: str) -> tuple[int, ...]:
        layout = order + layout
        return struct.unpack(layout, file.read(struct.calcsize(layout)))

    big = take("H") == (43,)
    file.seek(8 if big else 4)
    file.seek(take("Q" if big else "I")[0])
    for _ in range(take("Q" if big else "H")[0]):
        code, kind, count = take("HHQ" if big else "HHI")
        cell = file.read(8 if big else 4)
        layout = {1: "B", 3: "H", 4: "I"}.get(kind, "")
        inline = layout and count * struct.calcsize(layout) <= len(cell)
        yield code, struct.unpack_from(order + layout, cell)[0] if inline else 0


# ---------------------------------------------------------------- rows as a libvips image

_STRIP = 8 << 20  # bytes of a strip, about
_SEQUENTIAL_TIFF = b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0"  # big, its directory at byte 16


def strip_rows(size: Size, pixel_bytes: int) -> int:
    """How many rows `Streamed` wants at a time."""
    return max(1, min(512, _STRIP // (size.width * pixel_bytes)))


class Streamed:
    """Rows that Python makes, as an uncompressed TIFF that libvips reads from top to bottom.

    ``strips`` yields (y, (h, W, bands)) without gaps, `strip_rows` at a time. What it raises comes
    out of ``saving``.
    """

    def __init__(
        self, size: Size, dtype: np.dtype[Any], bands: int, strips: Iterable[tuple[int, Samples]]
    ) -> None:
        self._row = size.width * bands * dtype.itemsize
        self._header = _tiff_header(size, dtype, bands, strip_rows(size, bands * dtype.itemsize))
        self._total = len(self._header) + size.height * self._row
        self._strips = iter(strips)
        self._start, self._strip = len(self._header), memoryview(b"")  # the current one
        self._position = 0
        self._raised: BaseException | None = None
        self._source = pyvips.SourceCustom()
        self._source.on_read(self._read)
        self._source.on_seek(self._seek)

    @contextmanager
    def saving(self) -> Iterator[Any]:
        """The image, to be saved within the block; what its rows raised is raised at its end."""
        try:
            yield pyvips.Image.new_from_source(
                self._source, "", access="sequential", fail_on="warning"
            )
        except pyvips.Error:
            if self._raised is None:
                raise
        if self._raised is not None:
            raise self._raised

    def _read(self, count: int) -> bytes:
        if self._position < len(self._header):
            data = self._header[self._position : self._position + count]
        else:
            data = self._pixels(count)
        self._position += len(data)
        return data

    def _pixels(self, count: int) -> bytes:
        try:
            while self._position >= self._start + len(self._strip):
                self._start += len(self._strip)
                _, strip = next(self._strips)
                self._strip = memoryview(np.ascontiguousarray(strip).data).cast("B")
        except StopIteration:
            return b""
        except BaseException as error:  # libvips would only say that a read failed
            self._raised = error
            return b""
        where = self._position - self._start
        if where < 0:
            self._raised = AssertionError("libvips looked back")
            return b""
        return bytes(self._strip[where : where + count])

    def _seek(self, offset: int, whence: int) -> int:
        self._position = (0, self._position, self._total)[whence] + offset
        return self._position


def _tiff_header(size: Size, dtype: np.dtype[Any], bands: int, rows: int) -> bytes:
    """A BigTIFF's beginning, up to its first pixel: strips of ``rows``, one after another."""
    number = -(-size.height // rows)
    row = size.width * bands * dtype.itemsize
    entries: list[tuple[int, str, list[int]]] = [
        (256, "I", [size.width]),
        (257, "I", [size.height]),
        (258, "H", [8 * dtype.itemsize] * bands),
        (259, "H", [1]),
        (262, "H", [1 if bands < 3 else 2]),
        (273, "Q", [0] * number),
        (277, "H", [bands]),
        (278, "I", [rows]),
        (279, "Q", [row * min(rows, size.height - n * rows) for n in range(number)]),
        (284, "H", [1]),
    ]
    if bands in (2, 4):
        entries.append((338, "H", [2]))
    codes = {"H": 3, "I": 4, "Q": 16}
    after = 16 + 8 + 20 * len(entries) + 8  # what does not fit in an entry comes here
    long = {tag: len(v) * struct.calcsize(kind) for tag, kind, v in entries}
    start = after + sum(-(-length // 8) * 8 for length in long.values() if length > 8)
    offsets = [start + n * rows * row for n in range(number)]
    directory, more = b"", b""
    for tag, kind, values in entries:
        data = struct.pack(f"<{len(values)}{kind}", *(offsets if tag == 273 else values))
        if len(data) > 8:
            place = struct.pack("<Q", after + len(more))
            more += data + bytes(-len(data) % 8)
        else:
            place = data.ljust(8, b"\0")
        directory += struct.pack("<HHQ", tag, codes[kind], len(values)) + place
    return _SEQUENTIAL_TIFF + struct.pack("<Q", len(entries)) + directory + bytes(8) + more
