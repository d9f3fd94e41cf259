"""A worker's start: what it is made of, and what of it a first task waits for."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.speed.edit import Prepared, prepare
from benchmarks.speed.timing import in_turns, spread
from msbd_dist.batch.hire import WorkerSpec
from msbd_dist.core.spec import ModelSpec
from msbd_dist.fleet.executor import Worker
from msbd_dist.fleet.ray_executor import RayExecutor

PAUSES = (0.0, 5.0)  # seconds between workers and the first task: a picture is taken in meanwhile

_STEPS = """
import json, sys, time
began, seconds = time.perf_counter(), {}
def lap(name):
    global began
    now = time.perf_counter()
    seconds[name], began = now - began, now
import numpy
lap("numpy")
import torch
lap("torch")
import msbd_dist.batch.worker
lap("msbd_dist, zarr")
import diffusers, transformers
import msbd_dist.models.latent
lap("diffusers, transformers")
from msbd_dist.core.spec import ModelSpec
from msbd_dist.models.bundle import load
from msbd_dist.models.card import resolve
models = load(resolve(ModelSpec(**json.loads(sys.argv[1]))))
parts = models.latent.parts
for part in ("vae", "unet", "text_encoder", "tokenizer", "scheduler"):
    getattr(parts, part)
lap("weights of the latent model")
if models.card.sr:
    models.upscaler("realesrgan")
lap("upscaler, with spandrel")
models.scorer
lap("CLIP, with open_clip")
torch.set_num_threads(1)
side = models.card.family.native
z = models.latent.encode(torch.rand(1, 3, side, side))
level = models.latent.schedule(50)[25].start
models.latent.denoiser(models.latent.text("a red star"), guidance=2.0)(z, level)
models.latent.decode(z)
lap("first calls")
print(json.dumps(seconds))
"""


@dataclass(frozen=True)
class Unprepared:
    """Makes the same worker, and does nothing before its first task."""

    spec: WorkerSpec

    def __call__(self) -> Worker:
        return self.spec()


def measure(folder: Path, models: ModelSpec, *, rounds: int = 3) -> dict[str, Any]:
    """Seconds of each step, each time in a fresh process; and of a first task, by pause."""
    given = json.dumps(vars(models))
    laps = [_laps(given) for _ in range(rounds)]
    prepared = prepare(folder, models)
    return {
        "rounds": rounds,
        "steps": {name: spread([lap[name] for lap in laps]) for name in laps[0]},
        "total": spread([sum(lap.values()) for lap in laps]),
        "first_task": {f"{pause:g}": _waits(prepared, pause, rounds) for pause in PAUSES},
    }


def _laps(models: str) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", "-c", _STEPS, models]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _waits(prepared: Prepared, pause: float, rounds: int) -> dict[str, dict[str, float]]:
    makers: dict[str, Callable[[], Worker]] = {
        "at its first task": Unprepared(prepared.spec),
        "before": prepared.spec,
    }
    ways = {name: partial(first_task, prepared, maker, pause) for name, maker in makers.items()}
    return {name: spread(seconds) for name, seconds in in_turns(ways, rounds).items()}


def first_task(prepared: Prepared, make_worker: Callable[[], Worker], pause: float) -> float:
    """Seconds from when a task is there, ``pause`` after its worker was asked for, to its end."""
    epoch = time.time_ns()  # no attempt has the name of an earlier one
    with closing(RayExecutor(make_worker, num_workers=1, use_gpus=False, epoch=epoch)) as pool:
        time.sleep(pause)
        began = time.perf_counter()
        pool.submit(prepared.order([0]))
        outcome = pool.wait()
        seconds = time.perf_counter() - began
    if outcome is None or outcome.error:
        raise RuntimeError(f"the task failed: {outcome}")
    return seconds
