"""Whole edits of the bundled family on the card, and what they leave."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from PIL import Image, ImageDraw

from benchmarks.gpu.bench import Bench
from msbd_dist.batch import worker
from msbd_dist.batch.manifest import read_manifest
from msbd_dist.batch.run import run_manifest
from msbd_dist.core.geometry import Size
from msbd_dist.models.bundle import Choice, Models
from msbd_dist.models.card import Card
from msbd_dist.tiny.scenes import Background, Scene, render

NAME, PROMPT, SEED = "edit", "a red star", 5
SIZE = Size(520, 640)
METHOD = {"steps": 25, "repaint": 2, "samples": 4, "decoder_steps": 40}
DRY_SIZE = Size(200, 210)
DRY = {
    "steps": 3, "repaint": 0, "samples": 1, "upscale_steps": 5, "decoder_steps": 2,
    "upscaler": "bicubic",
}  # fmt: skip


@dataclass(frozen=True)
class Edited:
    """A finished edit."""

    image: np.ndarray  # (h, w, 3) uint8
    mask: np.ndarray  # (h, w) bool
    made: np.ndarray  # (h, w, 3) uint8
    digest: str  # of the output's file
    markers: list[dict[str, Any]]  # what was said of each task

    @property
    def exact(self) -> bool:
        """Outside the mask."""
        return bool(np.array_equal(self.image[~self.mask], self.made[~self.mask]))

    def psnr(self, other: Edited, *, inside: bool) -> float:
        """In dB, inside or outside the mask; infinite where all is equal."""
        where = self.mask if inside else ~self.mask
        error = (self.made[where].astype(float) - other.made[where]) ** 2
        return float(10 * np.log10(255**2 / error.mean())) if error.any() else float("inf")


def edited(bench: Bench, name: str, run: Path | None = None, **method: Any) -> Edited:
    """Make an edit, in a folder of its own or in ``run``. RuntimeError where it fails."""
    folder = run or bench.place(name)
    manifest = written(folder, bench, method)
    result = run_manifest(read_manifest(manifest), folder / "run", executor="serial")
    if result.exit_code:
        raise RuntimeError(f"the edit failed: {result.edits[0].error}")
    output = folder / "edited.png"
    ledgers = sorted((folder / "run" / NAME).glob("*/ledger/*.json"))
    return Edited(
        image=np.asarray(Image.open(folder / "image.png")),
        mask=np.asarray(Image.open(folder / "mask.png")) > 0,
        made=np.asarray(Image.open(output)),
        digest=hashlib.sha256(output.read_bytes()).hexdigest(),
        markers=[json.loads(file.read_text()) for file in ledgers],
    )


def written(folder: Path, bench: Bench, method: dict[str, Any]) -> Path:
    """A picture of sand, a mask in its middle, and the manifest."""
    size, settings = (DRY_SIZE, DRY) if bench.dry else (SIZE, METHOD)
    if not (folder / "image.png").exists():
        scene = Scene(size=size, background=Background("sand"), seed=3, unit=200.0)
        Image.fromarray(render(scene)).save(folder / "image.png")
        mask = Image.new("L", (size.width, size.height))
        box = (size.width // 5, size.height // 5, size.width * 4 // 5, size.height * 7 // 8)
        ImageDraw.Draw(mask).ellipse(box, fill=255)
        mask.save(folder / "mask.png")
    edit = {"id": NAME, "image": "image.png", "mask": "mask.png", "output": "edited.png"}
    words = {"prompt": PROMPT, "seed": SEED}
    manifest = folder / "manifest.yaml"
    manifest.write_text(yaml.safe_dump({"edits": [edit | words | settings | method]}))
    return manifest


@contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[None]:
    """Edits are made in this dtype, whatever the card is made for."""
    products = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32

    def load(card: Card, *, device: str = "auto") -> Models:
        return Models(card, Choice(torch.device("cuda"), dtype, products, f"in {dtype}"))

    with mock.patch.object(worker, "load", load):
        yield


@contextmanager
def models_are_kept() -> Iterator[None]:
    """Edits use the same models, so that only the first one loads them."""
    with mock.patch.object(worker, "load", lru_cache(worker.load)):
        yield
