"""What JPEG, PNG and WebP hold beside samples, from each format to each: kept, or said to be lost.

What is written is read by Pillow, or segment by segment and chunk by chunk.
"""

from __future__ import annotations

import io
import logging
import struct
import zlib
from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, IptcImagePlugin, PngImagePlugin
from test_previews import exif_with_thumbnail, gallery, packet, thumbnail
from web import serving

from msbd_dist.canvas.export import (
    Edited,
    How,
    check_target,
    losses,
    verify,
    write_edited,
)
from msbd_dist.canvas.images import Picture
from msbd_dist.canvas.photoshop import IPTC, made
from msbd_dist.canvas.reader import Samples
from msbd_dist.core.geometry import Box, Size
from msbd_dist.errors import ImageError

SIZE = Size(60, 90)
BOX = Box(10, 10, 40, 60)
IIM = b"\x1c\x02\x00\x00\x02\x00\x04\x1c\x02\x05\x00\x07A title\x1c\x02\x78\x00\x09A caption"
PRINT = made(0x03ED, struct.pack(">IHHIHH", 300 << 16, 1, 2, 300 << 16, 1, 2))
TARGETS = ("o.png", "o.tif", "o.webp", "o.ome.zarr", "o.jpg")


class All:
    def any(self, box: Box) -> bool:
        return True


def smooth() -> Samples:
    y, x = np.mgrid[: SIZE.height, : SIZE.width]
    return np.stack([2 * x, 3 * y, x + y], -1).astype(np.uint8)


def written(source: Path, target: str, **how: Any) -> Picture:
    """The picture with grey in the box, written and compared."""

    def grey(box: Box) -> Samples:
        return np.full((3, *box.size.shape), 77, np.uint8)

    picture, path = Picture.open(source), source.parent / target
    edited = Edited(picture, BOX, grey, All())
    write_edited(edited, path, How(**({"allow_loss": ("samples",)} | how)))
    verify(edited, path, "full")
    return Picture.open(path)


def lost(source: Path, target: str) -> dict[str, bool]:
    """What a target goes without, and whether that matters."""
    found = losses(Picture.open(source), source.parent / target, How())
    return {str(loss): loss.matters for loss in found if loss.name != "samples"}


# ---------------------------------------------------------------- JPEGs made here


def jpeg(**options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(smooth()).save(buffer, "JPEG", **({"quality": 92} | options))
    return buffer.getvalue()


def segment(code: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, 2 + len(data)) + data


def with_segments(path: Path, *segments: bytes, after: bytes = b"", **options: Any) -> Path:
    data = jpeg(**options)
    path.write_bytes(data[:20] + b"".join(segments) + data[20:] + after)  # 20: JFIF's end
    return path


def segments_of(path: Path) -> list[tuple[int, bytes]]:
    data, at, found = path.read_bytes(), 2, []
    while data[at + 1] != 0xDA:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        found.append((data[at + 1], data[at + 4 : at + 2 + length]))
        at += 2 + length
    return found


def press(path: Path) -> Path:
    """What an agency sends: EXIF and resources of Photoshop with thumbnails, IPTC, XMP, words."""
    small = struct.pack(">IIIIIIHH", 1, 64, 64, 192, 192 * 64, 9, 24, 1) + thumbnail()
    block = made(IPTC, IIM) + PRINT + made(0x040C, small)
    return with_segments(
        path,
        segment(0xE1, b"Exif\0\0" + exif_with_thumbnail("<", note=b"a note")),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet(gallery())),
        segment(0xED, b"Photoshop 3.0\0" + block),
        segment(0xFE, "(c) Jäne".encode()),
        dpi=(300, 300),
    )


# ---------------------------------------------------------------- a press photograph


@pytest.mark.parametrize("target", TARGETS)
def test_a_press_photograph_keeps_all_but_its_previews(tmp_path: Path, target: str) -> None:
    source = press(tmp_path / "press.jpg")
    assert lost(source, target) == {
        "the preview in EXIF": False,
        "the preview in Photoshop resources": False,
        "the preview in XMP": False,
    }
    before, after = Picture.open(source).metadata, written(source, target).metadata
    assert after.iptc == before.iptc == IIM
    assert after.photoshop == before.photoshop == PRINT
    assert after.xmp == before.xmp
    assert after.resolution == pytest.approx((300 / 25.4, 300 / 25.4), rel=1e-4)
    exif = Image.Exif()
    exif.load(after.exif or b"")
    assert exif[271] == "Maker of it"
    assert exif.get_ifd(34665)[37500] == b"a note"
    words = [after.description, *after.comments, *(text.text for text in after.texts)]
    words.append(exif.get(270, "").encode("latin1").decode())  # Pillow takes it for Latin letters
    assert "(c) Jäne" in words


@pytest.mark.parametrize("target", ["o.png", "o.tif", "o.webp", "o.jpg"])
def test_nothing_written_shows_the_picture_as_it_was(tmp_path: Path, target: str) -> None:
    written(press(tmp_path / "press.jpg"), target)
    data = (tmp_path / target).read_bytes()
    assert thumbnail() not in data
    assert b"/9j/" not in data


@pytest.mark.parametrize("target", ["o.png", "o.tif", "o.jpg"])
def test_iptc_is_where_others_look_for_it(tmp_path: Path, target: str) -> None:
    written(press(tmp_path / "press.jpg"), target)
    with Image.open(tmp_path / target) as image:
        image.load()
        if target == "o.png":
            text = image.info["Raw profile type iptc"].split("\n")
            assert text[:2] == ["", "iptc"]
            assert bytes.fromhex("".join(text[3:])) == IIM
            assert int(text[2]) == len(IIM)
            assert PRINT.hex()[:72] in image.info["Raw profile type 8bim"]
        else:
            assert IptcImagePlugin.getiptcinfo(image)[2, 120] == b"A caption"


def test_iptc_is_read_from_all_that_programs_write_into_a_png(tmp_path: Path) -> None:
    block = made(IPTC, IIM) + PRINT
    for name, data in (("iptc", IIM), ("iptc", made(IPTC, IIM)), ("8bim", block)):
        info = PngImagePlugin.PngInfo()
        info.add_text(f"Raw profile type {name}", f"\n{name}\n{len(data):8}\n{data.hex()}\n")
        Image.fromarray(smooth()).save(tmp_path / "a.png", pnginfo=info)
        held = Picture.open(tmp_path / "a.png").metadata
        assert held.iptc == IIM
        assert held.photoshop == (PRINT if name == "8bim" else None)
        assert held.texts == ()


def test_imagemagick_s_profiles_are_read(tmp_path: Path) -> None:
    block = b"Exif\0\0" + exif_with_thumbnail("<")
    held = b"http://ns.adobe.com/xap/1.0/\0" + packet("")
    for data in (block, held):
        info = PngImagePlugin.PngInfo()
        info.add_text("Raw profile type APP1", f"\ngeneric profile\n{len(data):8}\n{data.hex()}\n")
        Image.fromarray(smooth()).save(tmp_path / "a.png", pnginfo=info)
        found = Picture.open(tmp_path / "a.png").metadata
        assert (found.xmp == packet("")) == (data is held)
        assert bool(found.exif) == (data is block)
        assert found.texts == ()


def test_exif_beyond_a_segment_is_a_loss_of_a_jpeg_alone(tmp_path: Path) -> None:
    Image.fromarray(smooth()).save(
        tmp_path / "a.png", exif=exif_with_thumbnail("<", note=bytes(range(256)) * 300)
    )
    assert lost(tmp_path / "a.png", "o.webp") == {"the preview in EXIF": False}
    names = [loss.name for loss in losses(Picture.open(tmp_path / "a.png"), "o.jpg", How())]
    assert names == ["exif", "thumbnail", "samples"]


def test_a_profile_beyond_all_segments_is_a_loss_of_a_jpeg_alone(tmp_path: Path) -> None:
    profile = bytes(16) + b"RGB " + bytes(17_000_000)
    Image.fromarray(smooth()).save(tmp_path / "a.png", icc_profile=profile)
    assert lost(tmp_path / "a.png", "o.tif") == {}
    assert lost(tmp_path / "a.png", "o.jpg") == {"an ICC profile of 17,000,020 bytes": True}


def test_no_resolution_is_made_up(tmp_path: Path) -> None:
    source = with_segments(tmp_path / "a.jpg")
    for target in TARGETS:
        assert written(source, target).metadata.resolution is None
    assert b"pHYs" not in (tmp_path / "o.png").read_bytes()
    with Image.open(tmp_path / "o.jpg") as image:
        assert "dpi" not in image.info
    with tifffile.TiffFile(tmp_path / "o.tif") as file:
        assert "XResolution" not in file.pages[0].tags


def test_an_exif_block_is_carried_byte_by_byte(tmp_path: Path) -> None:
    block = exif_with_thumbnail(">", note=b"counts from the beginning")
    source = with_segments(tmp_path / "a.jpg", segment(0xE1, b"Exif\0\0" + block))
    kept = Picture.open(source).metadata.exif
    for target in ("o.png", "o.webp", "o.jpg"):
        assert written(source, target).metadata.exif == kept


@pytest.mark.parametrize("orientation", [6, 9])
def test_an_orientation_is_said_once(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(smooth()).save(tmp_path / "a.tif", exif=exif)
    for target in ("o.png", "o.webp", "o.jpg", "p.tif"):
        again = written(tmp_path / "a.tif", target, tiff="plain")
        assert again.orientation == (6 if orientation == 6 else 1)


# ---------------------------------------------------------------- comments, XMP, profiles


def test_comments_keep_their_letters(tmp_path: Path) -> None:
    words = "ein Stern, Größe ★, テスト"
    source = with_segments(
        tmp_path / "a.jpg", segment(0xFE, words.encode()), segment(0xFE, "Größe".encode("latin1"))
    )
    assert written(source, "o.jpg").metadata.comments == (words, "Größe")
    assert [text.text for text in written(source, "o.png").metadata.texts] == [words, "Größe"]
    with Image.open(tmp_path / "o.png") as image:
        image.load()
        assert image.info["Comment"] in (words, "Größe")
    assert lost(source, "o.webp") == {"comment": True}  # one has room, as a description


def extended(path: Path, *, missing: bool = False) -> tuple[Path, bytes]:
    """A JPEG with XMP of 150,000 bytes, most of it in an extension."""
    values = "".join(f"<dc:subject>{number:0270}</dc:subject>" for number in range(500))
    extension = packet(values).split(b"?>", 1)[1].rsplit(b"<?xpacket", 1)[0]
    name = md5(extension, usedforsecurity=False).hexdigest().upper().encode()
    main = packet(
        "",
        f'xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="{name.decode()}"',
    )
    parts = [extension[at : at + 60000] for at in range(0, len(extension), 60000)]
    more = [
        segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + name
                + struct.pack(">II", len(extension), 60000 * number) + part)
        for number, part in enumerate(parts)
    ]  # fmt: skip
    first = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + main)
    return with_segments(path, first, *more[missing:][::-1]), extension


@pytest.mark.parametrize("target", TARGETS)
def test_extended_xmp_is_one_packet_or_parted_again(tmp_path: Path, target: str) -> None:
    source, _ = extended(tmp_path / "a.jpg")
    held = written(source, target).metadata.xmp or b""
    assert held.count(b"<dc:subject>") == 500
    assert b"HasExtendedXMP" not in held
    assert "a title: Größe ★".encode() in held
    assert lost(source, target) == {}
    if target == "o.jpg":
        parts = [data for code, data in segments_of(tmp_path / target) if code == 0xE1]
        assert [data[:34] for data in parts].count(b"http://ns.adobe.com/xmp/extension/") == 3


def test_an_extension_that_is_not_whole_is_a_loss(tmp_path: Path) -> None:
    source, _ = extended(tmp_path / "a.jpg", missing=True)
    assert lost(source, "o.png") == {"extended XMP that can't be read": True}


def test_a_profile_of_many_segments_is_one_again(tmp_path: Path) -> None:
    profile = bytes(16) + b"RGB " + np.random.default_rng(0).bytes(200_000)
    source = tmp_path / "a.jpg"
    source.write_bytes(jpeg(icc_profile=profile))
    for target in TARGETS:
        assert written(source, target).metadata.icc == profile
        if not target.endswith("zarr"):
            with Image.open(tmp_path / target) as image:
                assert image.info["icc_profile"] == profile


# ---------------------------------------------------------------- what no new file has


def gain_map_xmp() -> bytes:
    return segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet("", 'hdrgm:Version="1.0"'))


def mpf(*kinds: int) -> bytes:
    """A directory of pictures, the first of which is the main one."""
    entries = b"".join(struct.pack("<IIIHH", kind, 1000, 0, 0, 0) for kind in kinds)
    head = struct.pack("<4sIHHHI4s", b"II*\0", 8, 2, 0xB000, 7, 4, b"0100")
    head += struct.pack("<HHIII", 0xB002, 7, len(entries), 8 + 2 + 24 + 4, 0)
    return segment(0xE2, b"MPF\0" + head + entries)


def small_jpeg(*segments: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(smooth()).resize((45, 30)).save(buffer, "JPEG")
    return buffer.getvalue()[:20] + b"".join(segments) + buffer.getvalue()[20:]


GAIN = segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0" + bytes(4))
CASES: dict[str, tuple[list[bytes], bytes, dict[str, bool]]] = {
    "MPO": ([mpf(0x030000, 0x020002)], jpeg(), {"a second picture": True}),
    "large preview": ([mpf(0x030000, 0x010002)], jpeg(), {"the large preview": False}),
    "gain map": ([mpf(0x030000, 0), GAIN], jpeg(), {"the gain map": True}),
    "gain map by its kind": ([mpf(0x030000, 0x050000)], jpeg(), {"the gain map": True}),
    "gain map by XMP": ([gain_map_xmp(), mpf(0x030000, 0)], jpeg(), {"the gain map": True}),
    "appended": ([], jpeg(), {"a second picture behind the first": True}),
    "appended preview": ([], small_jpeg(), {"the large preview": False}),
    "appended gain map": ([gain_map_xmp()], small_jpeg(gain_map_xmp()), {"the gain map": True}),
    "Apple's gain map": (
        [mpf(0x030000, 0)],
        small_jpeg(segment(0xE1, b"http://ns.apple.com/HDRGainMap/1.0/")),
        {"the gain map": True},
    ),
    "video": ([], b"\0\0\0\x18ftypmp42" + bytes(99), {"the video behind the picture": True}),
    "zeros": ([], bytes(99), {}),
    "junk": ([], b"junk" * 9, {"36 bytes behind the picture": False}),
    "C2PA": (
        [segment(0xEB, b"JP\0\1\0\0\0\1" + bytes(40))],
        b"",
        {"content credentials (C2PA), which an edit makes invalid": False},
    ),
    "FLIR": ([segment(0xE1, b"FLIR\0\1\0\0")], b"", {"temperatures (FLIR)": True}),
    "maker": (
        [segment(0xE4, b"SSUNIQUEID\0\1")],
        b"",
        {"12 bytes of a maker's own in APP4 (SSUNIQUEID)": False},
    ),
    "JFXX": ([segment(0xE0, b"JFXX\0\x10" + thumbnail())], b"", {"the preview in JFXX": False}),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_jpeg_has_and_no_new_file_is_named(tmp_path: Path, name: str) -> None:
    segments, after, wanted = CASES[name]
    source = with_segments(tmp_path / "a.jpg", *segments, after=after)
    picture = Picture.open(source)
    assert lost(source, "o.png") == wanted
    if any(wanted.values()):
        with pytest.raises(ImageError, match=r"--allow-loss [a-z-]+ "):
            check_target(picture, tmp_path / "o.png", How())
    else:
        check_target(picture, tmp_path / "o.png", How())
    for target in ("o.png", "o.jpg"):
        written(source, target, allow_loss=True)
        data = (tmp_path / target).read_bytes()
        assert b"MPF\0" not in data
        assert b"hdrgm:Version" not in data
        assert b"jumb" not in data
        assert lost(tmp_path / target, "p.png") == {}


def test_pillow_s_mpo_is_a_second_picture(tmp_path: Path) -> None:
    first = Image.fromarray(smooth())
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[first.resize((45, 30))])
    assert lost(tmp_path / "a.jpg", "o.png") == {"a second picture": True}
    check_target(
        Picture.open(tmp_path / "a.jpg"), tmp_path / "o.png", How(allow_loss=("second-picture",))
    )


def test_another_format_is_named_as_a_way_only_where_it_is_one(tmp_path: Path) -> None:
    source = with_segments(tmp_path / "a.jpg", mpf(0x030000, 0), GAIN, after=jpeg())
    with pytest.raises(ImageError, match="no written file keeps the gain map of") as caught:
        check_target(Picture.open(source), tmp_path / "o.png", How())
    assert "another format" not in str(caught.value)
    with pytest.raises(ImageError, match=r"JPEG can't keep .*choose another format, or allow it"):
        check_target(Picture.open(source), tmp_path / "o.jpg", How())


def test_a_thumbnail_in_jfif_is_a_preview(tmp_path: Path) -> None:
    data = jpeg()
    small = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\2\2" + bytes(12))
    (tmp_path / "a.jpg").write_bytes(data[:2] + small + data[20:])
    assert lost(tmp_path / "a.jpg", "o.png") == {"the preview in JFIF": False}


# ---------------------------------------------------------------- what viewers forgive


def scan_of(data: bytes) -> int:
    """Where the three last bytes of the first scan's header are."""
    at = data.index(b"\xff\xda")
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") - 3


def forgiven(name: str) -> bytes:
    data = jpeg(restart_marker_rows=1) if name == "restart" else jpeg()
    at, tables = scan_of(data), data.index(b"\xff\xdb")
    if name == "scan":
        return data[:at] + b"\0\0\0" + data[at + 3 :]
    if name == "scan of a progressive one":
        return data[:at] + b"\1\5\0" + data[at + 3 :]
    if name == "header":
        return data[:tables] + b"\0\0" + data[tables:]
    if name == "zeros in the header":
        return data[:tables] + b"\xff\0\1" + data[tables:]
    if name == "end":
        return data[:-2] + bytes(7) + data[-2:]
    mark = data.index(b"\xff\xd2")
    return data[:mark] + bytes(90) + data[mark:]


@pytest.mark.parametrize(
    "name",
    ["scan", "scan of a progressive one", "header", "zeros in the header", "end", "restart"],
)
def test_what_viewers_forgive_is_read_as_they_do(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(forgiven(name))
    right = tmp_path / "right.jpg"
    right.write_bytes(jpeg(restart_marker_rows=1) if name == "restart" else jpeg())
    with caplog.at_level(logging.WARNING):
        picture = Picture.open(path)
        whole = np.concatenate([strip for _, strip in picture.strips(16)])
        assert np.array_equal(picture.read(BOX), Picture.open(right).read(BOX))
    assert np.array_equal(whole, np.asarray(Image.open(right)))
    said = [record.getMessage() for record in caplog.records if record.name != "pyvips"]
    assert len(said) == (0 if name == "end" else 1)
    assert all(text.startswith(f"{path}: ") and "as viewers do" in text for text in said)


def test_a_warning_about_a_url_names_the_url(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.jpg").write_bytes(forgiven("scan"))
    with serving(tmp_path) as server, caplog.at_level(logging.WARNING):
        place = f"{server.url}/a.jpg"
        assert Picture.open(place).read(BOX).shape == (3, *BOX.size.shape)
    said = [one.getMessage() for one in caplog.records if "viewers" in one.getMessage()]
    assert said
    assert all(text.startswith(f"{place}: its scan's header is wrong") for text in said)


def test_what_libvips_warns_of_names_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = with_chunks(tmp_path / "a.png", chunk(b"eXIf", b"none"))
    with caplog.at_level(logging.WARNING, logger="pyvips"):
        list(Picture.open(source).strips())
    assert caplog.records
    assert all(one.getMessage().startswith(f"{source}: VIPS: ") for one in caplog.records)


def test_damage_behind_a_wrong_header_is_damage(tmp_path: Path) -> None:
    data = forgiven("scan")
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"a\.jpg: can't be decoded"):
        list(Picture.open(tmp_path / "a.jpg").strips())


# ---------------------------------------------------------------- PNG


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunks(path: Path, *chunks: bytes, image: Image.Image | None = None) -> Path:
    buffer = io.BytesIO()
    (image or Image.fromarray(smooth())).save(buffer, "PNG")
    data = buffer.getvalue()
    path.write_bytes(data[:33] + b"".join(chunks) + data[33:])
    return path


def chunks_of(path: Path) -> dict[bytes, bytes]:
    data, at, found = path.read_bytes(), 8, {}
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        assert data[at + 8 + length : at + 12 + length] == struct.pack(
            ">I", zlib.crc32(data[at + 4 : at + 8 + length])
        )
        found[name] = data[at + 8 : at + 8 + length]
        at += 12 + length
    return found


KEPT = {
    b"gAMA": struct.pack(">I", 45455),
    b"cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
    b"sRGB": b"\0",
    b"sBIT": b"\5\6\5",
    b"bKGD": struct.pack(">3H", 1, 2, 3),
    b"pHYs": struct.pack(">IIB", 11811, 11812, 1),
    b"tIME": struct.pack(">HBBBBB", 2020, 1, 2, 3, 4, 5),
    b"sPLT": b"six\0\x08" + bytes(6),
    b"oFFs": struct.pack(">iiB", 4, 5, 0),
    b"prVt": b"a program's own",
}


def test_a_png_s_chunks_stay_in_a_png(tmp_path: Path) -> None:
    source = with_chunks(tmp_path / "a.png", *(chunk(*pair) for pair in KEPT.items()))
    written(source, "o.png")
    found = chunks_of(tmp_path / "o.png")
    assert {name: found.get(name) for name in KEPT} == KEPT
    written(source, "o.ome.zarr")
    written(tmp_path / "o.ome.zarr", "p.png")
    assert {name: chunks_of(tmp_path / "p.png").get(name) for name in KEPT} == KEPT
    assert lost(source, "o.png") == {}
    said = lost(source, "o.webp")
    assert set(said) == {f"the PNG's {name.decode()} chunk" for name in KEPT.keys() - {b"pHYs"}}
    assert not any(said.values())


LINEAR, SRGB_GAMMA = chunk(b"gAMA", struct.pack(">I", 100000)), chunk(b"gAMA", KEPT[b"gAMA"])
WIDE = chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000))


@pytest.mark.parametrize(
    ("chunks", "matters"),
    [
        ((LINEAR,), True),
        ((SRGB_GAMMA,), False),
        ((SRGB_GAMMA, chunk(b"cHRM", KEPT[b"cHRM"])), False),
        ((SRGB_GAMMA, WIDE), True),
        ((LINEAR, WIDE, chunk(b"sRGB", b"\0")), False),
        ((chunk(b"cICP", b"\1\x0d\0\1"), chunk(b"cLLI", bytes(8))), False),
        ((chunk(b"cICP", b"\x09\x10\0\1"), chunk(b"cLLI", bytes(8))), True),
    ],
)
def test_colours_matter_where_others_would_see_other_ones(
    tmp_path: Path, chunks: tuple[bytes, ...], matters: bool
) -> None:
    source = with_chunks(tmp_path / "a.png", *chunks)
    found = lost(source, "o.tif")
    assert len(found) == len(chunks)
    assert any(found.values()) == matters


def test_a_gamma_beside_a_profile_does_not_matter(tmp_path: Path) -> None:
    profile = bytes(16) + b"RGB " + bytes(200)
    packed = chunk(b"iCCP", b"icc\0\0" + zlib.compress(profile))
    source = with_chunks(tmp_path / "a.png", packed, LINEAR)
    assert lost(source, "o.tif") == {"the PNG's gAMA chunk": False}
    assert written(source, "o.tif").metadata.icc == profile


def test_chunks_about_a_palette_are_those_of_its_colours(tmp_path: Path) -> None:
    image = Image.fromarray(smooth()).quantize(32)
    palette = image.getpalette() or []
    source = with_chunks(tmp_path / "a.png", chunk(b"sBIT", b"\5\6\5"), image=image)
    data = source.read_bytes()
    at = data.index(b"IDAT") - 4
    source.write_bytes(data[:at] + chunk(b"bKGD", b"\3") + chunk(b"hIST", bytes(64)) + data[at:])
    assert lost(source, "o.png") == {"the PNG's hIST chunk": False}
    written(source, "o.png")
    found = chunks_of(tmp_path / "o.png")
    assert found[b"sBIT"] == b"\5\6\5"
    assert found[b"bKGD"] == struct.pack(">3H", *palette[9:12])
    assert b"hIST" not in found


def test_the_bits_of_a_key_colour_become_an_alpha_s(tmp_path: Path) -> None:
    sources = {}
    for name, image in (("grey", Image.fromarray(smooth()[..., 0])), ("rgb", None)):
        key = b"\0\7" if name == "grey" else bytes(6)
        bits = chunk(b"sBIT", b"\5" if name == "grey" else b"\5\6\5")
        sources[name] = with_chunks(
            tmp_path / f"{name}.png", bits, chunk(b"tRNS", key), image=image
        )
        written(sources[name], "o.png")
        wanted = b"\5\x08" if name == "grey" else b"\5\6\5\x08"
        assert chunks_of(tmp_path / "o.png")[b"sBIT"] == wanted


def test_content_credentials_and_unsafe_chunks_are_said_to_go(tmp_path: Path) -> None:
    chunks = (chunk(b"caBX", b"jumb"), chunk(b"prVT", b"x"), chunk(b"prVt", thumbnail()))
    source = with_chunks(tmp_path / "a.png", *chunks)
    assert lost(source, "o.png") == {
        "content credentials (C2PA), which an edit makes invalid": False,
        "the PNG's prVT chunk": False,
        "the PNG's prVt chunk": False,
    }
    written(source, "o.png")
    assert not chunks_of(tmp_path / "o.png").keys() & {b"caBX", b"prVT", b"prVt"}


# ---------------------------------------------------------------- PNG's texts


def test_texts_keep_their_letters_number_and_length(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("parameters", "ein Stern, Größe ★, テスト", lang="de", tkey="Werte")
    info.add_itxt("packed", "★" * 1000, zip=True)
    info.add_text("latin", "Größe")
    info.add_text("long", "x" * 3_000_000, zip=True)
    for number in range(1500):
        info.add_text(f"k{number}", "v")
    Image.fromarray(smooth()).save(tmp_path / "a.png", pnginfo=info)
    written(tmp_path / "a.png", "o.png")
    before, after = (Picture.open(tmp_path / n).metadata.texts for n in ("a.png", "o.png"))
    assert after == before
    assert len(after) == 1504
    words = {text.keyword: text.text for text in after}
    assert words["parameters"] == "ein Stern, Größe ★, テスト"
    assert words["packed"] == "★" * 1000
    assert words["latin"] == "Größe"
    assert len(words["long"]) == 3_000_000


def test_a_keyword_in_latin_letters_is_no_damage(tmp_path: Path) -> None:
    source = with_chunks(tmp_path / "a.png", chunk(b"tEXt", "Größe\0groß".encode("latin1")))
    assert written(source, "o.png").metadata.texts[0].keyword == "Größe"


def test_texts_go_where_other_formats_have_a_place(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    for keyword in ("Description", "Author", "Copyright", "Software"):
        info.add_itxt(keyword, f"{keyword} ★")
    info.add_text("date:create", "2020")
    Image.fromarray(smooth()).save(tmp_path / "a.png", pnginfo=info)
    for target in ("o.webp", "o.jpg", "o.tif"):
        assert lost(tmp_path / "a.png", target) == {"text (date:create)": False}
        written(tmp_path / "a.png", target)
        with Image.open(tmp_path / target) as image:
            exif = image.getexif()
            found = [exif[code] for code in (270, 315, 33432, 305)]
        wanted = ["Description ★", "Author ★", "Copyright ★", "Software ★"]
        assert found in (wanted, [one.encode().decode("latin1") for one in wanted])
    info.add_text("parameters", "steps: 20")
    Image.fromarray(smooth()).save(tmp_path / "a.png", pnginfo=info)
    assert lost(tmp_path / "a.png", "o.webp")["text (parameters)"]


@pytest.mark.parametrize("bad", [b"eXIf", b"zTXt", b"iCCP", b"iTXt", b"tEXt", b"bKGD", b"sBIT"])
def test_chunks_of_nonsense_are_no_damage(tmp_path: Path, bad: bytes) -> None:
    for data in (b"", b"nonsense", bytes(9)):
        source = with_chunks(tmp_path / "a.png", chunk(bad, data))
        for target in ("o.png", "o.webp", "o.tif", "o.jpg"):
            written(source, target, allow_loss=True)


# ---------------------------------------------------------------- WebP


def test_a_webp_s_own_chunks_are_said_to_go(tmp_path: Path) -> None:
    Image.fromarray(smooth()).save(tmp_path / "a.webp", lossless=True, xmp=b"<x/>")
    data = (tmp_path / "a.webp").read_bytes()
    more = b"C2PA" + struct.pack("<I", 4) + b"jumb" + b"ownX" + struct.pack("<I", 1) + b"x\0"
    whole = data[12:] + more
    path = tmp_path / "b.webp"
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(whole)) + b"WEBP" + whole)
    assert lost(path, "o.png") == {
        "content credentials (C2PA), which an edit makes invalid": False,
        "the WebP's 'ownX' chunk": False,
    }


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_a_webp_holds_what_pillow_finds(tmp_path: Path, bands: int) -> None:
    profile = bytes(16) + b"RGB " + bytes(201)
    samples = np.dstack([smooth(), smooth()[..., 0]])[..., :bands]
    image = Image.fromarray(samples[..., 0] if bands == 1 else samples)
    image.save(tmp_path / "a.png", exif=exif_with_thumbnail("<"), icc_profile=profile)
    written(tmp_path / "a.png", "o.webp")
    with Image.open(tmp_path / "o.webp") as again:
        again.load()
        assert again.info["icc_profile"] == profile
        assert again.getexif()[271] == "Maker of it"
        assert again.mode == ("RGBA" if bands == 4 else "RGB")
