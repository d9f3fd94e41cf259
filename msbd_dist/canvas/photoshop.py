"""Photoshop's image resources, as JPEG, TIFF and PNG hold them, and the IPTC records among them.

resources(block)          the resources one by one
parted(block)             (the resources without IPTC, IPTC)
joined(resources, iptc)   the inverse
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

IPTC = 0x0404
THUMBNAILS = (0x0409, 0x040C)
_EXIF, _XMP = (0x0422, 0x0423), 0x0424
_MARKS = (b"8BIM", b"MeSa", b"AgHg", b"PHUT", b"DCSR")


@dataclass(frozen=True)
class Resource:
    """One resource: its number, its data, and all of its bytes."""

    number: int  # -1 of bytes that are no resource
    data: bytes
    whole: bytes


def resources(block: bytes) -> Iterator[Resource]:
    """What a block holds; where it is damaged, the rest of it is the last one."""
    at = 0
    while at < len(block):
        try:
            resource = _resource(block, at)
        except (struct.error, ValueError):
            if block[at:].strip(b"\0"):
                yield Resource(-1, block[at:], block[at:])
            return
        yield resource
        at += len(resource.whole)


def _resource(block: bytes, at: int) -> Resource:
    if block[at : at + 4] not in _MARKS:
        raise ValueError("no resource begins here")
    number, name = struct.unpack_from(">HB", block, at + 4)
    start = at + 6 + (name + 2) // 2 * 2  # a name and its length are an even number of bytes
    (length,) = struct.unpack_from(">I", block, start)
    end = start + 4 + length
    if end > len(block):
        raise ValueError("it ends beyond the block")
    whole = block[at : end + length % 2]
    return Resource(number, block[start + 4 : end], whole + bytes(at + len(whole) & 1 & length))


def made(number: int, data: bytes) -> bytes:
    """A resource without a name."""
    return b"8BIM" + struct.pack(">HHI", number, 0, len(data)) + data + bytes(len(data) % 2)


def parted(block: bytes) -> tuple[bytes | None, bytes | None]:
    """(the resources without IPTC, IPTC), None where there is none."""
    found = list(resources(block))
    iptc = next((one.data for one in found if one.number == IPTC), None)
    rest = b"".join(one.whole for one in found if one.number != IPTC)
    return rest or None, iptc or None


def joined(rest: bytes | None, iptc: bytes | None) -> bytes | None:
    """Resources with IPTC first, as Photoshop writes them; None where there is neither."""
    return ((made(IPTC, iptc) if iptc else b"") + (rest or b"")) or None
