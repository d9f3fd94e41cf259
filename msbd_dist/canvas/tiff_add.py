"""Tags and pages added to a TIFF that somebody else wrote.

    add(path, exif=block, own=blocks, pages=pages, without=codes)

All of it is appended, and only then the header points to it: a crash before leaves the file as it
was.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from msbd_dist.canvas.tiff_tags import (
    EXIF,
    GPS,
    Damaged,
    Directory,
    Fields,
    HeldBytes,
    LocalBytes,
    Tags,
    Value,
    exif_fields,
    fields_of,
    laid_out,
)
from msbd_dist.errors import ImageError

_PLACES = {324: 325, 273: 279}  # of tiles and of strips
_OWN_POINTERS = {330, EXIF, GPS}


@dataclass(frozen=True)
class Grafted:
    """A page of another file."""

    tags: Tags
    directory: Directory


def can_graft(page: Grafted) -> bool:
    """Whether a page's samples mean the same in a file that is written here: in bytes, or in this
    machine's byte order."""
    entries = page.directory.entries
    bits = page.tags.integers(entries[258]) if 258 in entries else np.array([1])
    told = any(w in entries and n in entries for w, n in _PLACES.items())
    return told and bool((bits <= 8).all() or page.tags.order == _NATIVE)


_NATIVE = "<" if sys.byteorder == "little" else ">"


def add(
    path: Path,
    *,
    exif: bytes | None = None,
    own: Iterable[bytes] = (),
    pages: Iterable[Grafted] = (),
    without: Set[int] = frozenset(),
) -> None:
    """Give a TIFF's first page more tags, and the file more pages after its own.

    ``exif``: a block (II*. or MM.*), whose EXIF and GPS take the place of the page's; its camera
    and author are added where the page has none, and its orientation is not. ``own``: small TIFFs
    whose tags are added, in place of the page's. ``without``: tags of the page that go. Raises
    ImageError where a block or a page is damaged or a classic TIFF would pass 4 GiB.
    """
    try:
        file = LocalBytes(path, write=True)
        tags = Tags(file)
        page = tags.directory(tags.first)
    except Damaged as error:
        raise ImageError(f"{path}: is a damaged TIFF ({error}); get it again") from None
    try:
        given = _given(tags.order, page, exif, own)
    except Damaged as error:
        raise ImageError(f"{path}: the EXIF to be added is damaged ({error})") from None
    following = page.next
    try:
        for grafted in reversed(list(pages)):
            following = _graft(tags, file, grafted, following)
    except Damaged as error:
        raise ImageError(f"{path}: a page to be added is damaged ({error})") from None
    kept = {code: entry for code, entry in page.entries.items() if code not in without}
    page = replace(page, entries=kept, next=following)
    blob, where = moved(tags, page, given, _end(file))
    _append(tags, file, blob)
    file.sync()
    file.write(8 if tags.big else 4, tags.pack(tags.offset, where))
    file.sync()


def _given(order: str, page: Directory, exif: bytes | None, own: Iterable[bytes]) -> Fields:
    """The tags of all blocks, in a file's byte order."""
    given: Fields = {}
    if exif is not None:
        fields = _in_order(order, exif, exif_fields)
        given = {c: v for c, v in fields.items() if c in (EXIF, GPS) or c not in page.entries}
    for block in own:
        given |= _in_order(order, block, fields_of)
    return given


def _in_order(order: str, block: bytes, read: Callable[[Tags, Directory], Fields]) -> Fields:
    tags = Tags(HeldBytes(block))
    fields = read(tags, tags.directory(tags.first))
    return fields if tags.order == order else _swapped(fields)


def _end(file: LocalBytes) -> int:
    return file.size + -file.size % 8


def _append(tags: Tags, file: LocalBytes, data: bytes) -> int:
    at = _end(file)
    if not tags.big and at + len(data) >= 2**32:
        raise ImageError(f"{file.name}: metadata would take it past 4 GiB; write it as BigTIFF")
    file.write(at, data)
    return at


def _graft(tags: Tags, file: LocalBytes, page: Grafted, following: int) -> int:
    """Append another file's page; where it is."""
    entries = page.directory.entries
    fields = fields_of(page.tags, page.directory, entries.keys() - _OWN_POINTERS)
    if page.tags.order != tags.order:
        fields = _swapped(fields)
    for where, length in _PLACES.items():
        if where in entries:
            starts, counts = (page.tags.integers(entries[code]) for code in (where, length))
            places = [
                _append(tags, file, page.tags.file.read(int(start), int(count))) if count else 0
                for start, count in zip(starts, counts, strict=True)
            ]
            data = struct.pack(f"{tags.order}{len(places)}{tags.offset}", *places)
            fields[where] = Value(16 if tags.big else 4, len(places), data)
    blob, at = laid_out(fields, _end(file), tags.order, big=tags.big, following=following)
    _append(tags, file, blob)
    return at


def moved(tags: Tags, page: Directory, fields: Fields, at: int) -> tuple[bytes, int]:
    """A page's directory with more fields, for position ``at``; what it points to stays."""
    extra, own = laid_out(fields, at, tags.order, big=tags.big)
    start, size = struct.calcsize("=" + tags.number), 4 + 2 * tags.width
    new = extra[own - at + start :]
    cells = {code: new[i * size : (i + 1) * size] for i, code in enumerate(sorted(fields))}
    kept = {c: tags.file.read(e.cell, size) for c, e in page.entries.items() if c not in cells}
    every = kept | cells
    ifd = tags.pack(tags.number, len(every)) + b"".join(every[code] for code in sorted(every))
    return extra + ifd + tags.pack(tags.offset, page.next), at + len(extra)


_UNITS = {3: 2, 8: 2, 4: 4, 5: 4, 9: 4, 10: 4, 11: 4, 13: 4, 12: 8}  # others: single bytes


def _swapped(fields: Fields) -> Fields:
    """The same in the other byte order."""

    def swap(value: Value | Fields) -> Value | Fields:
        if not isinstance(value, Value):
            return _swapped(value)
        data = np.frombuffer(value.data, f"u{_UNITS.get(value.kind, 1)}").byteswap().tobytes()
        return Value(value.kind, value.count, data)

    return {code: swap(value) for code, value in fields.items()}
