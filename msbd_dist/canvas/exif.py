"""EXIF blocks as small TIFFs: what is in their first directory, and tags added to it.

texts_of(block)                    its words, by tag
exif_with(block, {270: "words"})   with more tags; nothing that is there moves
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from fractions import Fraction
from typing import TypeAlias

from msbd_dist.canvas.tiff_add import moved
from msbd_dist.canvas.tiff_tags import Damaged, Directory, HeldBytes, Tags, Value, laid_out

DESCRIPTION, ORIENTATION, SOFTWARE, ARTIST, COPYRIGHT = 270, 274, 305, 315, 33432
X_RESOLUTION, Y_RESOLUTION, UNIT = 282, 283, 296
XMP, IPTC, PHOTOSHOP, ICC = 700, 33723, 34377, 34675  # of TIFFs
Given: TypeAlias = str | bytes | int | Fraction
_UNITS = {2: 25.4, 3: 10.0}  # millimetres


def exif_with(block: bytes | None, given: Mapping[int, Given]) -> bytes | None:
    """A block with more tags, or other values of them; None where there is nothing at all.

    The directory is written anew at the end, so that makers' notes stay where they are.
    """
    if not given:
        return block
    found = opened(block)
    if block is None or found is None:
        fields = {code: _value(value, "<") for code, value in given.items()}
        blob, at = laid_out({**fields}, 8, "<", big=False)
        return b"II*\0" + struct.pack("<I", at) + blob
    tags, page = found
    fields = {code: _value(value, tags.order) for code, value in given.items()}
    padded = block + bytes(-len(block) % 8)
    blob, where = moved(tags, page, {**fields}, len(padded))
    return padded[:4] + tags.pack("I", where) + padded[8:] + blob


def _value(given: Given, order: str) -> Value:
    if isinstance(given, str):
        data = given.encode() + b"\0"
        return Value(2, len(data), data)
    if isinstance(given, bytes):
        return Value(7, len(given), given)
    if isinstance(given, int):
        return Value(3, 1, struct.pack(order + "H", given))
    ratio = given.limit_denominator(1 << 16)
    return Value(5, 1, struct.pack(order + "II", ratio.numerator, ratio.denominator))


def resolution_tags(resolution: tuple[float, float] | None) -> dict[int, Given]:
    """Pixels per millimetre as tags, in inches."""
    if resolution is None:
        return {}
    x, y = (Fraction(r * 25.4).limit_denominator(1000) for r in resolution)
    return {X_RESOLUTION: x, Y_RESOLUTION: y, UNIT: 2}


def opened(block: bytes | None) -> tuple[Tags, Directory] | None:
    """A block and its first directory; None of one that nobody can read."""
    try:
        tags = Tags(HeldBytes(block or b""))
        return None if tags.big else (tags, tags.directory(tags.first))
    except Damaged:
        return None


def raw_of(block: bytes | None, codes: Iterable[int]) -> dict[int, bytes]:
    """The values of those tags that a block has, as they are stored."""
    found: dict[int, bytes] = {}
    if there := opened(block):
        tags, page = there
        for code in page.entries.keys() & set(codes):
            with suppress(Damaged):
                found[code] = tags.raw(page.entries[code])
    return found


def texts_of(block: bytes | None) -> dict[int, str]:
    """Its description, software, author and copyright, where they say something."""
    raw = raw_of(block, (DESCRIPTION, SOFTWARE, ARTIST, COPYRIGHT))
    texts = {code: data.rstrip(b"\0 ").decode("utf-8", "replace") for code, data in raw.items()}
    return {code: text for code, text in texts.items() if text}


def orientation_of(block: bytes | None) -> int:
    """1 to 8; 1 where nothing is said, or nonsense."""
    told = _integer(block, ORIENTATION, 1)
    return told if 1 <= told <= 8 else 1


def resolution_of(block: bytes | None) -> tuple[float, float] | None:
    """In pixels per millimetre, x and y; None where it is unknown."""
    unit = _integer(block, UNIT, 2)
    x, y = (_ratio(block, code) for code in (X_RESOLUTION, Y_RESOLUTION))
    return (x / _UNITS[unit], y / _UNITS[unit]) if unit in _UNITS and x > 0 and y > 0 else None


def _integer(block: bytes | None, code: int, default: int) -> int:
    there = opened(block)
    if there and code in there[1].entries:
        with suppress(Damaged):
            return int(there[0].integers(there[1].entries[code])[0])
    return default


def _ratio(block: bytes | None, code: int) -> float:
    there = opened(block)
    if there and code in there[1].entries:
        with suppress(Damaged):
            return there[0].ratio(there[1].entries[code])
    return 0.0
