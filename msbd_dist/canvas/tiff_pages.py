"""What the pages of a TIFF are for: smaller versions, masks, previews, a slide's label.

    role(tags, directory)                  # what a further page says that it is
    slices(tags, directory, plane, after)  # how many planes a directory stands for

A page says so by a flag (NewSubfileType) or its kind of colours; scanners of slides say it in
words. Several pictures may also be where the format sees one: ImageJ, MetaMorph and tifffile store
the slices of a stack one after the other behind a single directory, and OME-XML may count planes
that lie in other files.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Literal
from xml.etree import ElementTree

from msbd_dist.canvas.tiff_tags import Damaged, Directory, Tags

Role = Literal["smaller", "mask", "page"]

_LONGEST = 64 << 20  # bytes of a description that is read
_STK = 33629  # MetaMorph: one value for each plane


def role(tags: Tags, page: Directory) -> Role:
    """What a page says that it is: a smaller version of another one, a mask, or neither."""
    flags = flags_of(tags, page)
    if flags & 4 or _number(tags, page, 262) == 4:
        return "mask"
    older = _number(tags, page, 255) == 2  # the flag that NewSubfileType took the place of
    return "smaller" if flags & 1 or older or 513 in page.entries else "page"


def flags_of(tags: Tags, page: Directory) -> int:
    """What NewSubfileType says: 1 a smaller version, 4 a mask."""
    return _number(tags, page, 254)


def area_of(tags: Tags, page: Directory) -> int:
    """In pixels; 0 where a page doesn't say how large it is."""
    return _number(tags, page, 256) * _number(tags, page, 257)


def require_whole(tags: Tags, page: Directory) -> None:
    """Damaged where tiles or strips of a page lie beyond the end of its file."""
    for where, length in ((324, 325), (273, 279), (513, 514)):
        if where in page.entries and length in page.entries:
            starts, counts = (tags.integers(page.entries[code]) for code in (where, length))
            if len(starts) != len(counts):
                raise Damaged("the places or lengths of its tiles or strips are missing")
            beyond = (starts < 0) | (counts < 0) | (starts > tags.file.size - counts)
            if (beyond & (counts != 0)).any():
                raise Damaged("tiles or strips lie beyond its end")


def is_thumbnail(page: Directory) -> bool:
    """Whether it is one as cameras add them: a JPEG that is named by two tags of its own."""
    return 513 in page.entries and not page.entries.keys() & {273, 324}


def name_of(tags: Tags, page: Directory) -> str:
    """Of a picture beside the main one: label, macro or picture."""
    text = _description(tags, page)[:256].lower()
    if "label" in text:
        return "label"
    return "macro" if "macro" in text or _number(tags, page, 254) == 9 else "picture"


def is_aperio(tags: Tags, page: Directory) -> bool:
    entry = page.entries.get(270)
    return bool(entry and entry.length > 7 and tags.file.read(entry.at, 7) == b"Aperio ")


def _number(tags: Tags, page: Directory, code: int) -> int:
    with suppress(Damaged):
        if code in page.entries:
            return int(tags.integers(page.entries[code])[0])
    return 0


def _description(tags: Tags, page: Directory) -> str:
    entry = page.entries.get(270)
    if entry is None or entry.length > _LONGEST:
        return ""
    return tags.raw(entry).rstrip(b"\0").decode("utf-8", "replace")


# ---------------------------------------------------------------- stacks


def slices(tags: Tags, page: Directory, plane: int, after: int | None) -> int:
    """How many planes one directory stands for, 1 for an ordinary picture.

    ``plane``: bytes of one; ``after``: bytes of the file behind the first, None where it is
    compressed. Those that only a description counts must be there: tools hand descriptions on.
    """
    if _STK in page.entries:
        return max(1, page.entries[_STK].count)
    text = _description(tags, page)
    if (planes := _of_ome(text, _number(tags, page, 277) or 1)) > 1:
        return planes
    told = _of_imagej(text) or _of_shape(text, plane, tags, page)
    return told if after is not None and after >= plane else 1


def _of_imagej(text: str) -> int:
    found = re.search(r"^images=(\d+)", text, re.MULTILINE) if text.startswith("ImageJ=") else None
    return int(found[1]) if found else 0


def _of_shape(text: str, plane: int, tags: Tags, page: Directory) -> int:
    """By what tifffile writes: {"shape": [slices, rows, columns]}."""
    try:
        shape = json.loads(text)["shape"] if text.startswith('{"shape":') else []
        total = 1
        for length in shape:
            total *= int(length)
    except (ValueError, TypeError, KeyError):
        return 0
    samples = _number(tags, page, 256) * _number(tags, page, 257) * (_number(tags, page, 277) or 1)
    return total // samples if shape and samples else 0


def _of_ome(text: str, samples: int) -> int:
    """Planes of the first image of an OME-XML; colours that one page holds are one plane."""
    if "<OME" not in text[:4096] and ":OME" not in text[:4096]:
        return 0
    with suppress(ElementTree.ParseError, ValueError):
        for element in ElementTree.fromstring(text).iter():
            if element.tag.endswith("}Pixels") or element.tag == "Pixels":
                z, c, t = (int(element.get(f"Size{axis}", "1")) for axis in "ZCT")
                return z * t * -(-c // samples)
    return 0
