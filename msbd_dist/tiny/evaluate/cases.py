"""What the family is asked, by fixed seeds of a range that no training picture comes from.

Every function gives the first ``count`` cases of its kind: the same ones whatever the count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count as counting
from itertools import islice, product
from typing import Literal

import numpy as np

from msbd_dist.core.geometry import Box, Rect, Size
from msbd_dist.tiny.scenes import (
    COLOURS,
    PATTERNS,
    PLAINS,
    SHAPES,
    Background,
    Colour,
    Plain,
    Scene,
    SceneObject,
    Shape,
    caption,
    object_name,
    random_scene,
)

FIRST = 9_000_000_000  # training ends below 8 * 10**9
_SPAN = 10_000_000  # seeds of each kind of case
NATIVE = 128  # pixels across a case's picture
CELL = 8  # pixels across a latent cell
SIZE = Size(NATIVE, NATIVE)

# Colours that pixels alone can hardly tell from these backgrounds
LIKE: dict[Plain, tuple[Colour, ...]] = {
    "sky": ("white", "blue"),
    "grass": ("green",),
    "bricks": ("red", "white"),
    "wood": ("orange",),
    "sand": (),
    "water": ("blue",),
}

# --- names ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """One of the 56 things that the family can draw."""

    colour: Colour
    shape: Shape

    @property
    def name(self) -> str:
        return object_name(self.colour, self.shape)


KINDS = tuple(Kind(colour, shape) for colour, shape in product(COLOURS, SHAPES))
NAMES = tuple(kind.name for kind in KINDS)
BACKGROUNDS = (
    *(Background(kind) for kind in PLAINS),
    *(Background(kind, colour) for kind, colour in product(PATTERNS, COLOURS)),
)


def words(background: Background) -> str:
    """ "grass", "a red wall"."""
    return caption(Scene(size=SIZE, background=background, unit=NATIVE))


GROUNDS = tuple(words(background) for background in BACKGROUNDS)

# --- scenes ---------------------------------------------------------------------------------------


def any_scenes(count: int) -> list[Scene]:
    """Random scenes of any number of objects."""
    return _scenes(count, 0, None)


def star_scenes(count: int) -> list[Scene]:
    """One star, of radius 0.2 to 0.45 units."""
    return _scenes(count, 1, 1, lambda s: s.objects[0].shape == "star" and _wide(s, 0.2, 0.45))


def single_scenes(count: int) -> list[Scene]:
    """One object of any kind and size."""
    return _scenes(count, 2, 1)


def clear_scenes(count: int) -> list[Scene]:
    """One object, neither tiny nor a close-up, on a plain background."""
    return _scenes(count, 3, 1, lambda s: _plain(s.background) and _wide(s, 0.17, 0.45))


def pair_scenes(count: int) -> list[Scene]:
    """Two objects of different colours, both unlike their plain background."""
    return _scenes(count, 4, 2, _clear_pair)


def removal_scenes(count: int) -> list[Scene]:
    """One object of radius 0.14 to 0.25 units."""
    return _scenes(count, 5, 1, lambda s: _wide(s, 0.14, 0.25))


def large_scenes(count: int) -> list[Scene]:
    """512 pixels that hold what one training picture would."""
    return [random_scene(seed, Size(512, 512), unit=512) for seed in _seeds(6, count)]


def empty_scene(seed: int, background: Background | None = None) -> Scene:
    """A background alone, a random one where none is given."""
    if background is None:
        return random_scene(seed, SIZE, objects=0)
    return Scene(size=SIZE, background=background, seed=seed, unit=NATIVE)


def siblings(scene: Scene, count: int) -> list[Scene]:
    """Other scenes of the same background alone, of the same zoom."""
    return [
        Scene(
            size=scene.size,
            background=scene.background,
            seed=seed,
            unit=scene.unit,
            zoom=scene.zoom,
        )
        for seed in range(scene.seed + _SPAN // 2, scene.seed + _SPAN // 2 + count)
    ]


def _seeds(topic: int, count: int) -> range:
    return range(FIRST + topic * _SPAN, FIRST + topic * _SPAN + count)


def _scenes(
    count: int, topic: int, objects: int | None, wanted: Callable[[Scene], bool] | None = None
) -> list[Scene]:
    def found() -> Iterator[Scene]:
        for seed in counting(FIRST + topic * _SPAN):
            scene = random_scene(seed, SIZE, objects=objects)
            whole = objects is None or len(scene.objects) == objects
            if whole and (wanted is None or wanted(scene)):
                yield scene

    return list(islice(found(), count))


def _wide(scene: Scene, low: float, high: float) -> bool:
    return low <= scene.objects[0].radius / scene.unit <= high


def _plain(background: Background) -> bool:
    return background.kind in PLAINS or background.kind == "wall"


def _clear_pair(scene: Scene) -> bool:
    colours = {thing.colour for thing in scene.objects}
    like = LIKE.get(scene.background.kind)
    return like is not None and len(colours) == 2 and not colours & set(like)


# --- pictures from words --------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompted:
    """A picture to be painted, and what must be seen on it."""

    seed: int
    prompt: str
    kind: Kind
    background: Background
    size: Literal["small", "big"] | None = None

    @property
    def plain(self) -> bool:
        return _plain(self.background)


def prompted(count: int) -> list[Prompted]:
    """Every kind on a plain background, then every kind on a pattern: 112 at most."""
    rng = np.random.default_rng(FIRST)
    order = rng.permutation(len(KINDS))
    cases = []
    for index, seed in enumerate(_seeds(7, count)):
        turn, place = divmod(index, len(KINDS))
        kind = KINDS[order[place]]
        grounds = [b for b in BACKGROUNDS if (b.kind in PLAINS) == (turn % 2 == 0)]
        ground = grounds[rng.integers(len(grounds))]
        while not visible(kind, ground):
            ground = grounds[rng.integers(len(grounds))]
        cases.append(Prompted(seed, f"{kind.name} on {words(ground)}", kind, ground))
    return cases


def sized(count: int) -> list[Prompted]:
    """The plain ones of `prompted`, in turn "a small red star on sand" and "a big ..."."""
    cases = []
    for index, case in enumerate(prompted(min(count, len(KINDS)))):
        size: Literal["small", "big"] = "small" if index % 2 == 0 else "big"
        prompt = f"a {size} {case.kind.colour} {case.kind.shape} on {words(case.background)}"
        cases.append(replace(case, prompt=prompt, size=size))
    return cases


def visible(kind: Kind, background: Background) -> bool:
    """Whether an object can be told from its background."""
    camouflaged = kind.colour == "green" and background.kind == "grass"
    return kind.colour != background.colour and not camouflaged


# --- edits ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Placed:
    """A background alone and a rectangle of whole latent cells in it, which is to be edited."""

    scene: Scene
    box: Box  # pixels
    kind: Kind | None = None  # to be drawn there; None: nothing

    @property
    def seed(self) -> int:
        return self.scene.seed

    @property
    def prompt(self) -> str:
        """The kind on the background; the background alone where there is none."""
        ground = caption(self.scene)
        return ground if self.kind is None else f"{self.kind.name} on {ground}"

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool, True inside the box."""
        mask = np.zeros(self.scene.size.shape, np.bool_)
        mask[self.box.slices] = True
        return mask

    def real(self) -> Scene:
        """What a perfect edit might look like: the kind, as large as the box lets it be."""
        assert self.kind is not None
        middle = Rect(self.box.y0, self.box.x0, self.box.y1, self.box.x1)
        thing = SceneObject(
            colour=self.kind.colour,
            shape=self.kind.shape,
            center_y=(middle.y0 + middle.y1) / 2,
            center_x=(middle.x0 + middle.x1) / 2,
            radius=0.44 * min(self.box.height, self.box.width),
        )
        scene = self.scene
        return Scene(
            size=scene.size,
            background=scene.background,
            objects=(thing,),
            seed=scene.seed,
            unit=scene.unit,
            zoom=scene.zoom,
        )


def insertions(count: int) -> list[Placed]:
    """Each kind in turn into a rectangle of 5 to 10 cells a side."""
    order = np.random.default_rng(FIRST + 1).permutation(len(KINDS))
    cases = []
    seeds = counting(FIRST + 8 * _SPAN)
    for index in range(count):
        kind = KINDS[order[index % len(KINDS)]]
        scene = next(s for s in map(empty_scene, seeds) if visible(kind, s.background))
        cases.append(Placed(scene, _box(scene.seed, inset=0), kind))
    return cases


def unbroken(count: int) -> list[Placed]:
    """Rectangles in backgrounds that are nearly of one colour: any seam shows."""
    grounds = [Background("sky"), Background("sand"), Background("wood"), Background("water")]
    cases = []
    for index, seed in enumerate(_seeds(9, count)):
        wall = Background("wall", COLOURS[(index // 5) % len(COLOURS)])
        scene = empty_scene(seed, [*grounds, wall][index % 5])
        cases.append(Placed(scene, _box(seed, inset=1)))
    return cases


def _box(seed: int, *, inset: int) -> Box:
    """A rectangle of 5 to 10 cells a side, ``inset`` cells or more from the picture's edge."""
    rng = np.random.default_rng((seed, 1))
    cells = NATIVE // CELL
    height, width = (int(side) for side in rng.integers(5, 11, 2))
    y = int(rng.integers(inset, cells - height - inset + 1))
    x = int(rng.integers(inset, cells - width - inset + 1))
    return Box(y * CELL, x * CELL, (y + height) * CELL, (x + width) * CELL)
