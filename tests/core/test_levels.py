"""Levels of noise: schedules of diffusion models as diffusers has them, of flow models in closed
form."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler
from hypothesis import given
from hypothesis import strategies as st

from msbd_dist.core.levels import CLEAN, ddpm, flow, flow_level, shifted
from msbd_dist.core.plan import started
from msbd_dist.core.timesteps import Spacing, timesteps

# Stable Diffusion's own betas: linear in their square roots
ALPHAS = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000).double() ** 2, 0)


@given(st.integers(1, 1000))
def test_n_uniform_steps_are_exactly_n_distinct_ones(steps: int) -> None:
    ts = timesteps(steps)
    assert len(set(ts)) == len(ts) == steps
    assert list(ts) == sorted(ts, reverse=True)
    assert 0 <= ts[-1] <= ts[0] <= 999


@pytest.mark.parametrize(
    ("start", "calls", "t"), [(0.4, 40, 391), (0.25, 25, 241), (0.35, 35, 341)]
)
def test_entering_part_way(start: float, calls: int, t: int) -> None:
    steps = ddpm(ALPHAS, 100, num_calls=started(100, start))
    assert len(steps) == calls
    assert steps[0].start.t == t
    assert steps[-1].end.alpha_squared == float(ALPHAS[0])  # Stable Diffusion's own last level


def theirs(**config: object) -> DDIMScheduler:
    """diffusers' DDIM scheduler with Stable Diffusion's betas."""
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return DDIMScheduler(**betas, clip_sample=False, **config)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("kind", ["leading", "linspace", "trailing"])
def test_timesteps_are_those_of_diffusers(kind: Any, offset: int) -> None:
    scheduler, compared = theirs(timestep_spacing=kind, steps_offset=offset), 0
    for steps in range(1, 990):
        if kind == "leading" and steps > 4 and 1000 % steps:
            continue  # diffusers leaves out the noisy end
        scheduler.set_timesteps(steps)
        wanted = [t for t in scheduler.timesteps.tolist() if t >= 0]  # at 61 there is a -1 more
        assert list(timesteps(steps, 1000, Spacing(kind, offset))) == wanted
        compared += 1
    assert compared == (16 if kind == "leading" else 989)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 50])
def test_distilled_timesteps_are_those_of_lcm(steps: int) -> None:
    scheduler = LCMScheduler()
    scheduler.set_timesteps(steps)
    assert list(timesteps(steps, 1000, Spacing("distilled"))) == scheduler.timesteps.tolist()
    assert timesteps(100, 1000, Spacing("distilled")) == timesteps(100, 1000, Spacing("trailing"))


def test_fifty_steps_are_stable_diffusions() -> None:
    assert timesteps(50)[:2] + timesteps(50)[-2:] == (981, 961, 21, 1)


@pytest.mark.parametrize(("t", "root"), [(981, 0.0760), (391, 0.6626), (241, 0.8298)])
def test_signal_levels_of_stable_diffusion(t: int, root: float) -> None:
    levels = {step.start.t: step.start for step in (*ddpm(ALPHAS, 100), *ddpm(ALPHAS, 50))}
    assert levels[t].alpha == pytest.approx(root, abs=5e-5)


def test_tiny_start_still_runs_one_step() -> None:
    assert started(100, 0.001) == 1


@pytest.mark.parametrize("steps", [0, 1001])
def test_impossible_step_counts_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match="steps"):
        timesteps(steps)


@given(st.floats(0, 1))
def test_alpha_and_sigma_of_a_flow_model_are_exact_and_sum_to_one(sigma: float) -> None:
    level = flow_level(sigma)
    assert (level.alpha, level.t) == (1 - sigma, 1000 * sigma)
    assert level.sigma == pytest.approx(sigma, rel=1e-15, abs=1e-150)


def test_levels_of_a_diffusion_model_keep_the_variance() -> None:
    for step in ddpm(ALPHAS, 50):
        for level in (step.start, step.end):
            assert level.alpha**2 + level.sigma**2 == pytest.approx(1)
            assert level.alpha_squared == float(ALPHAS[int(level.t)])


@pytest.mark.parametrize("steps", [ddpm(ALPHAS, 9), flow(9), flow(9, shift=3)])
def test_each_step_begins_where_the_one_before_ends_and_is_cleaner(steps: Any) -> None:
    assert all(a.end == b.start for a, b in pairwise(steps))
    assert all(step.end.sigma < step.start.sigma for step in steps)
    assert all(step.end.alpha > step.start.alpha for step in steps)


def test_a_flow_models_steps_are_even_and_end_clean() -> None:
    steps = flow(4)
    assert [step.start.sigma for step in steps] == [1, 0.75, 0.5, 0.25]
    assert steps[-1].end == CLEAN
    assert flow(4, num_calls=2) == steps[2:]
    assert flow(4, num_calls=9) == steps


@given(st.floats(0.1, 20), st.floats(0, 1))
def test_a_shift_multiplies_the_ratio_of_noise_to_signal(shift: float, sigma: float) -> None:
    moved = shifted(sigma, shift)
    assert 0 <= moved <= 1
    assert moved * (1 - sigma) == pytest.approx(shift * sigma * (1 - moved), abs=1e-12)


def test_a_flow_of_no_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        flow(0)
