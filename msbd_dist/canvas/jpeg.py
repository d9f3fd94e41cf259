"""What a JPEG holds beside its samples: its segments, read as viewers do, and made anew.

    head = header_of(data)            the segments up to the samples
    metadata_of(head)                 (Metadata, what of it no new file has)
    after_end(data, head)             what follows the picture: others, a video
    segments_for(metadata)            what a new file begins with

Headers that viewers forgive are mended: `Header.mended` is what libjpeg reads without a warning.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from mmap import mmap
from typing import TypeAlias

from msbd_dist.canvas import photoshop, xmp
from msbd_dist.canvas.exif import resolution_of
from msbd_dist.canvas.reader import Loss, Metadata
from msbd_dist.canvas.tiff_tags import Damaged, HeldBytes, Tags
from msbd_dist.errors import ImageError

Data: TypeAlias = bytes | bytearray | mmap

SOI, EOI, SOS, COM, DQT = 0xD8, 0xD9, 0xDA, 0xFE, 0xDB
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = {0xC0, 0xC1}
_ALONE = {0x01, *range(0xD0, 0xD8)}  # without a length
_WHOLE_SCAN = b"\0\x3f\0"  # what a sequential scan says of its coefficients
_LONGEST = 65533  # bytes of a segment's data
_PIECE = 65000
LONGEST_PROFILE = 255 * _PIECE

_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_MORE_XMP = b"http://ns.adobe.com/xmp/extension/\0"
_ICC, _PHOTOSHOP = b"ICC_PROFILE\0", b"Photoshop 3.0\0"
_GAIN = (b"urn:iso:std:iso:ts:21496:-1", b"HDR_RI ")
_MILLIMETRES = {1: 25.4, 2: 10.0}  # of JFIF's units


# ---------------------------------------------------------------- segments


@dataclass(frozen=True)
class Segment:
    """One marker with its data, which its length doesn't count."""

    code: int
    data: bytes

    @property
    def whole(self) -> bytes:
        return struct.pack(">BBH", 0xFF, self.code, 2 + len(self.data)) + self.data

    @property
    def name(self) -> str:
        return f"APP{self.code - 0xE0}"


@dataclass(frozen=True)
class Header:
    """A JPEG up to its samples."""

    segments: tuple[Segment, ...]  # the last one begins the samples, where they do
    end: int  # where they begin
    stray: int  # bytes before it that belong to no segment

    @property
    def size(self) -> tuple[int, int]:
        """(height, width); zeros where they aren't said."""
        frames = (one.data for one in self.segments if one.code in _FRAMES and len(one.data) >= 5)
        height, width = struct.unpack_from(">HH", next(frames, bytes(5)), 1)
        return height, width

    @property
    def wrong_scan(self) -> bool:
        """Whether the scan of a sequential picture says that it is a part of one."""
        frames = {one.code for one in self.segments if one.code in _FRAMES}
        last = self.segments[-1] if self.segments else None
        sequential = bool(frames) and frames <= _SEQUENTIAL
        scan = last is not None and last.code == SOS and not last.data.endswith(_WHOLE_SCAN)
        return sequential and scan

    @property
    def mended(self) -> bytes | None:
        """What stands for the bytes before ``end``, None where they are right."""
        if not self.stray and not self.wrong_scan:
            return None
        *before, last = self.segments
        if self.wrong_scan:
            last = Segment(SOS, last.data[:-3] + _WHOLE_SCAN)
        return b"\xff\xd8" + b"".join(one.whole for one in (*before, last))


def header_of(data: Data) -> Header:
    """The segments of a JPEG; of one that is cut off, those that are whole."""
    segments: list[Segment] = []
    place, stray = 2, 0
    while (start := data.find(b"\xff", place)) >= 0:
        code = data[start + 1] if start + 1 < len(data) else EOI
        if code == 0xFF:  # a fill byte
            stray, place = stray + start - place, start + 1
            continue
        if code == 0 or code in _ALONE:
            stray, place = stray + start + 2 - place, start + 2
            continue
        length = int.from_bytes(data[start + 2 : start + 4], "big")
        end = start + 2 + length
        if code in (SOI, EOI) or length < 2 or end > len(data):
            break
        stray += start - place
        segments.append(Segment(code, bytes(data[start + 4 : end])))
        place = end
        if code == SOS:
            break
    return Header(tuple(segments), place, stray)


def end_of_jpeg(data: Data, at: int) -> int:
    """Where the JPEG that begins at ``at`` ends; of all data where it is cut off in its samples,
    and 0 where it is broken before them."""
    place = at + 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] >= 0xC0:
        code = data[place + 1]
        if code == 0xFF:  # a fill byte
            place += 1
            continue
        if code == EOI:
            return place + 2
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if code == SOS:
            return end_of_samples(data, place)
    return 0


def end_of_samples(data: Data, place: int) -> int:
    """Where a JPEG ends whose first samples are at ``place``; of all data where it doesn't."""
    while (place := _after_scan(data, place)) + 4 <= len(data):
        if data[place + 1] == EOI:
            return place + 2
        place += 1 if data[place + 1] == 0xFF else 2
        if data[place - 1] >= 0xC0 and data[place - 1] != 0xFF:
            place += int.from_bytes(data[place : place + 2], "big")
    return min(place + 2, len(data))


def _after_scan(data: Data, place: int) -> int:
    """The first marker after a scan's codes."""
    while (place := data.find(b"\xff", place)) >= 0:
        if place + 1 >= len(data) or not (data[place + 1] == 0 or 0xD0 <= data[place + 1] <= 0xD7):
            return place
        place += 2
    return len(data)


# ---------------------------------------------------------------- what they hold


def metadata_of(head: Header, *, gains: bool = False) -> tuple[Metadata, list[Loss]]:
    """What a JPEG's segments hold, and what of it no new file has.

    ``gains``: a picture behind the main one says that it is a gain map.
    """
    found = _Found(head.segments)
    packets = found.all(0xE1, _XMP)
    packet, lost = _xmp_of(packets[0] if packets else None, found)
    resources, iptc = photoshop.parted(b"".join(found.all(0xED, _PHOTOSHOP)))
    exif = _exif_of(found)
    held = Metadata(
        icc=_icc_of(found),
        exif=exif,
        xmp=packet,
        iptc=iptc,
        photoshop=resources,
        comments=tuple(_text(data) for data in found.all(COM) if data.strip(b"\0")),
        resolution=resolution_of(exif) or _resolution(found),
    )
    gains = gains or any(xmp.GAIN_MAP in one for one in packets)
    return held, [*lost, *_others(found, gains=gains)]


class _Found:
    """Segments by what they begin with."""

    def __init__(self, segments: Iterable[Segment]) -> None:
        self._segments = segments
        self._known: set[int] = set()

    def all(self, code: int, mark: bytes = b"") -> list[bytes]:
        """The data, without its mark, of all segments that begin so."""
        mine = [one for one in self._segments if one.code == code and one.data.startswith(mark)]
        self._known |= {id(one) for one in mine}
        return [one.data[len(mark) :] for one in mine]

    def rest(self) -> list[Segment]:
        """Segments of programs that were not asked for."""
        return [
            one for one in self._segments if 0xE0 <= one.code <= 0xEF and id(one) not in self._known
        ]


def _icc_of(found: _Found) -> bytes | None:
    parts = sorted(found.all(0xE2, _ICC), key=lambda part: part[:1])
    return b"".join(part[2:] for part in parts) or None


def _exif_of(found: _Found) -> bytes | None:
    """The first block, with those that continue it because a segment was too short."""
    parts = found.all(0xE1, _EXIF)
    block = parts[0] if parts else b""
    for before, part in pairwise(parts):
        if len(before) < _LONGEST - 16:
            break
        block += part
    return block or None


def _xmp_of(packet: bytes | None, found: _Found) -> tuple[bytes | None, list[Loss]]:
    lost = []
    if parts := found.all(0xE1, _MORE_XMP):
        try:
            packet = xmp.joined(packet or b"", _extension(packet or b"", parts))
        except ImageError:
            lost.append(Loss("xmp", "extended XMP that can't be read"))
    if packet:
        packet, _ = xmp.without_companions(packet)
    return packet or None, lost


def _extension(packet: bytes, parts: list[bytes]) -> bytes:
    """The whole of an extension that the packet names. ImageError where some of it is missing."""
    name = xmp.extension_id(packet)
    mine = sorted((part for part in parts if part[:32].upper() == (name or b"").upper()),
                  key=lambda part: part[36:40])  # fmt: skip
    whole = b"".join(part[40:] for part in mine)
    if not mine or len(whole) != int.from_bytes(mine[0][32:36], "big"):
        raise ImageError("some of the extended XMP is missing")
    return whole


def _text(data: bytes) -> str:
    data = data.rstrip(b"\0")
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin1")


def _resolution(found: _Found) -> tuple[float, float] | None:
    """JFIF's, in pixels per millimetre."""
    for data in found.all(0xE0, b"JFIF\0"):
        if len(data) >= 7:
            unit, x, y = struct.unpack_from(">BHH", data, 2)
            if unit in _MILLIMETRES and x and y:
                return x / _MILLIMETRES[unit], y / _MILLIMETRES[unit]
    return None


# ---------------------------------------------------------------- what no new file has


def _others(found: _Found, *, gains: bool) -> Iterator[Loss]:
    if any(len(data) > 9 and data[7] and data[8] for data in found.all(0xE0, b"JFIF\0")):
        yield Loss("thumbnail", "the preview in JFIF", matters=False)
    if found.all(0xE0, b"JFXX\0"):
        yield Loss("thumbnail", "the preview in JFXX", matters=False)
    told = [data for mark in _GAIN for code in (0xE2, 0xEB) for data in found.all(code, mark)]
    directories = found.all(0xE2, b"MPF\0")
    for directory in directories[:1]:
        yield from _pictures(directory, gains=gains or bool(told))
    if told and not directories:
        yield Loss("gain-map", "the gain map")
    if found.all(0xEB, b"JP"):
        yield Loss("c2pa", "content credentials (C2PA), which an edit makes invalid", matters=False)
    if found.all(0xE1, b"FLIR\0"):
        yield Loss("thermal", "temperatures (FLIR)")
    found.all(0xEE, b"Adobe")  # how colours are stored, which is the decoder's matter
    for segment in found.rest():
        start = re.match(rb"[ -~]{2,20}", segment.data)
        called = f" ({start[0].decode()})" if start else ""
        what = f"{len(segment.data)} bytes of a maker's own in {segment.name}{called}"
        yield Loss("other", what, matters=False)


_PREVIEWS = (0x010001, 0x010002)  # kinds of pictures in a directory of several
_GAIN_KIND = 0x050000


def _pictures(directory: bytes, *, gains: bool) -> Iterator[Loss]:
    """What the other pictures are that a directory (MPF) names."""
    kinds = _kinds(directory)[1:]
    previews = sum(kind in _PREVIEWS for kind in kinds)
    maps = 1 if gains and len(kinds) > previews else kinds.count(_GAIN_KIND)
    more = len(kinds) - previews - maps
    if previews:
        yield Loss("thumbnail", "the large preview", matters=False)
    if maps:
        yield Loss("gain-map", "the gain map")
    if more:
        what = "a second picture" if more == 1 else f"{more} other pictures"
        yield Loss("second-picture", what)


def _kinds(directory: bytes) -> list[int]:
    """Of each picture, the main one first."""
    try:
        tags = Tags(HeldBytes(directory))
        entry = tags.directory(tags.first).entries[0xB002]
        raw = tags.raw(entry)
        return [tags.unpack("I", raw[at : at + 4])[0] & 0xFFFFFF for at in range(0, len(raw), 16)]
    except (Damaged, KeyError, struct.error):
        return [0x030000, 0]


_GAIN_BEHIND = re.compile(rb"hdr-gain-map/|HDRGainMap|ts:21496:-1")


def gain_behind(data: Data, end: int) -> bool:
    """Whether what follows a picture tells of a gain map."""
    return bool(_GAIN_BEHIND.search(data, end))


_VIDEO = re.compile(rb"ftyp(?:mp4|iso|qt |avc|MSNV|M4V|hev|hvc)|MotionPhoto_Data")


def after_end(data: Data, head: Header, end: int) -> Iterator[Loss]:
    """What follows the picture, from ``end`` on, that nothing in its header tells of."""
    listed = any(one.code == 0xE2 and one.data.startswith(b"MPF\0") for one in head.segments)
    if _VIDEO.search(data, end):
        yield Loss("video", "the video behind the picture")
    elif listed or not data[end : end + _LOOK].strip(b"\0\xff\n\r\t "):
        return
    elif data[end : end + 3] == b"\xff\xd8\xff":
        yield _second(head, header_of(data[end : end + _LOOK]), gain=gain_behind(data, end))
    else:
        yield Loss("other", f"{len(data) - end} bytes behind the picture", matters=False)


_LOOK = 1 << 20  # bytes of what follows


def _second(first: Header, second: Header, *, gain: bool) -> Loss:
    """A picture behind another one; a smaller one of its shape is a camera's preview."""
    if gain:
        return Loss("gain-map", "the gain map")
    (height, width), (h, w) = first.size, second.size
    alike = abs(h * width - w * height) <= 2 * max(height, width)
    if 0 < h < height and alike:
        return Loss("thumbnail", "the large preview", matters=False)
    return Loss("second-picture", "a second picture behind the first")


# ---------------------------------------------------------------- written


def segments_for(held: Metadata) -> bytes:
    """A new JPEG's segments of metadata, to follow its beginning; what is too long for its format
    is left out, see `too_long`."""
    parts = [_jfif(held.resolution)]
    if held.exif and not too_long(held):
        parts.append(Segment(0xE1, _EXIF + held.exif))
    if held.xmp:
        parts += _xmp_segments(held.xmp)
    if held.icc:
        parts += _numbered(held.icc)
    if block := photoshop.joined(held.photoshop, held.iptc):
        parts += [Segment(0xED, _PHOTOSHOP + part) for part in _pieces(block, _PIECE)]
    for comment in held.comments:
        parts += [Segment(COM, part) for part in _pieces(comment.encode(), _LONGEST)]
    return b"".join(part.whole for part in parts)


def too_long(held: Metadata) -> bool:
    """Whether EXIF is longer than a segment can be."""
    return len(held.exif or b"") + len(_EXIF) > _LONGEST


def _jfif(resolution: tuple[float, float] | None) -> Segment:
    """In pixels per inch or per centimetre, whichever is nearer."""
    unit, x, y = 0, 1, 1
    if resolution:
        errors = {
            unit: sum(abs(r * length - round(r * length)) / length for r in resolution)
            for unit, length in _MILLIMETRES.items()
        }
        unit = min(errors, key=lambda one: errors[one])
        x, y = (min(max(round(r * _MILLIMETRES[unit]), 1), 65535) for r in resolution)
    return Segment(0xE0, struct.pack(">5sHBHHBB", b"JFIF\0", 0x0101, unit, x, y, 0, 0))


def _xmp_segments(packet: bytes) -> Iterator[Segment]:
    if len(packet) <= xmp.MARKER_LIMIT:
        yield Segment(0xE1, _XMP + packet)
        return
    packet, extension = xmp.parted(packet)
    yield Segment(0xE1, _XMP + packet)
    name = xmp.extension_id(packet) or b""
    at = 0
    for part in _pieces(extension, _PIECE):
        head = name + struct.pack(">II", len(extension), at)
        yield Segment(0xE1, _MORE_XMP + head + part)
        at += len(part)


def _numbered(profile: bytes) -> Iterator[Segment]:
    pieces = _pieces(profile, _PIECE)
    for number, piece in enumerate(pieces, 1):
        yield Segment(0xE2, _ICC + bytes((number, len(pieces))) + piece)


def _pieces(data: bytes, length: int) -> list[bytes]:
    return [data[at : at + length] for at in range(0, len(data), length)]
