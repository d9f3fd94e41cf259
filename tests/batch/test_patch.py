"""What the driver pastes, part by part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from msbd_dist.batch import patch as patches
from msbd_dist.batch.worker import stage_mask
from msbd_dist.canvas.files import open_files
from msbd_dist.canvas.images import from_float, to_float
from msbd_dist.canvas.ledger import Version
from msbd_dist.canvas.masks import feather, scale_mask
from msbd_dist.canvas.store import Canvas, canvas_group
from msbd_dist.core.compose import Bools, Floats
from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.plan import Plan, make_plan
from msbd_dist.core.spec import Family, Method

IMAGE, BBOX = Size(420, 500), Box(0, 130, 310, 451)


def edited_canvas(folder: Path, *, pixels: int = 0) -> tuple[Plan, Canvas, Bools, Floats]:
    """A plan and its stored work: noise in a mask of noise, edited to other noise."""
    rng = np.random.default_rng(0)
    mask = np.zeros(IMAGE.shape, bool)
    mask[BBOX.slices] = rng.random(BBOX.size.shape) < 0.999
    plan = make_plan(
        IMAGE,
        BBOX,
        lambda box: bool(mask[box.slices].any()),
        family=Family(native=64, segment=128, overlap=32),
        method=Method(feather=pixels, margin=1.0),
    )
    versions = {"ingest": Version("1.0"), f"{plan.final.index}-compose": Version("1.0")}
    group = canvas_group(open_files(folder))
    canvas = Canvas(group, plan, np.dtype(np.uint8), versions, attempt="1.0")
    box = plan.source_box
    source = rng.integers(0, 256, (3, *IMAGE.shape), np.uint8)
    canvas.write_source(box, source[(slice(None), *box.slices)])
    canvas.write_mask(box, mask[box.slices])
    for row, column, chunk in plan.final.grid.chunks():
        edited = rng.random((3, *chunk.size.shape), np.float32)
        canvas.write_composed(plan.final, row, column, edited)
    return plan, canvas, mask, source


@pytest.mark.parametrize("pixels", [0, 7, 400])
@pytest.mark.parametrize("part", [Size(1024, 1024), Size(100, 77)])
def test_what_is_pasted_does_not_depend_on_its_parts(
    pixels: int, part: Size, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, canvas, mask, source = edited_canvas(tmp_path, pixels=pixels)
    whole, window = Box.of(IMAGE), (slice(None), *BBOX.slices)
    alpha = feather(lambda box: mask[box.slices], pixels, whole, bounds=whole)[BBOX.slices]
    edited = canvas.composed(plan.final, BBOX.relative_to(plan.final.region))
    mixed = from_float(alpha * edited + (1 - alpha) * to_float(source[window]), np.uint8)
    wanted = np.where(mask[BBOX.slices], mixed, source[window])
    monkeypatch.setattr(patches, "PART", part)
    patch = patches.Patch(canvas, np.dtype(np.uint8))
    np.testing.assert_array_equal(patch(BBOX), wanted)
    assert patch.changed == np.count_nonzero(wanted != source[window])


def test_a_stage_sees_the_mask_by_maximum(tmp_path: Path) -> None:
    plan, canvas, _, _ = edited_canvas(tmp_path)
    for stage in plan.stages:
        window = stage.window(0)
        rect = stage.image_rect(window)
        box = rect.outer()
        array = canvas.mask(box)
        wanted = scale_mask(
            lambda part, box=box, array=array: array[part.relative_to(box).slices],
            rect,
            window.size,
        )
        assert np.array_equal(stage_mask(canvas, stage, window), wanted)
        assert wanted.any()


def test_a_feather_may_reach_beyond_what_is_stored(tmp_path: Path) -> None:
    image, bbox = Size(3000, 3000), Box(1400, 1400, 1500, 1490)
    plan = make_plan(
        image,
        bbox,
        lambda box: box.intersection(bbox) is not None,
        family=Family(native=64, segment=128, overlap=32),
        method=Method(feather=800),
    )
    group, stored = canvas_group(open_files(tmp_path)), plan.source_box
    canvas = Canvas(group, plan, np.dtype(np.uint8), {"ingest": Version("1")}, attempt="1")
    mask = np.zeros(stored.size.shape, bool)
    mask[bbox.relative_to(stored).slices] = True
    canvas.write_mask(stored, mask)
    assert not stored.contains(bbox.grown(801))
    alpha = patches.alpha(canvas, plan, bbox)
    assert alpha.shape == bbox.size.shape
    assert alpha.max() == pytest.approx(45 / 800)
