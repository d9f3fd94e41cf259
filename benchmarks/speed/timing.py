"""Comparing ways of doing the same: in turns, so that a busy machine is busy for all of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence


def in_turns(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each way gives, ``rounds`` times; every other round goes backwards."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            found[name].append(ways[name]())
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most, to four digits."""
    numbers = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: float(f"{value:.4g}") for name, value in numbers.items()}


def ratio(of: Sequence[float], to: Sequence[float]) -> dict[str, float]:
    """The spread of ``of / to``, round by round."""
    return spread([a / b for a, b in zip(of, to, strict=True)])
