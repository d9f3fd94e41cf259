"""New TIFFs of TIFFs: what goes along, what was never there, read back by another library."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from tiffs import Array, picture

from msbd_dist.canvas.export import Edited, How, check_target, losses, write_edited
from msbd_dist.canvas.images import Picture
from msbd_dist.canvas.reader import Samples
from msbd_dist.canvas.tiff import TiffReader
from msbd_dist.canvas.tiff_add import add
from msbd_dist.core.geometry import Box
from msbd_dist.errors import ImageError

EDIT = Box(30, 50, 40, 60)
GEO = {
    33550: (0.5, 0.5, 0.0),
    33922: (0.0, 0.0, 0.0, 500000.0, 4600000.0, 0.0),
    34735: (1, 1, 0, 1, 3072, 0, 1, 32632),
    34736: (6378137.0, 298.25),
    34737: "WGS 84|",
    42112: "<GDALMetadata></GDALMetadata>",
    42113: "7",
}
_KINDS = {33550: 12, 33922: 12, 34735: 3, 34736: 12}
GEO_TAGS = [
    (code, _KINDS.get(code, 2), 0 if isinstance(value, str) else len(value), value, True)
    for code, value in GEO.items()
]


class All:
    def any(self, box: Box) -> bool:
        return box.intersection(EDIT) is not None


def rewrite(source: Path, target: Path, **how: Any) -> Array:
    """An edit of noise, written; the picture's samples as they are to be."""
    opened = Picture.open(source)
    noise = np.random.default_rng(3).integers(0, 255, (3, *opened.size.shape), opened.dtype)

    def patch(box: Box) -> Samples:
        return noise[(slice(None), *box.slices)]

    write_edited(Edited(opened, EDIT, patch, All()), target, How(**how))
    wanted = opened.reader.window(Box.of(opened.size)).copy()
    wanted[EDIT.slices][..., : opened.bands] = patch(EDIT).transpose(1, 2, 0)
    return wanted


def tags_of(path: Path, page: int = 0) -> dict[int, Any]:
    with tifffile.TiffFile(path) as file:
        return {tag.code: tag.value for tag in file.pages[page].tags}


def geo(path: Path, samples: Array, **options: Any) -> None:
    settings: dict[str, Any] = {"photometric": "rgb", "tile": (64, 64), "metadata": None}
    tifffile.imwrite(path, samples, **(settings | {"extratags": GEO_TAGS} | options))


@pytest.mark.parametrize("how", ["auto", "plain", "pyramid"])
@pytest.mark.parametrize("order", "<>")
def test_a_geotiff_lies_where_it_lay(tmp_path: Path, order: str, how: str) -> None:
    """In JPEG tiles it can't be copied, so ``auto`` writes it anew."""
    geo(tmp_path / "a.tif", picture(160, 208), compression="jpeg", byteorder=order)
    wanted = rewrite(tmp_path / "a.tif", tmp_path / "b.tif", tiff=how)
    found = tags_of(tmp_path / "b.tif")
    assert {code: found[code] for code in GEO} == GEO
    assert np.array_equal(tifffile.imread(tmp_path / "b.tif"), wanted)
    assert Picture.open(tmp_path / "b.tif").read(Box(0, 0, 1, 1)).shape == (3, 1, 1)


@pytest.mark.parametrize("target", ["b.png", "b.webp", "b.ome.zarr"])
def test_other_formats_lose_where_it_lies_and_say_so(tmp_path: Path, target: str) -> None:
    geo(tmp_path / "a.tif", picture(160, 208))
    opened = Picture.open(tmp_path / "a.tif")
    assert {loss.name for loss in losses(opened, tmp_path / target, How())} == {"geo"}
    with pytest.raises(ImageError, match=r"can't keep geo tags, GDAL metadata and .*\[geo\]"):
        check_target(opened, tmp_path / target, How())
    check_target(opened, tmp_path / target, How(allow_loss=("geo",)))


def test_a_mask_goes_along(tmp_path: Path) -> None:
    """As in an orthophoto: JPEG, and a mask of one bit, some of whose tiles were never written."""
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    seen = picture(160, 208, 1)[..., 0] > 100
    mask = {"photometric": 4, "tile": (64, 64), "metadata": None, "compression": "zlib"}
    with tifffile.TiffWriter(source, byteorder=">", bigtiff=True) as file:
        file.write(picture(160, 208), photometric="rgb", tile=(64, 64), compression="jpeg",
                   metadata=None, extratags=GEO_TAGS)  # fmt: skip
        file.write(seen, **mask, subfiletype=4)
        file.write(picture(80, 104), photometric="rgb", tile=(64, 64), compression="jpeg",
                   metadata=None, subfiletype=1)  # fmt: skip
        file.write(seen[::2, ::2], **mask, subfiletype=5)
    wanted = rewrite(source, target)
    with tifffile.TiffFile(target) as file:
        assert len(file.pages) == 2
        assert np.array_equal(file.pages[0].asarray(), wanted)
        assert file.pages[1].tags[254].value == 4
        assert np.array_equal(file.pages[1].asarray(), seen)
    assert Picture.open(target).metadata.pages == ("mask",)
    assert [str(one) for one in losses(Picture.open(target), tmp_path / "b.png", How())][-1] == (
        "the mask of what is seen"
    )


def test_a_mask_that_is_cut_off_is_damage(tmp_path: Path) -> None:
    source = tmp_path / "a.tif"
    with tifffile.TiffWriter(source) as file:
        file.write(picture(64, 80), photometric="rgb", metadata=None, compression="jpeg")
        file.write(picture(64, 80, 1)[..., 0] > 100, photometric=4, subfiletype=4, metadata=None)
    source.write_bytes(source.read_bytes()[:-100])
    with pytest.raises(ImageError, match="damaged or was cut off"):
        Picture.open(source)


def test_a_slide_s_label_and_macro_go_along(tmp_path: Path) -> None:
    source, target = tmp_path / "a.svs", tmp_path / "b.tif"
    label, macro = picture(31, 57), picture(20, 90)
    with tifffile.TiffWriter(source) as file:
        file.write(picture(160, 208), photometric="rgb", tile=(64, 64), compression="jpeg",
                   description="Aperio Image Library v11", metadata=None)  # fmt: skip
        file.write(label, photometric="rgb", compression="lzw", predictor=True, subfiletype=1,
                   description="Aperio\nlabel 57x31", metadata=None)  # fmt: skip
        file.write(macro, photometric="rgb", compression="zlib", subfiletype=9,
                   description="Aperio\nmacro 90x20", metadata=None)  # fmt: skip
    wanted = rewrite(source, target)
    with tifffile.TiffFile(target) as file:
        assert np.array_equal(file.pages[0].asarray(), wanted)
        assert np.array_equal(file.pages[1].asarray(), label)
        assert np.array_equal(file.pages[2].asarray(), macro)
    assert Picture.open(target).metadata.pages == ("label", "macro")


def test_samples_in_another_order_of_bytes_do_not_go_along(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.svs", byteorder=">") as file:
        file.write(picture(160, 208), photometric="rgb", metadata=None,
                   description="Aperio Image Library v11")  # fmt: skip
        file.write(picture(31, 57, bits=16), photometric="rgb", subfiletype=1, metadata=None,
                   description="Aperio\nlabel 57x31")  # fmt: skip
    opened = Picture.open(tmp_path / "a.svs")
    lost = losses(opened, tmp_path / "b.tif", How(tiff="plain"))
    assert [str(one) for one in lost] == ["another picture (label)"]


def test_smaller_versions_that_a_new_file_lacks_are_told(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(picture(160, 208), photometric="rgb", metadata=None, tile=(64, 64))
        file.write(picture(80, 104), photometric="rgb", metadata=None, subfiletype=1)
    opened, target = Picture.open(tmp_path / "a.tif"), tmp_path / "b.tif"
    (lost,) = losses(opened, target, How(tiff="plain"))
    assert (lost.name, lost.matters) == ("thumbnail", False)
    assert "smaller versions" in str(lost)
    assert losses(opened, target, How(tiff="pyramid")) == losses(opened, target, How()) == []


def test_names_and_places_on_paper_go_along_and_matter_to_no_other_format(tmp_path: Path) -> None:
    extra = [(269, 2, 0, "scan 7", True), (297, 3, 2, (0, 1), True), (281, 3, 1, 4095, True)]
    extra += [(305, 2, 0, "a scanner", True), (306, 2, 0, "2020:01:02 03:04:05", True)]
    tifffile.imwrite(tmp_path / "a.tif", picture(64, 80), photometric="rgb", metadata=None,
                     extratags=extra, software=False)  # fmt: skip
    rewrite(tmp_path / "a.tif", tmp_path / "b.tif", tiff="plain")
    found = tags_of(tmp_path / "b.tif")
    assert {code: found[code] for code, *_ in extra} == {c: value for c, _, _, value, _ in extra}
    check_target(Picture.open(tmp_path / "a.tif"), tmp_path / "b.png", How())


IPTC = b"\x1c\x02\x50\x00\x04Jane\x1c\x02\x19\x00\x03sea"
RESOURCE = b"8BIM\x03\xed\0\0" + struct.pack(">IIHHIHH", 16, 300 << 16, 1, 2, 300 << 16, 1, 2)
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"


@pytest.mark.parametrize("as_numbers", [False, True], ids=["bytes", "numbers"])
@pytest.mark.parametrize("order", "<>")
def test_a_photographer_s_words_go_along(tmp_path: Path, order: str, as_numbers: bool) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    iptc = IPTC + bytes(-len(IPTC) % 4)
    own = {34377: RESOURCE, 700: XMP}
    extra: list[tuple[Any, ...]] = [(c, 7, len(data), data, True) for c, data in own.items()]
    if as_numbers:  # as libtiff says it, which turns them with all others
        numbers = struct.unpack(f"<{len(iptc) // 4}I", iptc)
        extra.append((33723, 4, len(numbers), numbers, True))
    else:
        extra.append((33723, 7, len(iptc), iptc, True))
    tifffile.imwrite(source, picture(64, 80), photometric="rgb", metadata=None, byteorder=order,
                     extratags=extra, description="words")  # fmt: skip
    assert losses(Picture.open(source), target, How(tiff="plain")) == []
    rewrite(source, target, tiff="plain")
    found = tags_of(target)
    assert (found[33723], found[700], found[270]) == (iptc, XMP, "words")
    assert found[34377].endswith(RESOURCE)
    assert IPTC in found[34377]


# ---------------------------------------------------------------- resolutions

RESOLUTION = {282, 283, 296}


def test_a_resolution_that_was_never_there_is_not_written(tmp_path: Path) -> None:
    Image.fromarray(picture(64, 80)).save(tmp_path / "a.tif")
    assert not RESOLUTION & tags_of(tmp_path / "a.tif").keys()
    for how in ("copy", "plain", "pyramid"):
        rewrite(tmp_path / "a.tif", tmp_path / "b.tif", tiff=how)
        assert not RESOLUTION & tags_of(tmp_path / "b.tif").keys()


@pytest.mark.parametrize(
    ("x", "y", "unit"), [((300, 1), (300, 1), 2), ((1, 1), (1, 1), 1), ((7200, 61), (72, 1), 3)]
)
def test_a_resolution_stays_to_the_digit(tmp_path: Path, x: Any, y: Any, unit: int) -> None:
    tifffile.imwrite(tmp_path / "a.tif", picture(64, 80), photometric="rgb", metadata=None,
                     resolution=(x, y), resolutionunit=unit)  # fmt: skip
    rewrite(tmp_path / "a.tif", tmp_path / "b.tif", tiff="plain")
    found = tags_of(tmp_path / "b.tif")
    assert (found[282], found[283], found[296]) == (x, y, unit)


def test_pixels_that_are_not_square_are_a_loss_elsewhere(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", picture(64, 80), photometric="rgb", metadata=None,
                     resolution=((2, 1), (1, 1)), resolutionunit=1)  # fmt: skip
    lost = losses(Picture.open(tmp_path / "a.tif"), tmp_path / "b.png", How())
    assert [str(one) for one in lost] == ["the shape of its pixels"]


# ---------------------------------------------------------------- what libvips decodes


def test_what_a_palette_holds_besides_goes_along(tmp_path: Path) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    colours = np.arange(768, dtype=np.uint16).reshape(3, 256) * 257
    tifffile.imwrite(source, picture(64, 80, 1)[..., 0], photometric="palette", colormap=colours,
                     metadata=None, extratags=GEO_TAGS, resolution=(30, 30))  # fmt: skip
    lost = losses(Picture.open(source), target, How())
    assert [str(one) for one in lost] == ["the value of what is no data"]  # it was a palette's
    rewrite(source, target, allow_loss=("geo",))
    found, wanted = tags_of(target), tags_of(source)
    assert not {320, 42113} & found.keys()
    for code in {*GEO, *RESOLUTION} - {42113}:
        assert found[code] == wanted[code]


def test_a_fourth_channel_of_a_map_stays_what_it_is(tmp_path: Path) -> None:
    """Near infrared, say; where it would become alpha, that is told."""
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    geo(source, picture(64, 80, 4), extrasamples=["unspecified"])
    wanted = rewrite(source, target, tiff="plain")
    assert tags_of(target)[338] == (0,)
    assert np.array_equal(tifffile.imread(target), wanted)
    names = {loss.name for loss in losses(Picture.open(source), tmp_path / "b.png", How())}
    assert names == {"geo", "extra-channel"}


def test_what_a_long_strip_holds_besides_goes_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("msbd_dist.canvas.images._STRIP", 1000)
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    geo(source, picture(64, 80), tile=None, compression="zlib", rowsperstrip=64)
    add(source, exif=b"II*\0\x08\0\0\0\x01\0\x0f\x01\x02\0\x02\0\0\0M\0\0\0\0\0\0\0")
    assert not isinstance(Picture.open(source).reader, TiffReader)
    rewrite(source, target)
    found = tags_of(target)
    assert (found[271], {code: found[code] for code in GEO}) == ("M", GEO)
