"""What a PNG holds beside its samples: its chunks, read without libpng's limits, and made anew.

found = chunks_of(path)           all but the samples; refuses what is cut off or animated
metadata_of(found)                (Metadata, what of it no new file has)
chunks_for(metadata)              what a new file begins with, after its header
unheld(metadata)                  which chunks matter where the written file is no PNG
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from msbd_dist.canvas import photoshop
from msbd_dist.canvas.reader import Loss, Metadata, Text
from msbd_dist.errors import ImageError

_MOST = 1 << 28  # bytes of one chunk
_MOST_UNPACKED = 1 << 26  # of its content
_XMP = "XML:com.adobe.xmp"
_PROFILE = "Raw profile type "
# how colours look, and what else every writer may hand on as it is
_COLOUR = ("cICP", "mDCV", "cLLI", "gAMA", "cHRM", "sRGB")
_PLAIN = (*_COLOUR, "sBIT", "bKGD", "pHYs", "tIME", "sPLT", "oFFs", "pCAL", "sCAL", "sTER")
_STRUCTURE = ("IHDR", "PLTE", "tRNS", "IDAT", "IEND", "CgBI")
_TEXTS = ("tEXt", "zTXt", "iTXt")


@dataclass(frozen=True)
class Chunks:
    """A PNG's chunks in their order, without those of the samples."""

    found: tuple[tuple[str, bytes], ...]

    def first(self, name: str) -> bytes | None:
        return next((data for one, data in self.found if one == name), None)

    @property
    def depth(self) -> int:
        return self.found[0][1][8]

    @property
    def colour_type(self) -> int:
        return self.found[0][1][9]


def chunks_of(path: Path) -> Chunks:
    """ImageError for a PNG without its end or with several frames."""
    found: list[tuple[str, bytes]] = []
    position, size, name = 8, path.stat().st_size, b""
    with path.open("rb", buffering=0) as file:
        while name != b"IEND":  # without its end, libvips would be content
            file.seek(position)
            length, name = struct.unpack(">I4s", file.read(8).ljust(8, b"\0"))
            if not name.isalpha() or position + 12 + length > size:
                raise ImageError(f"{path}: is a PNG without its end; it was cut off, get it again")
            if name != b"IDAT" and length <= _MOST:
                found.append((name.decode(), file.read(length)))
            position += 12 + length
    if not found or found[0][0] != "IHDR" or len(found[0][1]) != 13:
        raise ImageError(f"{path}: is a PNG without its header; it is damaged, get it again")
    if any(name == "acTL" for name, _ in found):
        raise ImageError(f"{path}: is an animated PNG; save the frame to edit as its own file")
    return Chunks(tuple(found))


# ---------------------------------------------------------------- read


def metadata_of(chunks: Chunks) -> tuple[Metadata, list[Loss]]:
    """What a PNG's chunks hold, and what of it no new file has."""
    texts = [text for name, data in chunks.found if (text := text_of(name.encode() + data))]
    profiles = {text.keyword: data for text in texts if (data := _profile_of(text))}
    packet = profiles.get(_PROFILE + "xmp") or _xmp_in_app1(profiles)
    resources, inner = photoshop.parted(profiles.get(_PROFILE + "8bim", b""))
    wrapped, iptc = photoshop.parted(profiles.get(_PROFILE + "iptc", b""))
    bare = wrapped if wrapped and wrapped.startswith(b"\x1c") else None
    kept, lost = _kept(chunks)
    held = Metadata(
        icc=_icc_of(chunks) or profiles.get(_PROFILE + "icc") or profiles.get(_PROFILE + "icm"),
        exif=_exif_of(chunks, profiles),
        xmp=_xmp_of(texts) or packet,
        iptc=bare or iptc or inner,
        photoshop=resources,
        texts=tuple(t for t in texts if t.keyword not in profiles and t.keyword != _XMP),
        resolution=_resolution(chunks.first("pHYs")),
        chunks=kept,
    )
    return held, lost


def text_of(whole: bytes) -> Text | None:
    """What a chunk (its type and data) says; None where it is not one of words."""
    name, (keyword, _, rest) = whole[:4].decode("latin1"), whole[4:].partition(b"\0")
    if name not in _TEXTS:
        return None
    if name == "iTXt":
        _, _, words = rest[2:].partition(b"\0")
        words = words.partition(b"\0")[2]
        words = unpacked(words) if rest[:1] == b"\1" else words
        return Text(keyword.decode("latin1"), words.decode("utf-8", "replace"), whole)
    words = unpacked(rest[1:]) if name == "zTXt" else rest
    return Text(keyword.decode("latin1"), words.decode("latin1"), whole)


def unpacked(data: bytes) -> bytes:
    """A zlib stream's content; nothing where it is damaged."""
    try:
        return zlib.decompressobj().decompress(data, _MOST_UNPACKED)
    except zlib.error:
        return b""


def _profile_of(text: Text) -> bytes | None:
    """What ImageMagick writes as text: a name, a length and hexadecimal digits."""
    if not text.keyword.startswith(_PROFILE):
        return None
    found = re.fullmatch(r"\s*[^\n]+\n\s*(\d+)\s([0-9a-fA-F\s]*)", text.text)
    if not found:
        return None
    digits = "".join(found[2].split())
    return bytes.fromhex(digits[: len(digits) // 2 * 2])[: int(found[1])]


def _xmp_of(texts: list[Text]) -> bytes | None:
    return next((text.text.encode() for text in texts if text.keyword == _XMP), None)


_APP1 = b"http://ns.adobe.com/xap/1.0/\0"


def _xmp_in_app1(profiles: dict[str, bytes]) -> bytes | None:
    """ImageMagick calls EXIF and XMP by the name of their segment in a JPEG."""
    data = profiles.get(_PROFILE + "APP1", b"")
    return data.removeprefix(_APP1) if data.startswith(_APP1) else None


def _icc_of(chunks: Chunks) -> bytes | None:
    _, _, packed = (chunks.first("iCCP") or b"").partition(b"\0")
    return unpacked(packed[1:]) or None


def _exif_of(chunks: Chunks, profiles: dict[str, bytes]) -> bytes | None:
    block = chunks.first("eXIf")
    for name in ("exif", "APP1"):
        data = profiles.get(_PROFILE + name, b"")
        block = block or (b"" if data.startswith(_APP1) else data)
    return (block or b"").removeprefix(b"Exif\0\0") or None


def _resolution(data: bytes | None) -> tuple[float, float] | None:
    if data is None or len(data) != 9 or data[8] != 1:
        return None
    x, y = struct.unpack(">II", data[:8])
    return (x / 1000, y / 1000) if x and y else None


_MARKS = (b"\xff\xd8\xff", b"\x89PNG")


def _kept(chunks: Chunks) -> tuple[dict[str, bytes], list[Loss]]:
    """Chunks that a new PNG has, by name, and the names of the others."""
    kept: dict[str, bytes] = {}
    lost = {}
    for name, data in chunks.found:
        if name in (*_STRUCTURE, *_TEXTS, "iCCP", "eXIf"):
            continue
        if name == "caBX":
            what = "content credentials (C2PA), which an edit makes invalid"
            lost[name] = Loss("c2pa", what, matters=False)
        elif name in _PLAIN or (name[3].islower() and not any(mark in data for mark in _MARKS)):
            written = _as_written(name, data, chunks)
            if written is not None:
                kept[name] = kept.get(name, b"") + chunk(name, written)
        else:
            lost[name] = Loss("other", f"the PNG's {name} chunk", matters=False)
    return kept, list(lost.values())


def _as_written(name: str, data: bytes, chunks: Chunks) -> bytes | None:
    """A chunk's data for a picture whose palette, key colour and few bits became whole samples."""
    if name == "sBIT" and chunks.first("tRNS") is not None:
        return data + bytes([max(8, chunks.depth)])
    if name != "bKGD":
        return data
    if chunks.colour_type == 3:
        at = 3 * data[0] if data else 0
        colour = (chunks.first("PLTE") or b"")[at : at + 3]
        return struct.pack(">3H", *colour) if len(colour) == 3 else None
    if chunks.colour_type == 0 and chunks.depth < 8 and len(data) == 2:
        return struct.pack(">H", data[1] * 255 // (2**chunks.depth - 1))
    return data


# ---------------------------------------------------------------- what other formats can't hold

_SRGB = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)  # white, red, green, blue
_SLACK = 1000  # hundred-thousandths


def unheld(held: Metadata) -> Iterator[Loss]:
    """A PNG's chunks where the written file is none. What only repeats what readers take for
    granted, or a profile, doesn't matter."""
    data = {name: whole[8:-4] for name, whole in held.chunks.items()}
    told = bool(held.icc) or "sRGB" in data or _is_srgb(data)
    modern = data.get("cICP") not in (None, b"\1\x0d\0\1")
    for name in data:
        if name == "pHYs" and held.resolution:
            continue
        video = name in ("cICP", "mDCV", "cLLI")
        matters = modern if video else name in ("gAMA", "cHRM") and not told
        yield Loss("colours" if name in _COLOUR else "other", f"the PNG's {name} chunk", matters)


def _is_srgb(data: dict[str, bytes]) -> bool:
    """Whether gamma and primaries, where they are given, are those of sRGB."""
    gamma, primaries = data.get("gAMA"), data.get("cHRM")
    right = gamma is None or abs(int.from_bytes(gamma, "big") - 45455) <= _SLACK
    if primaries is None or len(primaries) != 32:
        return right and primaries is None
    values = struct.unpack(">8I", primaries)
    return right and all(abs(a - b) <= _SLACK for a, b in zip(values, _SRGB, strict=True))


# ---------------------------------------------------------------- written


def chunk(name: str, data: bytes) -> bytes:
    body = name.encode() + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def chunks_for(held: Metadata) -> bytes:
    """A new PNG's chunks of metadata, to follow its header."""
    parts = []
    if held.icc:
        parts.append(chunk("iCCP", b"icc\0\0" + zlib.compress(held.icc, 9)))
    parts += held.chunks.values()
    if held.resolution and "pHYs" not in held.chunks:
        x, y = (min(max(round(r * 1000), 1), 2**31 - 1) for r in held.resolution)
        parts.append(chunk("pHYs", struct.pack(">IIB", x, y, 1)))
    if held.exif:
        parts.append(chunk("eXIf", held.exif))
    if held.xmp:
        parts.append(chunk("iTXt", _XMP.encode() + bytes(5) + held.xmp))
    if held.iptc:
        parts.append(_profile("iptc", held.iptc))
    if held.photoshop:
        parts.append(_profile("8bim", held.photoshop))
    if held.description:
        parts.append(_words("Description", held.description))
    parts += [_words("Comment", comment) for comment in held.comments]
    parts += [chunk(text.chunk[:4].decode(), text.chunk[4:]) for text in held.texts]
    return b"".join(parts)


def _words(keyword: str, text: str) -> bytes:
    try:
        return chunk("tEXt", f"{keyword}\0{text}".encode("latin1").replace(b"\r\n", b"\n"))
    except UnicodeEncodeError:
        return chunk("iTXt", keyword.encode() + bytes(5) + text.encode())


def _profile(name: str, data: bytes) -> bytes:
    """As ImageMagick writes it, and ExifTool and Pillow read it."""
    digits = data.hex()
    lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    text = f"\n{name}\n{len(data):8}\n{lines}\n".encode()
    return chunk("zTXt", f"{_PROFILE}{name}\0\0".encode() + zlib.compress(text, 9))
