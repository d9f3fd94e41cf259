"""Peak memory of each kind of task at the size of Stable Diffusion 1.4, each in a fresh process."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.full_size import MB, write_folder
from benchmarks.speed.edit import draw_edit
from msbd_dist.batch import run
from msbd_dist.batch.hire import WorkerSpec
from msbd_dist.batch.manifest import read_manifest
from msbd_dist.batch.record import Launch, Order, peak_memory_mb
from msbd_dist.core.spec import ModelSpec
from msbd_dist.fleet.executor import Beat, Executor, Facts, SerialExecutor
from msbd_dist.fleet.retry import Attempt
from msbd_dist.models.card import resolve

SHORT = {
    "steps": 1, "repaint": 0, "samples": 1, "upscale_steps": 1, "decoder_steps": 1,
    "upscaler": "bicubic",
}  # fmt: skip
ENLARGED = 224  # pixels: a segment of 768 in the stage before, which is a quarter of it, with halo


def measure(folder: Path, models: ModelSpec) -> dict[str, Any]:
    """Of an edit with one pass of everything, and of one enlargement."""
    fresh(write_folder, folder / "sd")
    threads = os.cpu_count() or 1
    rows = task_peaks(folder, ModelSpec(family=str(folder / "sd"), device=models.device), threads)
    upscaler = fresh(enlarge, folder / "x4.safetensors", models.device)
    return {"threads": threads, "tasks": rows, "enlarge": {"px": ENLARGED, **upscaler}}


def fresh(call: Callable[..., Any], *args: Any) -> Any:
    """What a call returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(call, *args).result()


# -- tasks -----------------------------------------------------------------------------------------


def task_peaks(folder: Path, models: ModelSpec, threads: int) -> list[dict[str, Any]]:
    """A row for each task of an edit whose last stage is one segment, in order."""
    manifest = draw_edit(folder, resolve(models).family.segment, models, SHORT)
    rows: list[dict[str, Any]] = []

    def executor(launch: Launch, spec: WorkerSpec, *, epoch: int) -> Executor:
        return SerialExecutor(lambda: Fresh(replace(spec, threads=threads), rows), epoch=epoch)

    with patch.object(run, "make_executor", executor):
        result = run.run_manifest(read_manifest(manifest), folder / "run")
    if result.exit_code:
        raise RuntimeError(f"the edit failed: {result.edits[0].error}")
    return rows


@dataclass
class Fresh:
    """A worker each of whose tasks is done by another one, in a fresh process."""

    spec: WorkerSpec
    rows: list[dict[str, Any]] = field(default_factory=list)

    def run(self, order: Order, attempt: Attempt, *, beat: Beat, team: Any = None) -> Facts:
        facts, device_mb = fresh(run_task, self.spec, order, attempt)
        row = {name: facts[name] for name in ("peak_mb", "seconds")}
        task = order.task
        self.rows.append({"stage": task.stage, "kind": task.kind, **row, "device_mb": device_mb})
        return dict(facts)


def run_task(spec: WorkerSpec, order: Order, attempt: Attempt) -> tuple[Facts, int | None]:
    """Facts of a task, and what torch had allocated on CUDA at most."""
    return spec().run(order, attempt, beat=lambda: None), device_mb()


def device_mb() -> int | None:
    return torch.cuda.max_memory_allocated() // MB if torch.cuda.is_initialized() else None


# -- enlarging -------------------------------------------------------------------------------------


def enlarge(file: Path, device: str) -> dict[str, Any]:
    """One picture by a network of Real-ESRGAN's published size, its weights random."""
    from safetensors.torch import save_file
    from spandrel.architectures.ESRGAN import ESRGAN

    from msbd_dist.models.bundle import choose_device
    from msbd_dist.models.upscale import load_upscaler

    torch.manual_seed(0)
    save_file(ESRGAN(num_blocks=23, num_filters=64, scale=4).state_dict(), file)
    chosen = choose_device(device)
    upscaler = load_upscaler("realesrgan", file, factor=4, device=chosen.device, dtype=chosen.dtype)
    upscaler(torch.rand(1, 3, ENLARGED, ENLARGED)).cpu()
    return {"peak_mb": peak_memory_mb(), "device_mb": device_mb()}
