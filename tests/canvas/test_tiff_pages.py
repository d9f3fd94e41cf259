"""What the pages of a TIFF are for, and what stays of the old picture in a copy: nothing."""

from __future__ import annotations

import base64
import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiffs import Array, add_tag, edited_copy, make, picture, read_back

from msbd_dist.canvas.export import How, left_out, losses
from msbd_dist.canvas.images import Picture
from msbd_dist.canvas.tiff import Several, TiffReader
from msbd_dist.canvas.tiff_add import add
from msbd_dist.canvas.tiff_copy import can_copy, copy_with_edits
from msbd_dist.canvas.tiff_erase import without
from msbd_dist.core.geometry import Box, Size
from msbd_dist.errors import ImageError

EDIT = [Box(30, 50, 40, 60)]
PLAIN: dict[str, Any] = {"photometric": "rgb", "tile": (32, 48), "metadata": None}

# ---------------------------------------------------------------- stacks


def imagej(path: Path, stack: Array) -> None:
    """As ImageJ writes more than 4 GiB: one directory, the slices one after another."""
    tifffile.imwrite(path, stack, imagej=True, truncate=True)


def shaped(path: Path, stack: Array) -> None:
    tifffile.imwrite(path, stack, truncate=True, photometric="minisblack")


def ome(path: Path, stack: Array) -> None:
    """One file of an OME-TIFF of several."""
    xml = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
    xml += f'<Pixels SizeX="80" SizeY="64" SizeZ="{len(stack)}" SizeC="1" SizeT="1"/></Image></OME>'
    tifffile.imwrite(path, stack[0], description=xml, metadata=None, compression="zlib")


def metamorph(path: Path, stack: Array) -> None:
    planes = (33629, 5, len(stack), (1, 1) * len(stack), True)
    tifffile.imwrite(path, stack[0], metadata=None, extratags=[planes])
    path.write_bytes(path.read_bytes() + stack[1:].tobytes())


@pytest.mark.parametrize("write", [imagej, shaped, ome, metamorph])
def test_a_stack_behind_one_directory_is_refused(
    tmp_path: Path, write: Callable[[Path, Array], None]
) -> None:
    path = tmp_path / "a.tif"
    write(path, np.stack([picture(64, 80, 1, seed=n)[..., 0] for n in range(3)]))
    with pytest.raises(ImageError, match=r"a\.tif: is a stack of 3 planes; save the one to edit"):
        Picture.open(path)


def test_a_stack_with_a_palette_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    stack = np.stack([picture(64, 80, 1, seed=n)[..., 0] for n in range(3)])
    colours = np.arange(768, dtype=np.uint16).reshape(3, 256)
    tifffile.imwrite(path, stack, truncate=True, photometric="palette", colormap=colours)
    with pytest.raises(Several, match="is a stack of 3 planes"):
        Picture.open(path)


@pytest.mark.parametrize(
    "description",
    ["ImageJ=1.53t\nimages=3\nslices=3\n", '{"shape": [3, 64, 80]}', "ImageJ=1.53t\n",
     '{"shape": [64, 80]}', "<OME><Image/></OME>", "<OME"],
)  # fmt: skip
def test_one_picture_with_a_stack_s_words_is_a_picture(tmp_path: Path, description: str) -> None:
    """Tools hand descriptions on to what they cut out."""
    samples = picture(64, 80, 1)
    make(tmp_path / "a.tif", samples, codec=None, tile=None, description=description)
    reader = TiffReader.open(str(tmp_path / "a.tif"))
    assert np.array_equal(reader.window(Box(0, 0, 64, 80)), samples)


def test_colours_of_one_page_are_one_plane_of_an_ome_tiff(tmp_path: Path) -> None:
    samples = picture(64, 80)
    tifffile.imwrite(tmp_path / "a.ome.tif", samples, photometric="rgb")
    reader = TiffReader.open(str(tmp_path / "a.ome.tif"))
    assert np.array_equal(reader.window(Box(0, 0, 64, 80)), samples)


# ---------------------------------------------------------------- masks, overviews, previews


def cloud_optimized(path: Path, samples: Array) -> None:
    """As GDAL makes them: picture, mask, smaller version, its mask, each a page."""
    mask = {"photometric": 4, "tile": (32, 48), "metadata": None, "compression": "zlib"}
    colour = PLAIN | {"compression": "zlib"}
    seen = np.ones(samples.shape[:2], bool)
    with tifffile.TiffWriter(path) as file:
        file.write(samples, **colour)
        file.write(seen, **mask, subfiletype=4)
        file.write(samples[::2, ::2].copy(), **colour, subfiletype=1)
        file.write(seen[::2, ::2], **mask, subfiletype=5)


def test_a_mask_and_smaller_versions_are_no_pages_and_a_copy_has_them(tmp_path: Path) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    samples = picture(160, 208)
    cloud_optimized(source, samples)
    reader = TiffReader.open(str(source))
    assert [level.size for level in reader.levels] == [Size(80, 104)]
    assert reader.metadata.pages == ("mask",)
    assert can_copy(reader) is None
    _, after, _ = edited_copy(source, target, EDIT)
    with tifffile.TiffFile(source) as was, tifffile.TiffFile(target) as now:
        assert len(now.pages) == 4
        assert np.array_equal(now.pages[0].asarray(), after)
        for number in (1, 3):
            assert np.array_equal(now.pages[number].asarray(), was.pages[number].asarray())
        small = now.pages[2].asarray()
    means = after.reshape(80, 2, 104, 2, 3).astype(int).sum((1, 3)) + 2 >> 2
    assert np.array_equal(small[15:20, 25:30], means[15:20, 25:30])
    assert np.array_equal(small[30:], samples[::2, ::2][30:])


def test_a_palette_may_have_smaller_versions(tmp_path: Path) -> None:
    colours = np.arange(768, dtype=np.uint16).reshape(3, 256) * 257
    options = {"photometric": "palette", "colormap": colours, "metadata": None}
    samples = picture(64, 80, 1)[..., 0]
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(samples, **options)
        file.write(samples[::2, ::2].copy(), **options, subfiletype=1)
    opened = Picture.open(tmp_path / "a.tif")
    wanted = (colours[:, samples] >> 8).astype(np.uint8)
    assert np.array_equal(opened.read(Box(0, 0, 64, 80)), wanted)


def with_thumbnails(path: Path, samples: Array, below: bool) -> list[bytes]:
    """Previews that can't follow an edit: of other colours, cut to another shape, a camera's JPEG.
    Returns bytes of each."""
    grey, square = samples[::4, ::4, 1].copy(), samples[:120:3, :120:3].copy()
    small = {"photometric": "minisblack", "metadata": None, "subfiletype": 1}
    with tifffile.TiffWriter(path) as file:
        file.write(samples, **PLAIN, compression="zlib", subifds=2 if below else None)
        file.write(grey, **small)
        file.write(square, **(small | {"photometric": "rgb"}))
    if not below:
        jpeg = b"\xff\xd8\xff\xe0 a thumbnail \xff\xd9"
        data = path.read_bytes() + jpeg
        data += bytes(len(data) % 2)
        at = len(data)
        data += struct.pack("<HHHIIHHIII", 2, 513, 4, 1, at - len(jpeg), 514, 4, 1, len(jpeg), 0)
        with tifffile.TiffFile(path) as last:
            link = last.pages[2].offset + 2 + 12 * len(last.pages[2].tags)
        path.write_bytes(data[:link] + struct.pack("<I", at) + data[link + 4 :])
        return [grey.tobytes(), square.tobytes(), jpeg]
    return [grey.tobytes(), square.tobytes()]


@pytest.mark.parametrize("below", [True, False], ids=["subifds", "pages"])
def test_previews_go_from_a_copy(tmp_path: Path, below: bool) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    small = with_thumbnails(source, picture(160, 208), below)
    assert all(part in source.read_bytes() for part in small)
    assert can_copy(TiffReader.open(str(source))) is None
    _, after, _ = edited_copy(source, target, EDIT)
    with tifffile.TiffFile(target) as file:
        assert len(file.pages) == 1
        assert not file.pages[0].subifds
        assert np.array_equal(file.pages[0].asarray(), after)
    assert not any(part in target.read_bytes() for part in small)
    edited_copy(source, target, [])
    assert target.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("below", [True, False], ids=["subifds", "pages"])
def test_a_smaller_version_stays_where_a_preview_beside_it_goes(
    tmp_path: Path, below: bool
) -> None:
    source, target, samples = tmp_path / "a.tif", tmp_path / "b.tif", picture(160, 208)
    with tifffile.TiffWriter(source) as file:
        file.write(samples, **PLAIN, subifds=3 if below else None)
        file.write(samples[::4, ::4, 1].copy(), metadata=None, subfiletype=1)
        file.write(samples[::2, ::2].copy(), **PLAIN, subfiletype=1)
        file.write(samples[::4, ::4, 2].copy(), metadata=None, subfiletype=1)
    edited_copy(source, target, EDIT)
    reader = TiffReader.open(str(target))
    assert [level.size for level in reader.levels] == [Size(80, 104)]
    assert not reader.contents.previews


def test_what_only_says_that_it_is_smaller_is_a_page(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(picture(64, 80), photometric="rgb", metadata=None)
        file.write(picture(64, 80), photometric="rgb", metadata=None, subfiletype=1)
    with pytest.raises(Several, match="holds 2 pages"):
        Picture.open(tmp_path / "a.tif")


def test_a_slide_s_label_stays_in_a_copy(tmp_path: Path) -> None:
    source, target, label = tmp_path / "a.svs", tmp_path / "b.tif", picture(31, 57)
    with tifffile.TiffWriter(source) as file:
        file.write(picture(160, 208), **PLAIN, description="Aperio Image Library v11")
        file.write(label, photometric="rgb", subfiletype=1, description="Aperio\nlabel 57x31",
                   metadata=None)  # fmt: skip
    edited_copy(source, target, EDIT)
    with tifffile.TiffFile(target) as file:
        assert np.array_equal(file.pages[1].asarray(), label)


# ---------------------------------------------------------------- previews in metadata


def a_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(40, 60)).save(buffer, "JPEG")
    return buffer.getvalue()


def photoshop(jpeg: bytes, *, more: bytes) -> bytes:
    body = struct.pack(">IIIIIIHH", 1, 60, 40, 180, 7200, len(jpeg), 24, 1) + jpeg
    thumbnail = b"8BIM\x04\x0c\0\0" + struct.pack(">I", len(body)) + body
    return thumbnail + bytes(len(body) % 2) + more


def xmp_packet(jpeg: bytes) -> bytes:
    rdf = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{rdf}"><rdf:Description '
        'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool="a tool">'
        "<xmp:Thumbnails><rdf:Alt><rdf:li "
        'xmlns:img="http://ns.adobe.com/xap/1.0/g/img/" img:format="JPEG">'
        f"<img:image>{base64.b64encode(jpeg).decode()}</img:image></rdf:li></rdf:Alt>"
        "</xmp:Thumbnails></rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


RESOLUTION = b"8BIM\x03\xed\0\0" + struct.pack(">IIHHIHH", 16, 300 << 16, 1, 2, 300 << 16, 1, 2)


@pytest.mark.parametrize("more", [RESOLUTION, b""], ids=["beside", "alone"])
@pytest.mark.parametrize("big", [False, True], ids=["classic", "big"])
@pytest.mark.parametrize("order", "<>")
def test_pictures_in_metadata_go_from_a_copy(
    tmp_path: Path, order: str, big: bool, more: bytes
) -> None:
    source, target, jpeg = tmp_path / "a.tif", tmp_path / "b.tif", a_jpeg()
    blocks = {34377: photoshop(jpeg, more=more), 700: xmp_packet(jpeg), 65000: b"own" + jpeg}
    extra = [(code, 7, len(data), data, True) for code, data in blocks.items()]
    make(source, picture(75, 101), extratags=extra, byteorder=order, bigtiff=big)
    exif = Image.Exif()
    exif.get_ifd(34665).update({37500: b"note" + jpeg + b"after", 34855: 400})
    add(source, exif=exif.tobytes().removeprefix(b"Exif\0\0"))
    encoded = base64.b64encode(jpeg)
    assert source.read_bytes().count(jpeg) == 3
    assert left_out(Picture.open(source), target, How()) == [
        "the preview in the maker's note", "the preview in XMP",
        "the preview in Photoshop resources", "the preview in TIFF tag 65000",
    ]  # fmt: skip
    _, after, _ = edited_copy(source, target, EDIT)
    data = target.read_bytes()
    assert jpeg not in data
    assert jpeg[-60:] not in data
    assert encoded not in data
    with tifffile.TiffFile(target) as file:
        tags = file.pages[0].tags
        assert np.array_equal(file.asarray(), after)
        assert (tags[34377].value if more else None) == (more or None)
        assert (34377 in tags) == bool(more)
        assert b'CreatorTool="a tool"' in tags[700].value
        assert tags[65000].value == b"own" + bytes(len(jpeg))
        assert tags[34665].value["ISOSpeedRatings"] == 400
        assert tags[34665].value["MakerNote"] == b"note" + bytes(len(jpeg)) + b"after"


def test_credentials_that_the_edit_makes_invalid_go(tmp_path: Path) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    claim = b"jumb c2pa" + a_jpeg()
    make(source, picture(75, 101), extratags=[(52545, 7, len(claim), claim, True)])
    what = "content credentials (C2PA), which an edit makes invalid"
    assert left_out(Picture.open(source), target, How()) == [what]
    (lost,) = losses(Picture.open(source), target, How(tiff="plain"))
    assert (lost.name, str(lost), lost.matters) == ("c2pa", what, False)
    edited_copy(source, target, EDIT)
    with tifffile.TiffFile(target) as file:
        assert 52545 not in file.pages[0].tags
    assert claim not in target.read_bytes()


def test_metadata_without_pictures_stays_as_it_is(tmp_path: Path) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    packet = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + b" " * 200 + b"</x:xmpmeta>"
    blocks = {34377: RESOLUTION * 5, 700: packet, 65000: bytes(range(256))}
    extra = [(code, 7, len(data), data, True) for code, data in blocks.items()]
    make(source, picture(75, 101), extratags=extra)
    edited_copy(source, target, EDIT)
    with tifffile.TiffFile(target) as file:
        assert {code: file.pages[0].tags[code].value for code in blocks} == blocks
    assert left_out(Picture.open(source), target, How()) == []


# ---------------------------------------------------------------- what was there before


def stored(path: Path, page: int = 0) -> list[bytes]:
    """All tiles or strips as they are compressed."""
    with tifffile.TiffFile(path) as file:
        one: Any = file.pages[page]
        data = path.read_bytes()
        places = zip(one.dataoffsets, one.databytecounts, strict=True)
        return [data[at : at + length] for at, length in places]


@pytest.mark.parametrize("planar", [False, True], ids=["together", "planes"])
@pytest.mark.parametrize("tile", [(32, 48), None], ids=["tiles", "strips"])
@pytest.mark.parametrize("codec", [None, "zlib", "zstd"])
@pytest.mark.parametrize("big", [False, True], ids=["classic", "big"])
def test_old_tiles_are_not_in_the_copy(
    tmp_path: Path, codec: str | None, tile: Any, planar: bool, big: bool
) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    make(source, picture(75, 101), codec=codec, tile=tile, planar=planar, bigtiff=big)
    _, after, _ = edited_copy(source, target, EDIT)
    assert np.array_equal(read_back(target), after)
    old, new, data = stored(source), stored(target), target.read_bytes()
    replaced = [number for number in range(len(old)) if old[number] != new[number]]
    assert len(replaced) == 2 * (3 if planar else 1)
    for number, was in enumerate(old):
        assert (was in data) == (number not in replaced)


def test_old_tiles_of_smaller_versions_are_not_in_the_copy(tmp_path: Path) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    cloud_optimized(source, picture(160, 208))
    edited_copy(source, target, EDIT)
    old, data = stored(source, 2), target.read_bytes()
    assert [number for number, was in enumerate(old) if was not in data] == [0]


def test_a_tile_that_another_one_shares_stays(tmp_path: Path) -> None:
    path, target = tmp_path / "a.tif", tmp_path / "b.tif"
    make(path, picture(96, 96), tile=(32, 48), codec=None)
    with tifffile.TiffFile(path, mode="r+") as file:
        tags = file.pages[0].tags
        places = list(tags[324].value)
        places[3] = places[0]
        places[4] = places[1] + 16  # begins inside another one
        counts = list(tags[325].value)
        counts[4] -= 16
        tags[324].overwrite(places)
        tags[325].overwrite([counts[0]] * 4 + [counts[4], counts[5]])
    data = path.read_bytes()
    with tifffile.TiffFile(path, mode="r+") as file:  # as long as a tile, all inside the file
        file.pages[0].tags[325].overwrite([counts[0]] * 6)
    _, after, _ = edited_copy(path, target, [Box(0, 0, 5, 90)])
    assert np.array_equal(read_back(target), after)
    length, copied = counts[0], target.read_bytes()
    start = places[1]
    assert copied[places[0] : places[0] + length] == data[places[0] : places[0] + length]
    assert copied[start : start + 16] == bytes(16)
    assert copied[start + 16 : start + length] == data[start + 16 : start + length]


def test_what_gdal_repeats_of_a_tile_is_erased_too(tmp_path: Path) -> None:
    """Its files for the cloud have a tile's length before it and its last four bytes behind it."""
    note = "GDAL_STRUCTURAL_METADATA_SIZE=000140 bytes\nBLOCK_LEADER=SIZE_AS_UINT4\n"
    note += "BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
    path, target = tmp_path / "a.tif", tmp_path / "b.tif"
    make(path, picture(75, 101), codec=None, description=note)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        tiles = [data[at : at + 4608] for at in file.pages[0].dataoffsets]
    framed = [struct.pack("<I", len(tile)) + tile + tile[-4:] for tile in tiles]
    starts = [len(data) + 4616 * number + 4 for number in range(len(tiles))]
    path.write_bytes(bytes(data) + b"".join(framed))
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags[324].overwrite(starts)
    edited_copy(path, target, [Box(0, 0, 5, 5)])
    copied = target.read_bytes()
    assert copied[starts[0] - 4 : starts[1] - 4] == bytes(4616)
    assert copied[starts[1] - 4 : starts[2] - 4] == bytes(framed[1])


def test_the_old_place_of_a_full_file_holds_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    make(source, picture(75, 101))
    monkeypatch.setattr("msbd_dist.canvas.tiff_copy._CLASSIC", source.stat().st_size)
    monkeypatch.setattr("msbd_dist.canvas.tiff_copy.can_copy", lambda *_: None)
    reader = TiffReader.open(str(source))
    flat = reader.window(Box.of(reader.size))
    flat[:32, :48] = 7
    copy_with_edits(reader, target, [Box(0, 0, 32, 48)], lambda box: flat[box.slices])
    (old, *_), (new, *_) = stored(source), stored(target)
    assert len(new) < len(old)
    start = source.read_bytes().index(old)
    assert target.read_bytes()[start : start + len(old)] == new + bytes(len(old) - len(new))


PLACES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=6)


@given(dead=PLACES, live=PLACES)
def test_what_is_dead_and_not_live(dead: Any, live: Any) -> None:
    def held(ranges: Any) -> set[int]:
        return {byte for start, end in ranges for byte in range(start, end)}

    def ranges(places: Any) -> Any:
        return np.array([(at, at + length) for at, length in places], np.int64).reshape(-1, 2)

    left = without(ranges(dead), np.concatenate([[[0, 0]], ranges(live)]))
    assert held(left) == held(ranges(dead)) - held(ranges(live))


def test_a_private_tag_that_leads_nowhere_is_no_harm(tmp_path: Path) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    make(source, picture(75, 101))
    add_tag(source, 65000, 13, 1, struct.pack("<I", 2**31))
    add_tag(source, 65001, 1, 2**31, struct.pack("<I", 8))  # it says that it is all of the file
    _, after, _ = edited_copy(source, target, EDIT)
    assert np.array_equal(read_back(target), after)
    assert stored(source)[1] not in target.read_bytes()
