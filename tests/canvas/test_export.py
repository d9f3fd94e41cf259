"""Every kind of picture to every kind of file: what is exact, what is kept, what is refused."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image, ImageCms

from msbd_dist.canvas import export
from msbd_dist.canvas.export import Edited, How, check_target, losses, verify, write_edited
from msbd_dist.canvas.images import Picture, open_reader
from msbd_dist.canvas.ome import OmeReader, write_ome
from msbd_dist.canvas.reader import Metadata, Samples
from msbd_dist.canvas.tiff import TiffReader
from msbd_dist.core.geometry import Box, Size
from msbd_dist.errors import ImageError, StoreError

Array = NDArray[Any]
SIZE = Size(150, 210)
BOX = Box(40, 60, 130, 170)  # of the edit
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_ICC = ICC.replace(b"RGB ", b"GRAY", 1)  # the header says for which colours


def noise(bits: int, bands: int, size: Size = SIZE) -> Array:
    rng = np.random.default_rng(bits + bands)
    return rng.integers(0, 2**bits, (*size.shape, bands)).astype(f"u{bits // 8}")


def exif_block() -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
    exif.get_ifd(0x8825)[1] = "N"
    return bytes(exif.tobytes()).removeprefix(b"Exif\0\0")


def make(path: Path, samples: Array, icc: bytes | None) -> None:
    """A picture file of these samples, in the format of its name."""
    bands = samples.shape[-1]
    squeezed = samples[..., 0] if bands == 1 else samples
    if "zarr" in path.name:
        version = "0.4" if "04" in path.name else "0.5"
        colours, alpha = (1, bands == 2) if bands < 3 else (3, bands == 4)
        held = Metadata(icc=icc, exif=exif_block() if icc else None)
        write_ome(
            path, Size(*samples.shape[:2]), samples.dtype, colours, alpha, held,
            lambda box: samples[box.slices], version=version, chunk=64, name="x",  # type: ignore[arg-type]
        )  # fmt: skip
    elif path.suffix == ".tif":
        tile = {"tile": (64, 64)} if "tiled" in path.name else {"rowsperstrip": 16}
        extra = {"extrasamples": ["unassalpha"]} if bands in (2, 4) else {}
        tifffile.imwrite(
            path, squeezed, photometric="rgb" if bands > 2 else "minisblack", compression="zlib",
            predictor=True, iccprofile=icc, metadata=None, **tile, **extra,
        )  # fmt: skip
    else:
        image = pyvips.Image.new_from_array(samples)
        image = image.copy(interpretation=SPACES[bands < 3, samples.dtype.itemsize])
        if icc:
            image.set_type(pyvips.GValue.blob_type, "icc-profile-data", icc)
        lossless = {"lossless": True, "exact": True} if path.suffix == ".webp" else {}
        image.write_to_file(str(path), **lossless)


SPACES = {(True, 1): "b-w", (True, 2): "grey16", (False, 1): "srgb", (False, 2): "rgb16"}


class Ragged:
    """Noise over the edit's box."""

    def __init__(self) -> None:
        self.whole = np.zeros(SIZE.shape, bool)
        self.whole[BOX.slices] = np.random.default_rng(5).random(BOX.size.shape) < 0.3

    def any(self, box: Box) -> bool:
        return bool(self.window(box).any())

    def window(self, box: Box) -> NDArray[np.bool_]:
        return self.whole[box.slices]


MASK = Ragged()


def edit_of(picture: Picture) -> Edited:
    """Noise where the mask is, the picture elsewhere."""
    rng = np.random.default_rng(9)
    source = picture.read(Box.of(picture.size))
    drawn = rng.integers(0, np.iinfo(picture.dtype).max + 1, source.shape, picture.dtype)
    whole = np.where(MASK.whole, drawn, source)

    def patch(box: Box) -> Samples:
        return whole[(slice(None), *box.slices)]

    return Edited(picture, BOX, patch, MASK)


def stored(path: Path) -> Array:
    """(h, w, bands) by another library than the one that wrote it."""
    if path.suffix == ".tif":
        samples = tifffile.imread(path)
    elif path.suffix == ".zarr":
        group = zarr.open_group(path, mode="r")
        samples = np.moveaxis(np.asarray(group["0"]), 0, -1)
    elif path.suffix == ".png":
        samples = pyvips.Image.new_from_file(str(path)).numpy()
    else:
        samples = np.asarray(Image.open(path))
    return samples if samples.ndim == 3 else samples[..., None]


# ---------------------------------------------------------------- the table

KINDS = ["a.png", "a.tif", "tiled.tif", "a.jpg", "a.webp", "a.ome.zarr", "a04.ome.zarr"]
TARGETS = ["b.png", "b.tif", "b.webp", "b.ome.zarr"]


def possible(kind: str, bits: int, bands: int, icc: bytes | None, target: str) -> bool:
    """What the formats themselves can hold."""
    if ".webp" in target and bands < 3 and icc:
        return False
    if ".jpg" in kind and (bits == 16 or bands in (2, 4)):
        return False
    if ".webp" in kind and (bits == 16 or bands < 3):
        return False
    return not (".webp" in target and bits == 16)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("icc", [None, ICC], ids=["", "icc"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_samples_and_profile_of_every_kind_are_kept_in_every_other(
    tmp_path: Path, kind: str, bits: int, bands: int, icc: bytes | None, target: str
) -> None:
    if not possible(kind, bits, bands, icc, target):
        pytest.skip("the format can't hold it")
    icc = GREY_ICC if icc and bands < 3 else icc
    make(tmp_path / kind, noise(bits, bands), icc)
    picture = Picture.open(tmp_path / kind)
    whole = Box(0, 0, *picture.stored_size.shape)
    before = picture.reader.window(whole)
    if ".jpg" not in kind:
        assert np.array_equal(before, noise(bits, bands))
    write_edited(edit_of(picture), tmp_path / target, How())
    got = stored(tmp_path / target)
    if ".webp" in target and bands < 3:
        before = np.concatenate([before[..., :1]] * 3 + [before[..., 1:]], -1)
    assert got.dtype == before.dtype
    assert got.shape == before.shape
    assert np.array_equal(got[~MASK.whole], before[~MASK.whole])
    assert np.array_equal(got[..., 3:], before[..., 3:])
    assert not np.array_equal(got, before)
    again = Picture.open(tmp_path / target)
    assert again.metadata.icc == icc
    assert again.has_alpha == picture.has_alpha
    found = verify(edit_of(picture), tmp_path / target, "full")
    assert found.compared == SIZE.area


@pytest.mark.parametrize("target", ["b.png", "b.tif"])
def test_a_profile_of_other_colours_is_told_to_be_lost(tmp_path: Path, target: str) -> None:
    make(tmp_path / "a.ome.zarr", noise(8, 1), ICC)
    with pytest.raises(ImageError, match=r"an ICC profile of other colours \(RGB\)"):
        check_target(Picture.open(tmp_path / "a.ome.zarr"), tmp_path / target, How())


@pytest.mark.parametrize("target", [*TARGETS, "b.jpg"])
@pytest.mark.parametrize("kind", ["a.ome.zarr", "exif.tif", "exif.jpg"])
def test_exif_is_kept_by_every_format(tmp_path: Path, kind: str, target: str) -> None:
    if "exif" in kind:
        exif = Image.Exif()
        exif.load(exif_block())
        Image.fromarray(noise(8, 3)).save(tmp_path / kind, exif=exif)
    else:
        make(tmp_path / kind, noise(8, 3), ICC)
    picture = Picture.open(tmp_path / kind)
    write_edited(edit_of(picture), tmp_path / target, How(allow_loss=True, tiff="plain"))
    block = Picture.open(tmp_path / target).metadata.exif
    assert block is not None
    kept = Image.Exif()
    kept.load(block)
    assert kept.get_ifd(0x8769)[0x9003] == "2020:01:01 00:00:00"
    assert kept.get_ifd(0x8825)[1] == "N"
    if target == "b.tif":
        with tifffile.TiffFile(tmp_path / target) as file:
            assert file.pages[0].tags["ExifTag"].value["DateTimeOriginal"] == "2020:01:01 00:00:00"
        with Image.open(tmp_path / target) as image:
            assert image.getexif().get_ifd(0x8769)[0x9003] == "2020:01:01 00:00:00"


@pytest.mark.parametrize("kind", ["a.png", "tiled.tif", "a.ome.zarr"])
def test_a_tiff_may_have_a_pyramid(tmp_path: Path, kind: str) -> None:
    samples = noise(8, 3, Size(1300, 1100))
    make(tmp_path / kind, samples, None)
    write_edited(edit_of_large(tmp_path / kind), tmp_path / "b.tif", How(tiff="pyramid"))
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        levels = file.series[0].levels
        assert [level.shape[:2] for level in levels] == [(1300, 1100), (650, 550), (325, 275)]
        assert np.array_equal(levels[0].asarray()[200:], samples[200:])


def edit_of_large(path: Path) -> Edited:
    picture = Picture.open(path)

    def patch(box: Box) -> Samples:
        part = picture.read(box)
        part[:, MASK.window(box)] ^= 255
        return part

    return Edited(picture, BOX, patch, MASK)


@pytest.mark.parametrize("kind", ["tiled.tif", "a.ome.zarr"])
def test_what_is_not_edited_is_copied_as_it_is_compressed(tmp_path: Path, kind: str) -> None:
    make(tmp_path / kind, noise(8, 3, Size(1300, 1100)), ICC)
    target = tmp_path / f"b{'.tif' if 'tif' in kind else '.ome.zarr'}"
    write_edited(edit_of_large(tmp_path / kind), target, How(tiff="copy"))
    if "tif" in kind:
        with tifffile.TiffFile(tmp_path / kind) as a, tifffile.TiffFile(target) as b:
            kept = sum(
                one == other
                for one, other in zip(a.pages[0].dataoffsets, b.pages[0].dataoffsets, strict=True)
            )
            assert kept > 0.9 * len(a.pages[0].dataoffsets)
    else:
        files = [p.relative_to(target) for p in target.rglob("*") if p.is_file()]
        source = tmp_path / kind
        kept = sum((source / p).read_bytes() == (target / p).read_bytes() for p in files)
        assert 0.9 * len(files) < kept < len(files)


def test_a_copy_loses_nothing(tmp_path: Path) -> None:
    tags = [(65000, "I", 1, 7, True)]
    tifffile.imwrite(tmp_path / "a.tif", noise(8, 3), photometric="rgb", extratags=tags)
    picture = Picture.open(tmp_path / "a.tif")
    assert losses(picture, tmp_path / "b.tif", How()) == []
    (lost,) = losses(picture, tmp_path / "b.tif", How(tiff="plain"))
    assert (lost.name, str(lost)) == ("tags", "TIFF tag 65000")


# ---------------------------------------------------------------- memory and leftovers

STREAM = """
import resource
import sys
from pathlib import Path
import numpy as np
from msbd_dist.batch.record import peak_memory_mb
from msbd_dist.canvas.export import Edited, How, memory_bytes, verify, write_edited
from msbd_dist.canvas.images import Picture
from msbd_dist.core.geometry import Box

class All:
    def any(self, box):
        return True

def patch(box):
    return np.full((3, box.height, box.width), 7, np.uint8)

picture, target = Picture.open(sys.argv[1]), Path(sys.argv[2])
edited = Edited(picture, Box(100, 10, picture.size.height - 10, 5000), patch, All())
before = peak_memory_mb()
if len(sys.argv) > 3:
    status = Path("/proc/self/status").read_text().splitlines()
    has = int(next(line for line in status if line.startswith("VmData")).split()[1]) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (has + int(sys.argv[3]),) * 2)
write_edited(edited, target, How(allow_loss=True))
verify(edited, target, "full")
print((peak_memory_mb() - before) << 20, memory_bytes(picture, target))
"""


@pytest.mark.parametrize(
    ("kind", "target"), [("a.tif", "b.png"), ("tiled.tif", "b.tif"), ("tiled.tif", "b.ome.zarr")]
)
def test_memory_does_not_grow_with_the_picture_s_rows(
    tmp_path: Path, kind: str, target: str
) -> None:
    layout = {"tile": (512, 512)} if "tiled" in kind else {"rowsperstrip": 64}
    grown = []
    for height in (4000, 24000):  # 72 and 432 megabytes of black
        tifffile.imwrite(
            tmp_path / kind, np.zeros((height, 6000, 3), np.uint8), photometric="rgb",
            compression="zlib", metadata=None, **layout,
        )  # fmt: skip
        script = [sys.executable, "-c", STREAM, tmp_path / kind, tmp_path / target]
        said = subprocess.run(script, capture_output=True, text=True, check=True).stdout
        grown.append(int(said.split()[0]))
        assert grown[-1] < int(said.split()[1])
    assert grown[1] < 1.3 * grown[0] + (64 << 20)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit that counts is Linux's")
def test_a_picture_is_edited_in_less_memory_than_it_has_samples(tmp_path: Path) -> None:
    """With a limit set by the kernel; the stacks of threads count too, used or not."""
    pixels = np.zeros((60000, 6000, 3), np.uint8)
    layout = {"compression": "zlib", "rowsperstrip": 64}
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", metadata=None, **layout)
    script = [sys.executable, "-c", STREAM, tmp_path / "a.tif", tmp_path / "b.png"]
    subprocess.run([*script, str(pixels.nbytes * 2 // 3)], capture_output=True, check=True)


def test_what_a_killed_writer_left_is_swept_up_but_nothing_of_a_later_one(tmp_path: Path) -> None:
    make(tmp_path / "a.png", noise(8, 3), None)
    (tmp_path / ".b.png.2.9.0123.part.png").write_bytes(b"half")
    (tmp_path / ".b.png.3.1.4567.part_files").mkdir()
    later = [".b.png.10.1.89ab.part.png", ".b.png.mine.part.png", ".bb.png.1.1.0123.part.png"]
    for name in later:
        (tmp_path / name).write_bytes(b"another's")
    edited = edit_of(Picture.open(tmp_path / "a.png"))
    write_edited(edited, tmp_path / "b.png", How(), attempt="3.2")
    assert sorted(p.name for p in tmp_path.iterdir()) == [*later, "a.png", "b.png"]


# ---------------------------------------------------------------- lossy and limited formats


def test_a_jpeg_holds_the_picture_nearly(tmp_path: Path) -> None:
    y, x = np.mgrid[: SIZE.height, : SIZE.width]
    smooth = np.stack([x, y, (x + y) // 2], -1).astype(np.uint8)
    make(tmp_path / "a.png", smooth, ICC)
    picture = Picture.open(tmp_path / "a.png")
    edited = Edited(picture, BOX, picture.read, MASK)
    write_edited(edited, tmp_path / "b.jpg", How(allow_loss=True))
    got = stored(tmp_path / "b.jpg").astype(int)
    assert np.abs(got - smooth).max() < 12
    assert Picture.open(tmp_path / "b.jpg").metadata.icc == ICC


@pytest.mark.parametrize("target", ["b.jpg", "b.webp", "b.dzi"])
def test_16_bits_and_alpha_become_8_bits_where_that_is_allowed(tmp_path: Path, target: str) -> None:
    make(tmp_path / "a.png", noise(16, 4), None)
    picture = Picture.open(tmp_path / "a.png")
    assert "16 bits" in map(str, losses(picture, tmp_path / target, How()))
    with pytest.raises(ImageError, match=r"can't keep .*16 bits.*--allow-loss"):
        check_target(picture, tmp_path / target, How())
    write_edited(edit_of(picture), tmp_path / target, How(allow_loss=True))
    if target == "b.webp":
        wanted = np.rint(noise(16, 4) / 257).astype(np.uint8)
        assert np.array_equal(stored(tmp_path / target)[~MASK.whole], wanted[~MASK.whole])


def test_deep_zoom_is_a_file_and_a_folder_of_tiles(tmp_path: Path) -> None:
    make(tmp_path / "a.png", noise(8, 3, Size(700, 900)), None)
    for _ in range(2):  # the second time in place of the first
        edited = edit_of_large(tmp_path / "a.png")
        write_edited(edited, tmp_path / "b.dzi", How(allow_loss=True))
        assert 'Height="700"' in (tmp_path / "b.dzi").read_text()
        tiles = {p.name for p in (tmp_path / "b_files/10").iterdir()}
        assert tiles == {f"{x}_{y}.jpg" for x in range(4) for y in range(3)}
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.dzi", "b_files"]


@pytest.mark.parametrize(("target", "edge"), [("b.jpg", 65500), ("b.webp", 16383)])
def test_a_picture_too_long_for_its_format_is_refused_before_any_work(
    tmp_path: Path, target: str, edge: int
) -> None:
    make(tmp_path / "a.png", np.zeros((2, edge + 1, 1), np.uint8), None)
    with pytest.raises(ImageError, match=f"ends at {edge} pixels"):
        check_target(Picture.open(tmp_path / "a.png"), tmp_path / target, How(allow_loss=True))


def test_a_copy_that_can_t_be_is_refused_with_the_reason(tmp_path: Path) -> None:
    make(tmp_path / "a.png", noise(8, 3), None)
    with pytest.raises(ImageError, match=r"can't be a copy.*not a TIFF.*tiff: plain"):
        check_target(Picture.open(tmp_path / "a.png"), tmp_path / "b.tif", How(tiff="copy"))


def test_a_turned_picture_does_not_become_an_ome_zarr(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(8, 3)).save(tmp_path / "a.jpg", exif=exif)
    with pytest.raises(ImageError, match="is turned"):
        check_target(Picture.open(tmp_path / "a.jpg"), tmp_path / "b.zarr", How(allow_loss=True))


# ---------------------------------------------------------------- verifying


@pytest.mark.parametrize("which", ["sample", "full"])
@pytest.mark.parametrize("kind", ["a.png", "tiled.tif"])
def test_one_wrong_sample_near_the_edit_is_found(tmp_path: Path, kind: str, which: Any) -> None:
    make(tmp_path / kind, noise(8, 3), None)
    edited = edit_of(Picture.open(tmp_path / kind))
    write_edited(edited, tmp_path / "b.tif", How())
    verify(edited, tmp_path / "b.tif", which)
    wrong = tifffile.imread(tmp_path / "b.tif")
    y, x = np.argwhere(~MASK.window(BOX))[0] + (BOX.y0, BOX.x0)
    wrong[y, x, 1] ^= 1
    make(tmp_path / "wrong-tiled.tif", wrong, None)
    with pytest.raises(StoreError, match="differs"):
        verify(edited, tmp_path / "wrong-tiled.tif", which)


def test_a_sample_is_all_of_the_edit_and_some_of_the_rest(tmp_path: Path) -> None:
    make(tmp_path / "tiled.tif", noise(8, 3, Size(3000, 3000)), None)
    edited = edit_of_large(tmp_path / "tiled.tif")
    write_edited(edited, tmp_path / "b.tif", How())
    found = verify(edited, tmp_path / "b.tif", "sample")
    assert BOX.size.area < found.compared < found.pixels
    assert verify(edited, tmp_path / "b.tif", "off").compared == 0


def test_a_file_that_is_not_as_it_is_to_be_never_gets_its_name(tmp_path: Path) -> None:
    make(tmp_path / "a.png", noise(8, 3), None)
    edited = edit_of(Picture.open(tmp_path / "a.png"))

    def refuse(place: Path) -> None:
        raise StoreError("no")

    with pytest.raises(StoreError):
        write_edited(edited, tmp_path / "b.tif", How(), before=refuse)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


# ---------------------------------------------------------------- what decodes what


def test_what_decodes_a_file_is_chosen_by_what_it_is(tmp_path: Path) -> None:
    make(tmp_path / "a.ome.zarr", noise(8, 3), None)
    (tmp_path / "a.ome.zarr").rename(tmp_path / "named.png")
    assert isinstance(open_reader(str(tmp_path / "named.png")), OmeReader)
    make(tmp_path / "tiled.tif", noise(8, 3), None)
    reader = open_reader(str(tmp_path / "tiled.tif"))
    assert isinstance(reader, TiffReader)
    assert reader.random
    Image.fromarray(noise(8, 3)).quantize(16).save(tmp_path / "palette.tif")
    assert open_reader(str(tmp_path / "palette.tif")).kind == "TIFF"
    long = np.zeros((9000, 9000), np.uint8)
    tifffile.imwrite(tmp_path / "strip.tif", long, rowsperstrip=9000, compression="zlib")
    assert not isinstance(open_reader(str(tmp_path / "strip.tif")), TiffReader)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "tiled.tif", "a.tif", "a.ome.zarr"])
def test_pictures_are_read_at_urls(
    tmp_path: Path, name: str, s3_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    make(tmp_path / name, noise(8, 3), None)
    there = f"s3://runs/{tmp_path.name}/{name}"
    system = fsspec.filesystem("s3")
    system.put(str(tmp_path / name), there, recursive=True)
    here, remote = Picture.open(tmp_path / name), Picture.open(there)
    assert np.array_equal(remote.read(BOX), here.read(BOX))
    write_edited(edit_of(remote), tmp_path / "b.png", How(allow_loss=True))
    assert np.array_equal(
        stored(tmp_path / "b.png")[~MASK.whole],
        here.reader.window(Box.of(SIZE))[~MASK.whole],
    )


def test_what_reading_holds_at_once_is_known_before(tmp_path: Path) -> None:
    image = Image.fromarray(noise(8, 3))
    image.save(tmp_path / "a.jpg")
    image.save(tmp_path / "progressive.jpg", progressive=True)
    assert Picture.open(tmp_path / "a.jpg").reader.held_bytes == 0
    picture = Picture.open(tmp_path / "progressive.jpg")
    assert picture.reader.held_bytes >= 3 * SIZE.area
    assert export.memory_bytes(picture, tmp_path / "b.tif") >= 3 * SIZE.area


def test_a_preview_of_an_exif_block_is_not_needed_to_read_it(tmp_path: Path) -> None:
    with io.BytesIO() as buffer:
        Image.fromarray(noise(8, 3)).save(buffer, "JPEG", exif=b"Exif\0\0" + exif_block())
        (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    assert Picture.open(tmp_path / "a.jpg").metadata.exif == exif_block()


def test_writing_leaves_alone_what_lies_beside_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "a.png", noise(8, 3), None)
    (tmp_path / "others").mkdir()
    (tmp_path / "others/c.png").write_bytes(b"another's")
    opened: list[str] = []
    real = export.os.open  # type: ignore[attr-defined]

    def noting(path: Any, *arguments: Any, **options: Any) -> int:
        opened.append(str(path))
        return int(real(path, *arguments, **options))

    monkeypatch.setattr(export.os, "open", noting)  # type: ignore[attr-defined]
    write_edited(edit_of(Picture.open(tmp_path / "a.png")), tmp_path / "b.png", How())
    assert not [path for path in opened if "others" in path]
    assert str(tmp_path) in opened  # the name lasts


def test_a_sample_never_counts_more_pixels_than_there_are(tmp_path: Path) -> None:
    make(tmp_path / "tiled.tif", noise(8, 3, Size(320, 480)), None)
    edited = edit_of_large(tmp_path / "tiled.tif")
    write_edited(edited, tmp_path / "b.tif", How())
    found = verify(edited, tmp_path / "b.tif", "sample")
    assert found.compared <= found.pixels == 320 * 480
