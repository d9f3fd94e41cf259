"""Outlines of other programs: QuPath's and others' GeoJSON, labelme's JSON."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from msbd_dist.canvas import outlines
from msbd_dist.canvas.combined import look_at_mask, make_mask
from msbd_dist.canvas.images import Picture
from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.spec import MaskFile
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
    "a member of somebody's": {
        "type": "FeatureCollection",
        "annotations": [1],
        "features": [feature(MANY)],
    },
    "heights too": {
        "type": "MultiPolygon",
        "coordinates": [[[[*v, 7] for v in RING], HOLE], [OTHER]],
    },
    "one without a place": [feature(MANY), feature(None)],
}


def picture_of(folder: Path, size: Size = SIZE, name: str = "picture.png") -> Picture:
    if not (folder / name).exists():
        Image.new("L", (size.width, size.height)).save(folder / name)
    return Picture.open(folder / name)


def whole(content: Any, folder: Path, **meant: Any) -> np.ndarray:
    path = folder / "outlines.json"
    path.write_text(json.dumps(content))
    mask = make_mask(MaskFile(file=str(path), **meant), picture_of(folder))
    return mask.window(Box.of(SIZE))


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
    "text": ('"hello"', "GeoJSON, COCO or labelme"),
    "a number": ("7", "GeoJSON, COCO or labelme"),
    "another object": ('{"a": 1}', "GeoJSON, COCO or labelme.*type"),
    "a point": (json.dumps(feature(POINT)), r"holds no area \(1 Point\)"),
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
        r"holds no area \(1 linestrip\)",
    ),
    "no shapes": (json.dumps(labelme()), "holds no area"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_outline_is_said_in_one_line(case: str, tmp_path: Path) -> None:
    text, words = WRONG[case]
    (tmp_path / "o.json").write_text(text)
    with pytest.raises(MaskError, match=rf"o\.json: .*{words}") as caught:
        make_mask(str(tmp_path / "o.json"), picture_of(tmp_path))
    assert "\n" not in str(caught.value)


names = st.sampled_from(
    ["type", "features", "geometry", "geometries", "coordinates", "shapes", "shape_type", "points",
     "annotations", "images", "segmentation", "counts", "size", "image_id", "crs", "properties"]
)  # fmt: skip
words = st.sampled_from(
    [
        "Feature",
        "FeatureCollection",
        "Polygon",
        "MultiPolygon",
        "rectangle",
        "circle",
        "mask",
        "a\nb",
        "",
    ]
)
numbers = st.one_of(st.integers(0, 60), st.floats(), st.sampled_from([10**400, 2400]))
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
        make_mask(str(tmp_path / "o.json"), picture_of(tmp_path))


# ---------------------------------------------------------------- what is left out, and chosen


def test_what_has_no_area_is_left_out_and_told(tmp_path: Path) -> None:
    path = tmp_path / "o.geojson"
    line = {"type": "LineString", "coordinates": [[1, 2], [3, 4]]}
    features = [feature(POLYGON), *(feature(POINT) for _ in range(3)), feature(line)]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    looked = look_at_mask(str(path), picture_of(tmp_path))
    assert looked.notes == (f"{path}: 3 Point, 1 LineString: no area, left out",)
    assert looked.mask.bbox == Box(5, 10, 25, 30)
    path.write_text(
        json.dumps(labelme({"points": RING}, {"shape_type": "point", "points": [[1, 1]]}))
    )
    assert look_at_mask(str(path), picture_of(tmp_path)).notes == (
        f"{path}: 1 point: no area, left out",
    )


@pytest.mark.parametrize("kind", ["QuPath", "labelme"])
def test_areas_of_a_category(kind: str, tmp_path: Path) -> None:
    other = {"type": "Polygon", "coordinates": [OTHER]}
    content: Any = [feature(POLYGON), feature(other, "stroma")]
    if kind == "labelme":
        content = labelme({"points": RING, "label": "tumour"}, {"points": OTHER, "label": "stroma"})
    assert whole(content, tmp_path, category=("stroma",)).nonzero()[0].min() == 30
    assert np.array_equal(
        whole(content, tmp_path, category=("stroma", "tumour")), whole(content, tmp_path)
    )
    with pytest.raises(MaskError, match=r"has no .*bone; it has .*stroma"):
        whole(content, tmp_path, category=("bone",))


def test_a_feature_on_each_line(tmp_path: Path) -> None:
    path = tmp_path / "o.geojsonl"
    other = {"type": "Polygon", "coordinates": [OTHER]}
    lines = [json.dumps(feature(one)) for one in (POLYGON, other)]
    for separator in ("", "\x1e"):
        path.write_text("".join(f"{separator}{line}\n" for line in lines))
        mask = make_mask(str(path), picture_of(tmp_path))
        assert np.array_equal(mask.window(Box.of(SIZE)), whole(GEOJSON["a geometry"], tmp_path))
    path.write_text(f"{lines[0]}\n{{\n")
    with pytest.raises(MaskError, match=r"o\.geojsonl:2: is not valid JSON"):
        make_mask(str(path), picture_of(tmp_path))
    path.write_text('{"type": "Feature"}\n')
    with pytest.raises(MaskError, match=r"GeoJSON.*geometry"):
        make_mask(str(path), picture_of(tmp_path))


@pytest.mark.parametrize(
    ("name", "words"),
    [("a.kml", "is KML.*export GeoJSON"), ("a.npy", "numpy; save it as a PNG"), ("A.SHP", "shape")],
)
def test_other_kinds_of_files_are_named(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(MaskError, match=words):
        make_mask(str(tmp_path / name), picture_of(tmp_path))


def test_what_outlines_have_not_can_not_be_asked_of_them(tmp_path: Path) -> None:
    for meant, words in (({"from_": "alpha"}, "no alpha"), ({"image_id": 3}, "is no COCO file")):
        with pytest.raises(MaskError, match=words):
            whole(POLYGON, tmp_path, **meant)
    Image.new("L", (60, 40), 255).save(tmp_path / "m.png")
    with pytest.raises(MaskError, match="`category` is of outlines"):
        make_mask(MaskFile(file=str(tmp_path / "m.png"), category=("a",)), picture_of(tmp_path))


# ---------------------------------------------------------------- masks of labelme


def packed(pixels: np.ndarray) -> str:
    data = BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def test_labelmes_masks_lie_in_their_boxes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    one, two = rng.random((9, 14)) < 0.5, rng.random((20, 10)) < 0.5
    shapes = [
        {"shape_type": "mask", "points": [[5, 7], [18, 15]], "mask": packed(one)},
        {"shape_type": "mask", "points": [[53.0, 30.0], [62.0, 49.0]], "mask": packed(two)},
        {"shape_type": "rectangle", "points": [[30, 1], [33, 3]]},
    ]
    wanted = np.zeros(SIZE.shape, bool)
    wanted[7:16, 5:19] = one
    wanted[30:, 53:] = two[:10, :7]
    wanted[1:3, 30:33] = True
    assert np.array_equal(whole(labelme(*shapes), tmp_path), wanted)


@pytest.mark.parametrize(
    "mask",
    ["AAAA", "%", None, packed(np.ones((3, 3), bool)), packed(np.ones((9, 14), bool))[:-40]],
)
def test_a_mask_of_labelme_that_is_none_is_refused(mask: Any, tmp_path: Path) -> None:
    shape = {"shape_type": "mask", "points": [[5, 7], [18, 15]], "mask": mask}
    with pytest.raises(MaskError, match="not as GeoJSON, COCO or labelme") as caught:
        whole(labelme(shape), tmp_path)
    assert "\n" not in str(caught.value)


def test_the_picture_in_a_file_of_labelme_may_be_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlines, "_MOST", 10_000)
    content = {**labelme({"points": RING}), "imageData": "/9j+" * 10_000}
    assert whole(content, tmp_path).sum() == 400
    with pytest.raises(MaskError, match="simplify"):
        whole({**content, "imagePath": "x" * 20_000}, tmp_path)
