"""Small pictures, manifests and quick settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageDraw

from msbd_dist.batch.manifest import Manifest, read_manifest
from msbd_dist.core.geometry import Size
from msbd_dist.tiny.scenes import Background, Scene, render

# small enough for a test, and still every wave of every kind of stage
QUICK = {
    "steps": 3, "repaint": 1, "samples": 2, "upscale_steps": 10, "segment_start": 0.2,
    "decoder_steps": 2, "decoder_batch": "full",
}  # fmt: skip


# the same without the networks that cost most, for what does not need them
FAST = {**QUICK, "upscaler": "bicubic", "decoder_steps": 1}
FASTEST = {**FAST, "decoder_optimization": False, "samples": 1}
SMALL = Size(277, 331)


def draw_inputs(folder: Path, *, size: Size = SMALL, kind: str = "png") -> None:
    """A picture of sand with an off-centre, non-square mask: image.<kind> and mask.png."""
    scene = Scene(size=size, background=Background("sand"), seed=3, unit=200.0)
    Image.fromarray(render(scene)).save(folder / f"image.{kind}", quality=92)
    mask = Image.new("L", (size.width, size.height))
    box = (size.width // 5, size.height // 5, size.width * 4 // 5, size.height * 7 // 8)
    ImageDraw.Draw(mask).ellipse(box, fill=255)
    mask.save(folder / "mask.png")


def manifest_of(folder: Path, *edits: dict[str, Any], **top: Any) -> Manifest:
    """A manifest file with quick settings; an edit needs only what differs."""
    base = {"image": "image.png", "mask": "mask.png", "prompt": "a red star", "seed": 5}
    rows = [{"id": f"e{i}", **edit} for i, edit in enumerate(edits or ({},))]
    path = folder / "manifest.yaml"
    path.write_text(yaml.safe_dump({"defaults": {**QUICK, **base}, "edits": rows, **top}))
    return read_manifest(path, anywhere=True)


def pixels(path: Path | str) -> np.ndarray:
    """A picture as another library sees it."""
    return np.asarray(Image.open(path))
