"""Small pictures, quick settings, and one finished edit that several tests look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from quick import QUICK, draw_inputs

from msbd_dist.batch.manifest import Manifest, read_manifest


def manifest_of(folder: Path, *edits: dict[str, Any], **top: Any) -> Manifest:
    """A manifest file with quick settings; an edit needs only what differs."""
    import yaml

    base = {"image": "image.png", "mask": "mask.png", "prompt": "a red star", "seed": 5}
    rows = [{"id": f"e{i}", **edit} for i, edit in enumerate(edits or ({},))]
    path = folder / "manifest.yaml"
    path.write_text(yaml.safe_dump({"defaults": {**QUICK, **base}, "edits": rows, **top}))
    return read_manifest(path)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    draw_inputs(tmp_path)
    return tmp_path


@pytest.fixture
def make_manifest(inputs: Path) -> Callable[..., Manifest]:
    def make(*edits: dict[str, Any], **top: Any) -> Manifest:
        return manifest_of(inputs, *edits, **top)

    return make


def pixels(path: Path | str) -> np.ndarray:
    """A picture as another library sees it."""
    return np.asarray(Image.open(path))
