"""Previews of stages of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from msbd_dist.batch.report import PREVIEW, stage_preview
from msbd_dist.canvas.files import open_files
from msbd_dist.canvas.store import Canvas, Version, canvas_group
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
    group = canvas_group(open_files(tmp_path))
    versions = {"ingest": Version("1.0"), f"{plan.final.index}-compose": Version("1.0")}
    canvas = Canvas(group, plan, np.dtype(np.uint8), versions, attempt="1.0")
    source = plan.source_box
    canvas.write_source(source, np.zeros((3, *source.size.shape), np.uint8))
    canvas.write_mask(source, np.ones(source.size.shape, bool))
    row, column, box = plan.final.grid.chunk(plan.written_chunks(plan.final)[0])
    canvas.write_composed(plan.final, row, column, np.zeros((3, *box.size.shape), np.float32))
    assert stage_preview(canvas, plan.final).shape[-1] == PREVIEW
