"""What `msbd doctor` looks at: versions, devices, models, and one small edit from start to end."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from msbd_dist.batch.record import THREADS, package_versions
from msbd_dist.batch.run import run_manifest
from msbd_dist.batch.single import edit_manifest
from msbd_dist.canvas.export import save_png
from msbd_dist.core.spec import ModelSpec
from msbd_dist.errors import MsbdError
from msbd_dist.models.card import resolve


@dataclass(frozen=True)
class Check:
    """One line of the doctor's findings."""

    name: str
    ok: bool
    found: str


def checks(models: ModelSpec) -> Iterator[Check]:
    """All checks, each as it is made; a check that fails says why and what to do."""
    for name, look in (
        ("machine", lambda: f"{platform.platform()}, {os.cpu_count()} CPUs"),
        ("versions", lambda: ", ".join(f"{k} {v}" for k, v in package_versions().items())),
        ("device", lambda: _device(models)),
        ("models", lambda: str(resolve(models))),
        ("self-test", lambda: _self_test(replace(models, family="tiny", sr=None, clip=None))),
    ):
        yield _check(name, look)


def _check(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except MsbdError as error:
        return Check(name, False, str(error))


def _device(models: ModelSpec) -> str:
    from msbd_dist.models.bundle import choose_device  # imports torch

    found = choose_device(models.device)
    return f"{found.device}, {str(found.dtype).removeprefix('torch.')} ({found.reason})"


def _self_test(models: ModelSpec) -> str:
    """A small edit by the bundled family on one worker in this process, checked for exactness."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        picture = np.random.default_rng(0).random((3, 160, 160), np.float32) * 0.2 + 0.4
        mask = np.zeros((3, 160, 160), np.float32)
        mask[:, 50:110, 50:110] = 1
        save_png(folder / "image.png", picture)
        save_png(folder / "mask.png", mask)
        manifest = edit_manifest(
            folder / "image.png",
            folder / "mask.png",
            "a red circle",
            output=folder / "out.png",
            models=models,
            seed=0,
            steps=4,
            repaint=0,
            samples=2,
            upscale_steps=10,
            decoder_steps=2,
        )
        result = run_manifest(manifest, folder / "run", executor="serial").edits[0]
        if result.error is not None:
            raise result.error
    seconds = time.perf_counter() - started
    return f"a 160x160 edit from start to end in {seconds:.0f} s, {THREADS} thread"
