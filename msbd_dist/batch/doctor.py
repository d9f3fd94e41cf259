"""What `msbd doctor` looks at: versions, devices, models, and one small edit by them."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msbd_dist.batch.record import THREADS, package_versions
from msbd_dist.batch.run import run_manifest
from msbd_dist.batch.single import edit_manifest
from msbd_dist.canvas.export import save_png
from msbd_dist.core.spec import ModelSpec
from msbd_dist.errors import MsbdError
from msbd_dist.models.agreement import check_agreement
from msbd_dist.models.card import Card, resolve
from msbd_dist.models.clip import check_scorer
from msbd_dist.models.factor import check_upscaler, look
from msbd_dist.models.sources import Folder, source
from msbd_dist.models.tokens import tokens_of

_MARGIN = 1.25  # of the picture's side over the model's: an edit of two stages, by the upscaler too


@dataclass(frozen=True)
class Check:
    """One line of the doctor's findings."""

    name: str
    ok: bool
    found: str


def checks(models: ModelSpec) -> Iterator[Check]:
    """All checks, each as it is made; a check that fails says why and what to do.

    Where the model can't be used the edit is made by the bundled family, to look at the machine.
    """
    yield _check("machine", lambda: f"{platform.platform()}, {os.cpu_count()} CPUs")
    yield _check("versions", lambda: ", ".join(f"{k} {v}" for k, v in package_versions().items()))
    yield _check("device", lambda: _device(models))
    model = _check("models", lambda: _model(resolve(models)))
    yield model
    if model.ok:
        yield _check("upscaler", lambda: _upscaler(resolve(models)))
        yield _check("scorer", lambda: _scorer(resolve(models)))
    tested = models if model.ok else ModelSpec(device=models.device)
    yield _check("self-test", lambda: _self_test(tested, resolve(tested)))


def _check(name: str, look_at: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look_at())
    except MsbdError as error:
        return Check(name, False, str(error))
    except Exception as error:  # a library's or a driver's, which is what the doctor is there for
        first = next(iter(str(error).strip().splitlines()), "")
        return Check(name, False, f"{type(error).__name__}: {first}")


def _device(models: ModelSpec) -> str:
    from msbd_dist.models.bundle import choose_device  # imports torch

    found = choose_device(models.device)
    return f"{found.device}, {str(found.dtype).removeprefix('torch.')} ({found.reason})"


def _model(card: Card) -> str:
    """The model's files, as far as they tell without being loaded."""
    place = source(card.location)
    if card.file is None and isinstance(place, Folder):
        check_agreement(place)
    family, tokens = card.family, tokens_of(card)
    where = card.file or card.location
    return (
        f"{card.name} at {where}: native {family.native} px, segments of {family.segment} px that "
        f"overlap by {family.overlap} px, guidance {family.guidance:g}, {tokens.most} tokens"
    )


def _upscaler(card: Card) -> str:
    if card.sr is None:
        return f"none: edits of more than {card.family.native} px need --sr or upscaler: bicubic"
    file, factor = Path(card.sr), card.family.sr_factor
    check_upscaler("realesrgan", file, factor)
    return f"{file}: {look(card.sr, file).name}, enlarges by {factor}"


def _scorer(card: Card) -> str:
    check_scorer(card.clip)
    return card.clip


def _self_test(models: ModelSpec, card: Card) -> str:
    """A small edit on one worker in this process, checked for exactness outside of its mask."""
    started, side = time.perf_counter(), round(card.family.native * _MARGIN)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        picture = np.random.default_rng(0).random((3, side, side), np.float32) * 0.2 + 0.4
        mask = np.zeros((3, side, side), np.float32)
        edge = side // 16
        mask[:, edge:-edge, edge:-edge] = 1
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
            upscaler="bicubic" if card.sr is None else "realesrgan",
        )
        result = run_manifest(manifest, folder / "run", executor="serial", verify="full").edits[0]
        if result.error is not None:
            raise result.error
    seconds = time.perf_counter() - started
    return (
        f"a {side}x{side} edit by {card.name} from start to end in {seconds:.0f} s, "
        f"{THREADS} thread"
    )
