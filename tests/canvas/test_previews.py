"""Pictures in metadata: made by others, and gone afterwards."""

from __future__ import annotations

import base64
import io
import struct

import numpy as np
import pytest
from PIL import Image

from msbd_dist.canvas import xmp
from msbd_dist.canvas.photoshop import IPTC, joined, made, parted, resources
from msbd_dist.canvas.previews import blanked, exif_without, photoshop_without, without_previews
from msbd_dist.canvas.reader import Metadata, Text


def thumbnail(kind: str = "JPEG", edge: int = 64) -> bytes:
    noise = np.random.default_rng(edge).integers(0, 256, (edge, edge, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def exif_with_thumbnail(order: str, *, note: bytes = b"", raw: bool = False) -> bytes:
    """IFD0 with a maker and an EXIF directory with a maker's note, and IFD1 with a thumbnail."""
    picture = bytes(range(1, 193)) * 4 if raw else thumbnail()
    maker = b"Maker of it\0"
    at_exif = 8 + 2 + 24 + 4
    at_maker = at_exif + 2 + 12 + 4
    at_note = at_maker + len(maker)
    at_second = at_note + len(note)
    codes = (273, 279) if raw else (513, 514)
    at_picture = at_second + 2 + 36 + 4
    e = order
    block = b"II*\0" if order == "<" else b"MM\0*"
    block += struct.pack(e + "IH", 8, 2)
    block += struct.pack(e + "HHIIHHIII", 271, 2, 12, at_maker, 34665, 4, 1, at_exif, at_second)
    block += struct.pack(e + "HHHIII", 1, 37500, 7, len(note), at_note, 0) + maker + note
    block += struct.pack(e + "HHHIHH", 3, 259, 3, 1, 1 if raw else 6, 0)
    block += struct.pack(e + "HHII", codes[0], 4, 1, at_picture)
    block += struct.pack(e + "HHII", codes[1], 4, 1, len(picture)) + bytes(4)
    return block + picture


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_thumbnail_is_cut_off_an_exif_block(order: str, raw: bool) -> None:
    note = b"a note of the maker's own, of which nothing may move"
    block = exif_with_thumbnail(order, note=note, raw=raw)
    clean, found = exif_without(block)
    assert found
    assert len(clean) == block.index(note) + len(note)
    assert clean[:30] == block[:30]
    exif = Image.Exif()
    exif.load(clean)
    assert exif[271] == "Maker of it"
    assert exif.get_ifd(34665)[37500] == note
    assert exif.get_ifd(1) == {}
    assert exif_without(clean) == (clean, False)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_preview_in_a_maker_s_note_becomes_zeros(kind: str) -> None:
    note = b"before" + thumbnail(kind, 80) + b"after it"
    clean, found = exif_without(exif_with_thumbnail("<", note=note))
    assert found
    exif = Image.Exif()
    exif.load(clean)
    kept = exif.get_ifd(34665)[37500]
    assert len(kept) == len(note)
    assert kept.replace(b"\0", b"") == b"beforeafter it"


def test_a_damaged_block_hides_no_picture() -> None:
    clean, found = exif_without(b"II*\0\xff\xff\xff\xff" + thumbnail() + b"rest")
    assert found
    assert clean.replace(b"\0", b"") == b"II*\xff\xff\xff\xffrest"


def test_marks_of_a_jpeg_alone_are_no_picture() -> None:
    for block in (
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe0" + bytes(200),
        b"x\xff\xd8\xff\xdb\0\4ab" * 9,
    ):
        assert blanked(block) == (block, False)


def test_a_preview_that_is_cut_off_is_one() -> None:
    picture = thumbnail()
    assert blanked(b"ab" + picture[:-40]) == (b"ab" + bytes(len(picture) - 40), True)


# ---------------------------------------------------------------- Photoshop

NAMED = b"8BIM\x03\xed\x04name\0\0\0\0\x03abc\0"


def test_resources_are_read_as_they_lie() -> None:
    block = made(IPTC, b"\x1c\x02\x05\0\1a") + NAMED + made(1, b"xy")
    assert [one.number for one in resources(block)] == [IPTC, 0x03ED, 1]
    assert b"".join(one.whole for one in resources(block)) == block
    rest, iptc = parted(block)
    assert iptc == b"\x1c\x02\x05\0\1a"
    assert rest == NAMED + made(1, b"xy")
    assert joined(rest, iptc) == block
    assert joined(None, None) is None


@pytest.mark.parametrize("end", [b"\0\0", b"8BIM\x04", b"junk"])
def test_what_is_no_resource_is_kept_or_padding(end: bytes) -> None:
    rest, _ = parted(NAMED + end)
    assert rest == NAMED + end.strip(b"\0")


def test_a_last_resource_without_its_padding_gets_it() -> None:
    assert parted(NAMED[:-1])[0] == NAMED


@pytest.mark.parametrize("number", [0x0409, 0x040C])
def test_photoshop_s_thumbnails_go(number: int) -> None:
    block = NAMED + made(number, bytes(28) + thumbnail()) + made(1, b"xy")
    assert photoshop_without(block) == (NAMED + made(1, b"xy"), True)
    assert photoshop_without(NAMED) == (NAMED, False)


def test_what_resources_hold_of_exif_and_xmp_is_cleaned_too() -> None:
    block = made(0x0422, exif_with_thumbnail("<")) + made(0x0424, packet(gallery()))
    clean, found = photoshop_without(block)
    assert found
    assert thumbnail() not in clean
    assert b"/9j/" not in clean
    assert b"Maker of it" in clean
    assert b"a title" in clean


# ---------------------------------------------------------------- XMP

SPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpGImg": "http://ns.adobe.com/xap/1.0/g/img/",
    "GImage": "http://ns.google.com/photos/1.0/image/",
    "hdrgm": "http://ns.adobe.com/hdr-gain-map/1.0/",
    "GCamera": "http://ns.google.com/photos/1.0/camera/",
}


def packet(inside: str, attributes: str = "") -> bytes:
    spaces = " ".join(f'xmlns:{name}="{uri}"' for name, uri in SPACES.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" {spaces} dc:format="image/jpeg" {attributes}>{inside}'
        "<dc:title>a title: Größe ★</dc:title></rdf:Description></rdf:RDF></x:xmpmeta>"
        '<?xpacket end="w"?>'
    ).encode()


def gallery() -> str:
    encoded = base64.b64encode(thumbnail()).decode()
    return (
        '<xmp:Thumbnails><rdf:Alt><rdf:li rdf:parseType="Resource"><xmpGImg:width>64'
        f"</xmpGImg:width><xmpGImg:image>{encoded}</xmpGImg:image></rdf:li></rdf:Alt>"
        "</xmp:Thumbnails>"
    )


@pytest.mark.parametrize("how", ["thumbnails", "attribute", "element", "unknown"])
def test_pictures_in_xmp_go_and_the_rest_stays(how: str) -> None:
    encoded = base64.b64encode(thumbnail()).decode()
    held = {
        "thumbnails": packet(gallery()),
        "attribute": packet("", f'GImage:Mime="image/jpeg" GImage:Data="{encoded}"'),
        "element": packet(f"<GImage:Data>{encoded}</GImage:Data>"),
        "unknown": packet(f"<xmp:Sketch>\n{encoded}</xmp:Sketch>"),
    }[how]
    clean, found = xmp.without_pictures(held)
    assert found
    assert encoded[:40].encode() not in clean
    assert clean.startswith(held[:50])
    assert clean.endswith(b'<?xpacket end="w"?>')
    assert "a title: Größe ★".encode() in clean
    assert b'dc:format="image/jpeg"' in clean
    assert xmp.without_pictures(clean) == (clean, False)


def test_xmp_without_pictures_keeps_its_bytes() -> None:
    held = packet("", "") + b" " * 2000
    assert xmp.without_pictures(held) == (held, False)


def test_xmp_that_can_t_be_read_goes_whole_where_it_may_hold_a_picture() -> None:
    assert xmp.without_pictures(b"<broken /9j/") == (b"", True)
    bomb = b'<!DOCTYPE x [<!ENTITY a "b">]>' + packet(gallery())
    assert xmp.without_pictures(bomb) == (b"", True)


def test_what_tells_of_a_gain_map_or_a_video_goes() -> None:
    held = packet("", 'hdrgm:Version="1.0" GCamera:MotionPhoto="1" GCamera:Mode="night"')
    clean, found = xmp.without_companions(held)
    assert found
    assert b"hdrgm:Version" not in clean
    assert b"MotionPhoto" not in clean
    assert b'GCamera:Mode="night"' in clean
    assert xmp.without_companions(packet("")) == (packet(""), False)


def test_an_extension_is_joined_and_parted() -> None:
    extension = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:big="http://example.org/big/">'
        b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description rdf:about="" big:Data="1234"/></rdf:RDF></x:xmpmeta>'
    )
    note = f'xmpNote:HasExtendedXMP="{"0123456789ABCDEF" * 2}"'
    main = packet("", 'xmlns:xmpNote="http://ns.adobe.com/xmp/note/" ' + note)
    assert xmp.extension_id(main) == b"0123456789ABCDEF" * 2
    whole = xmp.joined(main, extension)
    assert b"HasExtendedXMP" not in whole
    assert b'big:Data="1234"' in whole
    assert b'xmlns:big="http://example.org/big/"' in whole
    short, long = xmp.parted(whole)
    assert len(short) < 1000
    again = xmp.joined(short, long)
    assert b'big:Data="1234"' in again
    assert "a title: Größe ★".encode() in again


# ---------------------------------------------------------------- all of it


@pytest.mark.parametrize("before", ["", "data:image/jpeg;base64,"])
def test_previews_in_iptc_and_in_texts_go(before: str) -> None:
    encoded = before + base64.b64encode(thumbnail()).decode()
    texts = (Text("Thumb", encoded, b"tEXtThumb"), Text("Title", "/9j/ a title", b"tEXtTitle"))
    preview = thumbnail()
    record = b"\x1c\x02\xca\x84\0\4" + struct.pack(">I", len(preview))
    clean, taken = without_previews(Metadata(iptc=record + preview, texts=texts))
    assert clean.iptc == record + bytes(len(preview))
    assert [text.keyword for text in clean.texts] == ["Title"]
    assert len(taken) == 2


def test_what_was_taken_is_said() -> None:
    held = Metadata(
        exif=exif_with_thumbnail("<"), xmp=packet(gallery()), photoshop=made(0x040C, b"x"),
        iptc=b"\x1c\x08\xca" + thumbnail(), icc=b"i",
    )  # fmt: skip
    clean, taken = without_previews(held)
    assert clean.photoshop is None
    assert clean.icc == b"i"
    assert [str(loss) for loss in taken] == [
        "the preview in EXIF", "the preview in IPTC", "the preview in Photoshop resources",
        "the preview in XMP",
    ]  # fmt: skip
    assert not any(loss.matters for loss in taken)
    assert without_previews(clean) == (clean, ())
