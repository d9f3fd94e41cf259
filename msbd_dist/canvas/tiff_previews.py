"""Pictures in the tags of a TIFF, which show it as it was: Photoshop's thumbnail, those in XMP, a
maker's note and content credentials.

    for page, values, names in cleaned(tags): tags.replace(file, page, values)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

from msbd_dist.canvas import xmp
from msbd_dist.canvas.previews import blanked, photoshop_without
from msbd_dist.canvas.tiff_own import C2PA, INVALID
from msbd_dist.canvas.tiff_tags import EXIF, Damaged, Directory, Entry, Tags

_Clean = Callable[[bytes], tuple[bytes, bool]]

_CLEAN: dict[int, tuple[str, _Clean]] = {
    34377: ("Photoshop resources", photoshop_without),
    700: ("XMP", xmp.without_pictures),
    33723: ("IPTC", blanked),
    C2PA: (INVALID, lambda data: (b"", bool(data))),
    37500: ("the maker's note", blanked),
}
_NOT_PICTURES = {347, 34675}  # a JPEG's tables, a profile
_BYTES = {1, 7}
_SMALLEST = 100  # bytes of what shows something


def cleaned(tags: Tags) -> Iterator[tuple[Directory, dict[int, bytes], list[str]]]:
    """Of the first page and its EXIF: the directory, values without pictures for those of its tags
    that hold some, and what goes, in words."""
    for directory in _directories(tags):
        found = {code: _cleaned(tags, entry) for code, entry in directory.entries.items()}
        values = {code: data for code, data in found.items() if data is not None}
        if values:
            yield directory, values, [_name(code) for code in values]


def _directories(tags: Tags) -> list[Directory]:
    page = tags.directory(tags.first)
    with suppress(Damaged):
        if EXIF in page.entries:
            return [tags.directory(int(tags.integers(page.entries[EXIF])[0])), page]
    return [page]


def _cleaned(tags: Tags, entry: Entry) -> bytes | None:
    """A tag's values without pictures; None where there are none in it."""
    told = entry.code in _CLEAN or entry.kind in _BYTES
    if not told or entry.code in _NOT_PICTURES or entry.length < _SMALLEST:
        return None
    _, clean = _CLEAN.get(entry.code, ("", blanked))
    with suppress(Damaged):
        data, found = clean(tags.raw(entry))
        return data if found else None
    return None


def _name(code: int) -> str:
    if code == C2PA:
        return INVALID
    return f"the preview in {_CLEAN[code][0] if code in _CLEAN else f'TIFF tag {code}'}"
