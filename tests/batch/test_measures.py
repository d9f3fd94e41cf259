"""What an edit looks like in numbers, where it is stored: windows, frames, tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msbd_dist.batch.measures import (
    BEFORE,
    MEASURES,
    TILE,
    TILES,
    Sides,
    appearance,
    framed,
    likeness,
    most_visible,
    pasted,
    rounded,
    spread,
    table,
)
from msbd_dist.canvas.reader import Samples
from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.plan import make_plan
from msbd_dist.core.quality import edge_consistency, sharpness
from msbd_dist.core.spec import Family, Method

IMAGE, BBOX = Size(300, 400), Box(90, 100, 220, 300)
YY, XX = np.mgrid[:300, :400]
MASK = ((YY - 155) / 65) ** 2 + ((XX - 200) / 100) ** 2 < 1
CPU = torch.device("cpu")


def grain(seed: int) -> Samples:
    return np.random.default_rng(seed).integers(60, 120, (3, *IMAGE.shape), np.uint8)


def sides_of(before: Samples, after: Samples) -> Sides:
    return Sides(
        bounds=Box.of(IMAGE),
        bbox=BBOX,
        before=lambda box: before[(slice(None), *box.slices)],
        after=lambda box: after[(slice(None), *box.slices)],
        mask=lambda box: MASK[box.slices],
    )


def test_edge_and_sharpness_are_of_both_sides() -> None:
    before = grain(1)
    after = np.where(MASK, before // 2 + 100, before)
    found = appearance(sides_of(before, after))
    floats = before.astype(np.float32) / 255
    usual = edge_consistency(floats, MASK)
    assert found[f"edge_gradient{BEFORE}"] == pytest.approx(usual.gradient, rel=1e-3)
    assert found[f"edge_colour{BEFORE}"] == pytest.approx(usual.colour, rel=1e-3)
    assert found[f"sharpness{BEFORE}"] == pytest.approx(sharpness(floats, MASK), rel=1e-3)
    edge = found["edge_colour"]
    assert edge is not None
    assert edge > 3
    sharp, was = found["sharpness"], found[f"sharpness{BEFORE}"]
    assert sharp is not None
    assert was is not None
    assert sharp == pytest.approx(was / 2, rel=0.1)


def test_likeness_is_of_the_mask_s_box() -> None:
    before = grain(1)
    after = before.copy()
    after[:, :90] = 255  # outside of the box
    same = likeness(sides_of(before, after), lambda b: before[(slice(None), *b.slices)], **ALONE)
    assert same == {"psnr": None, "ssim": 1, "lpips": None}
    after = np.where(MASK, grain(2), before)
    other = likeness(sides_of(before, after), lambda b: before[(slice(None), *b.slices)], **ALONE)
    box = (slice(None), *BBOX.slices)
    squares = ((before[box].astype(float) - after[box]) / 255) ** 2
    assert other["psnr"] == pytest.approx(-10 * np.log10(squares.mean()), abs=0.01)
    assert other["ssim"] is not None
    assert 0 < other["ssim"] < 0.9


ALONE: dict[str, Any] = {"lpips": None, "device": CPU}


@pytest.mark.parametrize("box", [Box(3, 5, 4, 6), Box(0, 0, 700, 1030), Box(7, 0, 6000, 9000)])
def test_tiles_are_spread_over_a_box(box: Box) -> None:
    tiles = list(spread(box))
    assert len(tiles) <= TILES
    assert all(box.contains(tile) and tile.size.long_edge <= TILE for tile in tiles)
    assert len({tile.size for tile in tiles}) <= 4
    if len(tiles) < TILES:
        assert sum(tile.size.area for tile in tiles) == box.size.area
    else:
        assert (tiles[0].y0, tiles[-1].y1) == (box.y0, box.y1)


def test_clip_sees_what_the_first_stage_sees() -> None:
    def plan(**options: Any) -> Any:
        family = Family(native=64, segment=96, overlap=32, unet_multiple=32)
        return make_plan(IMAGE, BBOX, lambda _: True, family=family, method=Method(**options))

    flat = np.full((3, *IMAGE.shape), 51, np.uint8)
    red = flat.copy()
    red[0, MASK] = 255
    seen = framed(sides_of(flat, red), plan())
    assert seen.shape == (3, 64, 64)
    assert seen[:, 32, 32] == pytest.approx([1, 0.2, 0.2], abs=0.01)
    assert seen[:, 0, 0] == pytest.approx(0.2, abs=0.01)
    wide = framed(sides_of(flat, red), plan(stages="segments"))
    assert wide.shape[2] == 64 > wide.shape[1]


def test_a_patch_is_asked_for_where_it_is() -> None:
    before = grain(1)
    asked: list[Box] = []

    def patch(box: Box) -> Samples:
        assert BBOX.contains(box)
        asked.append(box)
        return np.full((3, *box.size.shape), 7, np.uint8)

    window = pasted(lambda b: before[(slice(None), *b.slices)], patch, BBOX)
    inside = Box(100, 110, 120, 130)
    assert (window(inside) == 7).all()
    across = window(Box(80, 90, 120, 130))
    assert (across[:, 10:, 10:] == 7).all()
    np.testing.assert_array_equal(across[:, :10], before[:, 80:90, 90:130])
    np.testing.assert_array_equal(window(Box(0, 0, 50, 50)), before[:, :50, :50])
    assert asked == [inside, Box(90, 100, 120, 130)]
    assert (before != 7).all()


def test_numbers_have_four_digits_and_nothing_stays_nothing() -> None:
    assert rounded({"a": 1.234567, "b": 0.000123456, "c": None}) == {
        "a": 1.235, "b": 0.0001235, "c": None,
    }  # fmt: skip


def test_people_read_all_measures() -> None:
    rows = table({"changed_outside": 12000, "sharpness": 0.00712, "edge_colour_before": 1.0})
    assert [row["label"] for row in rows] == [one.label for one in MEASURES]
    found = {row["label"]: (row["after"], row["before"]) for row in rows}
    assert found["changed outside the mask"] == ("12,000", "")
    assert found["sharpness inside"] == ("0.0071", "")
    assert found["mask's edge in colour"] == ("", "1.00")


def test_the_most_visible_border() -> None:
    assert most_visible({"seam_ratio": 1.2, "edge_gradient": None, "edge_colour": 1.5}) == 1.5
    assert most_visible({"psnr": 12.0}) is None


def test_the_manual_has_all_measures() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "measures.md").read_text()
    assert [one.key for one in MEASURES if f"| `{one.key}` |" not in manual] == []
    assert f"{TILES} tiles of {TILE} pixels" in manual
