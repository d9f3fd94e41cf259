"""Outlines as other programs write them, read as masks.

    read_outlines(spec, picture, tell)      a Mask, from GeoJSON (QuPath and others), COCO's or
                                            labelme's JSON

GeoJSON: a Feature, a FeatureCollection, a list of features, or one on each line, or a geometry; of
Polygons, MultiPolygons and collections of them. Coordinates are pixels of the upright picture, x
before y; those of a map are moved to pixels where the picture is a GeoTIFF in the same coordinate
system (`geo`), and refused elsewhere.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from msbd_dist.canvas.coco import is_coco, read_coco, runs_mask
from msbd_dist.canvas.digests import content_digest
from msbd_dist.canvas.geo import Polygon, crs_of, in_pixels
from msbd_dist.canvas.images import Picture
from msbd_dist.canvas.labelme import patches_mask, read_labelme
from msbd_dist.canvas.masks import Mask
from msbd_dist.canvas.places import first_bytes
from msbd_dist.canvas.shapes import Shapes
from msbd_dist.canvas.urls import is_web
from msbd_dist.core.spec import MaskFile
from msbd_dist.errors import MaskError

_LINES = (".geojsonl", ".geojsons", ".geojsonseq", ".ndgeojson", ".ndjson", ".jsonl")
SUFFIXES = (".geojson", ".json", *_LINES)
_MOST = 64 << 20  # bytes of a file; it takes ten times as much in memory
_LONGEST = 1 << 30  # with the picture that labelme puts into it
_PICTURE = re.compile(rb'"imageData"\s*:\s*"[A-Za-z0-9+/=\\\s]*"')
_DEEPEST = 20  # collections in collections
_WITHOUT_AREA = ("Point", "MultiPoint", "LineString", "MultiLineString")
_OTHERS = {
    ".shp": "a shapefile",
    ".gpkg": "a GeoPackage",
    ".kml": "KML",
    ".kmz": "KML",
    ".gml": "GML",
    ".wkt": "WKT",
    ".svg": "SVG",
    ".xml": "XML",
    ".roi": "a ROI of ImageJ",
    ".npy": "an array of numpy",
    ".npz": "an array of numpy",
    ".mat": "a file of MATLAB",
    ".txt": "text",
    ".csv": "a table",
}

Tell = Callable[[str], None]


def is_outlines(place: str) -> bool:
    """Does a path or URL name a file of outlines?"""
    return _named(place).endswith(SUFFIXES)


def _named(place: str) -> str:
    """A place in lower case, of a web address without its query."""
    return (place.partition("?")[0] if is_web(place) else place).lower()


def refuse_others(place: str) -> None:
    """MaskError for a file that by its name is neither a picture nor outlines that are read."""
    what = _OTHERS.get(Path(_named(place)).suffix)
    if what in ("an array of numpy", "a file of MATLAB"):
        raise MaskError(f"{place}: is {what}; save it as a PNG that is white where to edit")
    if what:
        raise MaskError(
            f"{place}: is {what}, which is not read as a mask; export GeoJSON, or a picture that "
            "is white where to edit"
        )


def read_outlines(spec: MaskFile, picture: Picture, tell: Tell) -> tuple[Mask, ...]:
    """The areas in a file, as masks of a picture; what is left out of it is told.

    Raises MaskError for a file that is missing, is not as any of these programs writes it, holds no
    area, does not say what is meant, or says that it was drawn on another picture.
    """
    place = spec.file
    if spec.from_ not in (None, "pixels"):
        raise MaskError(f"{place}: holds outlines and no {spec.from_}; leave `from` out")
    content, skipped = _load(place), Counter[str]()
    try:
        polygons, masks = _areas(content, spec, picture, skipped, tell)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise MaskError(
            f"{place}: is not as GeoJSON, COCO or labelme write it ({reason}); export it again"
        ) from None
    without = ", ".join(f"{number} {_word(kind)}" for kind, number in skipped.items())
    if not polygons and not masks:
        raise MaskError(
            f"{place}: holds no area"
            + (f" ({without})" if without else "")
            + "; draw a polygon around the part to edit"
        )
    if without:
        tell(f"{place}: {without}: no area, left out")
    try:
        shapes = [Shapes(picture.size, polygons=polygons)] if polygons else []
    except MaskError as error:
        raise MaskError(f"{place}: {error}") from None
    return (*shapes, *masks)


def _areas(
    content: Any, spec: MaskFile, picture: Picture, skipped: Counter[str], tell: Tell
) -> tuple[tuple[Polygon, ...], list[Mask]]:
    """Polygons, and masks of other kinds, by what the content looks like."""
    if is_coco(content):
        found = read_coco(content, spec, picture)
        for note in found.notes:
            tell(f"{spec.file}: {note}")
        masks = [runs_mask(picture.size, found.runs)] if found.runs else []
        return found.polygons, [mask for mask in masks if mask is not None]
    if spec.image_id is not None:
        raise MaskError(f"{spec.file}: is no COCO file; leave `image_id` out")
    if isinstance(content, dict) and isinstance(content.get("shapes"), list):
        polygons, patches = read_labelme(content, spec, picture.size, skipped)
        mask = patches_mask(picture.size, patches) if patches else None
        return polygons, [] if mask is None else [mask]
    walk = _Walk(spec, skipped)
    walk.of(content, 0)
    return walk.placed(picture), []


# ---------------------------------------------------------------- files


def _load(place: str) -> Any:
    try:
        digest = content_digest(place)
    except OSError:  # what reads it has the better words
        digest = ""
    return _loaded(place, digest) if digest else _parsed(place)


@lru_cache(maxsize=1)
def _loaded(place: str, _: str) -> Any:
    """One file of annotations may be that of a thousand edits."""
    return _parsed(place)


def _parsed(place: str) -> Any:
    data = _PICTURE.sub(b'"imageData":null', _read(place))
    if len(data) > _MOST:
        raise MaskError(
            f"{place}: has more than {_MOST >> 20} MB; simplify its outlines, or write a file for "
            "each picture"
        )
    if place.lower().endswith(_LINES):
        return list(_lines(data, place))
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MaskError(f"{place}: is not valid JSON ({error}); export it again") from None


def _read(place: str) -> bytes:
    try:
        return first_bytes(place, _LONGEST)
    except FileNotFoundError:
        raise MaskError(f"{place}: no such file") from None
    except ConnectionError:
        raise
    except OSError as error:
        raise MaskError(f"{place}: can't be read ({error.strerror or error})") from None


def _lines(data: bytes, place: str) -> Iterator[Any]:
    """A JSON text on each line, perhaps after the separator of RFC 8142."""
    for number, line in enumerate(data.split(b"\n"), 1):
        if text := line.strip(b"\x1e \t\r"):
            try:
                yield json.loads(text)
            except (ValueError, RecursionError) as error:
                raise MaskError(
                    f"{place}:{number}: is not valid JSON ({error}); export it again"
                ) from None


def _word(kind: Any) -> str:
    return kind if isinstance(kind, str) and kind.isidentifier() else f"{kind!r:.40}"


# ---------------------------------------------------------------- GeoJSON


@dataclass
class _Walk:
    """What is found on the way through GeoJSON."""

    spec: MaskFile
    skipped: Counter[str]
    polygons: list[Polygon] = field(default_factory=list)
    systems: set[int | str] = field(default_factory=set)
    in_pixels: bool = False  # says so, or was written by who writes nothing else
    classes: set[str] = field(default_factory=set)

    def of(self, item: Any, depth: int) -> None:
        """A GeoJSON object, or a list of them."""
        if depth > _DEEPEST:
            raise ValueError("collections are nested too deeply")
        if isinstance(item, list):
            for each in item:
                self.of(each, depth + 1)
            return
        kind = item["type"]
        if "crs" in item:
            self._system(item["crs"])
        if kind == "FeatureCollection":
            self.of(item["features"], depth + 1)
        elif kind == "Feature":
            self._feature(item, depth)
        elif kind == "GeometryCollection":
            self.of(item["geometries"], depth + 1)
        elif kind == "Polygon":
            self.polygons.append(_polygon(item["coordinates"]))
        elif kind == "MultiPolygon":
            self.polygons += map(_polygon, item["coordinates"])
        elif kind in _WITHOUT_AREA:
            self.skipped[kind] += 1
        elif kind == "Topology":
            raise MaskError(f"{self.spec.file}: is TopoJSON; convert it to GeoJSON")
        else:
            raise MaskError(f"{self.spec.file}: holds a {_word(kind)}, which is not read")

    def placed(self, picture: Picture) -> tuple[Polygon, ...]:
        """The polygons in pixels of a picture."""
        if self.spec.category and not self.polygons:
            known = ", ".join(sorted(self.classes)[:8]) or "no classes"
            wanted = " or ".join(self.spec.category)
            raise MaskError(f"{self.spec.file}: has no area of {wanted}; it has {known}")
        if len(self.systems) > 1:
            raise MaskError(f"{self.spec.file}: is in several coordinate systems; keep one")
        polygons = tuple(self.polygons)
        crs = next(iter(self.systems), None)
        if not polygons or self.spec.from_ == "pixels" or (self.in_pixels and crs is None):
            return polygons
        return in_pixels(polygons, crs, picture, self.spec.file)

    def _system(self, member: Any) -> None:
        if member is None:  # says that there is none
            self.in_pixels = True
        else:
            self.systems.add(crs_of(member))

    def _feature(self, item: dict[str, Any], depth: int) -> None:
        about = item.get("properties") or {}
        self.in_pixels = self.in_pixels or "objectType" in about  # QuPath
        name = _class_of(about)
        self.classes.add(name)
        if item["geometry"] is not None and (not self.spec.category or name in self.spec.category):
            self.of(item["geometry"], depth + 1)


def _class_of(properties: dict[str, Any]) -> str:
    """What a feature is, as QuPath and others say it."""
    told = properties.get("classification")
    if isinstance(told, dict):
        told = told.get("name") or ": ".join(map(str, told.get("names", ())))
    words = (told, *(properties.get(key) for key in ("category", "class", "label", "name")))
    return str(next((word for word in words if word), ""))


def _polygon(rings: Any) -> Polygon:
    """A ring and its holes; what follows x and y of a position is left out."""
    return tuple(tuple((float(v[0]), float(v[1])) for v in ring) for ring in rings)
