"""TIFFs in, and copied with edits: made and read back by other libraries than the code under
test."""

from __future__ import annotations

import io
import pickle
import resource
import struct
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import fsspec
import imagecodecs
import numpy as np
import pytest
import pyvips
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiffs import Array, add_tag, edited_copy, make, picture, read_back

from msbd_dist.canvas import tiff
from msbd_dist.canvas.tiff import TiffReader
from msbd_dist.canvas.tiff_add import add
from msbd_dist.canvas.tiff_copy import TileCounts, can_copy, copy_with_edits
from msbd_dist.core.geometry import Box, Size
from msbd_dist.errors import ImageError

pyvips.cache_set_max(0)  # it would give the samples of another file of the same name

CODECS = [None, "lzw", "zlib", "packbits", "zstd", "lzma", "lerc", "jpeg2000", "jpegxl"]
PREDICTED = {"lzw", "zlib", "zstd", "lzma"}
NOT_BY_VIPS = {"zstd", "lzma", "lerc", "jpeg2000", "jpegxl"}
BY_PILLOW = {None, "lzw", "zlib", "packbits"}


def windows(size: Size, number: int, seed: int = 0) -> list[Box]:
    """Some boxes inside, and the whole."""
    rng = np.random.default_rng(seed)
    boxes = [Box.of(size), Box(0, 0, 1, 1), Box(size.height - 1, size.width - 1, *size.shape)]
    for _ in range(number):
        y0, x0 = rng.integers(0, size.height), rng.integers(0, size.width)
        y1, x1 = rng.integers(y0, size.height), rng.integers(x0, size.width)
        boxes.append(Box(int(y0), int(x0), int(y1) + 1, int(x1) + 1))
    return boxes


def assert_reads(path: Path | str, stored: Array) -> None:
    reader = TiffReader.open(str(path))
    assert reader.size == Size(*stored.shape[:2])
    assert reader.dtype == stored.dtype
    assert reader.bands + reader.has_alpha == stored.shape[2]
    for box in windows(reader.size, 3):
        got = reader.window(box)
        assert got.dtype == stored.dtype
        assert np.array_equal(got, stored[box.slices])
    for rows in (1, 20, 1000) if stored.shape[0] < 60 else (17,):
        strips = list(reader.strips(rows))
        assert [y for y, _ in strips] == list(range(0, stored.shape[0], rows))
        assert np.array_equal(np.concatenate([strip for _, strip in strips]), stored)


def can_write(codec: str | None, bits: int, order: str) -> bool:
    """Whether tifffile writes such a file as it should be."""
    if codec == "lerc":
        return bits == 8 or order == "<"
    return codec not in ("jpeg2000", "jpegxl") or bits == 8 or order == "<"


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("planar", [False, True], ids=["together", "planes"])
@pytest.mark.parametrize("tile", [(32, 48), None], ids=["tiles", "strips"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_windows_and_strips_are_what_another_library_reads(
    tmp_path: Path, codec: str | None, bits: int, bands: int, tile: Any, planar: bool
) -> None:
    samples = picture(75, 101, bands, bits)
    for order, big, predictor in product("<>", (False, True), (False, True)):
        if not can_write(codec, bits, order) or (predictor and codec not in PREDICTED):
            continue
        path = tmp_path / f"{ord(order)}{big}{predictor}.tif"
        stored = make(
            path,
            samples,
            codec=codec,
            tile=tile,
            planar=planar,
            byteorder=order,
            bigtiff=big,
            predictor=predictor,
        )
        assert np.array_equal(stored, samples)
        assert_reads(path, stored)


@pytest.mark.parametrize("bands", [3, 4])
@pytest.mark.parametrize("tile", [(32, 48), None], ids=["tiles", "strips"])
def test_webp_is_read(tmp_path: Path, tile: Any, bands: int) -> None:
    samples = picture(75, 101, bands)
    if bands == 4:
        samples[:40, :, 3] = 255  # libwebp leaves such an alpha out
    assert_reads(tmp_path / "a.tif", make(tmp_path / "a.tif", samples, codec="webp", tile=tile))


@pytest.mark.parametrize("codec", ["png", "jpegxr"])
@pytest.mark.parametrize("bands", [1, 3])
def test_rare_codecs_are_read(tmp_path: Path, codec: str, bands: int) -> None:
    stored = make(tmp_path / "a.tif", picture(75, 101, bands), codec=codec)
    assert_reads(tmp_path / "a.tif", stored)


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("colours", ["ycbcr", "rgb"])
def test_jpeg_is_read_as_rgb(tmp_path: Path, bands: int, subsampling: Any, colours: str) -> None:
    path = tmp_path / "a.tif"
    options: dict[str, Any] = {}
    if bands == 3:
        options["photometric"] = "rgb"
        options["compressionargs"] = {"outcolorspace": colours}
        options["subsampling"] = subsampling if colours == "ycbcr" else (1, 1)
    stored = make(path, picture(75, 101, bands), codec="jpeg", **options)
    assert_reads(path, stored)
    assert np.abs(stored.astype(int) - picture(75, 101, bands)).mean() < 12


@pytest.mark.parametrize("tiled", [True, False], ids=["tiles", "strips"])
def test_jpeg_tables_that_are_kept_apart_are_used(tmp_path: Path, tiled: bool) -> None:
    """libtiff's way: YCbCr, with one set of tables for all tiles."""
    path, samples = tmp_path / "a.tif", picture(150, 170)
    options = {"tile": True, "tile_width": 64, "tile_height": 64} if tiled else {}
    image = pyvips.Image.new_from_array(samples)
    image.tiffsave(str(path), compression="jpeg", Q=95, **options)
    with tifffile.TiffFile(path) as file:
        assert 347 in file.pages[0].tags
    assert_reads(path, read_back(path))
    assert np.abs(read_back(path).astype(int) - samples).mean() < 12


def test_white_as_zero_is_turned_round(tmp_path: Path) -> None:
    samples = picture(40, 50, 2, 16)
    make(tmp_path / "a.tif", samples, photometric="miniswhite")
    seen = samples.copy()
    seen[..., 0] = 65535 - seen[..., 0]
    assert_reads(tmp_path / "a.tif", seen)


def test_tiles_that_were_never_written_are_zeros(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    stored = make(path, picture(75, 101))
    with tifffile.TiffFile(path, mode="r+") as file:
        tags = file.pages[0].tags
        counts, offsets = list(tags[325].value), list(tags[324].value)
        counts[1] = offsets[1] = 0
        tags[325].overwrite(counts)
        tags[324].overwrite(offsets)
    stored[:32, 48:96] = 0
    assert_reads(path, stored)


def test_tiles_that_were_never_written_have_gdal_s_value_where_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    make(path, picture(75, 101), extratags=[(42113, 2, 0, "200", True)])
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags[325].overwrite([0] * 9)
    reader = TiffReader.open(str(path))
    assert (reader.window(Box(0, 0, 75, 101)) == 200).all()
    assert reader.unkept == ()


def test_bytes_with_their_bits_reversed_are_read(tmp_path: Path) -> None:
    path, samples = tmp_path / "a.tif", picture(20, 16, 1)
    make(path, imagecodecs.bitorder_encode(samples), codec=None, tile=None)
    add_tag(path, 266, 3, 1, struct.pack("<H", 2))
    assert_reads(path, samples)


@pytest.mark.parametrize("rows", [700, 333, None], ids=str)
def test_a_large_uncompressed_strip_is_read_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int | None
) -> None:
    monkeypatch.setattr("msbd_dist.canvas.tiff._STRIP", 4096)
    for planar in (False, True):
        path = tmp_path / "a.tif"
        stored = make(path, picture(700, 40), codec=None, tile=None, planar=planar,
                      rowsperstrip=rows)  # fmt: skip
        reader = TiffReader.open(str(path))
        read: list[int] = []
        file = reader.page.tags.file
        real = file.read

        def counted(at: int, length: int, real: Any = real, read: Any = read) -> bytes:
            read.append(length)
            return real(at, length)

        monkeypatch.setattr(file, "read", counted)
        assert np.array_equal(reader.window(Box(300, 3, 302, 9)), stored[300:302, 3:9])
        assert sum(read) <= 3 * 2 * 4096
        assert reader.random
        assert_reads(path, stored)


def test_a_window_decodes_only_the_tiles_that_it_meets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    make(path, picture(320, 480))
    reader = TiffReader.open(str(path))
    decoded: list[Box] = []
    monkeypatch.setattr("msbd_dist.canvas.tiff.decode", spy(decoded))
    reader.window(Box(30, 50, 70, 90))
    assert decoded == [Box(0, 48, 32, 96), Box(32, 48, 64, 96), Box(64, 48, 96, 96)]
    reader.window(Box(31, 51, 69, 89))
    assert len(decoded) == 3  # the last tiles are kept
    assert reader.random


def spy(decoded: list[Box]) -> Callable[..., Array]:
    from msbd_dist.canvas.tiff import decode

    def decode_and_tell(page: Any, data: bytes, box: Box) -> Array:
        decoded.append(box)
        return decode(page, data, box)

    return decode_and_tell


def test_strips_decode_every_tile_once_and_few_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    stored = make(path, picture(320, 480))
    reader = TiffReader.open(str(path))
    decoded: list[Box] = []
    monkeypatch.setattr("msbd_dist.canvas.tiff.decode", spy(decoded))
    monkeypatch.setattr("msbd_dist.canvas.tiff._CACHE", 20_000)
    strips = [strip for _, strip in reader.strips(50)]
    assert np.array_equal(np.concatenate(strips), stored)
    assert len(decoded) == len(set(decoded)) == 100
    for box in windows(reader.size, 20):
        assert np.array_equal(reader.window(box), stored[box.slices])
        kept = sum(tile.nbytes for tile in tiff._kept._segments.values())
        assert kept <= 20_000


PLACES = st.integers(0, 200)


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    tile=st.sampled_from([(16, 16), (16, 48), (64, 32), None]),
    bands=st.sampled_from([1, 3, 4]),
    planar=st.booleans(),
    box=st.tuples(PLACES, PLACES, PLACES, PLACES),
    rows=st.integers(1, 100),
)
def test_any_window_of_any_size(
    height: int, width: int, tile: Any, bands: int, planar: bool, box: Any, rows: int
) -> None:
    samples = picture(height, width, bands)
    file = io.BytesIO()
    make(file, samples, tile=tile, planar=planar, codec=None)
    fsspec.filesystem("memory").pipe_file("/any.tif", file.getvalue())
    reader = TiffReader.open("memory://any.tif")
    (y0, y1), (x0, x1) = sorted(n % height for n in box[::2]), sorted(n % width for n in box[1::2])
    where = Box(y0, x0, y1 + 1, x1 + 1)
    assert np.array_equal(reader.window(where), samples[where.slices])
    assert np.array_equal(np.concatenate([s for _, s in reader.strips(rows)]), samples)


def test_a_window_that_leaves_the_picture_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "a.tif", picture(40, 50))
    reader = TiffReader.open(str(tmp_path / "a.tif"))
    for box in (Box(0, 0, 41, 50), Box(-1, 0, 4, 4), Box(3, 3, 3, 9)):
        with pytest.raises(ValueError, match="is not inside"):
            reader.window(box)


def test_a_file_at_a_url_is_read_by_parts(s3_server: str, tmp_path: Path) -> None:
    stored = make(tmp_path / "a.tif", picture(75, 101))
    fsspec.filesystem("s3").put_file(str(tmp_path / "a.tif"), "runs/a.tif")
    assert_reads("s3://runs/a.tif", stored)
    reader = TiffReader.open("s3://runs/a.tif")
    assert can_copy(reader) == "it isn't a file of this machine"
    with pytest.raises(ImageError, match=r"s3://runs/none\.tif: no such file"):
        TiffReader.open("s3://runs/none.tif")
    assert_reads(f"file://{tmp_path}/a.tif", stored)


def test_a_reader_crosses_processes(tmp_path: Path) -> None:
    stored = make(tmp_path / "a.tif", picture(75, 101))
    reader = pickle.loads(pickle.dumps(TiffReader.open(str(tmp_path / "a.tif"))))
    assert np.array_equal(reader.window(Box.of(reader.size)), stored)


# ---------------------------------------------------------------- pyramids and slides


def make_pyramid(
    path: Path, samples: Array, *, levels: int = 2, subifds: bool, **options: Any
) -> None:
    """Each level is the mean of 2x2 of the one above, rounded; in SubIFDs or pages of their own."""
    settings = {"photometric": "rgb", "tile": (32, 48), "compression": "zlib", "metadata": None}
    settings |= options
    level_settings = settings | options.get("level", {})
    settings.pop("level", None)
    level_settings.pop("level", None)
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        file.write(samples, **settings, subifds=levels if subifds else None)
        for _ in range(levels):
            samples = halved(samples.reshape(*samples.shape[:2], -1)).reshape(
                -(-samples.shape[0] // 2), -(-samples.shape[1] // 2), *samples.shape[2:]
            )
            file.write(samples, **level_settings, subfiletype=1)


def halved(samples: Array) -> Array:
    """The mean of 2x2, rounded, halves up; at an odd edge of what is there."""
    height, width = samples.shape[:2]
    out = np.empty((-(-height // 2), -(-width // 2), samples.shape[2]), samples.dtype)
    for y, x in np.ndindex(out.shape[:2]):
        block = samples[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].astype(int)
        n = block.shape[0] * block.shape[1]
        out[y, x] = (2 * block.sum((0, 1)) + n) // (2 * n)
    return out


@pytest.mark.parametrize("subifds", [True, False])
def test_the_first_page_of_a_pyramid_is_the_picture(tmp_path: Path, subifds: bool) -> None:
    samples = picture(151, 203)
    make_pyramid(tmp_path / "a.tif", samples, subifds=subifds)
    assert_reads(tmp_path / "a.tif", samples)
    reader = TiffReader.open(str(tmp_path / "a.tif"))
    assert [level.size for level in reader.levels] == [Size(76, 102), Size(38, 51)]


def make_slide(path: Path, samples: Array) -> None:
    """As Aperio's scanners do: picture, thumbnail, level, label, overview; JPEG, flagged oddly."""
    jpeg = {"photometric": "rgb", "compression": "jpeg", "metadata": None, "software": False}
    with tifffile.TiffWriter(path) as file:
        file.write(samples, **jpeg, tile=(64, 64), description="Aperio Image Library v11|x = 1")
        file.write(samples[::5, ::5].copy(), **jpeg, description="Aperio thumbnail")
        file.write(samples[::4, ::4].copy(), **jpeg, tile=(64, 64), description="Aperio level")
        file.write(picture(31, 57), photometric="rgb", compression="lzw", subfiletype=1,
                   metadata=None, description="Aperio\nlabel 57x31")  # fmt: skip
        file.write(picture(20, 90), **jpeg, subfiletype=9, description="Aperio\nmacro 90x20")


def test_a_slide_of_several_pages_is_read(tmp_path: Path) -> None:
    make_slide(tmp_path / "a.svs", picture(200, 320))
    assert_reads(tmp_path / "a.svs", read_back(tmp_path / "a.svs"))
    reader = TiffReader.open(str(tmp_path / "a.svs"))
    assert [level.size for level in reader.levels] == [Size(50, 80), Size(40, 64)]
    assert reader.metadata.pages == ("label", "macro")
    assert reader.unkept == ()
    assert can_copy(reader) == "JPEG tiles can't be written again without loss"


# ---------------------------------------------------------------- what is refused


def assert_refused(path: Path, match: str) -> None:
    with pytest.raises(ImageError, match=match) as caught:
        TiffReader.open(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("samples", "options", "match"),
    [
        (picture(9, 9, 4), {"extrasamples": ["assocalpha"]}, "multiplied by alpha"),
        (picture(9, 9, 4), {"photometric": "separated", "extrasamples": []}, "CMYK"),
        (picture(9, 9, 3), {"photometric": "cielab"}, "Lab"),
        (picture(9, 9, 1), {"photometric": "cfa"}, "raw mosaic"),
        (picture(9, 9, 1).astype("f4"), {}, "floats; convert it to 8 or 16 bits"),
        (picture(9, 9, 1).astype("f2"), {}, "floats"),
        (picture(9, 9, 1).astype("i2"), {}, "signed integers"),
        (picture(9, 9, 1).astype("u4"), {}, "32 bits per sample"),
        (picture(9, 9, 1) > 100, {}, "1 bits per sample"),
        (picture(9, 9, 3), {"photometric": "ycbcr"}, "YCbCr"),
        (picture(9, 9, 5), {"extrasamples": ["unspecified"] * 2}, "has 5 channels"),
    ],
)  # fmt: skip
def test_what_can_not_be_kept_exact_is_refused(
    tmp_path: Path, samples: Array, options: Any, match: str
) -> None:
    make(tmp_path / "a.tif", samples, codec=None, tile=None, **options)
    assert_refused(tmp_path / "a.tif", match)


def test_a_palette_is_refused(tmp_path: Path) -> None:
    Image.fromarray(picture(40, 50)).quantize(16).save(tmp_path / "a.tif")
    assert_refused(tmp_path / "a.tif", "a palette; convert it to RGB")


def test_several_pictures_are_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(picture(40, 50), photometric="rgb")
        file.write(picture(40, 50), photometric="rgb")
    assert_refused(tmp_path / "a.tif", "holds 2 pages; save the one to edit as its own file")
    many = [picture(2, 2, 1)[..., 0]] * 300
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        for page in many:
            file.write(page, metadata=None)
    assert_refused(tmp_path / "b.tif", "holds more than 256 pages")


@pytest.mark.parametrize("code", [3, 9, 34661, 65535])
def test_a_compression_that_nobody_decodes_is_refused(tmp_path: Path, code: int) -> None:
    make(tmp_path / "a.tif", picture(20, 20))
    set_tag(tmp_path / "a.tif", 259, code)
    assert_refused(tmp_path / "a.tif", "can't be decoded here; save it with deflate")


def set_tag(path: Path, code: int, value: Any) -> None:
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags[code].overwrite(value)


def test_a_predictor_that_readers_disagree_about_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "a.tif", picture(20, 20), codec="packbits")
    add_tag(tmp_path / "a.tif", 317, 3, 1, struct.pack("<H", 2))
    assert_refused(tmp_path / "a.tif", "predictor")


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("tile", [(32, 48), None], ids=["tiles", "strips"])
def test_a_file_cut_off_anywhere_is_refused_when_opened(
    tmp_path: Path, tile: Any, big: bool
) -> None:
    make(tmp_path / "a.tif", picture(75, 101), tile=tile, bigtiff=big)
    whole = (tmp_path / "a.tif").read_bytes()
    path = tmp_path / "cut.tif"
    for length in [0, 3, 7, 8, 15, 40, 100, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert_refused(path, "cut off")


def test_pages_that_go_round_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    make(path, picture(20, 20))
    data = path.read_bytes()
    at = struct.unpack("<I", data[4:8])[0]
    end = at + 2 + 12 * struct.unpack("<H", data[at : at + 2])[0]
    path.write_bytes(data[:end] + data[4:8] + data[end + 4 :])
    assert_refused(path, "circle")


@pytest.mark.parametrize(
    ("codes", "value"),
    [((256, 257), 2**31), ((256, 257, 322, 323), 2**31), ((322, 323), 2**30), ((257,), 0),
     ((322,), 0), ((277,), 0)],
)  # fmt: skip
def test_absurd_sizes_in_a_small_file_are_refused(tmp_path: Path, codes: Any, value: int) -> None:
    path = tmp_path / "a.tif"
    make(path, picture(20, 20), tile=(32, 32))
    for code in codes:
        kind, layout = (4, "<I") if value > 65535 else (3, "<H")
        add_tag(path, code, kind, 1, struct.pack(layout, value))
    assert_refused(path, "damaged|cut off")


@pytest.mark.parametrize("rows", [None, 2**31])
def test_an_absurd_strip_is_refused(tmp_path: Path, rows: int | None) -> None:
    path = tmp_path / "a.tif"
    make(path, picture(20, 20), tile=None, rowsperstrip=20)
    for code in (256, 257, 278):
        add_tag(path, code, 4, 1, struct.pack("<I", 2**18 if rows is None else rows))
    assert_refused(path, "damaged|cut off")


@given(place=st.integers(0, 10_000), byte=st.integers(0, 255), big=st.booleans())
def test_a_changed_byte_is_read_or_refused_but_nothing_else(
    place: int, byte: int, big: bool
) -> None:
    data = bytearray(damageable(big))
    # tifffile puts the tags first
    data[place % 700] = byte
    fsspec.filesystem("memory").pipe_file("/damaged.tif", bytes(data))
    with suppress(ImageError):
        reader = TiffReader.open("memory://damaged.tif")
        reader.window(Box(0, 0, min(40, reader.size.height), min(40, reader.size.width)))


def damageable(big: bool) -> bytes:
    file = io.BytesIO()
    make(file, picture(75, 101), bigtiff=big)
    return file.getvalue()


@pytest.mark.parametrize("codec", [*CODECS, "jpeg", "webp"], ids=str)
def test_a_damaged_tile_is_an_image_error(tmp_path: Path, codec: str | None) -> None:
    path = tmp_path / "a.tif"
    stored = make(path, picture(75, 101), codec=codec)
    with tifffile.TiffFile(path, mode="r+") as file:
        page = file.pages[0]
        offset, count = page.dataoffsets[4], page.databytecounts[4]
        if codec is None:  # it has no code that could break: it is too short
            page.tags[325].overwrite([count - 1 if i == 4 else count for i in range(9)])
        else:
            file.filehandle.seek(offset)
            file.filehandle.write(b"\xff" * min(count, 64))
    reader = TiffReader.open(str(path))
    assert np.array_equal(reader.window(Box(0, 0, 32, 101)), stored[:32])
    with pytest.raises(ImageError, match=r"a.tif: can't be decoded at \[32:64, 48:96\]") as caught:
        reader.window(Box(40, 60, 50, 70))
    assert "\n" not in str(caught.value)


def test_a_tile_of_other_samples_is_an_image_error(tmp_path: Path) -> None:
    """A JPEG XL of 16 bits in a TIFF of 8, and one of another size."""
    path = tmp_path / "a.tif"
    make(path, picture(32, 48, 1), codec="jpegxl")
    for bits, height in ((16, 32), (8, 16)):
        tile = imagecodecs.jpegxl_encode(picture(height, 48, 1, bits)[..., 0], lossless=True)
        data = path.read_bytes() + tile
        other = tmp_path / "b.tif"
        other.write_bytes(data)
        set_tag(other, 324, [len(data) - len(tile)])
        set_tag(other, 325, [len(tile)])
        with pytest.raises(ImageError, match="can't be decoded"):
            TiffReader.open(str(other)).window(Box(0, 0, 9, 9))


def test_a_tile_can_not_declare_what_takes_all_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    make(path, picture(32, 48), codec="jpeg")
    data = bytearray(path.read_bytes())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = b"\xff\xff\xff\xff"  # 65535x65535 pixels
    path.write_bytes(bytes(data))
    reader = TiffReader.open(str(path))
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + (1 << 30), hard))
    try:
        with pytest.raises(ImageError, match="can't be decoded"):
            reader.window(Box(0, 0, 9, 9))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_what_is_not_there_is_an_image_error(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none.tif", "no such file")
    assert_refused(tmp_path, "is a folder")
    (tmp_path / "a.tif").write_bytes(b"no TIFF at all")
    assert_refused(tmp_path / "a.tif", "doesn't start as a TIFF")


# ---------------------------------------------------------------- metadata


def a_camera_s_exif(order: str = "<", *, orientation: int | None = None) -> bytes:
    """As Pillow writes it, with GPS, without the word before it."""
    exif = Image.Exif()
    exif.endian = order
    exif[271], exif[272], exif[305] = "Maker", "Model 7", "Firmware"
    if orientation:
        exif[274] = orientation
    exif.get_ifd(34665).update(
        {33434: 0.25, 34855: 400, 36867: "2024:05:06 07:08:09", 37500: b"\x01\x02note"}
    )
    exif.get_ifd(34853).update(
        {1: "N", 2: (50.0, 30.0, 7.5), 3: "E", 4: (14.0, 25.0, 1.0), 29: "2024:05:06"}
    )
    return exif.tobytes().removeprefix(b"Exif\0\0")


def seen_by_pillow(block: bytes) -> tuple[dict[int, Any], dict[int, Any], dict[int, Any]]:
    exif = Image.Exif()
    exif.load(block)
    return dict(exif), dict(exif.get_ifd(34665)), dict(exif.get_ifd(34853))


def assert_exif(exif: Image.Exif) -> None:
    """It is that of `a_camera_s_exif`."""
    assert (exif[271], exif[272]) == ("Maker", "Model 7")
    inner, gps = exif.get_ifd(34665), exif.get_ifd(34853)
    assert (inner[33434], inner[34855], inner[37500]) == (0.25, 400, b"\x01\x02note")
    assert inner[36867] == "2024:05:06 07:08:09"
    assert gps[2] == (50.0, 30.0, 7.5)
    assert (gps[1], gps[29]) == ("N", "2024:05:06")


@pytest.mark.parametrize("block_order", "<>")
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True], ids=["classic", "big"])
def test_exif_is_added_and_read_by_others_and_by_us(
    tmp_path: Path, big: bool, order: str, block_order: str
) -> None:
    path, samples = tmp_path / "a.tif", picture(40, 50)
    make(path, samples, bigtiff=big, byteorder=order, resolution=(300, 300), description="words")
    before = path.read_bytes()
    add(path, exif=a_camera_s_exif(block_order, orientation=6))
    after = path.read_bytes()
    assert after[16 if big else 8 : len(before)] == before[16 if big else 8 :]
    assert np.array_equal(read_back(path), samples)
    with tifffile.TiffFile(path) as file:
        tags = file.pages[0].tags
        assert tags[34665].value["ISOSpeedRatings"] == 400
        assert tags[34853].value["GPSLatitude"] == (50, 1, 30, 1, 15, 2)
        assert tags[270].value == "words"
        assert 274 not in tags or tags[274].value == 1
    if not big or order == "<":  # Pillow takes the other one for a classic TIFF
        with Image.open(path) as image:
            assert_exif(image.getexif())
            assert image.info["dpi"] == (300, 300)
            assert np.array_equal(np.asarray(image), samples)
    reader = TiffReader.open(str(path))
    assert reader.orientation == 1
    block = reader.metadata.exif
    assert block is not None
    exif = Image.Exif()
    exif.load(block)
    assert_exif(exif)
    assert 274 not in exif
    assert block[:4] == (b"II*\0" if order == "<" else b"MM\0*")
    vips = pyvips.Image.new_from_file(str(path), fail_on="warning", access="sequential")
    assert np.array_equal(vips.numpy(), samples)


def test_exif_goes_on_into_a_png_and_back(tmp_path: Path) -> None:
    make(tmp_path / "a.tif", picture(40, 50))
    add(tmp_path / "a.tif", exif=a_camera_s_exif())
    block = TiffReader.open(str(tmp_path / "a.tif")).metadata.exif
    assert block is not None
    for suffix in ("png", "jpg", "webp"):
        Image.fromarray(picture(40, 50)).save(tmp_path / f"a.{suffix}", exif=b"Exif\0\0" + block)
        with Image.open(tmp_path / f"a.{suffix}") as image:
            assert_exif(image.getexif())


def test_exif_that_pillow_wrote_is_read(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.load(a_camera_s_exif())
    Image.fromarray(picture(40, 50)).save(tmp_path / "a.tif", exif=exif)
    block = TiffReader.open(str(tmp_path / "a.tif")).metadata.exif
    assert block is not None
    again = Image.Exif()
    again.load(block)
    assert_exif(again)


def test_exif_takes_the_place_of_exif(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    make(path, picture(40, 50))
    add(path, exif=a_camera_s_exif())
    exif = Image.Exif()
    exif.get_ifd(34665).update({34855: 1600})
    add(path, exif=exif.tobytes().removeprefix(b"Exif\0\0"))
    with Image.open(path) as image:
        assert dict(image.getexif().get_ifd(34665)) == {34855: 1600}
        assert image.getexif()[272] == "Model 7"
        assert image.getexif().get_ifd(34853)[1] == "N"


def test_a_block_that_is_no_exif_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    make(path, picture(40, 50))
    before = path.read_bytes()
    for block in (b"", b"nothing", b"II*\0\xff\xff\xff\xff"):
        with pytest.raises(ImageError, match="EXIF"):
            add(path, exif=block)
    assert path.read_bytes() == before


def test_a_crash_before_the_header_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    stored = make(path, picture(40, 50))

    def crash(self: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("msbd_dist.canvas.tiff_tags.LocalBytes.sync", crash)
    with pytest.raises(KeyboardInterrupt):
        add(path, exif=a_camera_s_exif())
    assert np.array_equal(read_back(path), stored)
    assert TiffReader.open(str(path)).metadata.exif is None


def test_damaged_exif_is_told_not_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    make(path, picture(40, 50))
    add_tag(path, 34665, 4, 1, struct.pack("<I", 2**31))
    reader = TiffReader.open(str(path))
    assert reader.metadata.exif is None
    assert "EXIF that is damaged" in map(str, reader.unkept)


def test_what_else_a_file_holds_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    extra = [
        (700, 1, 5, b"<x/> ", True),
        (34675, 7, 4, b"prof", True),
        (33723, 7, 4, b"iptc", True),
        (34377, 7, 6, b"8BIMxx", True),
        (33550, 12, 3, (1.0, 1.0, 0.0), True),
        (65000, 3, 1, 7, True),
        (65001, 4, 1, 7, True),  # it might be an address
        (274, 3, 1, 6, True),
    ]
    make(path, picture(40, 50), extratags=extra, description="words", resolution=(300, 150),
         resolutionunit="inch")  # fmt: skip
    reader = TiffReader.open(str(path))
    metadata = reader.metadata
    assert (metadata.icc, metadata.xmp, metadata.exif) == (b"prof", b"<x/> ", None)
    assert metadata.resolution == pytest.approx((300 / 25.4, 150 / 25.4))
    assert metadata.names[-3:] == ("IPTC", "Photoshop resources", "description")
    assert reader.orientation == 6
    assert [str(loss) for loss, _ in metadata.own if loss] == ["geo tags", "TIFF tag 65000"]
    assert [*map(str, reader.unkept)] == ["TIFF tag 65001"]


def test_a_resolution_without_a_unit_is_none(tmp_path: Path) -> None:
    make(tmp_path / "a.tif", picture(9, 9), resolution=(1, 1), resolutionunit="none")
    assert TiffReader.open(str(tmp_path / "a.tif")).metadata.resolution is None
    make(tmp_path / "b.tif", picture(9, 9), resolution=(100, 100), resolutionunit="centimeter")
    assert TiffReader.open(str(tmp_path / "b.tif")).metadata.resolution == (10, 10)


def test_an_extra_channel_without_a_meaning_becomes_alpha_and_that_is_told(tmp_path: Path) -> None:
    make(tmp_path / "a.tif", picture(9, 9, 4), extrasamples=["unspecified"])
    reader = TiffReader.open(str(tmp_path / "a.tif"))
    assert reader.has_alpha
    assert [loss.name for loss, _ in reader.metadata.own if loss] == ["extra-channel"]
    assert reader.unkept == ()


# ---------------------------------------------------------------- copies with edits


def segments(path: Path, page: int = 0) -> list[bytes]:
    with tifffile.TiffFile(path) as file:
        pages: Any = file.pages[page]
        data = path.read_bytes()
        return [
            data[o : o + n] for o, n in zip(pages.dataoffsets, pages.databytecounts, strict=True)
        ]


def met(box: Box, size: Size, tile: tuple[int, int]) -> set[int]:
    """The numbers of the tiles that a box meets."""
    across = -(-size.width // tile[1])
    return {
        row * across + column
        for row in range(box.y0 // tile[0], -(-box.y1 // tile[0]))
        for column in range(box.x0 // tile[1], -(-box.x1 // tile[1]))
    }


EDIT = [Box(30, 50, 40, 60), Box(70, 97, 75, 101)]


@pytest.mark.parametrize("planar", [False, True], ids=["together", "planes"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_a_copy_is_the_source_but_for_the_tiles_of_the_edit(
    tmp_path: Path, codec: str | None, bits: int, bands: int, planar: bool
) -> None:
    for order, big, predictor in product("<>", (False, True), (False, True)):
        if not can_write(codec, bits, order) or (predictor and codec not in PREDICTED):
            continue
        source, target = tmp_path / "a.tif", tmp_path / "b.tif"
        make(
            source,
            picture(75, 101, bands, bits),
            codec=codec,
            planar=planar,
            byteorder=order,
            bigtiff=big,
            predictor=predictor,
            extratags=[(65000, 3, 1, 7, True), (65001, 2, 0, "private", True)],
        )
        _, after, counts = edited_copy(source, target, EDIT)
        old, new = segments(source), segments(target)
        touched = met(EDIT[0], Size(75, 101), (32, 48)) | met(EDIT[1], Size(75, 101), (32, 48))
        planes = bands if planar and bands > 1 else 1
        assert counts.written == planes * len(touched)
        assert counts.copied == planes * (9 - len(touched))
        assert counts.appended == target.stat().st_size - source.stat().st_size
        for number, (was, now) in enumerate(zip(old, new, strict=True)):
            assert (was == now) or number % 9 in touched
        assert_everywhere(target, after, codec, planar)
        with tifffile.TiffFile(target) as file:
            assert file.pages[0].tags[65000].value == 7
            assert file.pages[0].tags[65001].value == "private"


def assert_everywhere(path: Path, seen: Array, codec: str | None, planar: bool = False) -> None:
    """All libraries that can read a file see the same in it."""
    bands, dtype = seen.shape[2], seen.dtype
    assert np.array_equal(read_back(path), seen)
    assert_reads(path, seen)
    if codec not in NOT_BY_VIPS and not (planar and bands > 1):
        image = pyvips.Image.new_from_file(str(path), fail_on="warning", access="sequential")
        assert np.array_equal(image.numpy().reshape(seen.shape), seen)
    pillow = path.read_bytes()[:4] != b"MM\0+"  # it takes it for a classic one
    if pillow and codec in BY_PILLOW and dtype == np.uint8 and bands != 2 and not planar:
        with Image.open(path) as opened:
            assert np.array_equal(np.asarray(opened).reshape(seen.shape), seen)


def test_white_as_zero_stays_so(tmp_path: Path) -> None:
    make(tmp_path / "a.tif", picture(75, 101, 1), photometric="miniswhite")
    _, after, _ = edited_copy(tmp_path / "a.tif", tmp_path / "b.tif", EDIT)
    assert np.array_equal(255 - read_back(tmp_path / "b.tif"), after)
    assert_reads(tmp_path / "b.tif", after)


def test_strips_are_copied_like_tiles(tmp_path: Path) -> None:
    make(tmp_path / "a.tif", picture(75, 101), tile=None)
    _, after, counts = edited_copy(tmp_path / "a.tif", tmp_path / "b.tif", EDIT)
    assert_everywhere(tmp_path / "b.tif", after, "zlib")
    assert (counts.copied, counts.written) == (3, 3)


def test_lossless_webp_is_copied(tmp_path: Path) -> None:
    make(tmp_path / "a.tif", picture(75, 101), codec="webp")
    _, after, _ = edited_copy(tmp_path / "a.tif", tmp_path / "b.tif", EDIT)
    assert_everywhere(tmp_path / "b.tif", after, "webp")


@pytest.mark.parametrize("codec", ["webp", "jpeg2000", "jpegxl"])
def test_tiles_that_were_lossy_are_written_again_without_loss(tmp_path: Path, codec: str) -> None:
    args = {
        "webp": {"lossless": False, "level": 50},
        "jpeg2000": {"level": 30},
        "jpegxl": {"level": 60},
    }[codec]
    stored = make(tmp_path / "a.tif", picture(75, 101), codec=codec, compressionargs=args)
    assert not np.array_equal(stored, picture(75, 101))
    before, after, _ = edited_copy(tmp_path / "a.tif", tmp_path / "b.tif", EDIT)
    assert np.array_equal(before, stored)
    assert_everywhere(tmp_path / "b.tif", after, codec)


def test_a_libvips_file_is_copied(tmp_path: Path) -> None:
    """libtiff keeps places and lengths in other types than tifffile, lengths in short ones."""
    for big, size in product((False, True), ((75, 101), (10, 12))):
        image = pyvips.Image.new_from_array(picture(*size))
        image.tiffsave(str(tmp_path / "a.tif"), tile=True, tile_width=16, tile_height=16,
                       compression="deflate", predictor="horizontal", bigtiff=big)  # fmt: skip
        box = Box(2, 3, 9, 11)
        _, after, _ = edited_copy(tmp_path / "a.tif", tmp_path / "b.tif", [box])
        assert_everywhere(tmp_path / "b.tif", after, "zlib")


@pytest.mark.parametrize("size", [(20, 30), (75, 101)], ids=["one", "many"])
@pytest.mark.parametrize("big", [False, True], ids=["classic", "big"])
def test_lengths_in_too_narrow_a_type_are_moved(tmp_path: Path, big: bool, size: Any) -> None:
    """Flat tiles have lengths of a byte or two; noise has not."""
    path = tmp_path / "a.tif"
    make(path, np.full((*size, 3), 7, np.uint8), bigtiff=big, tile=(160, 160))
    reader = TiffReader.open(str(path))
    entry = reader.page.directory.entries[325]
    data = bytearray(path.read_bytes())
    layout = "<H" * entry.count if entry.count == 1 else f"<{entry.count}H"
    struct.pack_into("<H", data, entry.cell + 2, 3)
    struct.pack_into(layout, data, entry.at, *reader.page.counts)
    path.write_bytes(bytes(data))
    boxes = [Box.of(Size(*size))]
    _, after, _ = edited_copy(path, tmp_path / "b.tif", boxes)
    assert_everywhere(tmp_path / "b.tif", after, "zlib")


@pytest.mark.parametrize("subifds", [True, False], ids=["subifds", "pages"])
@pytest.mark.parametrize("size", [(160, 208), (151, 203)], ids=["even", "odd"])
def test_smaller_versions_follow_the_edit_and_stay_elsewhere(
    tmp_path: Path, size: Any, subifds: bool
) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    make_pyramid(source, picture(*size), subifds=subifds)
    boxes = [Box(30, 50, 41, 61), Box(size[0] - 7, size[1] - 9, *size)]
    _, after, _ = edited_copy(source, target, boxes)
    assert np.array_equal(read_back(target), after)
    level = after
    for number in (1, 2):
        level = halved(level)
        assert np.array_equal(levels(target)[number], level)
    assert_reads(target, after)


def levels(path: Path) -> list[Array]:
    """All versions of a picture, largest first."""
    with tifffile.TiffFile(path) as file:
        pages: list[Any] = [file.pages[0], *(file.pages[0].pages or []), *file.pages[1:]]
        return [page.asarray() for page in pages]


def test_smaller_versions_of_another_make_stay_where_nothing_was_edited(tmp_path: Path) -> None:
    """A level by every second pixel, not by means: only what shows the edit is made anew."""
    source, target, samples = tmp_path / "a.tif", tmp_path / "b.tif", picture(160, 208)
    with tifffile.TiffWriter(source) as file:
        options = {"photometric": "rgb", "tile": (32, 48), "compression": "zlib", "metadata": None}
        file.write(samples, **options, subifds=1)
        file.write(samples[::2, ::2].copy(), **options, subfiletype=1)
    _, after, _ = edited_copy(source, target, [Box(31, 50, 40, 60)])
    wanted = samples[::2, ::2].copy()
    wanted[15:20, 25:30] = halved(after)[15:20, 25:30]
    assert np.array_equal(levels(target)[1], wanted)


@pytest.mark.parametrize("ratio", [3, 5, 2.7])
def test_other_ratios_are_means_of_areas(tmp_path: Path, ratio: float) -> None:
    source, target, samples = tmp_path / "a.tif", tmp_path / "b.tif", picture(45, 75)
    small = (round(45 / ratio), round(75 / ratio))
    options = {"photometric": "rgb", "tile": (32, 48), "compression": "zlib", "metadata": None}
    with tifffile.TiffWriter(source) as file:
        file.write(samples, **options)
        file.write(np.zeros((*small, 3), np.uint8), **options, subfiletype=1)
    _, after, _ = edited_copy(source, target, [Box(0, 0, 45, 75)])
    # each pixel of the level is the mean over its area: compare with a fine grid's mean
    fine = np.repeat(np.repeat(after, small[0], 0), small[1], 1)
    means = fine.reshape(small[0], 45, small[1], 75, 3).mean((1, 3))
    assert np.abs(levels(target)[1] - means).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("subifd", [False, True])
def test_a_libvips_pyramid_follows_the_edit(tmp_path: Path, subifd: bool) -> None:
    """Its levels leave an odd last row out."""
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    image = pyvips.Image.new_from_array(picture(151, 203))
    image.tiffsave(str(source), tile=True, tile_width=32, tile_height=32, pyramid=True,
                   subifd=subifd, compression="deflate")  # fmt: skip
    _, after, _ = edited_copy(source, target, [Box(0, 0, 151, 203)])
    every = levels(target)
    assert len(every) == 4
    for above, level in pairwise(every):
        height, width = (2 * (n // 2) for n in above.shape[:2])
        assert np.array_equal(level, halved(above[:height, :width]))
    assert_everywhere(target, after, "zlib")


def test_jpeg_levels_below_an_exact_picture_are_made_anew(tmp_path: Path) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    jpeg = {"compression": "jpeg", "tile": (32, 48)}
    make_pyramid(source, picture(160, 208), subifds=True, levels=1, level=jpeg)
    _, after, _ = edited_copy(source, target, [Box(32, 48, 128, 144)])
    assert np.array_equal(read_back(target), after)
    old, new = levels(source)[1], levels(target)[1]
    assert np.array_equal(old[:, 96:], new[:, 96:])
    image = pyvips.Image.tiffload(str(target), fail_on="warning", subifd=0)
    assert np.array_equal(image.numpy(), new)
    flat = halved(after)
    assert np.abs(flat.astype(int) - new)[16:64, 24:72].mean() < 30  # noise, in JPEG


def test_a_copy_keeps_exif_and_every_tag(tmp_path: Path) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    make(source, picture(75, 101), iccprofile=b"a profile", description="words")
    add(source, exif=a_camera_s_exif())
    edited_copy(source, target, EDIT)
    assert TiffReader.open(str(target)).metadata == TiffReader.open(str(source)).metadata
    with Image.open(target) as image:
        assert_exif(image.getexif())


def test_nothing_changed_is_the_same_file(tmp_path: Path) -> None:
    make(tmp_path / "a.tif", picture(75, 101))
    _, _, counts = edited_copy(tmp_path / "a.tif", tmp_path / "b.tif", [])
    assert (tmp_path / "b.tif").read_bytes() == (tmp_path / "a.tif").read_bytes()
    assert counts == TileCounts(9, 0, 0)


def test_tiles_of_one_place_in_the_file_part(tmp_path: Path) -> None:
    """Some writers keep equal tiles once."""
    path = tmp_path / "a.tif"
    make(path, np.full((96, 96, 3), 9, np.uint8), tile=(32, 48))
    with tifffile.TiffFile(path, mode="r+") as file:
        tags = file.pages[0].tags
        tags[324].overwrite([tags[324].value[0]] * 6)
    _, after, _ = edited_copy(path, tmp_path / "b.tif", [Box(0, 0, 5, 5)])
    assert np.array_equal(read_back(tmp_path / "b.tif"), after)


def test_gdal_is_told_that_tiles_moved(tmp_path: Path) -> None:
    """In a note at the start of a cloud-optimized file; here it is the description."""
    note = "GDAL_STRUCTURAL_METADATA_SIZE=000032 bytes\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
    make(tmp_path / "a.tif", picture(75, 101), description=note)
    edited_copy(tmp_path / "a.tif", tmp_path / "b.tif", EDIT)
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert file.pages[0].description == note.replace("=NO\n ", "=YES")
    edited_copy(tmp_path / "a.tif", tmp_path / "c.tif", [])
    assert (tmp_path / "c.tif").read_bytes() == (tmp_path / "a.tif").read_bytes()


def test_the_source_is_never_the_target(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    stored = make(path, picture(75, 101))
    reader = TiffReader.open(str(path))
    with pytest.raises(ValueError, match="is the picture itself"):
        copy_with_edits(reader, path, EDIT, reader.window)
    assert np.array_equal(read_back(path), stored)


def test_the_old_place_is_used_where_a_classic_file_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    make(source, picture(75, 101))
    size = source.stat().st_size
    monkeypatch.setattr("msbd_dist.canvas.tiff_copy._CLASSIC", size + 200)
    reader = TiffReader.open(str(source))
    assert can_copy(reader) == "it would pass the 4 GiB of a classic TIFF"
    assert can_copy(reader, []) is not None
    monkeypatch.setattr("msbd_dist.canvas.tiff_copy.can_copy", lambda *_: None)
    flat = reader.window(Box.of(reader.size))
    flat[:20, :20] = 0
    counts = copy_with_edits(reader, target, [Box(0, 0, 20, 20)], lambda box: flat[box.slices])
    assert np.array_equal(read_back(target), flat)
    assert counts == TileCounts(8, 1, 0)
    with pytest.raises(ImageError, match="write it anew as BigTIFF"):
        edited_copy(source, target, EDIT)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"codec": "jpeg"}, "JPEG tiles can't be written again without loss"),
        ({"codec": "png"}, "tiles of its compression aren't written here"),
        ({"extratags": [(37724, 7, 4, b"8BIM", True)]}, "its Photoshop layers"),
    ],
)
def test_what_can_not_be_copied_is_told(tmp_path: Path, options: Any, reason: str) -> None:
    make(tmp_path / "a.tif", picture(75, 101), **options)
    reader = TiffReader.open(str(tmp_path / "a.tif"))
    why = can_copy(reader)
    assert why is not None
    assert why.startswith(reason)
    with pytest.raises(ImageError, match="write it anew"):
        copy_with_edits(reader, tmp_path / "b.tif", EDIT, reader.window)
    assert not (tmp_path / "b.tif").exists()


def test_webp_with_alpha_is_not_copied(tmp_path: Path) -> None:
    make(tmp_path / "a.tif", picture(75, 101, 4), codec="webp")
    assert "WebP" in str(can_copy(TiffReader.open(str(tmp_path / "a.tif"))))


def test_a_window_of_another_shape_is_an_error(tmp_path: Path) -> None:
    make(tmp_path / "a.tif", picture(75, 101))
    reader = TiffReader.open(str(tmp_path / "a.tif"))
    with pytest.raises(ValueError, match="wanted uint8"):
        copy_with_edits(reader, tmp_path / "b.tif", EDIT, lambda box: np.zeros((3, 3, 3), np.uint8))


@given(
    boxes=st.lists(st.tuples(*[st.integers(0, 99)] * 4), max_size=3),
    bands=st.sampled_from([1, 3]),
    tile=st.sampled_from([(16, 32), (32, 16)]),
)
def test_any_edit_of_a_pyramid_is_there_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, boxes: Any, bands: int, tile: Any
) -> None:
    folder = tmp_path_factory.mktemp("copy")
    source, target = folder / "a.tif", folder / "b.tif"
    colours = "rgb" if bands == 3 else "minisblack"
    samples = picture(61, 83, bands)
    shown = samples if bands == 3 else samples[..., 0]
    make_pyramid(source, shown, subifds=True, photometric=colours, tile=tile)
    edits = []
    for y0, y1, x0, x1 in boxes:
        (y0, y1), (x0, x1) = sorted((y0 % 61, y1 % 61)), sorted((x0 % 83, x1 % 83))
        edits.append(Box(y0, x0, y1 + 1, x1 + 1))
    _, after, _ = edited_copy(source, target, edits)
    every = [level.reshape(*level.shape[:2], bands) for level in levels(target)]
    assert np.array_equal(every[0], after)
    assert np.array_equal(every[1], halved(after))
    assert np.array_equal(every[2], halved(halved(after)))
