"""Previews of stages of any size."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from msbd_dist.batch.report import CELL, PREVIEW, fitted, stage_preview
from msbd_dist.canvas.files import open_files
from msbd_dist.canvas.images import from_float
from msbd_dist.canvas.ledger import Version
from msbd_dist.canvas.store import Canvas, canvas_group
from msbd_dist.core.compose import Floats, resample
from msbd_dist.core.geometry import Box, Rect, Size
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


def test_a_cell_of_a_small_picture_is_resampled_at_once() -> None:
    rng = np.random.default_rng(0)
    picture, box = rng.random((3, 900, 1500), np.float32), Box(20, 30, 850, 1460)
    cell = np.asarray(fitted(lambda part: picture[(slice(None), *part.slices)], box))
    size = Size(round(830 * CELL / 1430), CELL)
    inside = picture[(slice(None), *box.slices)]
    wanted = resample(inside, Rect(0, 0, 830, 1430), size, "bicubic")
    np.testing.assert_array_equal(cell, from_float(wanted, np.uint8).transpose(1, 2, 0))


def test_a_cell_of_a_huge_picture_takes_little_memory() -> None:
    box = Box(0, 1000, 9001, 13000)

    def read(part: Box) -> Floats:
        assert box.contains(part)
        return np.full((3, *part.size.shape), 0.5, np.float32)

    tracemalloc.start()
    cell = np.asarray(fitted(read, box))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (cell == 128).all()
    assert cell.shape == (270, CELL, 3)
    assert peak < 120e6
