"""Means with their uncertainty, and what follows from them. numpy only.

The unit is the scene: several edits of one are averaged first. Intervals are percentile bootstrap
intervals (Efron 1979) over scenes; variants are compared on the scenes that they share, in pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Statistic = Callable[[Floats], Floats]  # (..., scenes, variants) -> (...)
Scale = Literal["plain", "log"]  # log: ratios, of which the geometric mean is meant
Verdict = Literal["holds", "not shown", "contradicted"]

RESAMPLES = 4000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number, its 95 % interval, and of how many scenes."""

    value: float
    low: float
    high: float
    count: int


def estimate(values: Floats, statistic: Statistic) -> Estimate:
    """A statistic of values (scenes, variants), with its bootstrap interval over scenes.

    ValueError where there is no scene. The same values give the same interval.
    """
    count = len(values)
    if count == 0:
        raise ValueError("no scenes")
    drawn = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    tails = [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2]
    low, high = np.percentile(statistic(values[drawn]), tails)
    return Estimate(float(statistic(values)), float(low), float(high), count)


def mean(scale: Scale) -> Statistic:
    """Of the first variant: arithmetic, or geometric."""
    if scale == "log":
        return lambda values: np.exp(np.log(values[..., 0]).mean(-1))
    return lambda values: values[..., 0].mean(-1)


def difference(values: Floats) -> Floats:
    """Mean of the first variant minus mean of the second."""
    result: Floats = (values[..., 0] - values[..., 1]).mean(-1)
    return result


def ratio(values: Floats) -> Floats:
    """Of the first variant to the second: the geometric mean over scenes, so that a few that are
    far off don't decide. Values are positive."""
    result: Floats = np.exp(np.log(values[..., 0] / values[..., 1]).mean(-1))
    return result


def verdict(found: Estimate, bound: float, *, more: bool) -> Verdict:
    """Whether all of the interval is on the wanted side of a bound, or all of it on the other.

    An interval that only touches the bound shows nothing.
    """
    low, high = (found.low, found.high) if more else (-found.high, -found.low)
    bound = bound if more else -bound
    if low > bound:
        return "holds"
    return "contradicted" if high < bound else "not shown"
