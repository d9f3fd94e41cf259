"""Noise is a function of the place, not of who asks."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from msbd_dist.core.geometry import Box
from msbd_dist.core.noise import NoiseField

BIG = Box(-70, -10, 150, 200)


@given(st.integers(-70, 140), st.integers(-10, 190), st.integers(1, 80), st.integers(1, 80))
def test_any_box_sees_the_same_values(y0: int, x0: int, height: int, width: int) -> None:
    field = NoiseField(seed=3, stage=2)
    box = Box(y0, x0, min(y0 + height, BIG.y1), min(x0 + width, BIG.x1))
    part = box.relative_to(BIG).slices
    assert torch.equal(field.box(("step", 1), box), field.box(("step", 1), BIG)[:, *part])


def test_seed_stage_sample_and_draw_each_change_it() -> None:
    box = Box(0, 0, 16, 16)
    fields = [NoiseField(1, 0), NoiseField(2, 0), NoiseField(1, 1), NoiseField(1, 0, sample=1)]
    draws = [f.box(("start",), box) for f in fields] + [fields[0].box(("start", 1), box)]
    for i, a in enumerate(draws):
        for b in draws[i + 1 :]:
            assert abs(float(np.corrcoef(a.ravel(), b.ravel())[0, 1])) < 0.15


def test_it_is_unit_gaussian_and_white_across_blocks() -> None:
    values = NoiseField(7, 1).box(("x",), Box(0, 0, 512, 512)).numpy()
    assert abs(values.mean()) < 5e-3
    assert abs(values.std() - 1) < 5e-3
    left, right = values[:, :, 63::64][:, :, :-1], values[:, :, 64::64]
    assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < 0.05


def test_the_global_generators_are_neither_read_nor_moved() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = NoiseField(5, 0).box(("a",), Box(0, 0, 8, 8))
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(first, NoiseField(5, 0).box(("a",), Box(0, 0, 8, 8)))
