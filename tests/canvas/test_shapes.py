"""Boxes and polygons as masks: whose centre is inside, at any window, once along common edges."""

from __future__ import annotations

import math
from contextlib import suppress
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msbd_dist.canvas.shapes import Ring, Shapes
from msbd_dist.core.geometry import Box, Size
from msbd_dist.errors import MaskError

SIZE = Size(40, 50)
TRIANGLE = [(5, 5), (30, 8), (12, 33)]

coordinates = st.one_of(
    st.integers(-10, 60).map(float),
    st.integers(-20, 120).map(lambda n: n / 2),
    st.floats(-10, 60, allow_nan=False),
)
vertices = st.tuples(coordinates, coordinates)
rings = st.lists(vertices, min_size=3, max_size=9, unique=True)


def whole(shapes: Shapes) -> np.ndarray:
    return shapes.window(Box.of(shapes.size))


def inside(x: Fraction, y: Fraction, polygon: list[Ring]) -> bool:
    """Exactly: does a line from the point to the left cross an odd number of edges?"""
    crossed = 0
    for ring in polygon:
        for i, (bx, by) in enumerate(ring):
            ax, ay = (Fraction(v) for v in ring[i - 1])
            bx, by = Fraction(bx), Fraction(by)
            if min(ay, by) <= y < max(ay, by):
                crossed += ax + (y - ay) * (bx - ax) / (by - ay) <= x
    return crossed % 2 == 1


# ---------------------------------------------------------------- what is inside


corners = st.tuples(st.integers(-4, 12), st.integers(-4, 12))


@settings(max_examples=40)
@given(st.lists(st.lists(corners, min_size=3, max_size=6, unique=True), min_size=1, max_size=3))
def test_a_pixel_is_inside_when_its_centre_is(polygon: Any) -> None:
    half = Fraction(1, 2)
    wanted = np.array([[inside(x + half, y + half, polygon) for x in range(9)] for y in range(8)])
    try:
        found = whole(Shapes(Size(8, 9), polygons=[polygon]))
    except MaskError:
        found = np.zeros((8, 9), bool)
    assert np.array_equal(found, wanted)


def test_a_box_is_its_pixels() -> None:
    mask = whole(Shapes(SIZE, boxes=[(3, 4, 10, 2)]))
    assert mask[4:6, 3:13].all()
    assert mask.sum() == 20
    assert whole(Shapes(SIZE, boxes=[(2.5, 3.5, 2, 1)])).nonzero()[1].tolist() == [2, 3]
    assert whole(Shapes(SIZE, boxes=[(2.6, 3.5, 2, 1)])).nonzero()[1].tolist() == [3, 4]


def test_a_hole_is_cut_out_and_shapes_are_united() -> None:
    outer, hole = [(0, 0), (20, 0), (20, 20), (0, 20), (0, 0)], [(5, 5), (5, 9), (9, 9), (9, 5)]
    shapes = Shapes(SIZE, polygons=[[outer, hole]], boxes=[(10, 10, 20, 20)])
    mask = whole(shapes)
    assert not mask[5:9, 5:9].any()
    assert mask.sum() == 400 - 16 + 400 - 100
    assert shapes.bbox == Box(0, 0, 30, 30)


def test_areas_are_those_of_the_figures() -> None:
    edge = 3000
    angles = np.linspace(0, 2 * np.pi, 10_000, endpoint=False)
    ring = np.stack((np.cos(angles), np.sin(angles)), axis=1) * 1400 + edge / 2
    disc = whole(Shapes(Size(edge, edge), polygons=[[ring.tolist()]]))
    assert disc.sum() == pytest.approx(math.pi * 1400**2, rel=1e-4)
    triangle = whole(Shapes(Size(edge, edge), polygons=[[[(0, 0), (edge, 0), (0, edge)]]]))
    assert triangle.sum() == edge * (edge - 1) // 2  # centres on the longest edge are outside


@given(vertices, st.integers(0, 2**32 - 1))
def test_pieces_of_a_picture_cover_each_pixel_once(middle: Any, seed: int) -> None:
    """Triangles around a point inside the picture, through any points of its border."""
    rng = np.random.default_rng(seed)
    height, width = SIZE.shape
    middle = (min(max(middle[0], 1), width - 1), min(max(middle[1], 1), height - 1))
    sides = np.sort(rng.random(5))
    border = [(0.0, 0.0), *((width * s, 0.0) for s in sides), (width, 0.0), (width, height)]
    border += [(0.0, float(height))]
    covered = np.zeros(SIZE.shape, int)
    for a, b in zip(border, [*border[1:], border[0]], strict=True):
        triangle = [a, b, middle] if rng.random() < 0.5 else [middle, b, a]
        with suppress(MaskError):  # too thin to hold a centre
            covered += whole(Shapes(SIZE, polygons=[[triangle]]))
    assert (covered == 1).all()


# ---------------------------------------------------------------- windows


@given(st.lists(st.lists(rings, min_size=1, max_size=3), min_size=1, max_size=4), st.data())
def test_a_window_shows_what_the_whole_shows(polygons: Any, data: Any) -> None:
    try:
        shapes = Shapes(SIZE, polygons=polygons)
    except MaskError:
        return
    mask = whole(shapes)
    ys, xs = np.nonzero(mask)
    assert shapes.bbox == Box(ys.min(), xs.min(), ys.max() + 1, xs.max() + 1)
    assert shapes.share == mask.mean()
    y0, x0 = data.draw(st.integers(0, 39)), data.draw(st.integers(0, 49))
    y1, x1 = data.draw(st.integers(y0 + 1, 40)), data.draw(st.integers(x0 + 1, 50))
    box = Box(y0, x0, y1, x1)
    assert np.array_equal(shapes.window(box), mask[box.slices])
    assert shapes.any(box) == mask[box.slices].any()


def test_a_polygon_of_10_000_vertices_in_a_picture_of_10_gigapixels() -> None:
    edge = 100_000
    angles = np.linspace(0, 2 * np.pi, 10_000, endpoint=False)
    radius = edge * (0.4 + 0.05 * np.sin(200 * angles))
    ring = np.stack((np.cos(angles) * radius, np.sin(angles) * radius), axis=1) + edge / 2
    shapes = Shapes(Size(edge, edge), polygons=[[ring.tolist()]])
    assert shapes.any(Box(0, 0, edge, edge))
    assert not shapes.any(Box(0, 0, 4000, edge))
    wide = shapes.window(Box(20_000, 20_000, 20_300, 20_400))
    assert 0 < wide.sum() < wide.size
    part = shapes.window(Box(20_100, 20_150, 20_200, 20_250))
    assert np.array_equal(part, wide[100:200, 150:250])


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({}, "no shapes"),
        ({"polygons": [[]]}, "polygon 1 .*no vertices"),
        ({"polygons": [[TRIANGLE], [[(1, 1), (2, 2), (1, 1)]]]}, "polygon 2 .*fewer than 3"),
        ({"polygons": [[[(1, 1), (1, 1), (1, 1)]]]}, "fewer than 3"),
        ({"polygons": [[[]]]}, "fewer than 3"),
        ({"polygons": [[[(1, 2, 3), (1, 1, 1), (2, 2, 2)]]]}, "not a list of vertices"),
        ({"polygons": [TRIANGLE]}, "not a list of vertices"),
        ({"polygons": [[[(1, 1), (math.nan, 4), (9, 9)]]]}, r"nowhere: \[nan, 4\]"),
        ({"boxes": [(1, 1, math.inf, 4)]}, "box 1 .*nowhere"),
        ({"boxes": [(1, 1, 0, 4)]}, "positive width and height, not 0 x 4"),
        ({"boxes": [(1, 1, 4)]}, "x, y, width, height"),
        ({"boxes": [(50, 0, 10, 10)]}, "outside the picture of 50x40"),
        ({"polygons": [[[(-1, 3), (-9, 3), (-4, 9)]]]}, "outside the picture"),
        ({"boxes": [(3.6, 3.6, 0.8, 0.8)]}, "no pixel's centre"),
    ],
)
def test_what_is_no_mask_is_said_in_one_line(shapes: dict[str, Any], words: str) -> None:
    with pytest.raises(MaskError, match=words) as caught:
        Shapes(SIZE, **shapes)
    assert "\n" not in str(caught.value)


def test_a_shape_that_is_partly_outside_is_cut_off() -> None:
    shapes = Shapes(SIZE, boxes=[(-5, -5, 10, 10), (1000, 1000, 5, 5)])
    assert shapes.bbox == Box(0, 0, 5, 5)
    with pytest.raises(ValueError, match="not inside"):
        shapes.window(Box(-1, 0, 4, 4))
