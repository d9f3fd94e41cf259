"""Outlines on a map, upon GeoTIFFs and upon pictures that are nowhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from msbd_dist.canvas.combined import make_mask
from msbd_dist.canvas.geo import crs_of
from msbd_dist.canvas.images import Picture
from msbd_dist.core.geometry import Box
from msbd_dist.core.spec import MaskFile
from msbd_dist.errors import MaskError

UTM = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}}
DEGREES = {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}
WANTED = Box(20, 30, 60, 90)  # pixels


def geotiff(
    folder: Path, *, code: int | None = 32632, point: bool = False, matrix: bool = False,
    per_pixel: float = 0.5, corner: tuple[float, float] = (500_000.0, 4_600_000.0),
) -> Picture:  # fmt: skip
    """A picture of 200x100 pixels with its upper left corner, or that pixel's middle, there."""
    geographic = code is not None and code < 5000
    keys = [1, 1, 0, 3, 1024, 0, 1, 2 if geographic else 1, 1025, 0, 1, 2 if point else 1]
    keys += [2048 if geographic else 3072, 0, 1, 32767 if code is None else code]
    (x, y), step = corner, per_pixel
    tags: list[Any] = [(34735, 3, len(keys), keys, True)]
    if matrix:
        whole = (step, 0, 0, x, 0, -step, 0, y, 0, 0, 0, 0, 0, 0, 0, 1)
        tags.append((34264, 12, 16, whole, True))
    else:
        tags += [(33550, 12, 3, (step, step, 0.0), True)]
        tags += [(33922, 12, 6, (10.0, 4.0, 0, x + 10 * step, y - 4 * step, 0), True)]
    path = folder / "map.tif"
    tifffile.imwrite(path, np.zeros((100, 200), np.uint8), metadata=None, extratags=tags)
    return Picture.open(path)


def square(
    *, crs: Any = None, shift: float = 0.0, per_pixel: float = 0.5,
    corner: tuple[float, float] = (500_000.0, 4_600_000.0), box: Box = WANTED,
) -> dict[str, Any]:  # fmt: skip
    """WANTED as it lies on the map, ``shift`` pixels further right and down."""
    places = [(box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1)]
    ring = [
        [corner[0] + per_pixel * (x + shift), corner[1] - per_pixel * (y + shift)]
        for x, y in [*places, places[0]]
    ]
    found: dict[str, Any] = {"type": "Polygon", "coordinates": [ring]}
    feature = {"type": "Feature", "properties": {}, "geometry": found}
    return {"type": "FeatureCollection", **({"crs": crs} if crs else {}), "features": [feature]}


def whole(content: Any, picture: Picture, **meant: Any) -> np.ndarray:
    path = Path(picture.path).with_name("aoi.geojson")
    path.write_text(json.dumps(content))
    mask = make_mask(MaskFile(file=str(path), **meant), picture)
    return mask.window(Box.of(picture.size))


def is_wanted(found: np.ndarray) -> bool:
    return bool(found[WANTED.slices].all()) and found.sum() == WANTED.size.area


@pytest.mark.parametrize("matrix", [False, True])
@pytest.mark.parametrize("point", [False, True])
def test_a_map_is_moved_by_the_tags(point: bool, matrix: bool, tmp_path: Path) -> None:
    picture = geotiff(tmp_path, point=point, matrix=matrix)
    assert is_wanted(whole(square(crs=UTM, shift=-0.5 if point else 0.0), picture))


def test_degrees_upon_a_picture_in_degrees(tmp_path: Path) -> None:
    place: dict[str, Any] = {"per_pixel": 0.001, "corner": (7.1, 50.7)}
    picture = geotiff(tmp_path, code=4326, **place)
    for crs in (DEGREES, None):  # without, they are in WGS 84
        assert is_wanted(whole(square(crs=crs, **place), picture))


def test_coordinates_that_can_only_be_the_map_s_are(tmp_path: Path) -> None:
    assert is_wanted(whole(square(), geotiff(tmp_path)))


@pytest.mark.parametrize("where", ["plain", "map"])
def test_pixels_are_pixels_wherever_the_picture_is(where: str, tmp_path: Path) -> None:
    picture = geotiff(tmp_path)
    if where == "plain":
        tifffile.imwrite(picture.path, np.zeros((100, 200), np.uint8))
        picture = Picture.open(picture.path)
    pixels: dict[str, Any] = {"per_pixel": 1, "corner": (0, 0)}
    flat = square(**pixels)
    ring = flat["features"][0]["geometry"]["coordinates"][0]
    ring[:] = [[x, -y] for x, y in ring]
    assert is_wanted(whole(flat, picture))
    small = square(box=Box(1, 1, 5, 9), shift=0.3, **pixels)
    small["features"][0]["geometry"]["coordinates"][0] = [[1.3, 1.3], [9.3, 1.3], [9.3, 5.3]]
    with pytest.raises(MaskError, match=r"aoi\.geojson: .*degrees"):
        whole(small, picture)
    known = whole(small, picture, from_="pixels")
    assert known.any()
    assert np.array_equal(whole({**small, "crs": None}, picture), known)
    small["features"][0]["properties"] = {"objectType": "annotation"}  # QuPath
    assert np.array_equal(whole(small, picture), known)


REFUSED = {
    "no tags": (None, UTM, "EPSG:32632, and .*does not say where it lies.*from: pixels}"),
    "degrees upon metres": ({}, DEGREES, r"\(WGS 84, EPSG:4326\) .* EPSG:32632; reproject them to"),
    "another zone": ({"code": 32633}, UTM, "in EPSG:32632 and .* in EPSG:32633; reproject"),
    "a system of its own": ({"code": None}, UTM, "is in a system of its own; give pixels"),
    "a name that is none": (
        {},
        {"type": "name", "properties": {"name": "Mars"}},
        "in Mars and",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_lies_elsewhere_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    tags, crs, words = REFUSED[case]
    picture = geotiff(tmp_path, **(tags or {}))
    if tags is None:
        tifffile.imwrite(picture.path, np.zeros((100, 200), np.uint8))
    with pytest.raises(MaskError, match=rf"aoi\.geojson: its coordinates are.*{words}") as caught:
        whole(square(crs=crs), Picture.open(picture.path))
    assert "\n" not in str(caught.value)


def test_outlines_beside_the_picture_s_part_of_the_map_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MaskError, match="outside the picture of 200x100"):
        whole(square(crs=UTM, shift=5000), geotiff(tmp_path))


@pytest.mark.parametrize(
    ("member", "code"),
    [
        ({"type": "name", "properties": {"name": "EPSG:25832"}}, 25832),
        ({"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG:8.5:25832"}}, 25832),
        ({"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC::CRS84"}}, 4326),
        ({"properties": {"name": "http://www.opengis.net/def/crs/EPSG/0/3857"}}, 3857),
        ({"properties": {"name": "http://www.opengis.net/def/crs/OGC/1.3/CRS84"}}, 4326),
        ({"type": "EPSG", "properties": {"code": 4326}}, 4326),
        ("EPSG:900913", 3857),
        ({"type": "link", "properties": {"href": "http://x/y.wkt"}}, "http://x/y.wkt"),
        ({"type": "name"}, "unknown"),
    ],
)  # fmt: skip
def test_names_of_coordinate_systems(member: Any, code: int | str) -> None:
    assert crs_of(member) == code
