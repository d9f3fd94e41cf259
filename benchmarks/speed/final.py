"""The final stage: segments a second, what is not model, batches, and a plain diffusers loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.clock import Clock
from benchmarks.speed.edit import Prepared, prepare
from benchmarks.speed.plain import PIPELINES, plain
from benchmarks.speed.timing import in_turns, ratio, spread
from msbd_dist.batch.worker import Scene, TaskWorker
from msbd_dist.canvas.ledger import Facts
from msbd_dist.core.plan import Task
from msbd_dist.core.spec import ModelSpec
from msbd_dist.core.threads import intra_op_threads

BATCHES = (1, 2, 4, 8)
COMPARED = 4  # segments that are given to both, ours and the plain loop


class Together(TaskWorker):
    """Gives a task's segments to the models as one batch, also on a CPU."""

    def _in_parts(self, scene: Scene, task: Task, parts: int) -> Facts:
        return self._soundly(scene, task.kind, task.slots)


def measure(folder: Path, models: ModelSpec) -> dict[str, Any]:
    """All numbers of the final stage; seconds are those of one segment."""
    return measured(prepare(folder, models))


def measured(prepared: Prepared, *, rounds: int = 5) -> dict[str, Any]:
    """Of an edit that is done up to there."""
    spec = prepared.spec
    worker = TaskWorker(spec.run, spec.models, spec.threads)
    clock = Clock(worker._models, prepared.plan.method.upscaler)
    prepared.run(worker, [0])  # loads what is needed
    stage = prepared.stage
    return {
        "models": worker._models.card.name,
        "device": f"{worker._models.device} ({worker._models.reason})",
        "dtype": str(worker._models.dtype).removeprefix("torch."),
        "threads": prepared.spec.threads,
        "segment_px": stage.grid.segment.height,
        "segments": len(stage.segments),
        "denoiser_calls": stage.num_calls,
        "guidance": prepared.plan.method.segment_guidance,
        "segment_batch": prepared.plan.method.segment_batch,
        "rounds": rounds,
        "batches": sweep(prepared, worker, clock, rounds),
        "against_plain": against_plain(prepared, worker, clock, rounds),
    }


# -- what is not model, by batch -------------------------------------------------------------------


def sweep(
    prepared: Prepared, worker: TaskWorker, clock: Clock, rounds: int
) -> dict[str, dict[str, Any]]:
    """By ways and batch sizes: seconds, the share outside model calls, seconds in each model."""
    spec = prepared.spec
    together = Together(spec.run, spec.models, spec.threads)
    together._models = worker._models
    cpu = worker._models.device.type == "cpu"
    ways = {"one by one": worker, "together": together} if cpu else {"together": worker}
    found: dict[str, dict[str, Any]] = {}
    seen: dict[tuple[str, int], list[dict[str, float]]] = {}

    def task(way: str, size: int) -> float:
        clock.forget()
        seconds = prepared.run(ways[way], range(size))
        models = clock.seconds
        outside = 1 - sum(models.values()) / seconds
        per_segment = {name: value / size for name, value in models.items()}
        seen.setdefault((way, size), []).append({"outside": outside, **per_segment})
        return seconds / size

    sizes = [size for size in BATCHES if size <= len(prepared.stage.segments)]
    calls = {(way, size): partial(task, way, size) for way in ways for size in sizes}
    timed = in_turns({f"{way}/{size}": call for (way, size), call in calls.items()}, rounds)
    for (way, size), rows in seen.items():
        names = sorted({name for row in rows for name in row})
        parts = {name: spread([row.get(name, 0.0) for row in rows]) for name in names}
        seconds = spread(timed[f"{way}/{size}"])
        found.setdefault(way, {})[str(size)] = {
            "seconds": seconds,
            "outside": parts.pop("outside"),
            "models": {name: part["median"] for name, part in parts.items()},
        }
    return found


# -- against a plain loop --------------------------------------------------------------------------


def against_plain(
    prepared: Prepared, worker: TaskWorker, clock: Clock, rounds: int
) -> dict[str, Any]:
    """Ours from stored stage to stored segments, and the pipelines from tensors to tensors.

    The pipelines are given pictures that are enlarged already, so ours is compared without the time
    that enlarging took (``same_work``); and with it, where the same time is added to theirs
    (``whole``). They run in the dtype of our UNet, and free to sum in any order.
    """
    segments = inputs(prepared, worker)
    enlarging: list[float] = []

    def ours() -> float:
        clock.forget()
        per_task = prepared.plan.method.segment_batch
        slots = range(COMPARED)
        groups = [slots[i : i + per_task] for i in range(0, COMPARED, per_task)]
        seconds = sum(prepared.run(worker, group) for group in groups)
        enlarging.append(clock.seconds["enlarge"] / COMPARED)
        return seconds / COMPARED

    latent, dtype = worker._models.latent, worker._models.dtype
    loops = {
        kind: partial(_timed, plain(kind, latent, prepared, dtype), segments) for kind in PIPELINES
    }
    for loop in loops.values():
        loop()  # once before it counts
    seconds = in_turns({"ours": ours, **loops}, rounds)
    same = [whole - part for whole, part in zip(seconds["ours"], enlarging, strict=True)]
    return {
        "ours": spread(seconds["ours"]),
        "enlarging": spread(enlarging),
        "without_enlarging": spread(same),
        **{
            kind: {
                "seconds": spread(seconds[kind]),
                "same_work": ratio(seconds[kind], same),
                "whole": ratio(
                    [a + b for a, b in zip(seconds[kind], enlarging, strict=True)],
                    seconds["ours"],
                ),
            }
            for kind in loops
        },
    }


def _timed(loop: Callable[..., list[Tensor]], segments: Sequence[Any]) -> float:
    fixed = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        with intra_op_threads(1):
            began = time.perf_counter()
            loop(segments)
            return (time.perf_counter() - began) / len(segments)
    finally:
        torch.use_deterministic_algorithms(fixed)


def inputs(prepared: Prepared, worker: TaskWorker) -> list[tuple[Tensor, Tensor]]:
    """What the worker denoises: enlarged pictures, and their masks."""
    with prepared.scene(worker, range(COMPARED)) as scene, intra_op_threads(1):
        given = [scene.given(slot) for slot in range(COMPARED)]
        starts = worker._starts(scene, given)
    return [
        (torch.from_numpy(start)[None].clamp(0, 1), torch.from_numpy(one.mask)[None, None].float())
        for one, start in zip(given, starts, strict=True)
    ]
