"""Small pictures and manifests of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from quick import draw_inputs, manifest_of

from msbd_dist.batch.manifest import Manifest


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    draw_inputs(tmp_path)
    return tmp_path


@pytest.fixture
def make_manifest(inputs: Path) -> Callable[..., Manifest]:
    def make(*edits: dict[str, Any], **top: Any) -> Manifest:
        return manifest_of(inputs, *edits, **top)

    return make
