"""A finished edit: its case, which variant it is, and what its run directory holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as Pil

from benchmarks.claims.scenes import Case
from msbd_dist.batch.record import load_edit
from msbd_dist.batch.steps import Edit, ledger_of
from msbd_dist.canvas.files import open_files
from msbd_dist.canvas.images import Picture
from msbd_dist.core.compose import Floats
from msbd_dist.core.geometry import Box
from msbd_dist.core.plan import Stage
from msbd_dist.tiny.scenes import Image


@dataclass(frozen=True)
class Done:
    """One finished edit of a run."""

    case: Case
    variant: str
    id: str
    run: Path  # the run directory

    @property
    def picture(self) -> Image:
        """The finished picture: uint8 RGB (H, W, 3)."""
        return np.asarray(Pil.open(self.run / self.id / "output.png").convert("RGB"))

    def opened(self) -> Edit:
        """The edit with its record, ledger and stored pixels."""
        files = open_files(self.run / self.id)
        record = load_edit(files)
        picture = Picture.open(record.spec.source)
        return Edit(record, files, picture, ledger_of(files, record))

    def composed(self, index: int = -1) -> tuple[Stage, Floats]:
        """A stage as it was composed, before anything was pasted: (3, h, w) in [0, 1]."""
        edit = self.opened()
        stage = edit.record.plan.stages[index]
        return stage, edit.canvas(stage).composed(stage, Box.of(stage.size))

    def candidates(self) -> tuple[list[Floats], list[float]]:
        """The first stage's samples, each (3, h, w) in [0, 1], and their scores by CLIP."""
        edit = self.opened()
        canvas = edit.canvas(edit.record.plan.stages[0])
        scores = edit.ledger["0-denoise-0"]["scores"]
        return [canvas.candidate(sample) for sample in range(len(scores))], scores


def planes(picture: Image) -> Floats:
    """uint8 RGB (H, W, 3) -> (3, H, W) float32 in [0, 1]."""
    return np.moveaxis(picture, -1, 0).astype(np.float32) / np.float32(255)


def image(pixels: Floats) -> Image:
    """(3, H, W) in about [0, 1] -> uint8 RGB (H, W, 3), clamped and rounded."""
    levels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(levels, 0, -1))
