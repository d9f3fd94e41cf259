"""Which of a model's training steps N steps of denoising are. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Spacing:
    """Where a model's steps lie among its training steps; the defaults are Stable Diffusion's.

    "leading": ``floor(i * T / N) + offset``. "linspace": from the last to the first, both among
    them. "trailing": each interval's last, so that one step starts from pure noise. "distilled":
    the latest of the N nearly equal parts of ``original`` trailing steps, which are all that such
    a model has learned. As in diffusers' DDIM (and LCM) schedulers, but where "leading" does not
    divide T: there all of T is covered, which diffusers leaves out at its noisy end.
    """

    kind: Literal["leading", "linspace", "trailing", "distilled"] = "leading"
    offset: int = 1  # of "leading"
    to_clean: bool = False  # whether the last step ends at a = 1, else at the first training step's
    original: int = 50  # of "distilled"


STABLE_DIFFUSION = Spacing()


def timesteps(
    steps: int, num_train: int = 1000, spacing: Spacing = STABLE_DIFFUSION
) -> tuple[int, ...]:
    """Exactly ``steps`` timesteps, noisiest first; 50 of Stable Diffusion's are 981, 961, ... 1."""
    if not 1 <= steps <= num_train:
        raise ValueError(f"steps must be in 1..{num_train}, got {steps}")
    if spacing.kind == "leading":
        grid = [i * num_train // steps for i in range(steps)]
        offset = min(spacing.offset, num_train - 1 - grid[-1])
        return tuple(t + offset for t in reversed(grid))
    if spacing.kind == "linspace":
        ends = num_train - 1
        return tuple(round(i * (ends / max(1, steps - 1))) for i in reversed(range(steps)))
    trailing = _trailing(max(steps, spacing.original), num_train)
    if spacing.kind == "trailing" or steps >= len(trailing):
        return _trailing(steps, num_train)
    return tuple(trailing[i * len(trailing) // steps] for i in range(steps))


def _trailing(steps: int, num_train: int) -> tuple[int, ...]:
    length = num_train - (num_train - num_train / steps)  # rounded as numpy's arange rounds it
    return tuple(round(num_train - i * length) - 1 for i in range(steps))
