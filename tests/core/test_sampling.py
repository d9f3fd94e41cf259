"""The DDIM step, the blended loop, inversion (checks C3, C4, C8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import sqrt
from typing import Any

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, FlowMatchEulerDiscreteScheduler

from msbd_dist.core.levels import Level, Step, ddpm, flow, flow_level
from msbd_dist.core.noise import Draw
from msbd_dist.core.sampling import blended_diffusion, ddim_step, invert, noised, renoised
from msbd_dist.core.timesteps import STABLE_DIFFUSION, Spacing

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


def theirs(**config: object) -> DDIMScheduler:
    """diffusers' DDIM scheduler with Stable Diffusion's betas."""
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return DDIMScheduler(**betas, clip_sample=False, **config)


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
    for step in ddpm(ALPHAS, steps, spacing=Spacing(kind, to_clean=to_clean)):
        eps, noise = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
        x0 = (z - step.start.sigma * eps) / step.start.alpha
        z = ddim_step(z, x0, step, eta=1.0, noise=noise)
        x = scheduler.step(eps, int(step.start.t), x, eta=1.0, variance_noise=noise).prev_sample
    torch.testing.assert_close(z, x, atol=1e-3, rtol=1e-4)


def run_counted(steps: int, repaint: int) -> tuple[int, list[Draw]]:
    shape = (1, 4, 4, 4)
    calls, draws = 0, Draws(shape)

    def denoiser(z: torch.Tensor, level: Level) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return torch.zeros(shape)

    mask = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    blended_diffusion(
        denoiser, torch.zeros(shape), mask, ddpm(ALPHAS, steps), draws, repaint=repaint
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

    def denoiser(z: torch.Tensor, level: Level) -> torch.Tensor:
        found.append(float(z.std()) / level.sigma)
        return torch.zeros(shape)

    blended_diffusion(
        denoiser,
        torch.zeros(shape),
        torch.zeros(1, 1, 32, 32, dtype=torch.bool),
        ddpm(ALPHAS, 5, spacing=spacing),
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
        lambda z, level: z0,
        z0,
        mask,
        ddpm(ALPHAS, 20, spacing=Spacing(to_clean=to_clean)),
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


@pytest.mark.parametrize("steps", [ddpm(ALPHAS, 10), flow(10, shift=3)], ids=["ddpm", "flow"])
def test_the_background_is_held_at_the_level_that_the_step_ends_on(steps: tuple[Step, ...]) -> None:
    """What the denoiser sees outside the mask is q(z_t | z0) at its own t, not one level off."""
    shape = (1, 1, 64, 64)
    z0 = torch.full(shape, 3.0)
    seen: list[tuple[Level, torch.Tensor]] = []

    def denoiser(z: torch.Tensor, level: Level) -> torch.Tensor:
        seen.append((level, z))
        return z0

    mask = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    blended_diffusion(denoiser, z0, mask, steps, Draws(shape))
    assert [level for level, _ in seen] == [step.start for step in steps]
    for level, z in seen:
        assert float(z.mean()) == pytest.approx(3.0 * level.alpha, abs=0.06)
        assert float(z.std()) == pytest.approx(level.sigma, rel=0.08)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "step",
    [Step(Level(500, 0.3, 0.7), Level(400, 0.5, 0.5)), Step(flow_level(0.8), flow_level(0.6))],
    ids=["ddpm", "flow"],
)
def test_renoising_returns_to_the_marginal_of_the_noisier_level(step: Step) -> None:
    z = noised(torch.full((1, 1, 200, 200), 2.0), step.end, normal(1, 1, 1, 200, 200))
    z = renoised(z, step, normal(0, 1, 1, 200, 200))
    assert float(z.mean()) == pytest.approx(step.start.alpha * 2.0, abs=0.02)
    assert float(z.std()) == pytest.approx(step.start.sigma, abs=0.01)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_ddim_step_is_that_of_diffusers(eta: float) -> None:
    scheduler = theirs(set_alpha_to_one=True, steps_offset=1)
    scheduler.set_timesteps(50)
    generator = torch.Generator().manual_seed(4)
    z, eps, noise = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(3))
    steps = ddpm(ALPHAS, 50, spacing=Spacing(to_clean=True))
    for step in (steps[7], steps[-1]):
        t = int(step.start.t)
        wanted = scheduler.step(eps, t, z, eta=eta, variance_noise=noise).prev_sample
        x0 = (z - step.start.sigma * eps) / step.start.alpha
        ours = ddim_step(z, x0, step, eta=eta, noise=noise if step.end.sigma > 0 else None)
        torch.testing.assert_close(ours, wanted, atol=2e-5, rtol=1e-5)


def test_latents_are_those_of_the_formulas_in_cumulative_alphas_to_the_last_bit() -> None:
    """Song et al., eq. 12 and 16, and RePaint's, in every step of 1 to 50, zero signal included."""
    roots = ALPHAS.sqrt()
    zero_snr = ((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))) ** 2
    z, x0, noise = (normal(seed, 4, 4) for seed in (1, 2, 3))
    for alphas in (ALPHAS, zero_snr):
        for count in range(1, 51):
            for step in ddpm(alphas, count, spacing=Spacing("trailing")):
                a, b = (float(alphas[int(level.t)]) for level in (step.start, step.end))
                assert torch.equal(
                    renoised(z, step, noise), sqrt(a / b) * z + sqrt(1.0 - a / b) * noise
                )
                sigma = sqrt((1.0 - b) / (1.0 - a) * (1.0 - a / b))
                eps = (z - sqrt(a) * x0) / sqrt(1.0 - a)
                wanted = sqrt(b) * x0 + sqrt(max(0.0, 1.0 - b - sigma**2)) * eps + sigma * noise
                assert torch.equal(ddim_step(z, x0, step, eta=1.0, noise=noise), wanted)


# --- data of one Gaussian, of which all is known --------------------------------------------------

MEAN, SPREAD = 0.7, 0.4  # of clean latents


def oracle(z: torch.Tensor, level: Level) -> torch.Tensor:
    """The mean of all clean latents of which ``z`` may be made."""
    gain = level.alpha * SPREAD**2 / spread_at(level) ** 2
    return MEAN + gain * (z - level.alpha * MEAN)


def spread_at(level: Level) -> float:
    return sqrt(level.alpha_squared * SPREAD**2 + level.sigma_squared)


def carried(z0: torch.Tensor, level: Level) -> torch.Tensor:
    """Where the probability flow takes a clean latent: as many deviations from the mean."""
    return level.alpha * MEAN + spread_at(level) / SPREAD * (z0 - MEAN)


def denoised(z: torch.Tensor, steps: tuple[Step, ...]) -> torch.Tensor:
    """By DDIM without fresh noise."""
    for step in steps:
        z = ddim_step(z, oracle(z, step.start), step, eta=0.0, noise=None)
    return z


TO_CLEAN = Spacing("trailing", to_clean=True)
SCHEDULES: dict[str, Callable[[int], tuple[Step, ...]]] = {
    "ddpm": lambda count: ddpm(ALPHAS, count, spacing=TO_CLEAN),
    "flow": flow,
    "shifted": lambda count: flow(count, shift=3.0),
    "part-way": lambda count: flow(2 * count, num_calls=count),
}
of_each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


@of_each_schedule
def test_without_fresh_noise_ddim_follows_the_probability_flow_and_is_inverted_along_it(
    schedule: Callable[[int], tuple[Step, ...]],
) -> None:
    steps, z0 = schedule(800), MEAN + SPREAD * normal(3, 1, 4, 16, 16)
    noisy = carried(z0, steps[0].start)
    assert float((denoised(noisy, steps) - z0).abs().mean()) < 0.01
    assert float((invert(oracle, z0, steps) - noisy).abs().mean()) < 0.01


@of_each_schedule
def test_what_was_inverted_in_some_rounds_is_denoised_to_where_it_began(
    schedule: Callable[[int], tuple[Step, ...]],
) -> None:
    steps, z0 = schedule(20), MEAN + SPREAD * normal(3, 1, 4, 16, 16)
    errors = [
        float((denoised(invert(oracle, z0, steps, rounds=rounds), steps) - z0).abs().max())
        for rounds in (1, 2, 20)
    ]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert errors[2] < 1e-4


@pytest.mark.parametrize(("count", "apart"), [(50, 0.1), (500, 0.01)])
def test_inversion_comes_to_that_of_diffusers_as_steps_get_shorter(
    count: int, apart: float
) -> None:
    scheduler = DDIMInverseScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        clip_sample=False, set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    scheduler.set_timesteps(count)
    levels = {int(step.start.t): step.start for step in ddpm(ALPHAS, count)}
    z0 = wanted = MEAN + SPREAD * normal(4, 1, 4, 8, 8)
    for t in map(int, scheduler.timesteps):
        level = levels[t]
        eps = (wanted - level.alpha * oracle(wanted, level)) / level.sigma
        wanted = scheduler.step(eps, t, wanted).prev_sample
    found = invert(oracle, z0, ddpm(ALPHAS, count))
    assert float((found - wanted).abs().mean()) < apart


@of_each_schedule
def test_with_fresh_noise_latents_keep_the_spread_of_their_level(
    schedule: Callable[[int], tuple[Step, ...]],
) -> None:
    steps, z0 = schedule(200), MEAN + SPREAD * normal(3, 1, 4, 48, 48)
    seen: list[tuple[Level, torch.Tensor]] = []

    def denoiser(z: torch.Tensor, level: Level) -> torch.Tensor:
        seen.append((level, z))
        return oracle(z, level)

    z = blended_diffusion(denoiser, z0, None, steps, Draws(tuple(z0.shape)), repaint=1)
    for level, latents in [*seen, (steps[-1].end, z)]:
        assert float(latents.std()) == pytest.approx(spread_at(level), rel=0.1)
        assert float(latents.mean()) == pytest.approx(level.alpha * MEAN, abs=0.05)


def test_without_fresh_noise_a_flow_models_step_is_eulers() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=[1.0 - i / 7 for i in range(7)])
    steps = flow(7, shift=3.0)
    assert scheduler.timesteps.tolist() == pytest.approx([step.start.t for step in steps], abs=1e-3)
    z = x = normal(6, 1, 4, 8, 8)
    for step, t in zip(steps, scheduler.timesteps, strict=True):
        x = scheduler.step(x.tanh(), t, x).prev_sample
        z = ddim_step(z, z - step.start.sigma * z.tanh(), step, eta=0.0, noise=None)
    torch.testing.assert_close(z, x, atol=1e-5, rtol=1e-5)
