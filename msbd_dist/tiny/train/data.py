"""Training pictures and their captions, by seed.

Pictures are uint8 RGB (H, W, 3); tensors of them (B, 3, H, W) float32 in [-1, 1].
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from msbd_dist.core.geometry import Size
from msbd_dist.tiny.scenes import Scene, caption, random_detail, random_scene, render

log = logging.getLogger(__name__)

Image = npt.NDArray[np.uint8]


def square(side: int) -> Size:
    return Size(side, side)


def any_scene(
    rng: np.random.Generator, side: int, *, details: float, unit: float | None = None
) -> Scene:
    """A scene of the world, or with probability ``details`` a window of a larger one."""
    detail, seed = rng.random() < details, int(rng.integers(2**62))
    if detail:
        return random_detail(seed, square(side))
    return random_scene(seed, square(side), unit=unit)


def captioned(
    seed: int, side: int, *, unit: float | None = None, details: float = 0.08
) -> tuple[Scene, str]:
    """A scene and what a user might say of it.

    The empty prompt stands for places where nothing is: background alone, or, with probability
    ``details``, what a segment of a large picture shows. Two objects are hard and come more often
    than in the world.
    """
    rng = np.random.default_rng((seed, 1))
    kind, size = rng.random(), square(side)
    if kind < 0.07:
        return random_scene(seed, size, objects=0, unit=unit), ""
    if kind < 0.07 + details:
        return random_detail(seed, size), ""
    scene = random_scene(seed, size, objects=2 if kind > 0.9 else None, unit=unit)
    sizes, places, background, photo = rng.random(4) < (0.5, 0.6, 0.5, 0.08)
    words = caption(scene, sizes=bool(sizes), places=bool(places), background=bool(background))
    return scene, f"a photo of {words}" if photo else words


def crops(rng: np.random.Generator, scene: Scene, side: int, count: int) -> list[Image]:
    """Windows of a scene's picture, some of them mirrored or turned on their side."""
    picture = render(scene)
    return [crop(rng, picture, side, turned=0.2) for _ in range(count)]


def crop(rng: np.random.Generator, picture: Image, side: int, *, turned: float) -> Image:
    """A window of a picture, mirrored half of the time, on its side with probability ``turned``."""
    y = rng.integers(picture.shape[0] - side + 1)
    x = rng.integers(picture.shape[1] - side + 1)
    window = picture[y : y + side, x : x + side]
    window = window[:, ::-1] if rng.random() < 0.5 else window
    return window.swapaxes(0, 1) if rng.random() < turned else window


def tensor(pictures: npt.NDArray[np.uint8] | list[Image]) -> torch.Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]."""
    stacked = torch.from_numpy(np.ascontiguousarray(np.stack(pictures)))
    return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1


# --- made once, kept on disk ----------------------------------------------------------------------

Arrays = dict[str, npt.NDArray[Any]]


def stored(
    folder: Path, count: int, make: Callable[[int], Arrays], *, processes: int
) -> list[Path]:
    """``count`` files of arrays in ``folder``, those that are missing made by ``make(index)``.

    ``make`` is sent to other processes where there are several.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{index:04d}.npz" for index in range(count)]
    missing = [index for index, file in enumerate(files) if not file.exists()]
    write = partial(_write_chunk, make, folder)
    with _map(processes if missing else 1) as each:
        for done, _ in enumerate(each(write, missing), count - len(missing) + 1):
            if done % max(count // 10, 1) == 0:
                log.info("%s: %d of %d", folder, done, count)
    return files


@contextmanager
def _map(processes: int) -> Iterator[Callable[..., Iterable[None]]]:
    """``map`` over processes of one thread each, or in this one."""
    if processes == 1:
        yield map
    else:
        with get_context("spawn").Pool(processes, torch.set_num_threads, (1,)) as pool:
            yield pool.imap_unordered


def _write_chunk(make: Callable[[int], Arrays], folder: Path, index: int) -> None:
    fresh = folder / f"{index:04d}.new"
    with fresh.open("wb") as file:
        np.savez(file, **make(index))
    os.replace(fresh, folder / f"{index:04d}.npz")


def gathered(files: Iterable[Path]) -> dict[str, torch.Tensor]:
    """The files' arrays, each name's along its first axis."""
    parts: list[Arrays] = []
    for file in files:
        with np.load(file) as arrays:
            parts.append(dict(arrays))
    return {
        name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]
    }
