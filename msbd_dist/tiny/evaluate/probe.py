"""A second verdict on a picture, by pixels and geometry alone: nothing here was ever trained.

    blobs(picture)  every area that is of one of the eight colours and not of the background
    name(picture)   colour and shape of the largest one
    radius(picture, colour, shape)  how large it is
    likeness(picture, colour, shape)  how like one such object all areas of a colour together are

A pixel is of a colour if it lies on that colour's shades: ``s * rgb + g * white`` for a shade s and
a gloss g. What the picture's frame shows is background. A blob's shape is that of the silhouette,
at some turn, which covers it best once both have the same centre and the same area.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import sqrt

import cv2
import numpy as np
import numpy.typing as npt

from msbd_dist.core.geometry import Size
from msbd_dist.tiny.scenes import (
    COLOURS,
    RGB,
    SHAPES,
    Colour,
    Image,
    Mask,
    SceneObject,
    Shape,
    silhouette,
)

SMALLEST = 0.011  # of the picture's area: a star of radius 0.1 units
_SIDE = 128  # pixels that every picture is looked at with
_SHADES = np.arange(0.64, 1.16, 0.08)
_GLOSSES = (0.0, 0.12, 0.24)
_NEAR = 0.135  # RGB distance to a shade up to which a pixel is of the colour
_FRAME = 5  # pixels along the picture's edge that show the background ...
_KINDS = 6  # ... in so many colours
_RARE = 0.04  # share of a side of the frame from which on it shows a colour
_PLAIN = 0.115  # RGB distance to the background's colours up to which a pixel is background
_TILE = 48  # pixels across a silhouette that blobs are laid on
_REACH = 2.4  # of that tile in square roots of the area
_TURNS = np.linspace(-0.36, 0.36, 9)  # radians
_VAGUE = 0.72  # overlap below which a blob is of no shape

cv2.setNumThreads(1)  # beside other processes

_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Blob:
    """A connected area of one colour. ``y`` and ``x``: its centre; ``area``: all in 0..1."""

    colour: Colour
    shape: Shape | None
    fit: float  # intersection over union with the silhouette of that shape
    area: float
    y: float
    x: float


def name(picture: Image) -> tuple[Colour | None, Shape | None]:
    """What is seen on a uint8 RGB picture (H, W, 3); None for what can't be told."""
    found = blobs(picture)
    if not found:
        return None, None
    largest = max(found, key=lambda blob: blob.area * (0.5 + blob.fit))
    return largest.colour, largest.shape


def radius(picture: Image, colour: Colour, shape: Shape) -> float:
    """Of the largest area of a colour, taken for a shape, in widths of the picture; 0 for none."""
    found = [blob.area for blob in blobs(picture) if blob.colour == colour]
    return sqrt(max(found, default=0.0) / _area(shape))


def likeness(picture: Image, colour: Colour, shape: Shape) -> float:
    """How well one silhouette of a shape, at some turn, covers all areas of a colour together.

    Intersection over union, 0..1: about 0.9 for one whole object, less for parts and repetitions.
    """
    pixels = _pixels(picture)
    standing_out = _distance(pixels, _background(pixels)) > _PLAIN
    nearest, near = _nearest_colours(pixels)
    found = _smoothed(near & standing_out & (nearest == COLOURS.index(colour)))
    if not found.any():
        return 0.0
    overlaps = _overlaps(_filled(found > 0))
    return float(max(fit for one, fit in overlaps if one == shape))


@cache
def _area(shape: Shape) -> float:
    """Of a shape of radius 1."""
    thing = SceneObject(colour="red", shape=shape, center_y=100, center_x=100, radius=80)
    return float(silhouette(thing, Size(200, 200)).sum()) / 80**2


def blobs(picture: Image) -> tuple[Blob, ...]:
    """Every area of one of the colours that stands out from the background, the largest first."""
    pixels = _pixels(picture)
    standing_out = _distance(pixels, _background(pixels)) > _PLAIN
    nearest, near = _nearest_colours(pixels)
    found: list[Blob] = []
    for index, colour in enumerate(COLOURS):
        found += _components(colour, near & standing_out & (nearest == index))
    return tuple(sorted(found, key=lambda blob: -blob.area))


def _pixels(picture: Image) -> _Floats:
    """(H, W, 3) uint8 -> (128, 128, 3) float32 in 0..1, freed of grain."""
    small = cv2.resize(picture, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.medianBlur(small, 3), np.float32) / 255


def _background(pixels: _Floats) -> _Floats:
    """The colours that the picture's frame shows on two opposite sides, (n, 3).

    An object that is cut by the edge is seen on one side, or on two that meet.
    """
    strips = [pixels[:_FRAME], pixels[-_FRAME:], pixels[:, :_FRAME], pixels[:, -_FRAME:]]
    frame = np.concatenate([strip.reshape(-1, 3) for strip in strips])
    criteria = (cv2.TERM_CRITERIA_MAX_ITER + cv2.TERM_CRITERIA_EPS, 12, 1e-3)
    cv2.setRNGSeed(0)
    _, labels, centers = cv2.kmeans(frame, _KINDS, None, criteria, 1, cv2.KMEANS_PP_CENTERS)
    shares = [np.bincount(side, minlength=_KINDS) for side in labels.reshape(4, -1)]
    top, bottom, left, right = (share / (_FRAME * _SIDE) > _RARE for share in shares)
    seen = (top & bottom) | (left & right)
    return np.asarray(centers[seen if seen.any() else slice(None)], np.float32)


def _distance(pixels: _Floats, colours: _Floats) -> _Floats:
    """RGB distance of each pixel to the nearest of some colours (n, 3): (H, W)."""
    flat = pixels.reshape(-1, 3)
    squares = (flat**2).sum(1)[:, None] + (colours**2).sum(1) - 2 * flat @ colours.T
    nearest: _Floats = np.sqrt(np.maximum(squares.min(1), 0)).reshape(pixels.shape[:2])
    return nearest


def _nearest_colours(pixels: _Floats) -> tuple[npt.NDArray[np.intp], Mask]:
    """Which of the colours each pixel is nearest to, (H, W), and whether it is near enough."""
    distances = np.stack([_distance(pixels, shades) for shades in _all_shades()])
    return distances.argmin(0), distances.min(0) < _NEAR


@cache
def _all_shades() -> tuple[_Floats, ...]:
    """For each colour what it may look like in light and shade: (n, 3)."""
    return tuple(_shades(colour) for colour in COLOURS)


def _shades(colour: Colour) -> _Floats:
    base = np.array(RGB[colour], np.float32)
    if colour == "black":
        return np.stack([base * 0 + level for level in (0.05, 0.10, 0.16, 0.22)])
    glosses = (0.0,) if colour == "white" else _GLOSSES
    rows = [base * shade + gloss for shade in _SHADES for gloss in glosses]
    return np.clip(np.stack(rows), 0, 1).astype(np.float32)


def _components(colour: Colour, mask: Mask) -> list[Blob]:
    count, labels, stats, centers = cv2.connectedComponentsWithStats(
        _smoothed(mask), connectivity=4
    )
    found = []
    for index in range(1, count):
        area = stats[index, cv2.CC_STAT_AREA] / mask.size
        if area >= SMALLEST:
            shape, fit = _shape(_filled(labels == index))
            x, y = centers[index] / _SIDE
            found.append(Blob(colour, shape, fit, float(area), float(y), float(x)))
    return found


def _smoothed(mask: Mask) -> npt.NDArray[np.uint8]:
    """1 where the mask is, less specks and pinholes."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    smooth = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, kernel)
    return np.asarray(cv2.morphologyEx(smooth, cv2.MORPH_CLOSE, kernel))


def _filled(mask: Mask) -> Mask:
    """Without holes of less than a tenth of its area: glosses, not the hole of a ring."""
    filled = mask.copy()
    count, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8))
    for index in range(1, count):
        if stats[index, cv2.CC_STAT_AREA] < 0.1 * mask.sum():
            filled |= labels == index
    return filled


def _shape(mask: Mask) -> tuple[Shape | None, float]:
    """The shape that covers a blob best, None where none does, and how well."""
    best, fit = max(_overlaps(mask), key=lambda one: one[1])
    return (best if fit >= _VAGUE else None), fit


def _overlaps(mask: Mask) -> list[tuple[Shape, float]]:
    """Every shape at every turn, with its intersection over union with a blob."""
    laid = _laid(mask)
    shapes, silhouettes = _silhouettes()
    union = (silhouettes | laid).sum((1, 2))
    overlap = (silhouettes & laid).sum((1, 2)) / np.maximum(union, 1)
    return list(zip(shapes, overlap.tolist(), strict=True))


def _laid(mask: Mask) -> Mask:
    """A blob moved and scaled to the middle of a tile, (48, 48): its centre and area are given."""
    ys, xs = np.nonzero(mask)
    scale = _TILE / (_REACH * sqrt(len(ys)))
    middle = _TILE / 2 - 0.5
    matrix = np.array(
        [[scale, 0, middle - scale * xs.mean()], [0, scale, middle - scale * ys.mean()]]
    )
    moved = cv2.warpAffine(mask.astype(np.float32), matrix, (_TILE, _TILE), flags=cv2.INTER_LINEAR)
    return np.asarray(moved >= 0.5)


@cache
def _silhouettes() -> tuple[tuple[Shape, ...], Mask]:
    """Every shape at every turn, laid on tiles: names (n,) and masks (n, 48, 48)."""
    shapes, masks = [], []
    for shape in SHAPES:
        for turn in _TURNS:
            thing = SceneObject(
                colour="red",
                shape=shape,
                center_y=100,
                center_x=100,
                radius=80,
                rotation=float(turn),
            )
            shapes.append(shape)
            masks.append(_laid(silhouette(thing, Size(200, 200))))
    return tuple(shapes), np.stack(masks)
