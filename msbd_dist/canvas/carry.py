"""What a new file gets of a picture's metadata, in the places that its format has.

    carried(metadata, kind, orientation)   (metadata to be written, what the file goes without)
    as_json(metadata), from_json(values)   all of it, for a file that has a place for anything

Words go from place to place: a JPEG's comment is a PNG's text of that name, and a description where
there is but one.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from msbd_dist.canvas import exif, jpeg, png
from msbd_dist.canvas.reader import LOSSES, Loss, Metadata, Text
from msbd_dist.canvas.tiff_own import own_tags

Kind = Literal["PNG", "TIFF", "WebP", "JPEG", "OME-Zarr", "DeepZoom"]

_TAGS = {  # PNG's keywords and EXIF's tags
    "Description": exif.DESCRIPTION, "ImageDescription": exif.DESCRIPTION,
    "Comment": exif.DESCRIPTION, "Software": exif.SOFTWARE, "Author": exif.ARTIST,
    "Copyright": exif.COPYRIGHT,
}  # fmt: skip
_PASSING = ("date:", "Creation Time", "Software", "Thumb::", "png:")  # texts that programs write


def carried(held: Metadata, kind: Kind, orientation: int = 1) -> tuple[Metadata, list[Loss]]:
    """What a new file of a kind gets, and what it goes without."""
    if kind == "OME-Zarr":
        return held, []
    if kind == "DeepZoom":
        names = [name for name in held.names if name != "ICC profile" and name not in held.others]
        lost = [Loss(LOSSES[name], name) for name in names]
        return Metadata(icc=held.icc), [*lost, *png.unheld(held)]
    if kind == "PNG":
        return replace(held, exif=_turned(held.exif, orientation)), []
    found, lost = _with_words(held, kind)
    if kind == "JPEG":
        found = replace(found, exif=_turned(found.exif, orientation))
        if jpeg.too_long(found):
            found = replace(found, exif=_turned(None, orientation))
            lost.append(Loss("exif", f"EXIF of {len(held.exif or b''):,} bytes"))
        if len(found.icc or b"") > jpeg.LONGEST_PROFILE:
            found = replace(found, icc=None)
            lost.append(Loss("icc", f"an ICC profile of {len(held.icc or b''):,} bytes"))
    if kind == "WebP":
        block = _with_resolution(found.exif, held.resolution)
        found = replace(found, exif=_turned(block, orientation))
    return found, [*lost, *png.unheld(held)]


def _turned(block: bytes | None, orientation: int) -> bytes | None:
    if exif.orientation_of(block) == orientation:
        return block
    return exif.exif_with(block, {exif.ORIENTATION: orientation})


def _with_resolution(block: bytes | None, resolution: tuple[float, float] | None) -> bytes | None:
    if not resolution or exif.resolution_of(block):
        return block
    return exif.exif_with(block, exif.resolution_tags(resolution))


# ---------------------------------------------------------------- words


class _Words:
    """Tags of words that are to be written, of which each has room for one text."""

    def __init__(self, own: Mapping[int, str]) -> None:
        self.own = own
        self.tags: dict[int, str] = {}

    def put(self, code: int, text: str) -> bool:
        """Whether there was room, or the same text is there already."""
        there = self.own.get(code, self.tags.get(code))
        if there is None:
            self.tags[code] = text
        return there in (None, text)


def _with_words(held: Metadata, kind: Kind) -> tuple[Metadata, list[Loss]]:
    """Description, comments and texts, where JPEG, WebP and TIFF have a place for them."""
    words = _Words(exif.texts_of(held.exif))
    lost: list[Loss] = []
    comments = list(held.comments)
    if held.description and not words.put(exif.DESCRIPTION, held.description):
        lost.append(Loss("description", "description"))
    if kind == "JPEG":
        comments += [text.text for text in held.texts if text.keyword == "Comment"]
    else:
        if not all([words.put(exif.DESCRIPTION, comment) for comment in comments]):
            lost.append(Loss("comment", "comment"))
        comments = []
    lost += _texts(held.texts, words, kind)
    found = replace(held, description=None, comments=tuple(comments), texts=(), chunks={})
    if kind == "TIFF":
        description = words.tags.pop(exif.DESCRIPTION, None) or words.own.get(exif.DESCRIPTION)
        own = (*_tags_of(held.exif), *held.own)
        found = replace(found, description=description, own=own)
    return replace(found, exif=exif.exif_with(held.exif, words.tags)), lost


def _tags_of(block: bytes | None) -> tuple[tuple[Loss | None, bytes], ...]:
    """What of an EXIF block belongs into a TIFF's own directory."""
    opened = exif.opened(block) if block else None
    return own_tags(*opened) if opened else ()


def _texts(texts: tuple[Text, ...], words: _Words, kind: Kind) -> list[Loss]:
    left = []
    for text in texts:
        if kind == "JPEG" and text.keyword == "Comment":
            continue
        code = _TAGS.get(text.keyword)
        if code is None or not words.put(code, text.text):
            left.append(text.keyword)
    names = list(dict.fromkeys(left))
    matter = [name for name in names if not name.startswith(_PASSING)]
    passing = [name for name in names if name not in matter]
    return [
        Loss("text", f"text ({', '.join(some)})", matters)
        for some, matters in ((matter, True), (passing, False))
        if some
    ]


# ---------------------------------------------------------------- as values

_BLOCKS = ("icc", "exif", "xmp", "iptc", "photoshop")


def as_json(held: Metadata) -> dict[str, Any]:
    """All but the resolution, as values of JSON; bytes in base64."""
    blocks = {name: getattr(held, name) for name in _BLOCKS}
    found: dict[str, Any] = {
        name: base64.b64encode(block).decode() for name, block in blocks.items() if block
    }
    if held.description:
        found["description"] = held.description
    if held.comments:
        found["comments"] = list(held.comments)
    if held.texts:
        found["texts"] = [base64.b64encode(text.chunk).decode() for text in held.texts]
    if held.chunks:
        pairs = held.chunks.items()
        found["chunks"] = {name: base64.b64encode(data).decode() for name, data in pairs}
    return found


def from_json(values: Mapping[str, Any]) -> Metadata:
    """The inverse; other keys may be among them. ValueError where they aren't that."""
    icc, exif_block, xmp, iptc, photoshop = (
        None if values.get(name) is None else _bytes(values[name]) for name in _BLOCKS
    )
    texts = [png.text_of(_bytes(one)) for one in values.get("texts", ())]
    return Metadata(
        icc=icc,
        exif=exif_block,
        xmp=xmp,
        iptc=iptc,
        photoshop=photoshop,
        description=values.get("description"),
        comments=tuple(str(one) for one in values.get("comments", ())),
        texts=tuple(text for text in texts if text),
        chunks={str(name): _bytes(one) for name, one in values.get("chunks", {}).items()},
    )


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
