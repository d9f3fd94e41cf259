"""A TIFF's bytes and directories: tags, pages, EXIF blocks. No samples are decoded here.

    tags = Tags(open_bytes("slide.tif"))
    page = tags.directory(tags.first)
    exif_of(tags, page)            # a block that PNG, JPEG and WebP hold as it is

Classic and big TIFFs, in either byte order. What a header says is believed only where it lies
inside the file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal, Protocol, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from msbd_dist.canvas.places import local_copy, takes_ranges
from msbd_dist.canvas.urls import is_web, store_errors, system_of
from msbd_dist.errors import ImageError


class Damaged(ValueError):
    """What a file says can't be; the reason, without the file's name."""


# ---------------------------------------------------------------- bytes


class Bytes(Protocol):
    """A file of which any part can be read, from any thread."""

    name: str
    size: int

    def read(self, at: int, length: int) -> bytes:
        """Exactly so many bytes. Damaged where the file ends before."""
        ...


def open_bytes(path: str) -> Bytes:
    """A local file or the object at an fsspec URL. ImageError where there is none."""
    local = path.removeprefix("file://")
    try:
        if is_web(path) and not takes_ranges(path):
            return FetchedBytes(path)
        return UrlBytes(path) if "://" in local else LocalBytes(local)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{path}: is a folder, not a picture") from None
    except OSError as error:
        raise ImageError(f"{path}: can't be read ({error.strerror or error})") from error


class LocalBytes:
    """A file on this machine, opened for each access: a run may have thousands of them."""

    def __init__(self, path: str | Path, *, write: bool = False) -> None:
        self.name = str(path)
        self._mode = os.O_RDWR if write else os.O_RDONLY
        if os.path.isdir(path):
            raise IsADirectoryError(self.name)
        with self.opened() as file:
            self.size = os.fstat(file).st_size

    @contextmanager
    def opened(self) -> Iterator[int]:
        file = os.open(self.name, self._mode)
        try:
            yield file
        finally:
            os.close(file)

    def read(self, at: int, length: int) -> bytes:
        _require(at, length, self.size)
        parts = []
        with self.opened() as file:
            while length:
                part = os.pread(file, min(length, 1 << 30), at)
                if not part:
                    raise Damaged("it became shorter while it was read")
                parts.append(part)
                at, length = at + len(part), length - len(part)
        return b"".join(parts) if len(parts) != 1 else parts[0]

    def write(self, at: int, data: bytes) -> None:
        """All of it; the file grows where it must."""
        done = 0
        with self.opened() as file:
            while done < len(data):
                done += os.pwrite(file, data[done:], at + done)
        self.size = max(self.size, at + len(data))

    def copy_to(self, other: LocalBytes) -> None:
        """All of it, to the same place in another file; without reading it, where the file system
        can."""
        done = 0
        while done < self.size:
            try:
                length = min(self.size - done, 1 << 30)
                with self.opened() as source, other.opened() as target:
                    moved = os.copy_file_range(source, target, length, done, done)
            except (OSError, AttributeError):
                # not between these two file systems, or not on macOS; a full disk is told below
                moved = 0
            if not moved:
                part = self.read(done, min(self.size - done, 8 << 20))
                other.write(done, part)
                moved = len(part)
            done += moved
        other.size = max(other.size, done)

    def sync(self) -> None:
        """Wait until the disk has it."""
        with self.opened() as file:
            os.fsync(file)


_BLOCK = 1 << 20


class UrlBytes:
    """An object at an fsspec URL; a few blocks of it are kept."""

    def __init__(self, url: str) -> None:
        self.name = url
        with store_errors(url):
            system, path = system_of(url)
            # the file system's object knows its size only once it is open
            self._file: Any = system.open(path, "rb", block_size=_BLOCK, cache_type="blockcache")
            self.size = self._file.seek(0, os.SEEK_END)
        self._lock = Lock()

    def read(self, at: int, length: int) -> bytes:
        _require(at, length, self.size)
        with self._lock, store_errors(self.name):
            self._file.seek(at)
            data = bytes(self._file.read(length))
        if len(data) != length:
            raise Damaged("it became shorter while it was read")
        return data


class FetchedBytes:
    """A file of a web server that sends whole files only: a copy, fetched again where it went."""

    def __init__(self, url: str) -> None:
        self.name = url
        self._copy = LocalBytes(local_copy(url))
        self.size = self._copy.size

    def read(self, at: int, length: int) -> bytes:
        try:
            return self._copy.read(at, length)
        except FileNotFoundError:
            self._copy = LocalBytes(local_copy(self.name))
            return self._copy.read(at, length)


class HeldBytes:
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self.name, self.size, self._data = "memory", len(data), data

    def read(self, at: int, length: int) -> bytes:
        _require(at, length, self.size)
        return self._data[at : at + length]


def _require(at: int, length: int, size: int) -> None:
    if at < 0 or length < 0 or at + length > size:
        raise Damaged(f"bytes {at} to {at + length} of {size}")


# ---------------------------------------------------------------- directories

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
          16: 8, 17: 8, 18: 8}  # fmt: skip
_INTEGERS = {1: "u1", 3: "u2", 4: "u4", 6: "i1", 8: "i2", 9: "i4", 13: "u4", 16: "u8", 17: "i8",
             18: "u8"}  # fmt: skip
_MAX_TAGS = 4096


@dataclass(frozen=True)
class Entry:
    """One tag of a directory."""

    code: int
    kind: int
    count: int
    cell: int  # where the entry itself is in the file
    at: int  # where its values are

    @property
    def length(self) -> int:
        """Of its values, in bytes."""
        return self.count * _SIZES.get(self.kind, 1)


@dataclass(frozen=True)
class Directory:
    """One page."""

    entries: dict[int, Entry]
    next: int  # 0 where it is the last one
    at: int  # where it is in the file
    link: int  # where ``next`` is


class Tags:
    """The directories of one TIFF. Damaged where the header isn't one."""

    def __init__(self, file: Bytes) -> None:
        self.file = file
        start = file.read(0, 8)
        self.order: Literal["<", ">"] = ">" if start[:2] == b"MM" else "<"
        if start[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            raise Damaged("it doesn't start as a TIFF does")
        self.big = b"+" in start[:4]
        self.first = int(self._take("Q", 8)[0] if self.big else self.unpack("I", start[4:])[0])

    def unpack(self, layout: str, data: bytes) -> tuple[int, ...]:
        return struct.unpack(self.order + layout, data)

    def pack(self, layout: str, *values: int) -> bytes:
        return struct.pack(self.order + layout, *values)

    @property
    def width(self) -> int:
        """Of an offset, in bytes."""
        return 8 if self.big else 4

    @property
    def offset(self) -> str:
        """An offset's layout."""
        return "Q" if self.big else "I"

    @property
    def number(self) -> str:
        """The layout of a directory's number of tags."""
        return "Q" if self.big else "H"

    def directory(self, at: int) -> Directory:
        """The page at an offset. Damaged where none can be there."""
        number = self._take(self.number, at)[0]
        if not 0 < number <= _MAX_TAGS:
            raise Damaged(f"{number} tags in a page")
        start, size = at + struct.calcsize("=" + self.number), 4 + 2 * self.width
        data = self.file.read(start, number * size + self.width)
        entries: dict[int, Entry] = {}
        for index in range(number):
            cell = data[index * size : (index + 1) * size]
            code, kind, count = self.unpack("HH" + self.offset, cell[: -self.width])
            where = start + index * size
            inside = count * _SIZES.get(kind, 1) <= self.width
            value = (
                size - self.width + where
                if inside
                else self.unpack(self.offset, cell[-self.width :])[0]
            )
            entries.setdefault(code, Entry(code, kind, count, where, value))
        following = self.unpack(self.offset, data[-self.width :])[0]
        return Directory(entries, following, at, start + number * size)

    def pages(self, most: int) -> Iterator[Directory]:
        """One after the other, ``most`` of them at most. Damaged where they go round."""
        at, seen = self.first, set[int]()
        while at and len(seen) < most:
            if at in seen:
                raise Damaged("its pages go round in a circle")
            seen.add(at)
            page = self.directory(at)
            yield page
            at = page.next

    def raw(self, entry: Entry) -> bytes:
        """A tag's values as they are stored."""
        return self.file.read(entry.at, entry.length)

    def integers(self, entry: Entry) -> NDArray[np.int64]:
        """A tag's values, one at least. Damaged where they are no integers or beyond int64."""
        if entry.kind not in _INTEGERS:
            raise Damaged(f"tag {entry.code} isn't a number")
        if not entry.count:
            raise Damaged(f"tag {entry.code} is empty")
        stored = np.frombuffer(self.raw(entry), self.order + _INTEGERS[entry.kind])
        values = stored.astype(np.int64)
        if entry.kind in (16, 18) and (values < 0).any():
            raise Damaged(f"tag {entry.code} is beyond any file")
        return values

    def rewrite(self, file: LocalBytes, entry: Entry, values: NDArray[np.int64]) -> None:
        """Other values for a tag, as many; at the end of the file and in a wider type where they
        need it."""
        layout = self.order + _INTEGERS[entry.kind]
        if int(values.max()) <= np.iinfo(layout).max:
            file.write(entry.at, values.astype(layout).tobytes())
            return
        kind = 16 if self.big else 4
        data = values.astype(self.order + _INTEGERS[kind]).tobytes()
        cell = self.pack("HH" + self.offset, entry.code, kind, entry.count)
        if len(data) <= self.width:
            file.write(entry.cell, cell + data)
            return
        at = file.size + -file.size % 8
        file.write(at, data)
        file.write(entry.cell, cell + self.pack(self.offset, at))

    def put(self, file: LocalBytes, entry: Entry, data: bytes) -> None:
        """Other values for a tag, as they are stored: where the old ones were, in the entry itself
        or at the end of the file, as they fit."""
        count = -(-len(data) // _SIZES.get(entry.kind, 1))
        head = self.pack("HH" + self.offset, entry.code, entry.kind, count)
        if len(data) <= self.width:
            file.write(entry.cell, head + data.ljust(self.width, b"\0"))
            return
        at = entry.at if len(data) <= entry.length else file.size + -file.size % 8
        file.write(at, data)
        file.write(entry.cell, head + self.pack(self.offset, at))

    def packed(self, entry: Entry, values: NDArray[np.int64]) -> bytes:
        """Integers as a tag stores them."""
        return values.astype(self.order + _INTEGERS[entry.kind]).tobytes()

    def replace(self, file: LocalBytes, page: Directory, values: Mapping[int, bytes]) -> None:
        """Other values for some tags; without any, the tag goes."""
        for code in values.keys() & page.entries.keys():
            if values[code]:
                self.put(file, page.entries[code], values[code])
        self.remove(file, page.at, {code for code, data in values.items() if not data})

    def remove(self, file: LocalBytes, at: int, codes: set[int]) -> None:
        """Take tags out of the directory at an offset. What they point to stays."""
        page = self.directory(at)
        size = 4 + 2 * self.width
        start = at + struct.calcsize("=" + self.number)
        cells = [file.read(cell, size) for cell in range(start, page.link, size)]
        kept = [cell for cell in cells if self.unpack("H", cell[:2])[0] not in codes]
        data = self.pack(self.number, len(kept)) + b"".join(kept)
        data += self.pack(self.offset, page.next)
        file.write(at, data.ljust(page.link + self.width - at, b"\0"))

    def ratio(self, entry: Entry) -> float:
        """A tag's first rational number; 0 where it is none."""
        if entry.kind != 5 or entry.count < 1:
            return 0.0
        over, under = self.unpack("II", self.raw(entry)[:8])
        return over / under if under else 0.0

    def _take(self, layout: str, at: int) -> tuple[int, ...]:
        return self.unpack(layout, self.file.read(at, struct.calcsize("=" + layout)))


# ---------------------------------------------------------------- EXIF

EXIF, GPS, INTEROP = 34665, 34853, 40965
# A camera's and a maker's words, which EXIF keeps in its first directory. Orientation isn't there:
# it belongs to the samples, and whoever writes them writes it.
NAMES = {271, 272, 305, 306, 315, 316, 33432, 40091, 40092, 40093, 40094, 40095}
_ALWAYS = {305, 306}  # the writing software: no reason to make a block
_MOST = 1 << 24  # bytes of one tag


@dataclass(frozen=True)
class Value:
    """A tag with its values as they are stored."""

    kind: int
    count: int
    data: bytes


Fields: TypeAlias = dict[int, Union[Value, "Fields"]]
"""A directory to be written: tags by code, and directories by the code of the tag that points to
them."""


def exif_of(tags: Tags, page: Directory) -> bytes | None:
    """The page's EXIF and GPS as a TIFF of their own (II*. or MM.*), None where there is none.

    Orientation isn't in it. Damaged where a directory is.
    """
    if not page.entries.keys() & (NAMES - _ALWAYS | {EXIF, GPS}):
        return None
    return _small(tags, exif_fields(tags, page))


def block_of(tags: Tags, page: Directory, codes: set[int]) -> bytes:
    """Some tags of a page as a TIFF of their own, without a picture."""
    return _small(tags, fields_of(tags, page, codes))


def _small(tags: Tags, fields: Fields) -> bytes:
    head = b"II*\0" if tags.order == "<" else b"MM\0*"
    blob, at = laid_out(fields, 8, tags.order, big=False)
    return head + struct.pack(tags.order + "I", at) + blob


def exif_fields(tags: Tags, page: Directory) -> Fields:
    return fields_of(tags, page, NAMES) | {
        code: _inner(tags, entry) for code, entry in page.entries.items() if code in (EXIF, GPS)
    }


def _inner(tags: Tags, pointer: Entry) -> Fields:
    page = tags.directory(int(tags.integers(pointer)[0]))
    fields = fields_of(tags, page)
    if pointer.code == EXIF and INTEROP in page.entries:
        fields |= {INTEROP: _inner(tags, page.entries[INTEROP])}
    return fields


def fields_of(tags: Tags, page: Directory, only: set[int] | None = None) -> Fields:
    """A directory's tags, in a classic TIFF's types; without pointers and what leaves the file."""
    fields: Fields = {}
    for code, entry in page.entries.items():
        wanted = code != INTEROP if only is None else code in only
        if not wanted or entry.kind not in _SIZES or entry.length > _MOST:
            continue
        with suppress(Damaged):
            kind, data = entry.kind, tags.raw(entry)
            if kind in (16, 17, 18):  # big TIFFs only
                kind = 4
                data = tags.integers(entry).astype(tags.order + "u4").tobytes()
            fields[code] = Value(kind, entry.count, data)
    return fields


def laid_out(
    fields: Fields, at: int, order: str, *, big: bool, following: int = 0
) -> tuple[bytes, int]:
    """A directory and all it points to, for position ``at``: (bytes, where the directory is).

    ``following``: where the next page is.
    """
    blob, cells = b"", b""
    width, offset = (8, "Q") if big else (4, "I")
    for code in sorted(fields):
        value = fields[code]
        if isinstance(value, Value):
            kind, count, data = value.kind, value.count, value.data
            if len(data) > width:
                where = at + len(blob)
                blob += data + bytes(-len(data) % 8)
                data = struct.pack(order + offset, where)
        else:
            inner, where = laid_out(value, at + len(blob), order, big=big)
            blob += inner
            # Pillow doesn't follow the type that was made for directories in big TIFFs
            kind, count, data = (16 if big else 4), 1, struct.pack(order + offset, where)
        cells += struct.pack(order + "HH" + offset, code, kind, count) + data.ljust(width, b"\0")
    number = struct.pack(order + ("Q" if big else "H"), len(fields))
    ifd = number + cells + struct.pack(order + offset, following)
    return blob + ifd + bytes(-len(ifd) % 8), at + len(blob)
