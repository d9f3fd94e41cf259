"""Outlines on a map, and where a GeoTIFF's pixels lie on it.

    in_pixels(polygons, crs, picture)    what coordinates are, as pixels of the upright picture

Nothing is reprojected: outlines are in the picture's own coordinate system, or refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msbd_dist.canvas.images import Picture
from msbd_dist.canvas.tiff_tags import Damaged, Directory, Tags, open_bytes
from msbd_dist.core.spec import Vertex
from msbd_dist.errors import MaskError

Polygon = tuple[tuple[Vertex, ...], ...]

WGS84 = 4326
_OWN = 32767  # of a GeoTIFF: a coordinate system that has no number
_SCALE, _TIES, _MATRIX, _KEYS = 33550, 33922, 34264, 34735
_SAME = {900913: 3857, 3785: 3857, 102100: 3857, 102113: 3857}  # old names of one system
_NAMED = re.compile(r"EPSG(?:/0/|:[\d.]*:|:|/)(\d+)$", re.IGNORECASE)
_OGC = {"CRS84": WGS84, "CRS84H": WGS84, "CRS83": 4269, "CRS27": 4267}
_QUARTERS = 4  # to which coordinates in pixels are rounded, where they are not whole


@dataclass(frozen=True)
class Ground:
    """Where a picture lies: x and y of a pixel's corner are ``matrix @ (x, y, 1)``."""

    code: int | None  # EPSG; None: one of its own
    matrix: NDArray[np.float64]  # (2, 3)

    def pixels(self, ring: Sequence[Vertex]) -> tuple[Vertex, ...]:
        """Places on the map as pixels."""
        found = np.linalg.solve(self.matrix[:, :2], np.array(ring).T - self.matrix[:, 2:])
        return tuple((x, y) for x, y in found.T.tolist())


def in_pixels(
    polygons: tuple[Polygon, ...], crs: int | str | None, picture: Picture, place: str
) -> tuple[Polygon, ...]:
    """Polygons as pixels of a picture, by what their file says or they look like.

    ``crs`` is an EPSG code, a name that is none, or None where nothing is said. MaskError where
    they lie on a map and the picture is not there.
    """
    ground = ground_of(picture)
    if crs is None:
        if not _look_like_degrees(polygons, picture):
            beyond = ground is not None and _only_on_map(polygons, ground, picture)
            return _moved(polygons, ground) if ground and beyond else polygons
        crs = WGS84
    called = f"EPSG:{crs}" if isinstance(crs, int) else crs
    called = "degrees (WGS 84, EPSG:4326)" if crs == WGS84 else called
    remedy = f"{{file: {Path(place).name}, from: pixels}}"
    if ground is None:
        raise MaskError(
            f"{place}: its coordinates are on a map, in {called}, and {picture.path} does not say "
            "where it lies (no GeoTIFF tags); give pixels of the upright picture, or, where these "
            f"are pixels, write {remedy}"
        )
    if ground.code is None or _SAME.get(ground.code, ground.code) != crs:
        own = "a system of its own" if ground.code is None else f"EPSG:{ground.code}"
        wanted = "give pixels" if ground.code is None else f"reproject them to {own}"
        raise MaskError(
            f"{place}: its coordinates are in {called} and {picture.path} is in {own}; {wanted}, "
            f"or, where these are pixels, write {remedy}"
        )
    return _moved(polygons, ground)


def crs_of(member: Any) -> int | str:
    """The `crs` of a GeoJSON object: an EPSG code, or its name where that is none."""
    about = (member.get("properties") or {}) if isinstance(member, dict) else {"name": member}
    name = str(about.get("name", about.get("code", about.get("href", "unknown"))))
    if name.isdecimal():
        return int(name)
    if (found := _OGC.get(re.split(r"[:/]", name)[-1].upper())) is not None:
        return found
    if match := _NAMED.search(name):
        return _SAME.get(int(match[1]), int(match[1]))
    return " ".join(name.split())[:80]


def _moved(polygons: tuple[Polygon, ...], ground: Ground) -> tuple[Polygon, ...]:
    return tuple(tuple(ground.pixels(ring) for ring in polygon) for polygon in polygons)


def _vertices(polygons: tuple[Polygon, ...]) -> NDArray[np.float64]:
    every = [vertex for polygon in polygons for ring in polygon for vertex in ring]
    return np.array(every, np.float64).reshape(-1, 2)


def _look_like_degrees(polygons: tuple[Polygon, ...], picture: Picture) -> bool:
    """Fractions within +-180 and +-90, in a picture that reaches further."""
    vertices, size = _vertices(polygons), picture.size
    if size.width <= 180 and size.height <= 90:
        return False
    within = bool((np.abs(vertices) <= (180, 90)).all())
    return within and bool((vertices * _QUARTERS % 1).any())


def _only_on_map(polygons: tuple[Polygon, ...], ground: Ground, picture: Picture) -> bool:
    """Whether all vertices are beyond the picture's pixels and most are within its map."""
    size = picture.size.width, picture.size.height

    def inside(vertices: NDArray[np.float64]) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = np.logical_and.reduce(
            (vertices >= 0) & (vertices <= size), axis=1
        )
        return found

    if inside(_vertices(polygons)).any():
        return False
    return bool(inside(_vertices(_moved(polygons, ground))).mean() > 0.5)


# ---------------------------------------------------------------- GeoTIFF


def ground_of(picture: Picture) -> Ground | None:
    """Where a picture's GeoTIFF tags say that it lies; None where there are none that do."""
    if picture.kind != "TIFF":
        return None
    try:
        tags = Tags(open_bytes(picture.path))
        page = tags.directory(tags.first)
        matrix = _matrix(tags, page)
        keys = _keys(tags, page)
    except Damaged:
        return None
    if matrix is None or picture.orientation != 1:
        return None
    if keys.get(1025) == 2:  # a pixel is a point, where others have its corner
        matrix = matrix.copy()
        matrix[:, 2] -= matrix[:, :2].sum(axis=1) / 2
    code = keys.get(2048 if keys.get(1024) == 2 else 3072, keys.get(2048, _OWN))
    return Ground(None if code == _OWN else code, matrix)


def _matrix(tags: Tags, page: Directory) -> NDArray[np.float64] | None:
    """(2, 3): from pixels to the map."""
    whole = _doubles(tags, page, _MATRIX)
    if len(whole) == 16:
        found = whole.reshape(4, 4)[:2][:, [0, 1, 3]]
    else:
        scale, ties = _doubles(tags, page, _SCALE), _doubles(tags, page, _TIES)
        if len(scale) < 2 or len(ties) < 6:
            return None
        (column, row), (x, y), (across, down) = ties[:2], ties[3:5], scale[:2]
        found = np.array([[across, 0, x - column * across], [0, -down, y + row * down]])
    usable = all(map(isfinite, found.ravel())) and np.linalg.det(found[:, :2]) != 0
    return found if usable else None


def _keys(tags: Tags, page: Directory) -> dict[int, int]:
    """The GeoTIFF keys that are numbers."""
    if _KEYS not in page.entries:
        return {}
    rows = tags.integers(page.entries[_KEYS])
    rows = rows[4 : len(rows) // 4 * 4].reshape(-1, 4)
    return {int(key): int(value) for key, where, _, value in rows if where == 0}


def _doubles(tags: Tags, page: Directory, code: int) -> NDArray[np.float64]:
    entry = page.entries.get(code)
    if entry is None or entry.kind != 12:
        return np.zeros(0)
    return np.frombuffer(tags.raw(entry), tags.order + "f8").astype(np.float64)
