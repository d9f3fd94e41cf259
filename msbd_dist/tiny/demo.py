"""Four pictures to edit, each with a mask, for the prompts of ``jobs/demo.yaml``.

    python -m msbd_dist.tiny.demo FOLDER [--seed N]

    meadow   add a star on grass       mask: polygon
    wall     replace what is there     mask: rounded rectangle
    beach    remove what is there      mask: the object and its shadow, grown
    valley   add to a photograph       mask: ellipse

Masks are 8-bit, 255 where the picture may change, 360 to 520 pixels across. In the first three, a
mask and its surroundings (1.3 times as wide) look like one training picture.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import pi
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pil
from PIL import ImageDraw
from scipy.ndimage import distance_transform_edt

from msbd_dist.core.geometry import Size
from msbd_dist.tiny.scenes import (
    Background,
    Image,
    Mask,
    Scene,
    SceneObject,
    photo_like,
    render,
    silhouette,
)

_UNIT = 600.0  # pixels shown to the model as one picture: a mask of 460 and its surroundings


@dataclass(frozen=True, kw_only=True)
class Demo:
    """One edit: the stem of its files, and what is to be seen."""

    name: str
    description: str
    draw: Callable[[np.random.Generator, int], tuple[Image, Mask]]

    @property
    def image_file(self) -> str:
        return f"{self.name}.png"

    @property
    def mask_file(self) -> str:
        return f"{self.name}_mask.png"


def write_demo(folder: Path, seed: int = 7) -> None:
    """Writes the image and the mask of every demo as PNG; makes the folder where there is none.

    Images are RGB uint8, masks one channel of 0 and 255. The same seed writes the same pixels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for index, demo in enumerate(DEMOS):
        image, mask = demo.draw(np.random.default_rng((seed, index)), seed)
        Pil.fromarray(image).save(folder / demo.image_file)
        Pil.fromarray(mask.astype(np.uint8) * 255).save(folder / demo.mask_file)


def _meadow(rng: np.random.Generator, seed: int) -> tuple[Image, Mask]:
    size = Size(1400, 1600)
    scene = Scene(size=size, background=Background("grass"), seed=seed, unit=_UNIT)
    return render(scene), _blob(rng, size, _point(rng, (760, 880), (440, 600)))


def _wall(rng: np.random.Generator, seed: int) -> tuple[Image, Mask]:
    size = Size(1200, 2000)
    y, x = _point(rng, (500, 680), (1200, 1460))
    circle = SceneObject(colour="blue", shape="circle", center_y=y, center_x=x, radius=160)
    scene = Scene(
        size=size,
        background=Background("bricks"),
        objects=(circle,),
        seed=seed,
        unit=_UNIT,
        zoom=1.25,
    )
    return render(scene), _rounded_rectangle(size, (y + 10, x + 10), half=(225, 235), corner=60)


def _beach(rng: np.random.Generator, seed: int) -> tuple[Image, Mask]:
    size = Size(1280, 1600)
    y, x = _point(rng, (620, 760), (560, 860))
    flower = SceneObject(
        colour="black",
        shape="flower",
        center_y=y,
        center_x=x,
        radius=150,
        rotation=rng.uniform(-0.3, 0.3),
    )
    scene = Scene(
        size=size,
        background=Background("sand"),
        objects=(flower,),
        seed=seed,
        unit=_UNIT,
        zoom=1.2,
    )
    return render(scene), _grown(silhouette(flower, size, shadow=True), 24)


def _valley(rng: np.random.Generator, seed: int) -> tuple[Image, Mask]:
    size = Size(1420, 2100)
    center = _point(rng, (240, 270), (1250, 1500))
    return photo_like(seed, size), _ellipse(size, center, half=(185, 205))


def _point(
    rng: np.random.Generator, down: tuple[float, float], across: tuple[float, float]
) -> tuple[float, float]:
    """A random (y, x) within two ranges."""
    return rng.uniform(*down), rng.uniform(*across)


def _blob(rng: np.random.Generator, size: Size, center: tuple[float, float]) -> Mask:
    """A polygon of eleven corners, about 470 pixels across."""
    angles = np.arange(11) * (2 * pi / 11) + rng.uniform(-0.1, 0.1, 11)
    radii = rng.uniform(212, 252, 11)
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
    corners += center[::-1]
    canvas = Pil.new("L", (size.width, size.height))
    ImageDraw.Draw(canvas).polygon([(x, y) for x, y in corners.tolist()], fill=255)
    return np.asarray(canvas) > 0


def _rounded_rectangle(
    size: Size, center: tuple[float, float], *, half: tuple[float, float], corner: float
) -> Mask:
    y, x = (abs(offset) for offset in _offsets(size, center))
    down, across = np.maximum(y - half[0] + corner, 0), np.maximum(x - half[1] + corner, 0)
    mask: Mask = np.hypot(down, across) <= corner
    return mask


def _ellipse(size: Size, center: tuple[float, float], *, half: tuple[float, float]) -> Mask:
    y, x = _offsets(size, center)
    mask: Mask = (y / half[0]) ** 2 + (x / half[1]) ** 2 <= 1
    return mask


def _offsets(size: Size, center: tuple[float, float]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Distances of pixel centres from a point: (H, 1) down and (1, W) across."""
    y = np.arange(size.height) + 0.5 - center[0]
    x = np.arange(size.width) + 0.5 - center[1]
    return y[:, None], x[None, :]


def _grown(mask: Mask, pixels: int) -> Mask:
    """The mask and everything within ``pixels`` of it."""
    grown: Mask = distance_transform_edt(~mask) <= pixels
    return grown


DEMOS = (
    Demo(
        name="meadow",
        description="add a red star to a meadow",
        draw=_meadow,
    ),
    Demo(
        name="wall",
        description="replace the blue circle on a brick wall by a yellow heart",
        draw=_wall,
    ),
    Demo(
        name="beach",
        description="remove the black flower from the sand",
        draw=_beach,
    ),
    Demo(
        name="valley",
        description="add a purple circle to the sky of a landscape",
        draw=_valley,
    ),
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m msbd_dist.tiny.demo", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the PNG files go")
    parser.add_argument("--seed", type=int, default=7, metavar="N", help="default: 7")
    options = parser.parse_args(arguments)
    write_demo(options.folder, options.seed)
    names = ", ".join(demo.name for demo in DEMOS)
    sys.stdout.write(f"wrote images and masks of {names} to {options.folder}\n")


if __name__ == "__main__":
    main()
