"""Blended latent diffusion with RePaint: schedules, the DDIM step, the forward process, the loop.

A model is a function ``denoiser(z, t) -> x0``: noisy latents (B, C, h, w) and an integer timestep
in, the predicted clean latents out, float32. Noise is a function of the draw's name, so that the
loop holds no random state. Notation: ``a`` is the cumulative alpha at a level; clean is a = 1.
Which timesteps N steps are is the model's to say (`Spacing`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import torch

from msbd_dist.core.noise import Draw
from msbd_dist.core.timesteps import STABLE_DIFFUSION, Spacing, timesteps

# (z, t) -> x0: predicts clean latents; guidance, text and the prediction type are inside
Denoiser = Callable[[torch.Tensor, int], torch.Tensor]
Noise = Callable[[Draw], torch.Tensor]  # draw -> (B, C, h, w), unit Gaussian, float32


@dataclass(frozen=True)
class Step:
    """One denoising step from timestep ``t``: from level ``a`` to the cleaner ``a_prev``."""

    t: int
    a: float
    a_prev: float


def schedule(
    alphas_cumprod: torch.Tensor,
    steps: int,
    *,
    num_calls: int | None = None,
    spacing: Spacing = STABLE_DIFFUSION,
) -> tuple[Step, ...]:
    """The last ``num_calls`` steps of a schedule.

    ``alphas_cumprod``: (T,) cumulative alphas of the model's training schedule.
    """
    ts = timesteps(steps, len(alphas_cumprod), spacing)
    end = 1.0 if spacing.to_clean else float(alphas_cumprod[0])
    levels = [float(alphas_cumprod[t]) for t in ts] + [end]
    every = tuple(Step(t, a, b) for t, (a, b) in zip(ts, pairwise(levels), strict=True))
    return every[len(every) - (num_calls or steps) :]


def noised(z0: torch.Tensor, a: float, noise: torch.Tensor) -> torch.Tensor:
    """A sample of q(z_t | z_0): ``sqrt(a) z0 + sqrt(1 - a) noise``."""
    return sqrt(a) * z0 + sqrt(1.0 - a) * noise


def forward_jump(z: torch.Tensor, step: Step, noise: torch.Tensor) -> torch.Tensor:
    """A sample of q(z_t | z_{t-1}), RePaint's way back up: noising by ``a / a_prev``."""
    return noised(z, step.a / step.a_prev, noise)


def ddim_step(
    z: torch.Tensor, x0: torch.Tensor, step: Step, *, eta: float, noise: torch.Tensor | None
) -> torch.Tensor:
    """One DDIM step (Song et al., eq. 12) from level ``a`` to ``a_prev``.

    ``noise`` may be None where the step adds none: at ``eta`` 0, and where it ends clean.
    """
    a, b = step.a, step.a_prev
    eps = (z - sqrt(a) * x0) / sqrt(1.0 - a)
    sigma = step_sigma(step, eta)
    out = sqrt(b) * x0 + sqrt(max(0.0, 1.0 - b - sigma**2)) * eps
    return out if noise is None else out + sigma * noise


def step_sigma(step: Step, eta: float) -> float:
    """Standard deviation of the noise that DDIM adds in a step; 0 in one that ends clean."""
    a, b = step.a, step.a_prev
    return eta * sqrt((1.0 - b) / (1.0 - a) * (1.0 - a / b))


def blended_diffusion(
    denoiser: Denoiser,
    z0: torch.Tensor,
    mask: torch.Tensor | None,
    steps: tuple[Step, ...],
    noise: Noise,
    *,
    eta: float = 1.0,
    repaint: int = 0,
) -> torch.Tensor:
    """Denoise inside the mask, hold the background outside it (Fig. 1a, with RePaint).

    ``z0``: (B, C, h, w) latents of the picture. ``mask``: (B or 1, 1, h, w) bool, True inside the
    edit, or None for no blending. The start is ``q(z_t | z0)`` at the first step's level. Each step
    draws its background once, at the level that the step *ends* on, and is repeated ``repaint``
    times after a jump back up: ``len(steps) * (repaint + 1)`` calls of the denoiser. In the end
    there is ``z0`` itself outside the mask, also where the schedule does not end clean.
    """
    z = noised(z0, steps[0].a, noise(("start",)))
    for index, step in enumerate(steps):
        background = z0
        if step.a_prev < 1 and mask is not None:
            background = noised(z0, step.a_prev, noise(("background", index)))
        for turn in range(repaint + 1):
            if turn > 0:
                z = forward_jump(z, step, noise(("renoise", index, turn)))
            x0 = denoiser(z, step.t)
            fresh = noise(("step", index, turn)) if step_sigma(step, eta) > 0 else None
            z = ddim_step(z, x0, step, eta=eta, noise=fresh)
            if mask is not None:
                z = torch.where(mask, z, background)
    return z if mask is None else torch.where(mask, z, z0)
