"""Tiles: exact where they promise it, bounded in number, cut in little memory."""

from __future__ import annotations

import json
import tracemalloc
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from msbd_dist.batch import tiles
from msbd_dist.batch.tiles import View, cut, eight_bit, halved, outlined, seams_of, webp
from msbd_dist.canvas.files import open_files
from msbd_dist.canvas.reader import Samples
from msbd_dist.core.compose import Bools
from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.tiling import Grid

SIZE = Size(301, 402)
EDITED = Box(90, 130, 210, 280)


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", 64)


class Painting:
    """A picture in memory, and the same with an ellipse of other pixels in it."""

    def __init__(self, size: Size = SIZE, edited: Box = EDITED, dtype: Any = np.uint8) -> None:
        rng = np.random.default_rng(1)
        shape, top = (3, *size.shape), np.iinfo(dtype).max
        self.before = rng.integers(0, top, shape, dtype, endpoint=True)
        y, x = np.ogrid[: size.height, : size.width]
        middle = (edited.y0 + edited.y1) / 2, (edited.x0 + edited.x1) / 2
        radii = edited.height / 2, edited.width / 2
        self.mask: Bools = (
            ((y - middle[0]) / radii[0]) ** 2 + ((x - middle[1]) / radii[1]) ** 2
        ) < 1
        other = rng.integers(0, top, shape, dtype, endpoint=True)
        self.after = np.where(self.mask, other, self.before)
        self.view = View(
            box=Box(10, 20, size.height - 5, size.width - 3),
            edited=edited,
            before=lambda box: self.before[(slice(None), *box.slices)],
            after=self._after,
            mask=lambda box: self.mask[box.slices],
        )

    def _after(self, box: Box) -> Samples:
        assert self.view.edited.contains(box)
        return self.after[(slice(None), *box.slices)]


def read_tile(folder: Path, level: int, row: int, column: int, side: str) -> np.ndarray:
    image = Image.open(folder / "tiles" / str(level) / f"{row}-{column}-{side}.webp")
    return np.asarray(image).transpose(2, 0, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_level_0_has_the_pictures_own_pixels(dtype: Any, tmp_path: Path) -> None:
    painting = Painting(dtype=dtype)
    view = painting.view
    index, _ = cut(open_files(tmp_path), view)
    assert index["complete"]
    first = [tile for tile in index["tiles"] if tile[0] == 0]
    assert len(first) == 5 * 6
    for level, row, column, has_after in first:
        box = view.tile((level, row, column))
        part = (slice(None), *box.slices)
        before = read_tile(tmp_path, 0, row, column, "before")
        np.testing.assert_array_equal(before, eight_bit(painting.before[part]))
        assert bool(has_after) == painting.mask[box.slices].any()
        if has_after:
            after = read_tile(tmp_path, 0, row, column, "after")
            np.testing.assert_array_equal(after, eight_bit(painting.after[part]))


def test_further_levels_are_means_down_to_one_tile(tmp_path: Path) -> None:
    painting = Painting()
    index, whole = cut(open_files(tmp_path), painting.view)
    assert (
        index["levels"] == painting.view.levels == 4
    )  # 286 x 379 -> 143 x 190 -> 72 x 95 -> 36 x 48
    assert whole.shape == (3, 36, 48)
    exact = painting.after[(slice(None), *painting.view.box.slices)]
    for _ in range(3):
        exact = halved(exact)
    assert np.abs(whole.astype(int) - exact).max() <= 1
    shown = read_tile(tmp_path, 3, 0, 0, "after")
    assert np.abs(shown.astype(int) - whole).mean() < 12  # noise, with a little loss


def test_a_small_view_is_one_tile(tmp_path: Path) -> None:
    painting = Painting(Size(70, 80), Box(30, 30, 50, 60))
    index, whole = cut(open_files(tmp_path), painting.view)
    assert index["levels"] == 1
    assert index["tiles"] == [(0, 0, 0, 1)]
    np.testing.assert_array_equal(whole, painting.after[(slice(None), *painting.view.box.slices)])


def test_what_was_cut_before_is_gone(tmp_path: Path) -> None:
    files = open_files(tmp_path)
    files.write("tiles/0/99-99-before.webp", b"old")
    cut(files, Painting().view)
    assert "99-99-before.webp" not in files.names("tiles/0")


def test_where_room_is_short_the_masks_edge_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    painting = Painting(Size(701, 702), Box(100, 100, 600, 600))
    whole, _ = cut(open_files(tmp_path), painting.view)
    amount = {}
    for level, row, column, _ in whole["tiles"]:
        if level == 0:
            part = painting.mask[painting.view.tile((0, row, column)).slices]
            amount[row, column] = 0 if not part.any() else 2 if part.all() else 1
    edges = sum(kind == 1 for kind in amount.values())
    monkeypatch.setattr(tiles, "LEVEL", 2 * 64 * 64 * (edges + 9))
    some, _ = cut(open_files(tmp_path), painting.view)
    kept = [(row, column) for level, row, column, _ in some["tiles"] if level == 0]
    assert not some["complete"]
    assert sum(amount[place] == 1 for place in kept) == edges
    inside = [place for place in kept if amount[place] == 2]
    assert len(inside) == 9
    assert max(abs(row - 5) + abs(column - 5) for row, column in inside) == 2  # about the middle
    for level in range(some["levels"]):
        area = sum(
            painting.view.tile((at, row, column)).size.area * (1 + after) >> 2 * level
            for at, row, column, after in some["tiles"]
            if at == level
        )
        assert area <= tiles.LEVEL
    assert sorted(t for t in whole["tiles"] if t[0] > 2) == [t for t in some["tiles"] if t[0] > 2]


def test_each_pixel_is_read_once_and_memory_stays_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "LEVEL", 60_000)
    size, read = Size(3001, 4001), {"before": 0, "after": 0}

    def pixels(box: Box, side: str) -> Samples:
        read[side] += box.size.area
        return np.full((3, *box.size.shape), 100 if side == "before" else 200, np.uint8)

    edited = Box(1000, 1000, 2000, 2500)
    view = View(
        box=Box.of(size),
        edited=edited,
        before=lambda box: pixels(box, "before"),
        after=lambda box: pixels(box, "after"),
        mask=lambda box: np.ones(box.size.shape, bool),
    )
    tracemalloc.start()
    _, whole = cut(open_files(tmp_path), view)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read == {"before": size.area, "after": edited.size.area}
    assert peak < 5e6  # the picture has 36e6 bytes, twice
    assert (whole[:, 0, 0] == 100).all()
    assert (whole[:, 24, 28] == 200).all()


def test_a_profile_goes_along_where_it_is_one_of_rgb() -> None:
    pixels = np.zeros((3, 4, 4), np.uint8)

    def profile_of(icc: bytes) -> bytes | None:
        found: bytes | None = Image.open(BytesIO(webp(pixels, icc=icc))).info.get("icc_profile")
        return found

    rgb = bytes(16) + b"RGB " + bytes(40)
    assert profile_of(rgb) == rgb
    assert profile_of(bytes(16) + b"GRAY" + bytes(40)) is None
    assert profile_of(rgb + bytes(tiles.PROFILE)) is None


def test_the_outline_lies_on_the_mask() -> None:
    painting = Painting()
    shown = outlined(painting.view)
    json.dumps(shown)
    down, across = shown["unit"]
    points = [p.split() for p in shown["path"].strip("MZ").split("L")]
    y = [shown["y"] + float(p[1]) * down for p in points]
    x = [shown["x"] + float(p[0]) * across for p in points]
    assert (min(y), max(y)) == pytest.approx((90, 210), abs=1)
    assert (min(x), max(x)) == pytest.approx((130, 280), abs=1)


def test_the_outline_of_a_large_mask_is_small() -> None:
    painting = Painting(Size(3000, 2600), Box(50, 40, 2950, 2540))
    shown = outlined(painting.view)
    assert shown["unit"][0] == pytest.approx(2900 / 1024 / 2)
    assert len(shown["path"]) < 40_000


def test_seams_are_told_in_the_pictures_pixels() -> None:
    painting = Painting(Size(400, 500), Box(40, 60, 340, 420))
    painting.mask[:] = False
    painting.mask[painting.view.edited.slices] = True
    painting.after[:] = 90
    painting.after[:, :, 50 + 160 :] = 180
    grid, region = Grid(Size(330, 400), Size(96, 96), 32), Box(30, 50, 360, 450)
    found = seams_of(painting.view, grid, region, cell=8)
    json.dumps(found)
    assert found["overall"] > 10
    worst = [piece for piece in found["pieces"] if piece[4] > 2]
    assert {(piece[1], piece[3]) for piece in worst} == {(210, 210)}
    assert found["pieces"] == sorted(found["pieces"], key=lambda piece: -piece[4])
    assert found["measured"] == len(found["pieces"])
