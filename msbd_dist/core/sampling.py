"""Sampling in alpha and sigma: noising, the DDIM step, RePaint, the blended loop, and its inverse.

A model is a function ``denoiser(z, level) -> x0``: noisy latents (B, C, h, w) float32 and their
level in, the predicted clean latents out. Noise is a function of the draw's name, so that no loop
holds random state. Levels and steps come from `core.levels`; the same lines serve models that keep
the variance and flow models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt

import torch

from msbd_dist.core.levels import Level, Step
from msbd_dist.core.noise import Draw

# (z, level) -> x0: predicts clean latents; guidance, text and the prediction type are inside
Denoiser = Callable[[torch.Tensor, Level], torch.Tensor]
Noise = Callable[[Draw], torch.Tensor]  # draw -> (B, C, h, w), unit Gaussian, float32


def noised(z0: torch.Tensor, level: Level, noise: torch.Tensor) -> torch.Tensor:
    """A sample of q(z_t | z_0): ``alpha z0 + sigma noise``."""
    return level.alpha * z0 + level.sigma * noise


def renoised(z: torch.Tensor, step: Step, noise: torch.Tensor) -> torch.Tensor:
    """A sample of q(z_start | z_end), RePaint's way back up from a step's end to its start."""
    kept, added = _way_up(step)
    return sqrt(kept) * z + sqrt(added) * noise


def _way_up(step: Step) -> tuple[float, float]:
    """The square of what is left of a latent on the way from a step's end to its start, and the
    variance of the noise that is added."""
    kept = step.start.alpha_squared / step.end.alpha_squared
    return kept, max(0.0, step.start.sigma_squared - kept * step.end.sigma_squared)


def ddim_step(
    z: torch.Tensor, x0: torch.Tensor, step: Step, *, eta: float, noise: torch.Tensor | None
) -> torch.Tensor:
    """One DDIM step (Song et al., eq. 12) from a step's start to its end.

    ``noise`` may be None where the step adds none: at ``eta`` 0, and where it ends clean. At
    ``eta`` 0 this is Euler's step of a flow model.
    """
    eps = (z - step.start.alpha * x0) / step.start.sigma
    fresh = fresh_noise(step, eta)
    out = step.end.alpha * x0 + sqrt(max(0.0, step.end.sigma_squared - fresh**2)) * eps
    return out if noise is None else out + fresh * noise


def fresh_noise(step: Step, eta: float) -> float:
    """Standard deviation of the noise that DDIM adds in a step; 0 in one that ends clean.

    At ``eta`` 1 it is that of the posterior q(z_end | z_start, z_0) (Song et al., eq. 16).
    """
    _, added = _way_up(step)
    return eta * sqrt(step.end.sigma_squared / step.start.sigma_squared * added)


def blended_diffusion(
    denoiser: Denoiser,
    z0: torch.Tensor,
    mask: torch.Tensor | None,
    steps: Sequence[Step],
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
    z = noised(z0, steps[0].start, noise(("start",)))
    for index, step in enumerate(steps):
        background = z0
        if step.end.sigma > 0 and mask is not None:
            background = noised(z0, step.end, noise(("background", index)))
        for turn in range(repaint + 1):
            if turn > 0:
                z = renoised(z, step, noise(("renoise", index, turn)))
            x0 = denoiser(z, step.start)
            fresh = noise(("step", index, turn)) if fresh_noise(step, eta) > 0 else None
            z = ddim_step(z, x0, step, eta=eta, noise=fresh)
            if mask is not None:
                z = torch.where(mask, z, background)
    return z if mask is None else torch.where(mask, z, z0)


def invert(
    denoiser: Denoiser, z0: torch.Tensor, steps: Sequence[Step], *, rounds: int = 1
) -> torch.Tensor:
    """DDIM inversion: the noisy latents from which DDIM at ``eta`` 0 comes to ``z0``.

    ``z0``: (B, C, h, w), at the level that the last step ends on; the result is at the level that
    the first step starts on. A step's start is first taken to be its end, and each of the
    ``rounds`` moves it by how far DDIM's step from there misses the end. One round follows the
    probability flow, for flow models by Euler's step; more converge to the exact inverse, also
    where the first level holds no signal. A round is one call of the denoiser for each step.
    """
    z = z0
    for step in reversed(steps):
        end = z
        for _ in range(rounds):
            z = z + (end - ddim_step(z, denoiser(z, step.start), step, eta=0.0, noise=None))
    return z
