"""Mask files that may be meant otherwise: what is asked, told, and made of them by `from`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from whole import read_mask as in_one_piece

from msbd_dist.canvas import masks
from msbd_dist.canvas.combined import look_at_mask, make_mask
from msbd_dist.canvas.images import Picture
from msbd_dist.core.geometry import Box
from msbd_dist.core.spec import Combined, MaskFile, MaskSpec
from msbd_dist.errors import ImageError, MaskError

Y, X = np.mgrid[:60, :80]
PAINTED = (Y >= 10) & (Y < 40) & (X >= 20) & (X < 50)
WHITE = PAINTED.astype(np.uint8) * 255
LABELS = np.where(PAINTED, 1 + (X >= 30), 0).astype(np.uint8)
PHOTO = np.stack([60 + 2 * X, 220 - 2 * Y, 60 + X + Y], axis=-1).astype(np.uint8)


def with_alpha(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    if colours.ndim == 2:
        colours = np.dstack([colours] * 3)
    return np.dstack([colours, alpha])


def palette(path: Path, *colours: tuple[int, int, int]) -> None:
    image = Image.fromarray(LABELS, mode="P")
    image.putpalette([level for colour in colours for level in colour])
    image.save(path)


@pytest.fixture
def picture(tmp_path: Path) -> Picture:
    Image.fromarray(PHOTO).save(tmp_path / "picture.png")
    return Picture.open(tmp_path / "picture.png")


def drawn(path: Path, samples: np.ndarray, **tags: Any) -> str:
    if path.suffix == ".tif":
        tifffile.imwrite(path, samples, **tags)
    else:
        Image.fromarray(samples).save(path)
    return str(path)


def whole(spec: MaskSpec, picture: Picture) -> np.ndarray:
    return make_mask(spec, picture).window(Box.of(picture.size))


HOLE = 255 - WHITE
ASKED: dict[str, tuple[np.ndarray, str]] = {
    "a picture with a hole": (
        with_alpha(PHOTO, HOLE),
        "transparent in 18.8 % .* {file: m.png, from: alpha, invert: on} .* `from: alpha` alone",
    ),
    "a bright one": (with_alpha(PHOTO // 2 + 127, HOLE), "transparent in 18.8 %"),
    "a cut-out": (with_alpha(PHOTO, WHITE), "transparent in 81.2 %"),
    "red paint": (with_alpha(np.dstack([HOLE | 255, HOLE * 0, HOLE * 0]), WHITE), "from: alpha"),
    "a dark picture with a hole": (with_alpha(PHOTO // 16, HOLE), "empty .*from: alpha, invert"),
    "black paint": (with_alpha(WHITE * 0, WHITE), "empty .* opaque `from: alpha` alone"),
    "ones": (WHITE // 255, r"is 1 of 255.*from: values, values: \[1\]"),
    "labels": (LABELS, r"is 2 of 255.*values: \[1, 2\]"),
    "many labels": (
        (LABELS * np.arange(80, dtype=np.uint16)),
        r"of 65535.*labels, write {file: m.png, from: values}$",
    ),
    "red on black": (np.dstack([WHITE, WHITE * 0, WHITE * 0]), "colours count by their bright"),
}


@pytest.mark.parametrize("case", ASKED)
def test_what_can_not_be_told_is_asked(case: str, tmp_path: Path, picture: Picture) -> None:
    samples, words = ASKED[case]
    place = drawn(tmp_path / "m.png", samples)
    with pytest.raises(MaskError, match=rf"m\.png: .*{words}") as caught:
        look_at_mask(place, picture)
    assert "\n" not in str(caught.value)


TOLD: dict[str, tuple[np.ndarray, str, str]] = {
    "a photograph": (PHOTO, "m.png", "looks like a photograph"),
    "one as JPEG": (PHOTO, "m.jpg", "looks like a photograph"),
    "labels with one above half": (LABELS * 100, "m.png", r"grey \(100, 200\).*values: \[100, 200"),
    "labels and a white line": (
        np.where(X == 60, 255, LABELS).astype(np.uint8),
        "m.png",
        r"grey \(1, 2, 255\).*values: \[1, 2, 255\]",
    ),
    "green paint": (np.dstack([WHITE * 0, WHITE, WHITE * 0]), "m.png", "colours in 18.8 %"),
    "white with a hole": (with_alpha(HOLE | 255, HOLE), "m.png", "white with a transparent part"),
    "black, white and a hole": (
        with_alpha(WHITE, np.where(X < 5, 0, 255).astype(np.uint8)),
        "m.png",
        "transparent in 6.2 %.*counts as black",
    ),
    "bools of tifffile": (PAINTED, "m.tif", "0 is white.*from: values}, else from: luma"),
}  # fmt: skip


@pytest.mark.parametrize("case", TOLD)
def test_what_may_be_meant_otherwise_is_told(case: str, tmp_path: Path, picture: Picture) -> None:
    samples, name, words = TOLD[case]
    place = drawn(tmp_path / name, samples)
    notes = look_at_mask(place, picture).notes
    assert re.search(words, notes[0])
    assert notes[0].startswith(f"{place}: ")
    assert "\n" not in "".join(notes)
    assert look_at_mask(MaskFile(file=place, from_="luma"), picture).notes == ()
    assert np.array_equal(whole(place, picture), whole(MaskFile(file=place, from_="luma"), picture))


@pytest.mark.parametrize("case", ["grey", "white paint", "soft", "16 bits", "jpeg", "palette"])
def test_what_is_white_on_black_is_no_matter_of_doubt(
    case: str, tmp_path: Path, picture: Picture
) -> None:
    path = tmp_path / ("m.jpg" if case == "jpeg" else "m.png")
    samples = WHITE
    if case == "white paint":
        samples = with_alpha(WHITE | 255, WHITE)
    if case == "soft":
        steps = np.clip((36 - np.hypot(Y - 25.0, X - 35.0)) * 16 - 300, 0, 255)
        samples = steps.astype(np.uint8)
    if case == "16 bits":
        samples = WHITE.astype(np.uint16) * 257
    if case == "palette":
        palette(path, (0, 0, 0), (255, 255, 255), (254, 255, 255))
    else:
        drawn(path, samples)
    looked = look_at_mask(str(path), picture)
    assert looked.notes == ()
    if case != "soft":
        assert np.array_equal(looked.mask.window(Box.of(picture.size)), PAINTED)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["noise", "greys", "opaque above"])
def test_brightness_is_what_it_was_of_whole_arrays(
    kind: str, channels: int, dtype: Any, tmp_path: Path, picture: Picture
) -> None:
    peak, rng = np.iinfo(dtype).max, np.random.default_rng(channels)
    samples = rng.integers(0, peak, (60, 80, channels), dtype, endpoint=True)
    if kind == "greys":
        samples[..., : channels - 1 + channels % 2] = samples[..., :1]
    if kind == "opaque above" and channels % 2 == 0:
        samples[:30, :, -1] = peak
    tags: Any = {"photometric": "rgb" if channels > 2 else "minisblack", "rowsperstrip": 7}
    if channels % 2 == 0:
        tags["extrasamples"] = ["unassalpha"]
    place = drawn(tmp_path / "m.tif", samples.squeeze(), planarconfig="contig", **tags)
    found = whole(MaskFile(file=place, from_="luma"), picture)
    assert np.array_equal(found, in_one_piece(place, picture))
    assert 0 < found.sum() < found.size


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_alpha_is_the_mask_where_that_is_said(
    suffix: str, tmp_path: Path, picture: Picture
) -> None:
    tags = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
    place = drawn(tmp_path / f"m{suffix}", with_alpha(PHOTO, HOLE), **tags)
    opaque = MaskFile(file=place, from_="alpha")
    assert np.array_equal(whole(opaque, picture), ~PAINTED)
    hole = Combined(any=(opaque,), invert=True)
    assert np.array_equal(whole(hole, picture), PAINTED)
    assert look_at_mask(hole, picture).notes == ()


def labelled(path: Path, kind: str) -> str:
    """A file of the labels 0, 1 and 2."""
    if kind == "palette":
        palette(path, (9, 9, 9), (9, 9, 200), (0, 100, 0))
    elif kind == "2 bits":
        Image.fromarray(LABELS).save(path, bits=2)
    elif kind == "white is zero":
        tifffile.imwrite(path, LABELS, photometric="miniswhite")
    else:
        samples = np.dstack([LABELS] * 3) if kind == "three equal" else LABELS
        drawn(path, samples.astype(np.uint16) if kind == "16 bits" else samples)
    return str(path)


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [("grey", ".png"), ("palette", ".png"), ("palette", ".tif"), ("2 bits", ".png"),
     ("16 bits", ".tif"), ("white is zero", ".tif"), ("three equal", ".png")],
)  # fmt: skip
def test_labels_are_those_that_are_stored(
    kind: str, suffix: str, tmp_path: Path, picture: Picture
) -> None:
    place = labelled(tmp_path / f"m{suffix}", kind)
    for values, wanted in (((2,), LABELS == 2), ((1, 2), LABELS > 0), ((), LABELS > 0)):
        spec = MaskFile(file=place, from_="values", values=values)
        assert np.array_equal(whole(spec, picture), wanted)
    looked = look_at_mask(MaskFile(file=place, from_="values", values=(1, 7)), picture)
    assert looked.notes == (f"{place}: has no pixel of the value 7; it has 0, 1, 2",)
    with pytest.raises(MaskError, match="no pixel of the value 300; it has 0, 1, 2"):
        make_mask(MaskFile(file=place, from_="values", values=(300,)), picture)


def test_ones_of_a_file_of_bools(tmp_path: Path, picture: Picture) -> None:
    place = drawn(tmp_path / "m.tif", PAINTED)
    assert np.array_equal(whole(MaskFile(file=place, from_="values"), picture), PAINTED)


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "u4"])
def test_labels_of_kinds_that_no_picture_has(
    kind: str, compression: Any, tmp_path: Path, picture: Picture
) -> None:
    numbers = LABELS.astype(kind) * (100_000 if kind.endswith("4") else 40)
    place = drawn(tmp_path / "m.tif", numbers, compression=compression)
    with pytest.raises(MaskError, match=r"or, if these are labels, write {file: m.tif, from: val"):
        make_mask(place, picture)
    assert np.array_equal(whole(MaskFile(file=place, from_="values"), picture), PAINTED)
    second = MaskFile(file=place, from_="values", values=(int(numbers.max()),))
    assert np.array_equal(whole(second, picture), LABELS == 2)
    drawn(tmp_path / "m.tif", np.stack([numbers] * 3), photometric="minisblack")
    with pytest.raises(ImageError):
        make_mask(second, picture)


@pytest.mark.parametrize(
    ("from_", "samples", "words"),
    [
        ("alpha", WHITE, "has no alpha channel"),
        ("alpha", with_alpha(PHOTO, WHITE * 0), "transparent everywhere"),
        ("values", PHOTO, "has colours and no values"),
        ("pixels", WHITE, "no file of outlines"),
    ],
)
def test_what_a_file_has_not_can_not_be_its_mask(
    from_: Any, samples: np.ndarray, words: str, tmp_path: Path, picture: Picture
) -> None:
    place = drawn(tmp_path / "m.png", samples)
    with pytest.raises(MaskError, match=rf"m\.png: .*{words}"):
        make_mask(MaskFile(file=place, from_=from_), picture)


@pytest.mark.parametrize("version", [2, 3])
def test_labels_of_an_ome_zarr(version: Any, tmp_path: Path, picture: Picture) -> None:
    place = tmp_path / "image.ome.zarr/labels"
    group = zarr.open_group(place, mode="w", zarr_format=version)
    cells = group.create_group("cells")
    cells.create_array("0", data=LABELS.astype(np.int64)[None] * 100_000, chunks=(1, 16, 32))
    names = ("y", "x")
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space"} for n in names)]
    scale = [{"type": "scale", "scale": [1, 1, 1]}]
    of_cells = {"multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}], "image-label": {}}
    of_cells["multiscales"][0]["datasets"][0]["coordinateTransformations"] = scale
    for node, ome in ((group, {"labels": ["cells"]}), (cells, of_cells)):
        node.attrs.update({"ome": {**ome, "version": "0.5"}} if version == 3 else ome)
    for name in (str(place), f"{place}/cells"):
        assert np.array_equal(whole(name, picture), PAINTED)
        some = MaskFile(file=name, from_="values", values=(200_000,))
        assert np.array_equal(whole(some, picture), LABELS == 2)
    ome = {"labels": ["cells", "nuclei"]}
    group.attrs.update({"ome": {**ome, "version": "0.5"}} if version == 3 else ome)
    with pytest.raises(ImageError, match=r"holds 2 labels; give one, such as .*labels/cells"):
        make_mask(str(place), picture)


def test_a_file_of_many_edits_is_read_once(
    tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, count = drawn(tmp_path / "m.png", WHITE), 0
    read = masks._drawn

    def counted(spec: MaskFile) -> Any:
        nonlocal count
        count += 1
        return read(spec)

    monkeypatch.setattr(masks, "_drawn", counted)
    for _ in range(3):
        make_mask(place, picture)
    assert count == 1
    drawn(tmp_path / "m.png", HOLE)
    assert np.array_equal(whole(place, picture), ~PAINTED)
    assert count == 2
