"""A mask of 300 megapixels over a picture of a gigapixel: planned, run by a stand-in for the model,
interrupted in the middle and continued.

    python -m benchmarks.large_mask [--side 32768] [--megapixels 300] [--workers 2] [-o FILE]

The stand-in has the model's interface and Stable Diffusion's sizes: its latents are the pixels
themselves, its denoiser leaves them as they are, so that what comes out is the picture with the
noise that belongs to each place. Everything else is real: plan, masks, enlarging, noise, canvas,
ledger, composing, export. Printed: the highest memory of driver and workers, seconds, bytes stored,
how far the composed canvas is from each of the segments it is made of (overlapping segments agree
only if noise, low-pass and masks do), and how many pixels of the result were compared with the
source.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gigapixel import make_source
from benchmarks.machine import describe_machine
from msbd_dist.batch import steps
from msbd_dist.batch.ahead import Ahead
from msbd_dist.batch.board import Board, Silent
from msbd_dist.batch.hire import WorkerSpec
from msbd_dist.batch.journal import Journal
from msbd_dist.batch.record import THREADS, peak_memory_mb
from msbd_dist.batch.run import Drive, Limits, Stop, again
from msbd_dist.batch.worker import TaskWorker
from msbd_dist.canvas.files import Files, open_files
from msbd_dist.canvas.lease import Lease
from msbd_dist.canvas.ledger import Facts
from msbd_dist.core.levels import Level, Step, ddpm
from msbd_dist.core.plan import Task
from msbd_dist.core.spec import Drawn, EditSpec, Family, Method, ModelSpec
from msbd_dist.fleet.ray_executor import RayExecutor
from msbd_dist.models.bundle import load
from msbd_dist.models.card import resolve

FACTOR = 8
FAMILY = Family(native=512, segment=768, overlap=128, latent_channels=3 * FACTOR**2)


class Pixels:
    """A latent model whose latents are the pixels."""

    alphas_cumprod = torch.linspace(0.999, 0.01, 1000, dtype=torch.float64)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pixel_unshuffle(x * 2 - 1, FACTOR)

    def decode(self, z: torch.Tensor, params: Mapping[str, torch.Tensor] | None = None) -> Any:
        return torch.nn.functional.pixel_shuffle(z, FACTOR) / 2 + 0.5

    def schedule(self, steps: int, *, num_calls: int | None = None) -> tuple[Step, ...]:
        return ddpm(self.alphas_cumprod, steps, num_calls=num_calls)

    def text(self, prompt: str, negative_prompt: str = "") -> None:
        return None

    def denoiser(self, cond: None, *, guidance: float) -> Any:
        def denoise(z: torch.Tensor, level: Level) -> torch.Tensor:
            return z / level.alpha

        return denoise


@dataclass(frozen=True)
class StandIn:
    """Makes workers with that model."""

    spec: WorkerSpec

    def __call__(self) -> TaskWorker:
        worker = TaskWorker(self.spec.run, self.spec.models, self.spec.threads)
        models = load(replace(resolve(self.spec.models), family=FAMILY), device="cpu")
        vars(models)["latent"] = Pixels()
        worker._models = models
        return worker


class Interrupted(Board):
    """Asks a run to stop when so many tasks are done."""

    def __init__(self, out: Files, stop: Stop, after: int | None) -> None:
        super().__init__(out, Silent(), 1)
        self._stop, self._left = stop, after
        self.done: list[str] = []

    def advance(self, edit: str, task: Task, cost: float, facts: Facts) -> None:
        super().advance(edit, task, cost, facts)
        self.done.append(task.name)
        if self._left is not None and len(self.done) == self._left:
            self._stop.ask("in the middle", 1)


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        numbers = measure(Path(name), options.side, options.megapixels * 1e6, options.workers)
    text = json.dumps({**numbers, "machine": describe_machine()}, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=32768, help="pixels of the picture's side")
    parser.add_argument("--megapixels", type=float, default=300, help="of the mask, a disc")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where there is room for 15 GB")
    parser.add_argument("-o", "--output", type=Path)
    return parser.parse_args()


def measure(folder: Path, side: int, pixels: float, workers: int) -> dict[str, Any]:
    make_source(folder, "tiff", side)
    radius, middle = math.sqrt(pixels / math.pi), side / 2
    angles = [2 * math.pi * n / 720 for n in range(720)]
    disc = tuple((middle + radius * math.cos(a), middle + radius * math.sin(a)) for a in angles)
    method = Method(
        samples=1, steps=2, repaint=0, eta=0.0, upscale_steps=4, decoder_optimization=False,
        margin=1.0, upscaler="bicubic",
    )  # fmt: skip
    spec = EditSpec(
        id="disc", image=str(folder / "source.tif"), mask=Drawn(polygons=((disc,),)),
        prompt="", seed=1, output=str(folder / "out.tif"), method=method,
    )  # fmt: skip
    card = replace(resolve(ModelSpec()), family=FAMILY)
    models = steps.Models(ModelSpec(), card, {})
    out = open_files(folder / "run")
    began = time.perf_counter()
    edit = steps.prepare(spec, out / spec.id, models)
    planned = time.perf_counter() - began
    plan = edit.record.plan
    tasks = [task.name for task in plan.tasks(spec.id)]
    peak: dict[str, int] = {}
    done: list[str] = []
    for after in (len(tasks) // 2, None):
        stop = Stop(grace=60)
        board = Interrupted(out, stop, after)
        worker = StandIn(WorkerSpec(out.url, ModelSpec(), THREADS))
        with closing(Lease.take(out)) as lease, closing(
            RayExecutor(worker, num_workers=workers, use_gpus=False, epoch=lease.epoch)
        ) as pool:  # fmt: skip
            board.begin(workers)
            ahead = Ahead([spec], lambda _: edit)
            drive = Drive(ahead, pool, lease, board, Journal(out), stop, Limits())
            results = list(drive.results())
        done += board.done
        for who, memory in drive.peak.items():
            peak[who] = max(peak.get(who, 0), memory)
    (result,) = results
    if result.error:
        raise result.error
    facts = again(edit).ledger["export"]
    numbers = {
        "picture": f"{side}x{side}",
        "mask_megapixels": round(pixels / 1e6),
        "stages": [f"{s.size} {s.kind}, {len(s.segments)} segments" for s in plan.stages],
        "seconds_to_plan": round(planned, 1),
        "seconds": round(time.perf_counter() - began),
        "tasks": len(tasks),
        "tasks_run": len(done),
        "driver_peak_mb": peak_memory_mb(),
        "worker_peak_mb": peak["worker"],
        "stored_mb": sum(p.stat().st_size for p in (folder / "run").rglob("*") if p.is_file())
        >> 20,
        "largest_difference_of_canvas_and_segments": furthest(again(edit)),
        "pixels_compared": facts["compared"],
        "changed_samples": facts["changed_samples"],
    }
    shutil.rmtree(folder / "run")
    return numbers


def furthest(edit: steps.Edit, count: int = 40) -> float:
    """How far the final canvas is from segments that overlap in it, in [0, 1]."""
    stage = edit.record.plan.final
    canvas = edit.canvas(stage)
    slots = np.random.default_rng(0).choice(len(stage.segments), count)
    most = 0.0
    for slot in slots.tolist():
        box = stage.window(slot).intersection(type(stage.region).of(stage.size))
        assert box is not None
        segment = canvas.segment(stage, slot)[:, : box.height, : box.width]
        mask = canvas.mask(box.shifted(stage.region.y0, stage.region.x0))
        inner = mask[8:-8, 8:-8]  # an encoder cell at the mask's edge is half background
        differ = np.abs(canvas.composed(stage, box) - segment)[:, 8:-8, 8:-8]
        most = max(most, float((differ * inner).max()))
    return round(most, 6)


if __name__ == "__main__":
    main()
