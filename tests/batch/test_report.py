"""Previews of stages of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from msbd_dist.batch.report import PREVIEW, stage_preview
from msbd_dist.canvas.store import Canvas
from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.plan import make_plan
from msbd_dist.core.spec import Method, ModelSpec
from msbd_dist.models.card import resolve


@pytest.mark.parametrize("width", [1600, 1601, 1759])
def test_a_last_chunk_thinner_than_a_preview_pixel_is_no_trouble(
    width: int, tmp_path: Path
) -> None:
    bbox = Box(100, 100, 300, 100 + width)
    plan = make_plan(
        Size(400, 2000),
        bbox,
        lambda box: box.intersection(bbox) is not None,
        family=resolve(ModelSpec()).family,
        method=Method(margin=1.0),
    )
    assert plan.final.size.width == width
    canvas = Canvas.create(tmp_path / "canvas.zarr", plan, np.dtype(np.uint8))
    assert stage_preview(canvas, plan.final).shape[-1] == PREVIEW
