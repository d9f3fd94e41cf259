"""What a WebP holds beside its samples, and how a new one gets it.

metadata_of(path)                 (Metadata, what of it no new file has)
with_metadata(file, metadata)     a bare WebP's bytes with its chunks
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from msbd_dist.canvas import photoshop
from msbd_dist.canvas.exif import IPTC, PHOTOSHOP, exif_with, raw_of, resolution_of
from msbd_dist.canvas.reader import Loss, Metadata
from msbd_dist.core.geometry import Size

_SAMPLES = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH")


def metadata_of(path: Path) -> tuple[Metadata, list[Loss]]:
    """What a WebP's chunks hold, and what of it no new file has."""
    found: dict[bytes, bytes] = {}
    for name, data in _chunks(path):
        found.setdefault(name, data)
    exif = found.get(b"EXIF", b"").removeprefix(b"Exif\0\0") or None
    own = raw_of(exif, (IPTC, PHOTOSHOP))
    held = Metadata(
        icc=found.get(b"ICCP") or None,
        exif=exif,
        xmp=found.get(b"XMP ") or None,
        iptc=own.get(IPTC),
        photoshop=photoshop.parted(own.get(PHOTOSHOP, b""))[0],
        resolution=resolution_of(exif),
    )
    return held, list(_others(found))


def _chunks(path: Path) -> Iterator[tuple[bytes, bytes]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        at = 12
        while at + 8 <= size:
            file.seek(at)
            name, length = struct.unpack("<4sI", file.read(8))
            yield name, b"" if name in _SAMPLES else file.read(length)
            at += 8 + length + length % 2


def _others(found: dict[bytes, bytes]) -> Iterator[Loss]:
    for name in found.keys() - {*_SAMPLES, b"ICCP", b"EXIF", b"XMP ", b"ANIM", b"ANMF"}:
        if name == b"C2PA":
            what = "content credentials (C2PA), which an edit makes invalid"
            yield Loss("c2pa", what, matters=False)
        else:
            called = name.decode("latin1").strip()
            yield Loss("other", f"the WebP's {called!r} chunk", matters=False)


def with_metadata(bare: bytes, held: Metadata, size: Size, alpha: bool) -> bytes:
    """A WebP of samples alone (``bare``), with ICC profile, EXIF and XMP; IPTC and Photoshop's
    resources are in its EXIF, where ExifTool looks for them."""
    more = {IPTC: held.iptc, PHOTOSHOP: held.photoshop}
    exif = exif_with(held.exif, {code: data for code, data in more.items() if data})
    blocks = {b"ICCP": held.icc, b"EXIF": exif, b"XMP ": held.xmp}
    if not any(blocks.values()):
        return bare
    flags = sum(bit for name, bit in _FLAGS.items() if blocks[name]) | (0x10 if alpha else 0)
    edges = (size.width - 1).to_bytes(3, "little") + (size.height - 1).to_bytes(3, "little")
    body = _chunk(b"VP8X", struct.pack("<I", flags) + edges) + _chunk(b"ICCP", held.icc)
    body += bare[12:] + _chunk(b"EXIF", exif) + _chunk(b"XMP ", held.xmp)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


_FLAGS = {b"ICCP": 0x20, b"EXIF": 0x08, b"XMP ": 0x04}


def _chunk(name: bytes, data: bytes | None) -> bytes:
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) if data else b""
