"""An edit that is done up to its final stage, whose tasks can then be run again and again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image, ImageDraw

from msbd_dist.batch.beside import Beside
from msbd_dist.batch.hire import WorkerSpec
from msbd_dist.batch.manifest import read_manifest
from msbd_dist.batch.record import Order, load_edit, versions_of
from msbd_dist.batch.run import run_manifest
from msbd_dist.batch.worker import Scene, TaskWorker
from msbd_dist.canvas.files import Files, open_files
from msbd_dist.canvas.ledger import Ledger
from msbd_dist.core.geometry import Size
from msbd_dist.core.plan import Plan, Stage, Task, TaskKind
from msbd_dist.core.spec import ModelSpec
from msbd_dist.fleet.retry import Attempt
from msbd_dist.models.card import resolve
from msbd_dist.tiny import scenes

NAME, PROMPT = "edit", "a red star"
ACROSS = 3  # segments along each edge of the final stage


@dataclass
class Prepared:
    """A finished edit; what is measured is done again, beside what is there."""

    out: Files
    work: str
    plan: Plan
    spec: WorkerSpec
    _attempts: Any = field(default_factory=count)

    @property
    def stage(self) -> Stage:
        return self.plan.final

    def run(self, worker: TaskWorker, slots: Sequence[int], kind: TaskKind = "denoise") -> float:
        """Seconds of one task of the final stage, with all that a worker does for it."""
        order, attempt = self.order(slots, kind), Attempt(f"9.{next(self._attempts)}")
        _wait()
        began = time.perf_counter()
        worker.run(order, attempt, beat=lambda: None)
        _wait()
        return time.perf_counter() - began

    @contextmanager
    def scene(self, worker: TaskWorker, slots: Sequence[int]) -> Iterator[Scene]:
        """What the worker works with in such a task."""
        with Beside() as beside:
            yield worker._scene(self.order(slots), "9.look", lambda: None, beside)

    def order(self, slots: Sequence[int], kind: TaskKind = "denoise") -> Order:
        task = Task(NAME, self.stage.index, kind, tuple(slots))
        versions = versions_of(Ledger(self.out / self.work / "ledger"), self.plan, self.stage)
        return Order(task, self.work, versions)


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def prepare(
    folder: Path, models: ModelSpec, *, threads: int = 1, across: int = ACROSS, **method: Any
) -> Prepared:
    """An edit of a square picture, all of which is edited: nine segments in the final stage.

    Its first stage is short and its decoders are not tuned: neither is what is measured.
    """
    family = resolve(models).family
    short = {"steps": 2, "repaint": 0, "samples": 1, "decoder_optimization": False}
    side = across * family.stride + family.overlap
    manifest = draw_edit(folder, side, models, short | method)
    out = open_files(folder / "run")
    result = run_manifest(read_manifest(manifest), out.url, executor="serial")
    if result.exit_code:
        raise RuntimeError(f"the edit failed: {result.edits[0].error}")
    record = load_edit(out / NAME)
    spec = WorkerSpec(out.url, record.models, threads)
    return Prepared(out, f"{NAME}/{record.key}", record.plan, spec)


def draw_edit(folder: Path, side: int, models: ModelSpec, method: dict[str, Any]) -> Path:
    """A square picture, a mask of nearly all of it, and their manifest, which is returned."""
    sand = scenes.Background("sand")
    picture = scenes.Scene(size=Size(side, side), background=sand, seed=3, unit=200.0)
    Image.fromarray(scenes.render(picture)).save(folder / "image.png")
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).rectangle((8, 8, side - 9, side - 9), fill=255)
    mask.save(folder / "mask.png")
    edit = {"id": NAME, "image": "image.png", "mask": "mask.png", "prompt": PROMPT, "seed": 1}
    given = {k: v for k, v in vars(models).items() if v is not None}
    manifest = folder / "manifest.yaml"
    manifest.write_text(yaml.safe_dump({"models": given, "edits": [edit | method]}))
    return manifest
