"""How long training the bundled family takes there: a minute of it, part by part.

Two settings: those that the shipped family was trained with, and larger networks with larger
batches, as a card has room for. Whether the larger ones are better, only a whole training tells.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.bench import Bench, Found, short
from msbd_dist.core.gang import Alone
from msbd_dist.core.spec import ModelSpec
from msbd_dist.models.card import resolve
from msbd_dist.tiny.train.command import MOST_DRAWING, PARTS, Job, build, prepare
from msbd_dist.tiny.train.loop import Trainer
from msbd_dist.tiny.train.settings import SETTINGS, Settings

DRAWING = min(MOST_DRAWING, os.cpu_count() or 1)  # processes, in a whole training
SECONDS = 6.0  # of steps, for each part and settings
WARM = 3  # steps before those
DRAWN = 100  # pictures that are drawn to time it


def larger() -> Settings:
    """About four times the work of a step, and four times the pictures."""
    s = SETTINGS
    vae, unet, clip, upscaler = (
        replace(part.recipe, batch=4 * part.recipe.batch, shards=1)
        for part in (s.vae, s.unet, s.clip, s.upscaler)
    )
    return replace(
        s,
        vae=replace(s.vae, recipe=vae, channels=(64, 128, 128, 192)),
        unet=replace(s.unet, recipe=unet, channels=(128, 192, 256), pictures=160_000),
        clip=replace(s.clip, recipe=clip, width=32, pictures=96_000),
        upscaler=replace(s.upscaler, recipe=upscaler, filters=48, blocks=4, pictures=960),
    )


ALL: dict[str, Callable[[], Settings]] = {"shipped": lambda: SETTINGS, "larger": larger}


def minute(bench: Bench) -> Found:
    """Steps a second of each part, and what the whole training would take."""
    found = {}
    with bench.card(strict=False):
        for name, settings in ALL.items():
            work = bench.place(f"train-{name}")
            _bundled_autoencoder(work)
            rows = {part: _measured(bench, part, settings(), work) for part in PARTS}
            found[name] = {"parts": rows, "minutes": short(sum(map(_minutes, rows.values())))}
    return {"settings": found, "drawing": DRAWING, "checks": []}


def _minutes(row: Found) -> float:
    """Of the whole part, where pictures are drawn by several processes."""
    rate = DRAWING * row["pictures_per_second"]
    drawing = row["pictures"] / rate if row["pictures"] else 0.0
    return float(drawing + row["steps"] / row["steps_per_second"]) / 60


def _measured(bench: Bench, part: str, settings: Settings, work: Path) -> Found:
    """Of one part: all that it is to do, and how fast a little of it is done."""
    whole = getattr(settings, part)
    job = Job(
        part=part,
        work=work,
        settings=brief(settings, bench),
        device="cuda",
        processes=1,
        deadline=None,
    )
    drawn = getattr(job.settings, part)
    job.folder.mkdir(parents=True)
    began = time.perf_counter()
    prepare(job)
    drawing = time.perf_counter() - began
    trainer = Trainer(build(job), job.folder, torch.device("cuda"))
    for _ in range(1 if bench.dry else WARM):
        trainer.advance(Alone())
    steps, seconds, loss = _steps(trainer, 0.0 if bench.dry else SECONDS)
    weights = sum(weight.numel() for weight in trainer.weights)
    return {
        "parameters": weights,
        "batch": whole.recipe.batch,
        "steps": whole.recipe.steps,
        "steps_per_second": short(steps / seconds),
        "pictures": pictures(whole),
        "pictures_per_second": short(pictures(drawn) / drawing),
        "loss": short(loss),
    }


def _steps(trainer: Trainer, least: float) -> tuple[int, float, float]:
    """Steps, their seconds, and the last one's loss."""
    torch.cuda.synchronize()
    began, steps, loss = time.perf_counter(), 0, 0.0
    while not steps or time.perf_counter() - began < least:
        loss = trainer.advance(Alone())  # waits for the card
        steps += 1
    return steps, time.perf_counter() - began, loss


def pictures(part: Any) -> int:
    """That are drawn before the training."""
    return int(getattr(part, "pictures", 0) + getattr(part, "segments", 0))


def brief(settings: Settings, bench: Bench) -> Settings:
    """The same networks and batches, of few pictures; in a dry run of small batches too."""
    changed = {}
    for field in fields(Settings):
        part = getattr(settings, field.name)
        if field.name not in PARTS:
            continue
        recipe = part.recipe
        if bench.dry:
            recipe = replace(recipe, batch=4 * recipe.shards)
        changed[field.name] = replace(part, recipe=recipe, **_few(part, bench))
    return replace(settings, **changed)


def _few(part: Any, bench: Bench) -> dict[str, int]:
    """The counts of pictures, where they are drawn before the training."""
    few = 2 if bench.dry else DRAWN
    if hasattr(part, "side"):  # large pictures, which take long
        few = 2
    counts = {"pictures": few, "segments": few, "chunk": few}
    return {name: count for name, count in counts.items() if hasattr(part, name)}


def _bundled_autoencoder(work: Path) -> None:
    """What the UNet's latents are of, where there is no finished one."""
    shutil.copytree(Path(resolve(ModelSpec()).location) / "vae", work / "family" / "vae")
