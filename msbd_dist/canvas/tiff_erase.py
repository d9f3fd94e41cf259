"""What of a TIFF's bytes its directories refer to, and zeros for what they no longer do.

    dead = of_segments(old_offsets, old_counts)
    erase(file, without(dead, referenced(Tags(file))))

Only what is named is erased, never all that nobody refers to: makers keep data of their own between
what the format knows of.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from msbd_dist.canvas.tiff_tags import EXIF, GPS, INTEROP, Damaged, Directory, LocalBytes, Tags

Ranges: TypeAlias = NDArray[np.int64]
"""(n, 2): the first byte, and the one after the last."""

_SUBIFDS = 330
_POINTERS = {_SUBIFDS, EXIF, GPS, INTEROP}
_POINTER_KINDS = {13, 18}
_PLACES = ((324, 325), (273, 279), (513, 514))  # of tiles, strips and a camera's thumbnail
_MOST = 1 << 16  # directories
_PART = 1 << 20  # bytes that are written at once


def of_segments(offsets: NDArray[np.int64], counts: NDArray[np.int64]) -> Ranges:
    """Of tiles or strips; those that were never written take none."""
    return np.stack([offsets, offsets + counts], -1)[counts > 0]


def of_directory(tags: Tags, page: Directory) -> Ranges:
    """All that a directory takes: itself, the values of its tags, its tiles or strips."""
    own = [(page.at, page.link + tags.width)]
    own += [(e.at, e.at + e.length) for e in page.entries.values() if e.length > tags.width]
    found = [np.array([(start, end) for start, end in own if end <= tags.file.size])]
    for codes in _PLACES:
        with suppress(Damaged):  # another maker's tag of the same number
            found.append(_stored(tags, page, *codes))
    return np.concatenate(found)


def _stored(tags: Tags, page: Directory, where: int, length: int) -> Ranges:
    if where not in page.entries:
        return np.empty((0, 2), np.int64)
    offsets = tags.integers(page.entries[where])
    if length in page.entries and page.entries[length].count == len(offsets):
        return of_segments(offsets, tags.integers(page.entries[length]))
    return of_segments(offsets, tags.file.size - offsets)  # it doesn't say where they end


def referenced(tags: Tags) -> Ranges:
    """All that the directories of a file refer to, and its header."""
    header = np.array([[0, 16 if tags.big else 8]])
    return np.concatenate([header, *(of_directory(tags, page) for page in _directories(tags))])


def _directories(tags: Tags) -> Iterator[Directory]:
    """All that can be read, also those below others."""
    places, seen = [tags.first], {0}
    while places and len(seen) < _MOST:
        at = places.pop()
        if at in seen:
            continue
        seen.add(at)
        with suppress(Damaged):  # a private tag may only look like a pointer
            page = tags.directory(at)
            yield page
            places.append(page.next)
            places += _below(tags, page)


def _below(tags: Tags, page: Directory) -> Iterator[int]:
    for code, entry in page.entries.items():
        if (code in _POINTERS or entry.kind in _POINTER_KINDS) and entry.count <= _MOST:
            with suppress(Damaged):
                yield from (int(at) for at in tags.integers(entry))


def without(dead: Ranges, live: Ranges) -> Ranges:
    """What of ``dead`` is in none of ``live``."""
    starts, ends = _merged(live)
    left: list[tuple[int, int]] = []
    for start, end in dead.tolist():
        first, last = np.searchsorted(ends, start, "right"), np.searchsorted(starts, end)
        for used, free in zip(starts[first:last].tolist(), ends[first:last].tolist(), strict=True):
            if start < used:
                left.append((start, used))
            start = free
        if start < end:
            left.append((start, end))
    return np.array(left, np.int64).reshape(-1, 2)


def _merged(ranges: Ranges) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(starts, ends) of ranges that neither meet nor overlap, in order."""
    ranges = ranges[ranges[:, 0].argsort(kind="stable")]
    ends = np.maximum.accumulate(ranges[:, 1])
    new = np.r_[True, ranges[1:, 0] > ends[:-1]]
    return ranges[new, 0], ends[np.r_[new[1:], True]]


def erase(file: LocalBytes, ranges: Ranges) -> None:
    """Zeros in place of these bytes; none beyond the file's end."""
    for start, end in np.clip(ranges, 0, file.size).tolist():
        for at in range(start, end, _PART):
            file.write(at, bytes(min(_PART, end - at)))
