"""Tags that only a TIFF has a place for: where it lies on a map, what stands for no data, and more.

    own_tags(tags, page)     [(what losing them means, a small TIFF of them), ...]
    unknown(tags, page)      what a new file can't take

A new TIFF gets them as they are. Of tags that nobody here knows those go along whose type can't
hold an address; the others might point into the old file.
"""

from __future__ import annotations

from PIL import TiffTags as TagNames

from msbd_dist.canvas.reader import Loss
from msbd_dist.canvas.tiff_tags import EXIF, GPS, NAMES, Directory, Tags, block_of

# how samples are stored: whoever writes them says it anew
_STRUCTURE = {
    254, 255, 256, 257, 258, 259, 262, 264, 266, 273, 274, 277, 278, 279, 284, 288, 289, 292, 293,
    317, 320, 322, 323, 324, 325, 326, 327, 328, 330, 338, 339, 347, *range(512, 522), 529, 530,
    531, 532, 32995, 32996, 32997, 32998, 34908, 34909, 34910, 50674,
}  # fmt: skip
_ELSEWHERE = {270, 700, 33723, 34377, 34675, EXIF, GPS}  # what other formats hold too
_SOFTWARE = {305, 306}
_LAYERS = 37724
C2PA = 52545

GEO = {33550, 33920, 33922, 34264, 34735, 34736, 34737, 50844}
RESOLUTION = {282, 283, 296}
_GDAL, _NODATA, _IMAGEJ = {42112}, {42113}, {50838, 50839}
NO_DATA = Loss("geo", "the value of what is no data")
_GROUPS = (
    (Loss("geo", "geo tags"), GEO),
    (Loss("geo", "GDAL metadata"), _GDAL),
    (NO_DATA, _NODATA),
    (Loss("tags", "ImageJ metadata"), _IMAGEJ),
    (Loss("colours", "primaries of a TIFF"), {301, 318, 319}),
)
_EXTRA = {338}
EXTRA_CHANNEL = Loss("extra-channel", "the meaning of the extra channel, which becomes alpha")
INVALID = "content credentials (C2PA), which an edit makes invalid"
# the name of a document and of a page, places on paper, ranges of samples
_HARMLESS = {263, 265, 269, 280, 281, 285, 286, 287, 290, 291, 297, 340, 341, 50341}
_NO_ADDRESS = {2, 3, 5, 8, 10, 11, 12}  # texts, short and broken numbers


def own_tags(tags: Tags, page: Directory) -> tuple[tuple[Loss | None, bytes], ...]:
    """What a page has and a new TIFF is to have too; None for what others need not have."""
    found: list[tuple[Loss | None, set[int]]] = [(_of_resolution(tags, page), RESOLUTION)]
    found.append((None, _SOFTWARE))
    found.append((EXTRA_CHANNEL, _EXTRA if _has_unknown_channel(tags, page) else set()))
    found += _GROUPS
    found += [(tag_loss(code), {code}) for code in sorted(_others(page)) if _goes_along(page, code)]
    held = [(loss, codes & page.entries.keys()) for loss, codes in found]
    return tuple((loss, block_of(tags, page, codes)) for loss, codes in held if codes)


def without_values(
    own: tuple[tuple[Loss | None, bytes], ...],
) -> tuple[tuple[tuple[Loss | None, bytes], ...], list[Loss]]:
    """Own tags of a picture whose samples become others, as a palette's do, and what is lost."""
    kept = tuple((loss, block) for loss, block in own if loss not in _OF_VALUES)
    return kept, [loss for loss, _ in own if loss and loss in _OF_VALUES]


def _has_unknown_channel(tags: Tags, page: Directory) -> bool:
    """Whether there is one beside the colours that is said to be unknown."""
    return 338 in page.entries and int(tags.integers(page.entries[338])[-1]) == 0


def unknown(page: Directory) -> list[Loss]:
    """Tags that no new file has."""
    return [tag_loss(code) for code in sorted(_others(page)) if not _goes_along(page, code)]


def _others(page: Directory) -> set[int]:
    grouped = set[int]().union(*(codes for _, codes in _GROUPS))
    known = _STRUCTURE | _ELSEWHERE | NAMES | RESOLUTION | grouped
    return page.entries.keys() - known


def _goes_along(page: Directory, code: int) -> bool:
    return code in _HARMLESS or page.entries[code].kind in _NO_ADDRESS


def _of_resolution(tags: Tags, page: Directory) -> Loss | None:
    """Pixels that aren't square are lost where the resolution has no unit."""
    entries = page.entries
    unit = int(tags.integers(entries[296])[0]) if 296 in entries else 2
    x, y = (tags.ratio(entries[code]) if code in entries else 0.0 for code in (282, 283))
    return Loss("other", "the shape of its pixels") if unit == 1 and x != y else None


def tag_loss(code: int) -> Loss:
    """A tag that no new file has."""
    if code == _LAYERS:
        return Loss("photoshop", "Photoshop's layers")
    if code == C2PA:
        return Loss("c2pa", INVALID, matters=False)
    name = TagNames.lookup(code).name
    what = f"TIFF tag {code if name == 'unknown' else name}"
    return Loss("tags", what, matters=code not in _HARMLESS)


_OF_VALUES = {NO_DATA, *map(tag_loss, (280, 281, 340, 341))}
