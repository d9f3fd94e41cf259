"""Schedules, the DDIM step, the blended loop (checks C3, C4, C8)."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler
from hypothesis import given
from hypothesis import strategies as st

from msbd_dist.core.noise import Draw
from msbd_dist.core.plan import started
from msbd_dist.core.sampling import (
    Spacing,
    Step,
    blended_diffusion,
    ddim_step,
    forward_jump,
    schedule,
    timesteps,
)
from msbd_dist.core.timesteps import STABLE_DIFFUSION

# Stable Diffusion's own betas: linear in their square roots
ALPHAS = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000).double() ** 2, 0)


class Draws:
    """Noise by name, and a record of the names."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.names = shape, list[Draw]()

    def __call__(self, draw: Draw) -> torch.Tensor:
        self.names.append(draw)
        generator = torch.Generator().manual_seed(hash(draw) % 2**31)
        return torch.randn(self.shape, generator=generator)


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
    steps = schedule(ALPHAS, 100, num_calls=started(100, start))
    assert len(steps) == calls
    assert steps[0].t == t
    assert steps[-1].a_prev == float(ALPHAS[0])  # Stable Diffusion's own last level


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


@pytest.mark.parametrize("to_clean", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 4])  # of 3, diffusers' levels are one off its timesteps
@pytest.mark.parametrize("kind", ["leading", "trailing"])
def test_a_few_steps_end_where_those_of_diffusers_end(
    kind: Any, steps: int, to_clean: bool
) -> None:
    scheduler = theirs(timestep_spacing=kind, steps_offset=1, set_alpha_to_one=to_clean)
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(4)
    z = x = torch.randn(1, 4, 8, 8, generator=generator)
    for step in schedule(ALPHAS, steps, spacing=Spacing(kind, to_clean=to_clean)):
        eps, noise = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
        x0 = (z - sqrt(1 - step.a) * eps) / sqrt(step.a)
        z = ddim_step(z, x0, step, eta=1.0, noise=noise)
        x = scheduler.step(eps, step.t, x, eta=1.0, variance_noise=noise).prev_sample
    torch.testing.assert_close(z, x, atol=1e-3, rtol=1e-4)


def test_fifty_steps_are_stable_diffusions() -> None:
    assert timesteps(50)[:2] + timesteps(50)[-2:] == (981, 961, 21, 1)


@pytest.mark.parametrize(("t", "root"), [(981, 0.0760), (391, 0.6626), (241, 0.8298)])
def test_signal_levels_of_stable_diffusion(t: int, root: float) -> None:
    level = {step.t: step.a for step in schedule(ALPHAS, 100)} | {
        step.t: step.a for step in schedule(ALPHAS, 50)
    }
    assert sqrt(level[t]) == pytest.approx(root, abs=5e-5)


def test_tiny_start_still_runs_one_step() -> None:
    assert started(100, 0.001) == 1


def run_counted(steps: int, repaint: int) -> tuple[int, list[Draw]]:
    shape = (1, 4, 4, 4)
    calls, draws = 0, Draws(shape)

    def denoiser(z: torch.Tensor, t: int) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return torch.zeros(shape)

    mask = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    blended_diffusion(
        denoiser, torch.zeros(shape), mask, schedule(ALPHAS, steps), draws, repaint=repaint
    )
    return calls, draws.names


def test_fifty_steps_with_five_repaints_are_300_calls_and_250_renoisings() -> None:
    calls, names = run_counted(50, 5)
    assert calls == 300
    assert sum(name[0] == "renoise" for name in names) == 250
    assert sum(name[0] == "background" for name in names) == 50
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("to_clean", [True, False])
def test_the_background_has_the_noise_that_the_model_is_told_in_every_call(to_clean: bool) -> None:
    shape = (1, 4, 32, 32)
    found, spacing = [], replace(STABLE_DIFFUSION, to_clean=to_clean)

    def denoiser(z: torch.Tensor, t: int) -> torch.Tensor:
        found.append(float(z.std()) / sqrt(1 - float(ALPHAS[t])))
        return torch.zeros(shape)

    blended_diffusion(
        denoiser,
        torch.zeros(shape),
        torch.zeros(1, 1, 32, 32, dtype=torch.bool),
        schedule(ALPHAS, 5, spacing=spacing),
        Draws(shape),
        repaint=3,
    )
    assert len(found) == 20
    assert found == pytest.approx([1] * 20, abs=0.05)


@pytest.mark.parametrize("repaint", [0, 3])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("to_clean", [True, False])
def test_with_an_oracle_the_latent_outside_the_mask_is_z0_exactly(
    repaint: int, eta: float, to_clean: bool
) -> None:
    shape = (2, 4, 8, 8)
    z0 = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    mask[:, :, 2:5, 3:7] = True
    z = blended_diffusion(
        lambda z, t: z0,
        z0,
        mask,
        schedule(ALPHAS, 20, spacing=Spacing(to_clean=to_clean)),
        Draws(shape),
        eta=eta,
        repaint=repaint,
    )
    outside = ~mask.expand(shape)
    assert torch.equal(z[outside], z0[outside])
    if to_clean:
        torch.testing.assert_close(z, z0, atol=1e-4, rtol=0)
    else:  # inside, the noise of the first training step is left
        assert float((z - z0)[~outside].std()) == pytest.approx(sqrt(1 - float(ALPHAS[0])), rel=0.3)


def test_the_background_is_held_at_the_level_that_the_step_ends_on() -> None:
    """What the denoiser sees outside the mask is q(z_t | z0) at its own t, not one level off."""
    shape = (1, 1, 64, 64)
    z0 = torch.full(shape, 3.0)
    seen: list[tuple[int, torch.Tensor]] = []

    def denoiser(z: torch.Tensor, t: int) -> torch.Tensor:
        seen.append((t, z))
        return z0

    mask = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    blended_diffusion(denoiser, z0, mask, schedule(ALPHAS, 10), Draws(shape))
    for t, z in seen:
        a = float(ALPHAS[t])
        assert float(z.mean()) == pytest.approx(3.0 * sqrt(a), abs=0.06)
        assert float(z.std()) == pytest.approx(sqrt(1 - a), rel=0.08)


def test_renoising_returns_to_the_marginal_of_the_noisier_level() -> None:
    step = Step(t=500, a=0.3, a_prev=0.5)
    noise = torch.randn(1, 1, 200, 200, generator=torch.Generator().manual_seed(0))
    z_prev = sqrt(0.5) * 2.0 + sqrt(0.5) * torch.randn(
        1, 1, 200, 200, generator=torch.Generator().manual_seed(1)
    )
    z = forward_jump(z_prev, step, noise)
    assert float(z.mean()) == pytest.approx(sqrt(0.3) * 2.0, abs=0.02)
    assert float(z.std()) == pytest.approx(sqrt(0.7), abs=0.01)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_ddim_step_is_that_of_diffusers(eta: float) -> None:
    scheduler = theirs(set_alpha_to_one=True, steps_offset=1)
    scheduler.set_timesteps(50)
    generator = torch.Generator().manual_seed(4)
    z, eps, noise = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(3))
    steps = schedule(ALPHAS, 50, spacing=Spacing(to_clean=True))
    for step in (steps[7], steps[-1]):
        wanted = scheduler.step(eps, step.t, z, eta=eta, variance_noise=noise).prev_sample
        x0 = (z - sqrt(1 - step.a) * eps) / sqrt(step.a)
        ours = ddim_step(z, x0, step, eta=eta, noise=noise if step.a_prev < 1 else None)
        torch.testing.assert_close(ours, wanted, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [0, 1001])
def test_impossible_step_counts_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match="steps"):
        timesteps(steps)
