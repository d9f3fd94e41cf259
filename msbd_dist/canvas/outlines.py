"""Outlines as other programs write them, read as boxes and polygons.

    read_outlines(place, size)      a `Drawn`, from GeoJSON (QuPath and others) or labelme's JSON

GeoJSON: a Feature, a FeatureCollection, a bare list of features, or a geometry; of Polygons,
MultiPolygons and collections of them. labelme: polygons, rectangles and circles. Coordinates are
pixels of the upright picture, x before y.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import acos, ceil, cos, hypot, pi, sin
from typing import Any

from msbd_dist.canvas.files import is_web
from msbd_dist.canvas.places import first_bytes
from msbd_dist.core.geometry import Size
from msbd_dist.core.spec import Drawn, Vertex
from msbd_dist.errors import MaskError

SUFFIXES = (".geojson", ".json")
_MOST = 64 << 20  # bytes of a file; it takes ten times as much in memory
_DEEPEST = 20  # collections in collections
_SAGITTA = 1 / 64  # pixels between a circle and the polygon that stands for it

Polygon = tuple[tuple[Vertex, ...], ...]


def is_outlines(place: str) -> bool:
    """Does a path or URL name a file of outlines?"""
    name = place.partition("?")[0] if is_web(place) else place
    return name.lower().endswith(SUFFIXES)


def read_outlines(place: str, size: Size) -> Drawn:
    """The areas in a file, for an upright picture of ``size``.

    Raises MaskError for a file that is missing, is neither GeoJSON nor labelme's, holds points or
    lines, holds no area, or says that it was drawn on a picture of another size.
    """
    content = _load(place)
    labelme = isinstance(content, dict) and isinstance(content.get("shapes"), list)
    try:
        polygons = tuple(_labelme(content, place, size) if labelme else _areas(content, place, 0))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise MaskError(
            f"{place}: is not as GeoJSON or labelme write it ({error}); export it again"
        ) from None
    if not polygons:
        raise MaskError(f"{place}: holds no area; draw a polygon around the part to edit")
    return Drawn(polygons=polygons)


def _load(place: str) -> Any:
    try:
        data = first_bytes(place, _MOST + 1)
    except FileNotFoundError:
        raise MaskError(f"{place}: no such file") from None
    except ConnectionError:
        raise
    except OSError as error:
        raise MaskError(f"{place}: can't be read ({error.strerror or error})") from None
    if len(data) > _MOST:
        raise MaskError(f"{place}: has more than {_MOST >> 20} MB; simplify its outlines")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MaskError(f"{place}: is not valid JSON ({error}); export it again") from None


def _word(kind: Any) -> str:
    return kind if isinstance(kind, str) and kind.isidentifier() else f"{kind!r:.40}"


# ---------------------------------------------------------------- GeoJSON


def _areas(item: Any, place: str, depth: int) -> Iterator[Polygon]:
    """The polygons of a GeoJSON object, or of a list of them."""
    if depth > _DEEPEST:
        raise ValueError("collections are nested too deeply")
    if isinstance(item, list):
        for each in item:
            yield from _areas(each, place, depth + 1)
        return
    kind = item["type"]
    if kind == "FeatureCollection":
        yield from _areas(item["features"], place, depth + 1)
    elif kind == "Feature":
        if item["geometry"] is not None:
            yield from _areas(item["geometry"], place, depth + 1)
    elif kind == "GeometryCollection":
        yield from _areas(item["geometries"], place, depth + 1)
    elif kind == "Polygon":
        yield _polygon(item["coordinates"])
    elif kind == "MultiPolygon":
        for rings in item["coordinates"]:
            yield _polygon(rings)
    else:
        raise MaskError(f"{place}: holds a {_word(kind)}, which has no area; leave it out")


def _polygon(rings: Any) -> Polygon:
    """A ring and its holes; what follows x and y of a position is left out."""
    return tuple(tuple((float(v[0]), float(v[1])) for v in ring) for ring in rings)


# ---------------------------------------------------------------- labelme


def _labelme(content: dict[str, Any], place: str, size: Size) -> Iterator[Polygon]:
    drawn_on = content.get("imageHeight"), content.get("imageWidth")
    if None not in drawn_on and drawn_on != size.shape:
        raise MaskError(
            f"{place}: was drawn on {drawn_on[1]}x{drawn_on[0]} pixels and the picture has {size}; "
            "draw it on this picture"
        )
    for shape in content["shapes"]:
        kind = shape.get("shape_type", "polygon")
        points = [(float(x), float(y)) for x, y in shape["points"]]
        if kind == "polygon":
            yield (tuple(points),)
        elif kind == "rectangle":  # two corners, or all four
            (xs, ys) = zip(*points, strict=True)
            x0, y0, x1, y1 = min(xs), min(ys), max(xs), max(ys)
            yield (((x0, y0), (x1, y0), (x1, y1), (x0, y1)),)
        elif kind == "circle":  # its centre, and a point on it
            yield (_circle(*points),)
        else:
            raise MaskError(
                f"{place}: holds a {_word(kind)}, which is not read; "
                "use polygons, rectangles and circles"
            )


def _circle(centre: Vertex, edge: Vertex) -> tuple[Vertex, ...]:
    radius = hypot(edge[0] - centre[0], edge[1] - centre[1])
    count = max(8, ceil(pi / acos(max(0.0, 1 - _SAGITTA / radius)))) if radius else 3
    angles = (2 * pi * n / count for n in range(count))
    return tuple((centre[0] + radius * cos(a), centre[1] + radius * sin(a)) for a in angles)
