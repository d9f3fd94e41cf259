"""Held-out scenes with a mask: what every question edits, by seeds that no training comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count as counting

import numpy as np

from msbd_dist.core.geometry import Box, Size
from msbd_dist.tiny.evaluate.cases import CELL, FIRST, KINDS, LIKE, Kind, Placed, visible
from msbd_dist.tiny.scenes import Background, Image, Mask, Scene, random_scene, render

_OWN = 500_000_000  # beyond the seeds of `msbd_dist.tiny.evaluate`
_SPAN = 10_000_000  # seeds of each question


@dataclass(frozen=True)
class Case:
    """A background, a mask in it, and what is to be painted there."""

    id: str
    placed: Placed
    round: bool  # the mask is the ellipse in the box, else the box

    @property
    def prompt(self) -> str:
        return self.placed.prompt

    @property
    def kind(self) -> Kind:
        """ValueError where nothing is to be painted."""
        if self.placed.kind is None:
            raise ValueError(f"{self.id}: has no object")
        return self.placed.kind

    @property
    def mask(self) -> Mask:
        """(H, W) bool, True where the picture is edited."""
        if not self.round:
            return self.placed.mask
        box, mask = self.placed.box, np.zeros(self.placed.scene.size.shape, np.bool_)
        ys = (np.arange(box.height) + 0.5) / box.height * 2 - 1
        xs = (np.arange(box.width) + 0.5) / box.width * 2 - 1
        mask[box.slices] = ys[:, None] ** 2 + xs**2 <= 1
        return mask

    def before(self) -> Image:
        """The picture that is edited: uint8 RGB (H, W, 3)."""
        return render(self.placed.scene)

    def truth(self) -> Image:
        """The same with a real object, as large as the mask lets it be."""
        return render(self.placed.real())


def cases(
    topic: int,
    count: int,
    *,
    size: Size,
    cells: tuple[int, int],
    inset: int,
    grounds: Callable[[int, Background], bool],
    things: bool = True,
) -> list[Case]:
    """The first ``count`` cases of a topic: the same ones whatever the count.

    The shorter side of a picture holds what one training picture would. Boxes are ``cells`` (least,
    most) cells of 8 pixels shorter than the picture, and ``inset`` cells or more from its edge.
    ``grounds`` says whether a background will do for the case of a number. ``things``: each kind in
    turn is to be painted, on backgrounds that pixels can tell it from; else the background alone.
    """
    first = FIRST + _OWN + topic * _SPAN
    order = np.random.default_rng(first).permutation(len(KINDS))
    seeds, found = counting(first), list[Case]()
    for number in range(count):
        kind = KINDS[order[number % len(KINDS)]] if things else None
        scene = next(
            scene
            for scene in (_empty(seed, size) for seed in seeds)
            if grounds(number, scene.background) and _tells(kind, scene.background)
        )
        placed = Placed(scene, _box(scene.seed, size, cells, inset), kind)
        found.append(Case(f"s{number:02}", placed, number % 2 == 1))
    return found


def plain(_: int, background: Background) -> bool:
    """Backgrounds on which pixels alone can tell objects."""
    return background.kind in LIKE or background.kind == "wall"


def _tells(kind: Kind | None, background: Background) -> bool:
    if kind is None:
        return True
    like = [colours for ground, colours in LIKE.items() if ground == background.kind]
    return visible(kind, background) and kind.colour not in sum(like, ())


def _empty(seed: int, size: Size) -> Scene:
    return random_scene(seed, size, objects=0, unit=min(size.height, size.width))


def _box(seed: int, size: Size, cells: tuple[int, int], inset: int) -> Box:
    rng = np.random.default_rng((seed, 2))
    rows, columns = size.height // CELL, size.width // CELL
    less = rng.integers(*cells, 2, endpoint=True)
    height, width = rows - int(less[0]), columns - int(less[1])
    y = int(rng.integers(inset, rows - height - inset + 1))
    x = int(rng.integers(inset, columns - width - inset + 1))
    return Box(y * CELL, x * CELL, (y + height) * CELL, (x + width) * CELL)
