"""Outlines of other programs: QuPath's and others' GeoJSON, labelme's JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msbd_dist.canvas.outlines import read_outlines
from msbd_dist.canvas.shapes import Shapes
from msbd_dist.core.geometry import Box, Size
from msbd_dist.errors import MaskError

SIZE = Size(40, 60)
RING = [[10, 5], [30, 5], [30, 25], [10, 25], [10, 5]]
HOLE = [[15, 10], [15, 20], [25, 20], [25, 10], [15, 10]]
OTHER = [[40, 30], [50, 30], [50, 38], [40, 38], [40, 30]]
POLYGON = {"type": "Polygon", "coordinates": [RING, HOLE]}


def feature(geometry: Any, name: str = "tumour") -> dict[str, Any]:
    """As QuPath exports an annotation."""
    return {
        "type": "Feature",
        "id": "8f2c",
        "geometry": geometry,
        "properties": {"objectType": "annotation", "classification": {"name": name}},
    }


MANY = {"type": "MultiPolygon", "coordinates": [[RING, HOLE], [OTHER]]}
GEOJSON: dict[str, Any] = {
    "a collection": {
        "type": "FeatureCollection",
        "features": [feature(POLYGON), feature({"type": "Polygon", "coordinates": [OTHER]})],
    },
    "a bare list": [feature(POLYGON), feature({"type": "Polygon", "coordinates": [OTHER]})],
    "many polygons": feature(MANY),
    "a geometry": MANY,
    "geometries": {
        "type": "GeometryCollection",
        "geometries": [POLYGON, {"type": "Polygon", "coordinates": [OTHER]}],
    },
    "heights too": {
        "type": "MultiPolygon",
        "coordinates": [[[[*v, 7] for v in RING], HOLE], [OTHER]],
    },
    "one without a place": [feature(MANY), feature(None)],
}


def whole(content: Any, folder: Path) -> np.ndarray:
    path = folder / "outlines.json"
    path.write_text(json.dumps(content))
    drawn = read_outlines(str(path), SIZE)
    return Shapes(SIZE, polygons=drawn.polygons).window(Box.of(SIZE))


@pytest.mark.parametrize("case", GEOJSON)
def test_every_form_of_geojson_gives_the_same_mask(case: str, tmp_path: Path) -> None:
    wanted = np.zeros(SIZE.shape, bool)
    wanted[5:25, 10:30] = True
    wanted[10:20, 15:25] = False
    wanted[30:38, 40:50] = True
    assert np.array_equal(whole(GEOJSON[case], tmp_path), wanted)


def labelme(*shapes: dict[str, Any], size: Size = SIZE) -> dict[str, Any]:
    """As labelme saves it."""
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": [{"label": "stone", "group_id": None, "flags": {}, **shape} for shape in shapes],
        "imagePath": "photo.jpg",
        "imageData": None,
        "imageHeight": size.height,
        "imageWidth": size.width,
    }


def test_labelmes_polygons_rectangles_and_circles(tmp_path: Path) -> None:
    mask = whole(
        labelme(
            {"shape_type": "polygon", "points": RING[:-1]},
            {"shape_type": "rectangle", "points": [[50, 38], [40, 30]]},
            {"shape_type": "rectangle", "points": [[1, 1], [4, 1], [4, 3], [1, 3]]},
            {"shape_type": "circle", "points": [[50, 10], [55.2, 10]]},
        ),
        tmp_path,
    )
    wanted = np.zeros(SIZE.shape, bool)
    wanted[5:25, 10:30] = wanted[30:38, 40:50] = wanted[1:3, 1:4] = True
    ys, xs = np.mgrid[:40, :60] + 0.5
    wanted |= (xs - 50) ** 2 + (ys - 10) ** 2 <= 5.2**2
    assert np.array_equal(mask, wanted)


POINT = {"type": "Point", "coordinates": [3, 4]}
WRONG: dict[str, tuple[str, str]] = {
    "not JSON": ("{", "is not valid JSON"),
    "text": ('"hello"', "GeoJSON or labelme"),
    "a number": ("7", "GeoJSON or labelme"),
    "another object": ('{"a": 1}', "GeoJSON or labelme.*type"),
    "a point": (json.dumps(feature(POINT)), "holds a Point, which has no area"),
    "a kind that is none": ('{"type": "Blob"}', "holds a Blob"),
    "nothing": ('{"type": "FeatureCollection", "features": []}', "holds no area"),
    "an empty list": ("[]", "holds no area"),
    "no coordinates": ('{"type": "Polygon"}', "coordinates"),
    "a vertex of words": ('{"type": "Polygon", "coordinates": [[["a", 1]]]}', "GeoJSON"),
    "a vertex of one": ('{"type": "Polygon", "coordinates": [[[1]]]}', "GeoJSON"),
    "too deep": ("[" * 30 + "]" * 30, "nested too deeply"),
    "far too deep": ("[" * 100_000, "is not valid JSON"),
    "another size": (json.dumps(labelme(size=Size(80, 60))), "drawn on 60x80 .*60x40"),
    "a line": (
        json.dumps(labelme({"shape_type": "linestrip", "points": RING})),
        "holds a linestrip",
    ),
    "no shapes": (json.dumps(labelme()), "holds no area"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_outline_is_said_in_one_line(case: str, tmp_path: Path) -> None:
    text, words = WRONG[case]
    (tmp_path / "o.json").write_text(text)
    with pytest.raises(MaskError, match=rf"o\.json: .*{words}") as caught:
        read_outlines(str(tmp_path / "o.json"), SIZE)
    assert "\n" not in str(caught.value)


names = st.sampled_from(
    ["type", "features", "geometry", "geometries", "coordinates", "shapes", "shape_type", "points"]
)
words = st.sampled_from(
    ["Feature", "FeatureCollection", "Polygon", "MultiPolygon", "rectangle", "circle", "a\nb", ""]
)
numbers = st.one_of(st.integers(0, 50), st.floats(), st.just(10**400))
anything = st.recursive(
    st.one_of(words, numbers, st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(names, inner, max_size=4)),
    max_leaves=12,
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(anything)
def test_whatever_a_file_holds_is_a_mask_or_refused_in_one_line(
    tmp_path: Path, content: Any
) -> None:
    said = ""
    try:
        whole(content, tmp_path)
    except MaskError as error:
        said = str(error)
    assert "\n" not in said


def test_a_folder_is_no_file_of_outlines(tmp_path: Path) -> None:
    (tmp_path / "o.json").mkdir()
    with pytest.raises(MaskError, match="can't be read"):
        read_outlines(str(tmp_path / "o.json"), SIZE)
