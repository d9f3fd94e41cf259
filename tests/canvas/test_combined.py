"""Masks made of masks: what every window shows, where the bounding box is, what is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from msbd_dist.canvas import combined
from msbd_dist.canvas.combined import Grown, Inverted, United, look_at_mask, make_mask, mask_digest
from msbd_dist.canvas.images import Picture
from msbd_dist.canvas.masks import Mask
from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.spec import Combined, Drawn, MaskSpec
from msbd_dist.errors import ImageError, ManifestError, MaskError

SMALL = Size(17, 23)


@dataclass(frozen=True)
class Whole:
    """A mask as an array."""

    pixels: np.ndarray

    @property
    def size(self) -> Size:
        return Size(*self.pixels.shape)

    @property
    def bbox(self) -> Box:
        ys, xs = np.nonzero(self.pixels)
        return Box(int(ys.min()), int(xs.min()), int(ys.max()) + 1, int(xs.max()) + 1)

    @property
    def share(self) -> float:
        return float(self.pixels.mean())

    def window(self, box: Box) -> np.ndarray:
        return self.pixels[box.slices]

    def any(self, box: Box) -> bool:
        return bool(self.pixels[box.slices].any())


def grown(pixels: np.ndarray, by: int) -> np.ndarray:
    """One pixel after the other: is any within reach?"""
    ys, xs = np.nonzero(pixels)
    out = np.zeros_like(pixels)
    for y, x in np.ndindex(pixels.shape):
        out[y, x] = bool(((ys - y) ** 2 + (xs - x) ** 2 <= by * by).any())
    return out


@st.composite
def arrays(draw: st.DrawFn, size: Size = SMALL) -> np.ndarray:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pixels = rng.random(size.shape) < draw(st.sampled_from([0.01, 0.1, 0.6, 0.97]))
    box = draw(boxes(size))
    kept = np.zeros(size.shape, bool)
    kept[box.slices] = pixels[box.slices]
    kept[box.y0, box.x0] = True
    return kept


@st.composite
def boxes(draw: st.DrawFn, size: Size = SMALL) -> Box:
    y0, x0 = draw(st.integers(0, size.height - 1)), draw(st.integers(0, size.width - 1))
    y1, x1 = draw(st.integers(y0 + 1, size.height)), draw(st.integers(x0 + 1, size.width))
    return Box(y0, x0, y1, x1)


def check(found: Mask, wanted: np.ndarray, box: Box) -> None:
    whole = Whole(wanted)
    assert found.size == whole.size
    assert found.bbox == whole.bbox
    assert found.share == pytest.approx(whole.share)
    assert np.array_equal(found.window(Box.of(found.size)), wanted)
    assert np.array_equal(found.window(box), wanted[box.slices])
    assert found.any(box) == whole.any(box)


@settings(max_examples=60, deadline=None)
@given(arrays(), arrays(), boxes(), st.integers(1, 9), st.sampled_from([3, 8, 1024]))
def test_every_window_shows_what_the_whole_shows(
    a: np.ndarray, b: np.ndarray, box: Box, by: int, tile: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(combined, "_TILE", Size(tile, tile))
        check(United((Whole(a), Whole(b))), a | b, box)
        check(Grown(Whole(a), by), grown(a, by), box)
        if not a.all():
            check(Inverted.of(Whole(a)), ~a, box)
            check(Grown(Inverted.of(Whole(a)), by), grown(~a, by), box)


def test_a_disc_is_round() -> None:
    point = np.zeros((9, 9), bool)
    point[4, 4] = True
    rows = [
        "".join(".#"[int(v)] for v in row) for row in Grown(Whole(point), 3).window(Box(0, 0, 9, 9))
    ]
    assert rows == [
        ".........",
        "....#....",
        "..#####..",
        "..#####..",
        ".#######.",
        "..#####..",
        "..#####..",
        "....#....",
        ".........",
    ]


def test_the_inverse_of_everything_is_no_mask() -> None:
    with pytest.raises(MaskError, match="whole picture"):
        Inverted.of(Whole(np.ones((5, 6), bool)))


# ---------------------------------------------------------------- from files


@pytest.fixture
def picture(tmp_path: Path) -> Picture:
    Image.new("RGB", (60, 40)).save(tmp_path / "picture.png")
    return Picture.open(tmp_path / "picture.png")


def saved(path: Path, box: Box) -> str:
    pixels = np.zeros((40, 60), np.uint8)
    pixels[box.slices] = 255
    Image.fromarray(pixels).save(path)
    return str(path)


def outlined(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def square(x: int, y: int, side: int) -> list[list[int]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def test_a_mask_of_a_file_a_box_and_outlines(tmp_path: Path, picture: Picture) -> None:
    polygon = {"type": "Polygon", "coordinates": [square(30, 20, 10)]}
    spec = Combined(
        any=(
            saved(tmp_path / "m.png", Box(2, 3, 8, 9)),
            Drawn(boxes=((50, 0, 5, 5),)),
            Combined(any=(outlined(tmp_path / "o.geojson", polygon),), grow=2),
        ),
        invert=True,
    )
    wanted = np.zeros((40, 60), bool)
    wanted[2:8, 3:9] = wanted[0:5, 50:55] = True
    outlines = np.zeros((40, 60), bool)
    outlines[20:30, 30:40] = True
    check(make_mask(spec, picture), ~(wanted | grown(outlines, 2)), Box(10, 20, 30, 50))


@pytest.mark.parametrize(
    ("part", "kind", "words"),
    [
        ("none.png", ImageError, "none.png: no such file"),
        ("none.geojson", MaskError, "none.geojson: no such file"),
        (Drawn(boxes=((70, 0, 5, 5),)), MaskError, "outside the picture"),
    ],
)
def test_a_part_that_is_wrong_is_said_in_one_line(
    part: MaskSpec, kind: type[Exception], words: str, tmp_path: Path, picture: Picture
) -> None:
    place = str(tmp_path / part) if isinstance(part, str) else part
    good = saved(tmp_path / "m.png", Box(2, 3, 8, 9))
    with pytest.raises(kind, match=words) as caught:
        make_mask(Combined(any=(good, place)), picture)
    assert "\n" not in str(caught.value)


def test_outlines_beyond_the_picture_name_their_file(tmp_path: Path, picture: Picture) -> None:
    far = {"type": "Polygon", "coordinates": [square(300, 20, 10)]}
    with pytest.raises(MaskError, match=r"far\.json: .*outside the picture of 60x40"):
        make_mask(outlined(tmp_path / "far.json", far), picture)


def test_the_digest_changes_with_every_file_and_how_they_are_combined(tmp_path: Path) -> None:
    a = saved(tmp_path / "a.png", Box(2, 3, 8, 9))
    b = saved(tmp_path / "b.png", Box(2, 3, 9, 9))
    both = Combined(any=(a, b))
    digests = {mask_digest(m) for m in (a, b, Drawn(boxes=((1, 2, 3, 4),)), both)}
    digests |= {mask_digest(Combined(any=(a, b), **how)) for how in ({"invert": True}, {"grow": 1})}
    assert len(digests) == 6
    before = mask_digest(both)
    (tmp_path / "b.png").rename(tmp_path / "c.png")
    assert mask_digest(Combined(any=(a, str(tmp_path / "c.png")))) == before
    saved(tmp_path / "c.png", Box(2, 3, 9, 10))
    assert mask_digest(Combined(any=(a, str(tmp_path / "c.png")))) != before
    with pytest.raises(FileNotFoundError):
        mask_digest(both)


@pytest.mark.parametrize("grow", [-1, 1025])
def test_a_mask_grows_by_so_much_and_no_more(grow: int) -> None:
    with pytest.raises(ManifestError, match="grow: got"):
        Combined(any=("a.png",), grow=grow)


def test_a_mask_grown_far_takes_little_memory() -> None:
    """A window of a picture of gigapixels, in tiles."""

    class Point(Whole):
        size = Size(40_000, 40_000)
        bbox = Box(20_000, 20_000, 20_001, 20_001)

        def window(self, box: Box) -> np.ndarray:
            assert box.size.area <= 3072 * 3072
            out = np.zeros(box.size.shape, bool)
            if common := self.bbox.intersection(box):
                out[common.relative_to(box).slices] = True
            return out

        def any(self, box: Box) -> bool:
            return self.bbox.intersection(box) is not None

    mask = Grown(Point(np.zeros((1, 1), bool)), 1000)
    found = mask.window(Box(18_900, 19_900, 19_100, 20_100))
    assert not found[:100].any()
    assert found[100].sum() == 1
    assert mask.bbox == Box(19_000, 19_000, 21_001, 21_001)
    assert mask.share == pytest.approx(np.pi * 1000**2 / 40_000**2, rel=0.01)


def test_a_file_that_covers_nearly_all_is_asked_about(tmp_path: Path, picture: Picture) -> None:
    most, rest = saved(tmp_path / "most.png", Box(0, 0, 40, 50)), "covers 83.3 % of the picture"
    looked = look_at_mask(most, picture)
    assert looked.percent == 83.33
    assert looked.notes == (
        f"the mask (most.png) {rest}; if the rest is meant, write mask: "
        "{file: most.png, invert: on}",
    )
    few = saved(tmp_path / "few.png", Box(0, 0, 40, 10))
    (note,) = look_at_mask(Combined(any=(few,), invert=True), picture).notes
    assert "write invert: off" in note
    for plain in (few, Combined(any=(most,), invert=True), Drawn(boxes=((0, 0, 60, 40),))):
        assert look_at_mask(plain, picture).notes == ()
