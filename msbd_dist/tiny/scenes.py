"""The world that the tiny family knows, drawn by numpy at any size: shapes on backgrounds.

    picture(seed, size)       a random scene as (image, caption)
    random_scene(seed, size)  the same scene as a value ...
    render(scene)             ... its pixels: uint8 RGB (H, W, 3)
    caption(scene)            ... its words: "a red star on grass"
    random_detail(seed, size) what one segment of a large picture shows: part of an object from near
    random_mural(seed, size)  many megapixels, of which every window is like a training picture
    silhouette(thing, size)   where an object is, with or without its shadow: bool (H, W)
    photo_like(seed, size)    a landscape, which is none of the family's backgrounds

A picture is a stack of layers, painted band by band so that memory stays bounded. All randomness
comes from seeded generators: the same arguments give the same bytes.

Positions and lengths are in pixels, y downwards, and pixel (0, 0) has its centre at (0.5, 0.5). The
look is laid out in *units*: a unit is the number of pixels that one training picture is wide, so
that a window of ``unit`` pixels, shrunk to the family's native size, looks like a training picture.
Finer detail than that picture could hold is added down to two pixels.

Inside, colours are *planes*: float32 (3, h, w), RGB in 0..1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil, cos, exp, hypot, log, pi, sin, sqrt
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from msbd_dist.core.geometry import Box, Rect, Size

Shape = Literal["circle", "square", "triangle", "star", "heart", "ring", "flower"]
Colour = Literal["red", "orange", "yellow", "green", "blue", "purple", "white", "black"]
Plain = Literal["sky", "grass", "bricks", "wood", "sand", "water"]
Pattern = Literal["stripes", "checks", "dots", "wall"]

SHAPES: tuple[Shape, ...] = get_args(Shape)
COLOURS: tuple[Colour, ...] = get_args(Colour)
PLAINS: tuple[Plain, ...] = get_args(Plain)
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Array = npt.NDArray[np.floating[Any]]  # float32 in fact
_Random = np.random.Generator
_Triple = tuple[float, float, float]
_Painter = Callable[[Array, Array], Array]  # pixel centres (h,), (w,) -> planes

RGB: dict[Colour, _Triple] = {
    "red": (0.86, 0.10, 0.10),
    "orange": (0.97, 0.55, 0.08),
    "yellow": (0.97, 0.90, 0.15),
    "green": (0.10, 0.62, 0.20),
    "blue": (0.12, 0.28, 0.86),
    "purple": (0.52, 0.16, 0.70),
    "white": (0.95, 0.95, 0.95),
    "black": (0.08, 0.08, 0.09),
}

_NATIVE = 128  # pixels across a training picture
_FINEST = 2.0  # pixels: extra detail ends with cells of this size
_MOST = 40  # objects in one scene; no two of them are of the same colour and shape
_SMALL, _BIG = 0.17, 0.38  # radius in units below and above which a caption may name the size
_REACH = 1.8  # an object and its shadow end within this many radii of its centre
_BAND = 1 << 17  # pixels painted at a time


# --- scenes as values -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Background:
    """One of `PLAINS` without a colour, or one of `PATTERNS` with one of `COLOURS`."""

    kind: Plain | Pattern
    colour: Colour | None = None

    def __post_init__(self) -> None:
        _require("background", self.kind, PLAINS + PATTERNS)
        if self.kind in PATTERNS:
            _require(f"colour of {self.kind}", self.colour, COLOURS)
        elif self.colour is not None:
            raise ValueError(f"{self.kind} takes no colour, got {self.colour!r}; leave it out")


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """A coloured shape. Lengths in pixels; rotation in radians, clockwise as seen."""

    colour: Colour
    shape: Shape
    center_y: float
    center_x: float
    radius: float
    rotation: float = 0.0

    def __post_init__(self) -> None:
        _require("colour", self.colour, COLOURS)
        _require("shape", self.shape, SHAPES)
        if not self.radius > 0:
            raise ValueError(f"radius must be positive, got {self.radius}")

    @property
    def window(self) -> Box:
        """The pixels that the object or its shadow can touch; may reach beyond the picture."""
        reach = _REACH * self.radius + 1
        return Rect(
            self.center_y - reach,
            self.center_x - reach,
            self.center_y + reach,
            self.center_x + reach,
        ).outer()


@dataclass(frozen=True, kw_only=True)
class Scene:
    """All that `render` and `caption` need. Later objects cover earlier ones."""

    size: Size
    background: Background
    objects: tuple[SceneObject, ...] = ()
    seed: int = 0
    unit: float  # pixels that stand for the width of one training picture
    zoom: float = 1.0  # enlargement of the background's texture; trained with 0.6 to 2.2

    def __post_init__(self) -> None:
        if min(self.size.height, self.size.width) < 1:
            raise ValueError(f"a scene needs at least 1x1 pixels, got {self.size}")
        if not (self.unit > 0 and self.zoom > 0):
            raise ValueError(f"unit and zoom must be positive, got {self.unit} and {self.zoom}")


def _require(what: str, got: object, known: tuple[str, ...]) -> None:
    if got not in known:
        raise ValueError(f"{what} must be one of {', '.join(known)}; got {got!r}")


def default_unit(size: Size) -> float:
    """Pixels per training picture: the whole shorter edge up to 256, half of it from 512 on."""
    short = min(size.height, size.width)
    return float(max(min(short, 256), short / 2, 16))


def caption(
    scene: Scene, *, sizes: bool = False, places: bool = False, background: bool = True
) -> str:
    """The scene in the family's words: "a red star on grass", "a blue ring and a white heart on a
    red wall", or the background alone: "yellow dots".

    ``sizes``: "a small red star". ``places``: of two objects, "a red star left of a blue ring".
    ``background``: False leaves it out where there are objects.
    """
    things = scene.objects
    names = [_name(thing, scene.unit if sizes else None) for thing in things]
    link = f" {_place(*things)} " if places and len(things) == 2 else " and "
    ground = _background_words(scene.background)
    if not names:
        return ground
    return f"{link.join(names)} on {ground}" if background else link.join(names)


def _name(thing: SceneObject, unit: float | None) -> str:
    """ "a red star", with its size where that is telling and ``unit`` is given."""
    radius = 0.25 if unit is None else thing.radius / unit
    size = "small " if radius < _SMALL else "big " if radius > _BIG else ""
    return _with_article(f"{size}{thing.colour} {thing.shape}")


def object_name(colour: Colour, shape: Shape) -> str:
    """ "a red star"."""
    return _with_article(f"{colour} {shape}")


def _place(one: SceneObject, other: SceneObject) -> str:
    """Where ``one`` is, seen from ``other``, along the axis that parts them more."""
    down, right = one.center_y - other.center_y, one.center_x - other.center_x
    if abs(right) >= abs(down):
        return "right of" if right > 0 else "left of"
    return "below" if down > 0 else "above"


def _background_words(background: Background) -> str:
    if background.colour is None:
        return background.kind
    words = f"{background.colour} {background.kind}"
    return _with_article(words) if background.kind == "wall" else words


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


# --- random scenes --------------------------------------------------------------------------------


def picture(seed: int, size: Size) -> tuple[Image, str]:
    """A random scene: its pixels, uint8 RGB (H, W, 3), and its caption."""
    scene = random_scene(seed, size)
    return render(scene), caption(scene)


def random_scene(
    seed: int, size: Size, *, objects: int | None = None, unit: float | None = None
) -> Scene:
    """A scene of the kind that the family was trained with.

    ``objects``: how many, up to 40 (None: mostly one, at most three); fewer where no more fit
    without touching. ``unit``: see the module; None: `default_unit`.
    """
    if objects is not None and not 0 <= objects <= _MOST:
        raise ValueError(f"objects must be 0 to {_MOST}, got {objects}")
    rng = _stream(seed, 0)
    unit = default_unit(size) if unit is None else unit
    zoom = _random_zoom(rng)
    background = _random_background(rng)
    count = int(rng.choice(4, p=(0.06, 0.62, 0.29, 0.03))) if objects is None else objects
    whole = Rect(0, 0, size.height, size.width)
    things: tuple[SceneObject, ...] = ()
    for _ in range(count):
        things += _random_object(rng, whole, unit, background, things, single=count == 1)
    return Scene(size=size, background=background, objects=things, seed=seed, unit=unit, zoom=zoom)


def random_detail(seed: int, size: Size) -> Scene:
    """What one segment of a large picture shows: a window of half to a sixth of a unit.

    In two of three the outline of one object runs through it; the others show background alone.
    """
    rng = _stream(seed, 5)
    unit = min(size.height, size.width) * exp(rng.uniform(log(2), log(6)))
    zoom = _random_zoom(rng)
    background = _random_background(rng)
    things: tuple[SceneObject, ...] = ()
    if rng.random() < 2 / 3:
        colour, shape = _random_kind(rng, background, ())
        radius, angle = _random_radius(rng, single=True) * unit, rng.uniform(0, 2 * pi)
        away = radius * rng.uniform(0.45, 1.0)  # from the centre to some pixel of the window
        thing = SceneObject(
            colour=colour,
            shape=shape,
            center_y=rng.uniform(0, size.height) - away * sin(angle),
            center_x=rng.uniform(0, size.width) - away * cos(angle),
            radius=radius,
            rotation=rng.uniform(-0.3, 0.3),
        )
        things = (thing,)
    return Scene(size=size, background=background, objects=things, seed=seed, unit=unit, zoom=zoom)


def random_mural(seed: int, size: Size, *, unit: float = 192.0) -> Scene:
    """A scene of many megapixels with an object in most squares of ``unit`` pixels.

    Each window of that size looks like a training picture of one to three objects.
    """
    rng = _stream(seed, 6)
    zoom = _random_zoom(rng)
    background = _random_background(rng)
    rows, columns = (max(round(side / unit), 1) for side in (size.height, size.width))
    high, wide = size.height / rows, size.width / columns
    placed: dict[tuple[int, int], SceneObject] = {}
    for row, column in product(range(rows), range(columns)):
        cell = Rect(row * high, column * wide, (row + 1) * high, (column + 1) * wide)
        around = [(row - 1, column + side) for side in (-1, 0, 1)] + [(row, column - 1)]
        others = tuple(placed[place] for place in around if place in placed)
        if rng.random() < 0.85:
            found = _random_object(rng, cell, unit, background, others, single=False)
            placed.update(((row, column), thing) for thing in found)
    things = tuple(placed.values())
    return Scene(size=size, background=background, objects=things, seed=seed, unit=unit, zoom=zoom)


def _stream(*key: int) -> _Random:
    """An independent generator for each purpose, so that one never shifts another's draws."""
    return np.random.default_rng(key)


def _random_zoom(rng: _Random) -> float:
    return exp(rng.uniform(log(0.6), log(2.2)))


def _random_background(rng: _Random) -> Background:
    if rng.random() < 0.72:
        return Background(PLAINS[rng.integers(len(PLAINS))])
    kind = PATTERNS[rng.choice(4, p=(0.18, 0.18, 0.18, 0.46))]
    return Background(kind, COLOURS[rng.integers(len(COLOURS))])


def _random_object(
    rng: _Random,
    area: Rect,
    unit: float,
    background: Background,
    others: tuple[SceneObject, ...],
    *,
    single: bool,
) -> tuple[SceneObject, ...]:
    """One more object in ``area`` that touches none of the others, or () where a few dozen tries
    found none."""
    colour, shape = _random_kind(rng, background, others)
    for _ in range(40):
        radius = _random_radius(rng, single=single)
        margin = min(0.95 * radius, 0.48) if radius < 0.45 else 0.33  # close-ups may be cut
        inset = min(margin * unit, 0.48 * area.height, 0.48 * area.width)
        thing = SceneObject(
            colour=colour,
            shape=shape,
            center_y=rng.uniform(area.y0 + inset, area.y1 - inset),
            center_x=rng.uniform(area.x0 + inset, area.x1 - inset),
            radius=radius * unit,
            rotation=rng.uniform(-0.3, 0.3),
        )
        if all(_apart(thing, other) for other in others):
            return (thing,)
    return ()


def _random_kind(
    rng: _Random, background: Background, others: tuple[SceneObject, ...]
) -> tuple[Colour, Shape]:
    """A colour and a shape, new in the scene and visible on the background."""
    taken = {(thing.colour, thing.shape) for thing in others}
    while True:
        colour = COLOURS[rng.integers(len(COLOURS))]
        shape = SHAPES[rng.integers(len(SHAPES))]
        hidden = colour == "green" and background.kind == "grass" and rng.random() < 0.7
        if colour != background.colour and not hidden and (colour, shape) not in taken:
            return colour, shape


def _random_radius(rng: _Random, *, single: bool) -> float:
    """In units: mostly 0.20 to 0.45 of the picture's width, some smaller, some close-ups."""
    low, high = 0.14, 0.26
    if single:
        draw = rng.random()
        low, high = (0.13, 0.20) if draw < 0.06 else (0.45, 0.70) if draw < 0.18 else (0.20, 0.45)
    return exp(rng.uniform(log(low), log(high)))


def _apart(one: SceneObject, other: SceneObject) -> bool:
    distance = hypot(one.center_y - other.center_y, one.center_x - other.center_x)
    return distance > 0.95 * (one.radius + other.radius)


# --- layers ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layer:
    """Changes the planes inside ``box``: paint(planes below, ys (h,), xs (w,)) -> planes.

    Bands come from top to bottom, each pixel once.
    """

    box: Box
    paint: Callable[[Array, Array, Array], Array]


def render(scene: Scene) -> Image:
    """The scene's pixels: uint8 RGB (H, W, 3)."""
    whole = Box.of(scene.size)
    brush = _Brush(_stream(scene.seed, 1), scene.size, scene.unit, scene.zoom)
    background = _PAINTERS[scene.background.kind](brush, scene.background.colour)
    layers = [_Layer(whole, lambda _, ys, xs: background(ys, xs))]
    for index, thing in enumerate(scene.objects):
        layers.append(_object_layer(_stream(scene.seed, 3, index), thing, scene.unit))
    light = _Brush(_stream(scene.seed, 2), scene.size, scene.unit)
    return _flatten(scene.size, [*layers, _Layer(whole, _daylight(light))])


def _flatten(size: Size, layers: list[_Layer]) -> Image:
    """Paints the layers over one another, on black; the result is uint8 RGB (H, W, 3)."""
    image = np.empty((size.height, size.width, 3), np.uint8)
    for band in _bands(Box.of(size)):
        planes = np.zeros((3, band.height, band.width), np.float32)
        for layer in layers:
            window = layer.box.intersection(band)
            if window is not None:
                view = planes[(slice(None), *window.relative_to(band).slices)]
                view[...] = layer.paint(view, *_pixel_centers(window))
        levels = (np.clip(planes, 0, 1) * 255 + 0.5).astype(np.uint8)
        image[band.slices] = np.moveaxis(levels, 0, -1)
    return image


def _bands(box: Box) -> Iterator[Box]:
    """Full-width slices of at most `_BAND` pixels (or one row), from top to bottom."""
    rows = max(_BAND // box.width, 1)
    for y0 in range(box.y0, box.y1, rows):
        yield Box(y0, box.x0, min(y0 + rows, box.y1), box.x1)


def _pixel_centers(box: Box) -> tuple[Array, Array]:
    ys = np.arange(box.y0, box.y1, dtype=np.float32) + np.float32(0.5)
    xs = np.arange(box.x0, box.x1, dtype=np.float32) + np.float32(0.5)
    return ys, xs


def _rgb(*levels: float) -> Array:
    """A colour as planes of one pixel: (3, 1, 1)."""
    return np.array(levels, np.float32).reshape(3, 1, 1)


def _mix(below: Array, above: Array, cover: Array) -> Array:
    """``above`` where ``cover`` (h, w) is 1, ``below`` where it is 0."""
    return below + (above - below) * cover


def _level(value: float) -> Array:
    return np.full((1, 1), value, np.float32)


def _unit_clip(values: Array) -> Array:
    return values.clip(0, 1)


def _smoothstep(values: Array) -> Array:
    values = _unit_clip(values)
    return values * values * (3 - 2 * values)


# --- noise ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Octave:
    """Random values on a lattice of cells in pixels, with cubic interpolation between them."""

    lattice: Array
    cell_y: float
    cell_x: float
    weight: float

    def at(self, ys: Array, xs: Array) -> Array:
        rows, row_weights = _cubic_taps(ys / np.float32(self.cell_y), self.lattice.shape[0])
        columns, column_weights = _cubic_taps(xs / np.float32(self.cell_x), self.lattice.shape[1])
        top = rows.min()
        strip = self.lattice[top : rows.max() + 1]
        across = np.zeros((len(strip), len(xs)), np.float32)
        for index, share in zip(columns, column_weights, strict=True):
            across += strip[:, index] * share
        values = np.zeros((len(ys), len(xs)), np.float32)
        for index, share in zip(rows - top, row_weights[..., None], strict=True):
            values += across[index] * share
        return values * np.float32(self.weight)


def _cubic_taps(positions: Array, count: int) -> tuple[npt.NDArray[np.intp], Array]:
    """Indices (4, n) in 0..count-1 and weights (4, n) of Keys' cubic kernel with a = -3/4."""
    base = np.floor(positions)
    t = positions - base
    u, a = 1 - t, np.float32(-0.75)
    inner = [(a + 2) * s**3 - (a + 3) * s**2 + 1 for s in (t, u)]
    weights = np.stack([a * t * u * u, *inner, a * t * t * u])
    indices = base.astype(np.intp) + np.arange(-1, 3)[:, None]
    return np.clip(indices, 0, count - 1), weights


@dataclass(frozen=True)
class _Noise:
    """A smooth random field: mean 0, standard deviation about 1 (0 everywhere without octaves)."""

    octaves: tuple[_Octave, ...]

    def __call__(self, ys: Array, xs: Array) -> Array:
        """Values at pixel centres (h,), (w,): (h, w)."""
        total = np.zeros((len(ys), len(xs)), np.float32)
        for octave in self.octaves:
            total += octave.at(ys, xs)
        return total

    def ridges(self, ys: Array, xs: Array) -> Array:
        """Thin bright lines along the zeros of the field, mean about 0: (h, w)."""
        spread = sqrt(sum(octave.weight**2 for octave in self.octaves))
        return 0.6 * spread - abs(self(ys, xs))


def _noise(
    rng: _Random, size: Size, cell: tuple[float, float], octaves: int = 1, *, fine: float = 0.0
) -> _Noise:
    """Noise over ``size`` pixels whose coarsest cells are ``cell`` pixels (down, across).

    Each octave halves the cells. Of ``octaves`` octaves each has 0.6 of the one before; ``fine``
    is that ratio for further ones, which go on as far as pixels can show them. Its values come
    from a child of ``rng``, so that finer detail never shifts what is drawn next.
    """
    (rng,) = rng.spawn(1)
    chosen: list[_Octave] = []
    weight, scale = 1.0, 1.0 / sqrt(max(sum(0.36**i for i in range(octaves)), 1.0))
    while len(chosen) < octaves or (fine > 0 and min(cell) >= _FINEST):
        chosen.append(_octave(rng, size, cell, weight * scale))
        weight *= 0.6 if len(chosen) < octaves else fine
        cell = (cell[0] / 2, cell[1] / 2)
    return _Noise(tuple(chosen))


def _octave(rng: _Random, size: Size, cell: tuple[float, float], weight: float) -> _Octave:
    cell_y, cell_x = (max(length, 1.0) for length in cell)
    count = ceil(size.height / cell_y) + 2, ceil(size.width / cell_x) + 2
    lattice = rng.standard_normal(count, dtype=np.float32)
    return _Octave(lattice, cell_y, cell_x, weight)


@dataclass(frozen=True)
class _Brush:
    """What a painter of a background draws with."""

    rng: _Random
    size: Size
    unit: float
    zoom: float = 1.0

    def noise(self, across: float, down: float, octaves: int = 1, *, fine: float = 0.0) -> _Noise:
        """Noise with so many bumps per unit."""
        cell = self.unit / (down + 1.5), self.unit / (across + 1.5)
        return _noise(self.rng, self.size, cell, octaves, fine=fine)

    def zoomed(self, across: float, down: float, octaves: int = 1, *, fine: float = 0.0) -> _Noise:
        """Noise with so many bumps per unit of texture."""
        return self.noise(across / self.zoom, down / self.zoom, octaves, fine=fine)

    def grit(self) -> _Noise:
        """Only what is too fine for a training picture; nothing where the unit is its width."""
        return self.noise(_NATIVE, _NATIVE, 0, fine=0.7)

    def offset(self) -> np.float32:
        """A random start of a texture, in units."""
        return np.float32(self.rng.uniform(0, 9))

    def tint(self, colour: _Triple, spread: float = 0.05) -> Array:
        """Nearly the colour, (3, 1, 1)."""
        return _unit_clip(_rgb(*colour) + _rgb(*self.rng.uniform(-spread, spread, 3)))


# --- backgrounds ----------------------------------------------------------------------------------


def _sky(brush: _Brush, _: Colour | None) -> _Painter:
    top, bottom = brush.tint((0.25, 0.50, 0.88)), brush.tint((0.72, 0.85, 0.97))
    power = brush.rng.uniform(0.6, 1.4)
    clouds = brush.zoomed(3, 5, 3, fine=0.5)

    def paint(ys: Array, xs: Array) -> Array:
        down = ((ys / brush.size.height) ** power)[:, None]
        cover = _smoothstep((clouds(ys, xs) - 0.5) * 1.3) * 0.9
        return _mix(_mix(top, bottom, down), _rgb(0.97, 0.97, 0.99), cover)

    return paint


def _grass(brush: _Brush, _: Colour | None) -> _Painter:
    tufts, patches = brush.zoomed(40, 7, 2), brush.zoomed(4, 4)
    blades = brush.zoomed(_NATIVE, 14, 0, fine=0.75)

    def paint(ys: Array, xs: Array) -> Array:
        light = (tufts(ys, xs) + 0.7 * blades.ridges(ys, xs)) * _rgb(0.09, 0.13, 0.05)
        return _rgb(0.26, 0.52, 0.14) + light + patches(ys, xs) * _rgb(0.05, 0.04, 0.01)

    return paint


def _sand(brush: _Brush, _: Colour | None) -> _Painter:
    grains, bend, start = brush.zoomed(30, 30, 2, fine=0.7), brush.noise(3, 3), brush.offset()
    grit = brush.grit()

    def paint(ys: Array, xs: Array) -> Array:
        down = (ys / brush.unit + start)[:, None]
        ripples: Array = np.sin((9 * down + 0.25 * bend(ys, xs)) * (2 * pi / brush.zoom))
        light: Array = grains(ys, xs) * 0.035 + ripples * 0.04 + grit(ys, xs) * 0.025
        return _rgb(0.85, 0.73, 0.50) + light * _rgb(1, 1, 0.9)

    return paint


def _water(brush: _Brush, _: Colour | None) -> _Painter:
    bend, ripples = brush.zoomed(5, 3), brush.zoomed(8, 24, 2, fine=0.55)
    glints, start = brush.zoomed(40, _NATIVE, 0, fine=0.75), brush.offset()

    def paint(ys: Array, xs: Array) -> Array:
        down = (ys / brush.unit + start)[:, None]
        waves: Array = np.sin((7 / brush.zoom * down + 0.35 * bend(ys, xs)) * (2 * pi))
        light: Array = waves * 0.07 + ripples(ys, xs) * 0.05 + glints.ridges(ys, xs) * 0.035
        return _rgb(0.10, 0.42, 0.60) + light * _rgb(0.8, 1, 1)

    return paint


def _wood(brush: _Brush, _: Colour | None) -> _Painter:
    bend, fibres, start = brush.zoomed(1.2, 3), brush.zoomed(4, 60, fine=0.7), brush.offset()
    pores = brush.zoomed(8, _NATIVE, 0, fine=0.75)

    def paint(ys: Array, xs: Array) -> Array:
        down = (ys / brush.unit + start)[:, None]
        rings: Array = np.sin((6 / brush.zoom * down + 0.5 * bend(ys, xs)) * (3 * pi))
        light: Array = rings * 0.07 + fibres(ys, xs) * 0.04 + pores.ridges(ys, xs) * 0.03
        return _rgb(0.56, 0.36, 0.19) + light * _rgb(1, 0.8, 0.6)

    return paint


def _bricks(brush: _Brush, _: Colour | None) -> _Painter:
    wide, high, joint = (brush.unit * brush.zoom * length for length in (0.26, 0.12, 0.012))
    rough, grit = brush.zoomed(40, 40, fine=0.7), brush.grit()
    tones = brush.rng.random((64, 64), dtype=np.float32)
    start_y, start_x = (brush.offset() * np.float32(brush.unit) for _ in range(2))

    def paint(ys: Array, xs: Array) -> Array:
        row, y = np.divmod((ys + start_y)[:, None], high)
        column, x = np.divmod(xs + start_x + row % 2 * (wide / 2), wide)
        edge = np.minimum(np.minimum(x, wide - x), np.minimum(y, high - y))
        speckle = grit(ys, xs)
        tone = tones[row.astype(int) % 64, column.astype(int) % 64]
        brick = _rgb(0.62, 0.25, 0.18) * (0.8 + 0.35 * tone + 0.05 * rough(ys, xs))
        mortar = _rgb(0.78, 0.75, 0.70) * (1 + 0.04 * speckle)
        return _mix(mortar, brick, _unit_clip(edge - joint * (1 + 0.06 * speckle) + 0.5))

    return paint


def _wall(brush: _Brush, colour: Colour | None) -> _Painter:
    paint_colour, clouds = _coat(brush, colour), brush.noise(3, 3)
    rough = brush.zoomed(50, 50, fine=0.7)
    return lambda ys, xs: paint_colour * (0.92 + 0.06 * clouds(ys, xs) + 0.03 * rough(ys, xs))


def _dots(brush: _Brush, colour: Colour | None) -> _Painter:
    period = 0.2 * brush.zoom * brush.unit
    start_y, start_x = (brush.offset() * brush.unit for _ in range(2))

    def cover(ys: Array, xs: Array) -> Array:
        y, x = ((ys + start_y) / period) % 1 - 0.5, ((xs + start_x) / period) % 1 - 0.5
        return _unit_clip((0.28 - np.hypot(y[:, None], x)) * period + 0.5)

    return _two_tone(brush, colour, cover)


def _stripes(brush: _Brush, colour: Colour | None) -> _Painter:
    wave = _band_wave(brush, brush.rng.uniform(0, pi))
    return _two_tone(brush, colour, lambda ys, xs: _unit_clip(wave(ys, xs) + 0.5))


def _checks(brush: _Brush, colour: Colour | None) -> _Painter:
    angle = brush.rng.uniform(-0.3, 0.3)
    one, other = _band_wave(brush, angle), _band_wave(brush, angle + pi / 2)

    def cover(ys: Array, xs: Array) -> Array:
        u, v = (np.clip(wave(ys, xs), -0.5, 0.5) for wave in (one, other))
        return 2 * u * v + np.float32(0.5)

    return _two_tone(brush, colour, cover)


def _band_wave(brush: _Brush, angle: float) -> _Painter:
    """Signed distance in pixels to the nearest edge of parallel bands, (h, w)."""
    period, start = 0.22 * brush.zoom * brush.unit, brush.offset() * brush.unit

    def wave(ys: Array, xs: Array) -> Array:
        along = (xs * cos(angle) + (ys * sin(angle) + start)[:, None]) / period
        return (abs(along % 1 - np.float32(0.5)) * 2 - np.float32(0.5)) * (period / 2)

    return wave


def _two_tone(brush: _Brush, colour: Colour | None, cover: _Painter) -> _Painter:
    """Printed cloth: the colour where ``cover`` is 1, off-white elsewhere (grey for white)."""
    print_colour, weave = _coat(brush, colour), brush.grit()
    cloth = _rgb(0.45, 0.45, 0.48) if colour == "white" else _rgb(0.93, 0.92, 0.88)
    return lambda ys, xs: (
        _mix(cloth, print_colour, cover(ys, xs)) * (1 + np.float32(0.02) * weave(ys, xs))
    )


def _coat(brush: _Brush, colour: Colour | None) -> Array:
    assert colour is not None, "Background gives every pattern a colour"
    return brush.tint(RGB[colour])


_PAINTERS: dict[Plain | Pattern, Callable[[_Brush, Colour | None], _Painter]] = {
    "sky": _sky,
    "grass": _grass,
    "bricks": _bricks,
    "wood": _wood,
    "sand": _sand,
    "water": _water,
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "wall": _wall,
}


# --- objects --------------------------------------------------------------------------------------
# A shape is its signed distance, positive inside, on (x, y) in radii from the centre, y downwards.


def _length(x: Array, y: Array) -> Array:
    length: Array = np.hypot(x, y)
    return length


def _circle(x: Array, y: Array) -> Array:
    return 1 - _length(x, y)


def _ring(x: Array, y: Array) -> Array:
    return 0.27 - abs(_length(x, y) - 0.73)


def _square(x: Array, y: Array) -> Array:
    side: Array = np.maximum(abs(x), abs(y))
    return 0.82 - side


def _triangle(x: Array, y: Array) -> Array:
    nearest: Array = np.minimum(0.5 - y, 0.5 + 0.5 * y - 0.866 * abs(x))
    return nearest


def _flower(x: Array, y: Array) -> Array:
    petals: Array = np.cos(5 * np.arctan2(x, -y))
    return (0.76 + 0.24 * petals - _length(x, y)) * 0.8


def _star(x: Array, y: Array) -> Array:
    """Distance to the edge from a tip at radius 1 to the next inner corner at radius 0.42."""
    half = pi / 5
    radius, angle = _length(x, y), np.arctan2(x, -y)
    angle = abs((angle + half) % (2 * half) - half)  # one of ten mirrored wedges
    edge_x, edge_y = 0.42 * cos(half) - 1, 0.42 * sin(half)
    along, aside = radius * np.cos(angle) - 1, radius * np.sin(angle)
    return (aside * edge_x - along * edge_y) / hypot(edge_x, edge_y)


def _heart(x: Array, y: Array) -> Array:
    """A disc on one leg of a right angle, mirrored: the tip points down."""
    x, y = abs(x) * 0.85, (0.62 - y) * 0.85
    lobe = _length(x - 0.25, y - 0.75) - sqrt(1 / 8)
    foot = np.maximum(x + y, 0) / 2
    leg = np.minimum(_length(x, y - 1), _length(x - foot, y - foot)) * np.sign(x - y)
    return np.where(x + y > 1, lobe, leg) * -1.2


_DISTANCE: dict[Shape, Callable[[Array, Array], Array]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "ring": _ring,
    "flower": _flower,
}


@dataclass(frozen=True)
class _Pose:
    """Where pixels lie on an object: (h, w) each, in radii."""

    x: Array  # as seen
    y: Array
    own_x: Array  # turned with the object
    own_y: Array
    rotation: float

    @classmethod
    def of(cls, thing: SceneObject, ys: Array, xs: Array) -> _Pose:
        y = ((ys - np.float32(thing.center_y)) / np.float32(thing.radius))[:, None]
        x = ((xs - np.float32(thing.center_x)) / np.float32(thing.radius))[None, :]
        c, s = cos(thing.rotation), sin(thing.rotation)
        return cls(x, y, x * c + y * s, y * c - x * s, thing.rotation)

    def inside(self, shape: Shape) -> Array:
        """Signed distance to the outline in radii, positive inside."""
        return _DISTANCE[shape](self.own_x, self.own_y)

    def shadow(self, shape: Shape) -> Array:
        """How much of the light is lost to the object, 0 to 0.5; falls to the lower right."""
        dx, dy = 0.10 * cos(self.rotation), 0.12
        distance = _DISTANCE[shape](self.own_x - dx, self.own_y - dy)
        return (distance * 2.2 + 0.45).clip(0, 0.5)


def _object_layer(rng: _Random, thing: SceneObject, unit: float) -> _Layer:
    """The object, shaded from the upper left, over its own soft shadow."""
    window, radius = thing.window, np.float32(thing.radius)
    brush = _Brush(rng, window.size, unit)
    base, gloss = brush.tint(RGB[thing.colour], 0.06), np.float32(0.35 * rng.random())
    skin = _noise(rng, window.size, (thing.radius / 8, thing.radius / 8), fine=0.6)

    def paint(below: Array, ys: Array, xs: Array) -> Array:
        pose = _Pose.of(thing, ys, xs)
        distance = pose.inside(thing.shape)
        facing = -0.55 * pose.x - 0.7 * pose.y
        bevel = _unit_clip(distance * 5)
        shade = 0.81 + 0.13 * facing + 0.14 * bevel + 0.03 * skin(ys - window.y0, xs - window.x0)
        shine = gloss * _unit_clip(facing - 0.25) ** 2 * (distance > 0)
        if thing.colour == "black":
            shine = shine + 0.10 * _unit_clip(facing) + np.float32(0.03)
        ground = below * (1 - np.float32(0.7) * pose.shadow(thing.shape))
        return _mix(ground, _unit_clip(base * shade + shine), _unit_clip(distance * radius + 0.5))

    return _Layer(window, paint)


def silhouette(thing: SceneObject, size: Size, *, shadow: bool = False) -> Mask:
    """The pixels of a picture that an object covers at least by half; with its shadow if asked.

    bool (H, W), True on the object.
    """
    mask = np.zeros((size.height, size.width), np.bool_)
    window = thing.window.intersection(Box.of(size))
    for band in _bands(window) if window is not None else ():
        pose = _Pose.of(thing, *_pixel_centers(band))
        inside = pose.inside(thing.shape) >= 0
        mask[band.slices] = inside | (pose.shadow(thing.shape) > 0) if shadow else inside
    return mask


def _daylight(brush: _Brush) -> Callable[[Array, Array, Array], Array]:
    """A slight fall of light in some direction, exposure, and film grain."""
    rng, grit = brush.rng, brush.grit()
    angle, tilt, exposure = rng.uniform(0, 2 * pi), rng.uniform(0, 0.12), rng.uniform(0.93, 1.05)
    grain = np.float32(rng.uniform(0.004, 0.018))

    def paint(below: Array, ys: Array, xs: Array) -> Array:
        y, x = ys / brush.size.height - 0.5, xs / brush.size.width - 0.5
        slope = x * (tilt * cos(angle)) + (y * (tilt * sin(angle)))[:, None]
        speckle = rng.standard_normal((len(ys), len(xs)), dtype=np.float32) + 0.5 * grit(ys, xs)
        return below * ((1 + slope) * exposure) + speckle * grain

    return paint


# --- landscapes -----------------------------------------------------------------------------------

_HAZE = (0.76, 0.84, 0.92)


@dataclass(frozen=True)
class _Receding:
    """Noise on a plane that runs to the horizon: its cells shrink with the nearness of a row.

    Each row takes the octaves that suit it from fields of fixed cells, so that rows and columns
    stay separable.
    """

    fields: tuple[_Octave, ...]

    def at(self, ys: Array, xs: Array, near: Array) -> Array:
        """Values (h, w); ``near`` (h,): 1 where cells are largest, 0 at the horizon."""
        total = np.zeros((len(ys), len(xs)), np.float32)
        coarsest = -np.log2(np.maximum(near, 2.0**-9))
        for index, octave in enumerate(self.fields):
            steps = index - coarsest  # octaves below the row's coarsest
            share = np.where(steps > 0, 0.72**steps, 1 + steps).clip(0, 1).astype(np.float32)
            if share.any():
                total += share[:, None] * octave.at(ys, xs)
        return total * 0.65


@dataclass(frozen=True)
class _View:
    """The bones of a landscape. Lengths in pixels."""

    rng: _Random
    size: Size
    horizon: float
    sun_x: float

    @property
    def short(self) -> float:
        """The length that everything is measured by: the shorter edge."""
        return float(max(min(self.size.height, self.size.width), 16))

    def noise(self, down: float, across: float, octaves: int = 1, *, fine: float = 0.0) -> _Noise:
        """Noise with cells of so many shorter edges."""
        cell = down * self.short, across * self.short
        return _noise(self.rng, self.size, cell, octaves, fine=fine)

    def receding(self, down: float, across: float) -> _Receding:
        """Noise with cells of so many shorter edges where it is nearest."""
        return _Receding(self.noise(down, across, fine=1.0).octaves)

    def below(self, y: float) -> Box:
        """The picture from the row of ``y`` down."""
        top = min(max(int(y), 0), self.size.height - 1)
        return Box(top, 0, self.size.height, self.size.width)


def photo_like(seed: int, size: Size) -> Image:
    """A landscape as a camera would see it: clouds, misty hills, a meadow or a lake.

    uint8 RGB (H, W, 3); its textures follow the picture's shorter edge.
    """
    rng = _stream(seed, 4)
    horizon, sun_x = rng.uniform(0.48, 0.57) * size.height, rng.uniform(0.15, 0.85) * size.width
    view = _View(rng, size, horizon, sun_x)
    ground = _lake if rng.random() < 0.4 else _meadow
    hills = [_hill(view, far) for far in (1.0, 0.7, 0.42, 0.16)]
    lens = _Layer(Box.of(size), _lens(view))
    return _flatten(size, [_cloudy_sky(view), *hills, ground(view), lens])


def _above(view: _View, ys: Array) -> Array:
    """1 at the top of the picture, 0 at and below the horizon."""
    return _unit_clip(1 - ys / np.float32(view.horizon))


def _nearness(view: _View, ys: Array) -> Array:
    """0 at and above the horizon, 1 at the bottom of the picture."""
    return _unit_clip((ys - np.float32(view.horizon)) / (view.size.height - view.horizon))


def _sky_colour(view: _View, ys: Array, xs: Array) -> Array:
    high = (_above(view, ys) ** 0.9)[:, None]
    colour = _mix(_rgb(0.88, 0.93, 0.96), _rgb(0.18, 0.43, 0.80), high)
    y, x = (ys - view.horizon) / view.horizon, (xs - view.sun_x) / view.size.width
    glow = np.exp(-((1.3 * y)[:, None] ** 2) - (2 * x) ** 2)
    return colour + glow * _rgb(0.16, 0.11, 0.02)


def _cloudy_sky(view: _View) -> _Layer:
    puffs, veil = view.receding(0.24, 0.50), view.noise(0.4, 1.2, 3)
    clear = view.rng.uniform(-0.1, 0.4)

    def paint(_: Array, ys: Array, xs: Array) -> Array:
        near = 0.12 + 0.88 * _above(view, ys)
        body = puffs.at(ys, xs, near) + 0.4 * veil(ys, xs) - clear
        over = puffs.at(ys - 0.03 * view.short, xs, near) + 0.4 * veil(ys, xs) - clear
        lit = _unit_clip(0.8 - 0.15 * over + 0.45 * (body - over))  # dark under what hangs above
        white = _mix(_rgb(0.72, 0.77, 0.84), _rgb(1.02, 1.01, 0.99), lit)
        return _mix(_sky_colour(view, ys, xs), white, 0.95 * _smoothstep(0.9 * body))

    return _Layer(Box.of(view.size), paint)


def _hill(view: _View, far: float) -> _Layer:
    """A ridge: the highest and palest where ``far`` is 1, a wooded rise where it is near 0."""
    lift, height = (0.03 + 0.14 * far) * view.short, (0.028 + 0.045 * far) * view.short
    ridge = view.noise(1, 0.25 + 0.5 * far, 5, fine=0.45)
    crowns = view.noise(1, 0.012, 2, fine=0.5)
    tree = 0.007 * (1.1 - far)
    woods, slopes = view.noise(tree, tree, 2, fine=0.6), view.noise(0.06, 0.12, 3)
    colour = _mix(_rgb(0.13, 0.26, 0.10), _rgb(0.50, 0.64, 0.82), _level(far**0.7))
    crown, relief = 0.0035 * view.short * (1 - far), 0.20 * (1.02 - far)
    row = np.zeros(1, np.float32)

    def paint(below: Array, ys: Array, xs: Array) -> Array:
        crest = view.horizon - lift - height * ridge(row, xs) - crown * crowns(row, xs)
        depth = ys[:, None] - crest
        light = 1.2 * abs(woods(ys, xs)) - 1 + 0.5 * slopes(ys, xs)  # dark between the crowns
        low = _unit_clip(1 - (view.horizon - ys) / (lift + height))[:, None]
        body = _mix(colour * (1 + relief * light), _rgb(*_HAZE), low * (0.10 + 0.55 * far))
        return _mix(below, body, _unit_clip(depth + 0.5))

    return _Layer(view.below(view.horizon - lift - 4.5 * height), paint)


def _meadow(view: _View) -> _Layer:
    blades, drifts = view.receding(0.075, 0.015), view.receding(0.12, 0.60)
    blooms, edge = view.receding(0.014, 0.018), view.noise(1, 0.3, 3, fine=0.5)
    row = np.zeros(1, np.float32)

    def paint(below: Array, ys: Array, xs: Array) -> Array:
        near = _nearness(view, ys)
        grass = _mix(_rgb(0.55, 0.64, 0.30), _rgb(0.27, 0.47, 0.12), (near**0.55)[:, None])
        grass = grass + drifts.at(ys, xs, near) * _rgb(0.055, 0.035, 0.01)
        grass = grass + (0.8 - abs(blades.at(ys, xs, near))) * _rgb(0.13, 0.16, 0.07)
        bloom = _smoothstep(1.6 * blooms.at(ys, xs, near) - 3.4)
        grass = _mix(grass, _rgb(0.98, 0.93, 0.62), bloom)
        top = view.horizon + 0.004 * view.short * (1 + edge(row, xs))
        return _mix(below, grass, _unit_clip(ys[:, None] - top + 0.5))

    return _Layer(view.below(view.horizon - 0.02 * view.short), paint)


def _lake(view: _View) -> _Layer:
    waves, breeze = view.receding(0.022, 0.14), view.receding(0.10, 1.10)

    def paint(below: Array, ys: Array, xs: Array) -> Array:
        near = _nearness(view, ys)
        mirrored = _sky_colour(view, 2 * view.horizon - ys, xs)
        shore = 0.75 * _smoothstep(1.1 - 3 * near)[:, None]
        water = _mix(0.94 * mirrored, _rgb(0.24, 0.38, 0.42), shore)
        water = _mix(water, _rgb(0.08, 0.27, 0.38), (0.2 + 0.55 * near)[:, None])
        light = waves.at(ys, xs, near) * (0.03 + 0.05 * near)[:, None]
        light = light + 0.03 * breeze.at(ys, xs, near)
        lake = water + light * _rgb(0.8, 1, 1.05)
        return _mix(below, lake, _unit_clip(ys - view.horizon + 0.5)[:, None])

    return _Layer(view.below(view.horizon - 1), paint)


def _lens(view: _View) -> Callable[[Array, Array, Array], Array]:
    """Light from the sun's side, vignette, a warm cast and the sensor's grain."""
    rng, side = view.rng, view.sun_x / view.size.width - 0.5

    def paint(below: Array, ys: Array, xs: Array) -> Array:
        y, x = ys / view.size.height - 0.5, xs / view.size.width - 0.5
        light = (1.06 - 0.5 * ((y * y)[:, None] + x * x)) * (1 + 0.25 * side * x)
        grain = rng.standard_normal((len(ys), len(xs), 3), dtype=np.float32)
        return below * light * _rgb(1.02, 1.0, 0.97) + 0.011 * np.moveaxis(grain, -1, 0)

    return paint
