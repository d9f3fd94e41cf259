"""Pictures in a picture's metadata: they show it as it was before it was edited, and are taken out.

    exif_without(block), photoshop_without(block), xmp.without_pictures(packet)
    without_previews(metadata)     all of them; and what was taken, as it is said

Each returns the block and whether something was taken. All else in it stays where it is, because
makers' notes count from the block's beginning.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

from msbd_dist.canvas import xmp
from msbd_dist.canvas.exif import opened
from msbd_dist.canvas.jpeg import end_of_jpeg
from msbd_dist.canvas.photoshop import THUMBNAILS, Resource, made, resources
from msbd_dist.canvas.reader import Loss, Metadata
from msbd_dist.canvas.tiff_tags import Damaged, HeldBytes, Tags

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_SMALLEST = 100  # bytes of what shows something


def without_previews(held: Metadata) -> tuple[Metadata, tuple[Loss, ...]]:
    """Metadata without pictures, and which blocks had some."""
    taken = []
    if held.exif and opened(held.exif) is None:
        taken.append(Loss("exif", "EXIF that nobody can read", matters=False))
        held = replace(held, exif=None)

    def cleaned(
        block: bytes | None, what: str, clean: Callable[[bytes], tuple[bytes, bool]]
    ) -> bytes | None:
        if block is None:
            return None
        block, found = clean(block)
        if found:
            taken.append(Loss("thumbnail", f"the preview in {what}", matters=False))
        return block or None

    texts = tuple(text for text in held.texts if not xmp.encodes_picture(text.text))
    if texts != held.texts:
        taken.append(Loss("thumbnail", "the preview in text", matters=False))
    return (
        replace(
            held,
            texts=texts,
            exif=cleaned(held.exif, "EXIF", exif_without),
            iptc=cleaned(held.iptc, "IPTC", blanked),
            photoshop=cleaned(held.photoshop, "Photoshop resources", photoshop_without),
            xmp=cleaned(held.xmp, "XMP", xmp.without_pictures),
        ),
        tuple(taken),
    )


# ---------------------------------------------------------------- EXIF


def exif_without(block: bytes) -> tuple[bytes, bool]:
    """An EXIF block (II*. or MM.*) without its thumbnail and without JPEGs and PNGs in it."""
    found = False
    with suppress(Damaged, struct.error):
        block, found = _without_second_directory(block)
    block, more = blanked(block)
    return block, found or more


def _without_second_directory(block: bytes) -> tuple[bytes, bool]:
    tags = Tags(HeldBytes(block))
    first = tags.directory(tags.first)
    if not first.next:
        return block, False
    data = bytearray(block)
    link = _end_of_cells(tags, tags.first)
    data[link : link + 4] = bytes(4)
    places = list(_second_directory(tags, first.next))
    for start, stop in places:
        data[start:stop] = bytes(len(data[start:stop]))
    return _cut(bytes(data), places), True


def _end_of_cells(tags: Tags, at: int) -> int:
    """Where a directory says which is the next."""
    return at + 2 + 12 * tags.unpack("H", tags.file.read(at, 2))[0]


def _second_directory(tags: Tags, at: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of all that is a thumbnail's: directory, values, samples."""
    with suppress(Damaged):
        page = tags.directory(at)
        yield at, _end_of_cells(tags, at) + 4
        yield from ((e.at, e.at + e.length) for e in page.entries.values() if e.length > 4)
        for where, length in ((513, 514), (273, 279), (324, 325)):
            if where in page.entries and length in page.entries:
                starts, lengths = (tags.integers(page.entries[code]) for code in (where, length))
                pairs = zip(starts.tolist(), lengths.tolist(), strict=False)
                yield from ((s, s + n) for s, n in pairs if s >= 8 and n > 0)


def _cut(block: bytes, places: list[tuple[int, int]]) -> bytes:
    """Without those places that are at its end."""
    end = len(block)
    for start, stop in sorted(places, key=lambda place: place[1], reverse=True):
        if start < end <= stop + 3:  # values begin at multiples of up to 4
            end = start
    return block[:end]


# ---------------------------------------------------------------- Photoshop


def photoshop_without(block: bytes) -> tuple[bytes, bool]:
    """Image resources without thumbnails, and without pictures in those that are left."""
    found, kept = False, []
    for resource in resources(block):
        whole, changed = _resource_without(resource)
        kept.append(whole)
        found = found or changed
    return (b"".join(kept), True) if found else (block, False)


def _resource_without(resource: Resource) -> tuple[bytes, bool]:
    if resource.number in THUMBNAILS:
        return b"", True
    clean = _CLEAN.get(resource.number)
    if clean is None:
        return blanked(resource.whole)
    data, changed = clean(resource.data)
    return (made(resource.number, data), True) if changed else (resource.whole, False)


_CLEAN = {0x0422: exif_without, 0x0423: exif_without, 0x0424: xmp.without_pictures}


# ---------------------------------------------------------------- whatever it is in


def blanked(block: bytes) -> tuple[bytes, bool]:
    """Zeros in place of each JPEG and PNG that lies in a block."""
    data, at, found = bytearray(block), 0, False
    while (at := _next_picture(data, at)) >= 0:
        end = _end_of_picture(data, at)
        if end - at >= _SMALLEST:
            data[at:end] = bytes(end - at)
            found = True
        at += 3
    return (bytes(data), True) if found else (block, False)


def _next_picture(data: bytearray, at: int) -> int:
    found = [place for mark in (_JPEG, _PNG) if (place := data.find(mark, at)) >= 0]
    return min(found, default=-1)


def _end_of_picture(data: bytearray, at: int) -> int:
    """After the end mark; of the whole block where that is cut off; 0 where it is no picture."""
    if data.startswith(_PNG, at):
        end = data.find(b"IEND", at)
        return end + 8 if end >= 0 else len(data)
    return end_of_jpeg(data, at)
