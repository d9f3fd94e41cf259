"""The shape of a measure: cases, what is done with a batch of them, and the rows that come out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from msbd_dist.tiny.evaluate.cases import Kind
from msbd_dist.tiny.evaluate.family import Family
from msbd_dist.tiny.evaluate.rows import Row
from msbd_dist.tiny.scenes import Image


@dataclass(frozen=True)
class Outcome:
    """What one case gave: numbers (a yes or no as 1.0 or 0.0), and pictures for the grids."""

    values: Mapping[str, float]
    pictures: tuple[Image, ...] = ()
    words: str = ""  # below the pictures
    group: str = ""  # outcomes of one group are also counted by themselves


@dataclass(frozen=True, kw_only=True)
class Measure:
    """``run`` takes up to ``batch`` cases at once; results never depend on who runs a batch."""

    key: str
    count: int  # cases of a full evaluation
    batch: int
    cost: float  # seconds per case, roughly: what takes longest is begun first
    cases: Callable[[int], Sequence[Any]]
    run: Callable[[Family, Sequence[Any]], list[Outcome]]
    rows: Callable[[Sequence[Outcome]], list[Row]] = field(repr=False)

    def scaled(self, scale: float) -> int:
        """How many cases at this scale of the full evaluation: one at least."""
        return max(1, round(self.count * scale))


def mean(outcomes: Sequence[Outcome], key: str) -> float:
    """Over the outcomes that have this value; NaN-free: 0 where none has."""
    values = [outcome.values[key] for outcome in outcomes if key in outcome.values]
    return float(np.mean(values)) if values else 0.0


def by_group(outcomes: Sequence[Outcome], key: str) -> dict[str, float]:
    """The mean of a value in each group, by the group's name."""
    names = sorted({outcome.group for outcome in outcomes})
    return {name: mean([o for o in outcomes if o.group == name], key) for name in names}


def named_right(said: Kind, wanted: Kind, prefix: str = "") -> dict[str, float]:
    """Whether colour and shape are those that were asked for."""
    return {
        f"{prefix}colour": float(said.colour == wanted.colour),
        f"{prefix}shape": float(said.shape == wanted.shape),
    }


def psnr(picture: Image, truth: Image) -> float:
    """Peak signal-to-noise ratio of 8-bit pictures in dB."""
    error = np.mean((picture.astype(np.float64) - truth) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))
