"""Levels of noise, and the steps between them: schedules of diffusion and of flow models. No torch.

A noisy latent at a level is ``alpha * clean + sigma * noise``. Models that keep the variance
(Stable Diffusion) have ``alpha^2 + sigma^2 = 1``, flow models ``alpha + sigma = 1``. Whoever steps
from level to level (`core.sampling`) needs no more than the two numbers.

    ddpm(alphas_cumprod, 50)     50 steps of a diffusion model, from its own cumulative alphas
    flow(28, shift=3.0)          28 steps of a flow model
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Protocol, SupportsFloat

from msbd_dist.core.timesteps import STABLE_DIFFUSION, Spacing, timesteps


class Alphas(Protocol):
    """Cumulative alphas of the steps that a model was trained on, cleanest first."""

    def __getitem__(self, t: int, /) -> SupportsFloat: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Level:
    """How noisy a latent is: ``alpha * clean + sigma * noise``, which a model knows as ``t``.

    The squares are kept, because those of diffusion models are given: the square of a root differs
    from them in last bits. The root of a square is exact, so flow models lose nothing.
    """

    t: float
    alpha_squared: float
    sigma_squared: float

    @property
    def alpha(self) -> float:
        return sqrt(self.alpha_squared)

    @property
    def sigma(self) -> float:
        return sqrt(self.sigma_squared)


CLEAN = Level(0, 1.0, 0.0)


@dataclass(frozen=True)
class Step:
    """One step of denoising, from a level to a cleaner one."""

    start: Level
    end: Level


def level_at(alphas_cumprod: Alphas, t: int) -> Level:
    """The level of a training step of a diffusion model."""
    a = float(alphas_cumprod[t])
    return Level(t, a, 1.0 - a)


def ddpm(
    alphas_cumprod: Alphas,
    count: int,
    *,
    num_calls: int | None = None,
    spacing: Spacing = STABLE_DIFFUSION,
) -> tuple[Step, ...]:
    """The last ``num_calls`` of a diffusion model's ``count`` steps, all of them where it is None.

    The last step ends clean, or at the first training step's level, as the ``spacing`` has it.
    """
    ts = timesteps(count, len(alphas_cumprod), spacing)
    end = CLEAN if spacing.to_clean else level_at(alphas_cumprod, 0)
    return _last(num_calls, [*(level_at(alphas_cumprod, t) for t in ts), end])


def flow(count: int, *, shift: float = 1.0, num_calls: int | None = None) -> tuple[Step, ...]:
    """The last ``num_calls`` of a flow model's ``count`` steps, all of them where it is None.

    Sigmas fall evenly from 1 to 1 / ``count``, and are shifted: a ``shift`` above 1 spends more
    steps at high noise, as large pictures need. The last step ends clean. Models know a level as
    1000 times its sigma.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    sigmas = (shifted(1.0 - i / count, shift) for i in range(count))
    return _last(num_calls, [*(flow_level(sigma) for sigma in sigmas), CLEAN])


def shifted(sigma: float, shift: float) -> float:
    """A sigma in [0, 1], moved towards 1 where ``shift`` is above 1; 0 and 1 stay."""
    return shift * sigma / (1.0 + (shift - 1.0) * sigma)


def flow_level(sigma: float) -> Level:
    """A flow model's level, ``sigma`` of the way from clean to noise."""
    return Level(1000.0 * sigma, (1.0 - sigma) ** 2, sigma**2)


def _last(num_calls: int | None, levels: Iterable[Level]) -> tuple[Step, ...]:
    every = tuple(Step(start, end) for start, end in pairwise(levels))
    return every if num_calls is None else every[max(0, len(every) - num_calls) :]
