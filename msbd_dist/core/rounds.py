"""Which segments each step of decoder optimization looks at. No torch.

full        every step looks at all segments (the paper)
minibatch   a step for each pair in turn (the authors' code)
sample      every step looks at a few, chosen by how much of them lies outside the mask, where
            nearly all of the loss is: a step costs a fraction, there are more of them, and
            their length falls in a line to nothing, so that what is chosen evens out
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import sqrt

from msbd_dist.core.spec import Method
from msbd_dist.core.tiling import batches

PAIR = 2
SHARE = 20  # a sample is this part of the segments, or one
STEPS = 100  # the paper's
SAMPLE_STEPS = 300  # what samples take to the loss that the paper's steps reach
ONE_STEPS = 60  # and what longer steps over all of one segment take
EVEN = 0.1  # of the choices go to all segments alike
GOLDEN = (sqrt(5) - 1) / 2  # its multiples, less whole numbers, fill an interval evenly


@dataclass(frozen=True)
class Part:
    """One segment of a step, and what its share of the loss counts there."""

    slot: int
    factor: float = 1.0


@dataclass(frozen=True)
class Rounds:
    """``steps`` Adam steps over ``segments``, each over ``batch`` of them at most."""

    segments: int
    batch: int
    steps: int
    sampled: bool = False

    @classmethod
    def of(cls, method: Method, segments: int) -> Rounds:
        """As a method has it. ``decoder_steps`` counts Adam steps, of pairs rounds through all."""
        kind, wanted = method.decoder_batch, method.decoder_steps
        if kind == "minibatch":
            pairs = len(batches(segments, PAIR))
            return cls(segments, min(PAIR, segments), (wanted or STEPS) * pairs)
        if kind == "full":
            return cls(segments, segments, wanted or STEPS)
        if segments == 1:
            return cls(1, 1, wanted or ONE_STEPS)
        steps = wanted or min(SAMPLE_STEPS, ONE_STEPS * segments)
        return cls(segments, max(1, round(segments / SHARE)), steps, True)

    @property
    def per_round(self) -> int:
        """Steps that look at as many segments as there are."""
        return -(-self.segments // self.batch)

    @property
    def passes(self) -> int:
        """Segments that all steps look at, each a pass through the decoder and back."""
        if self.sampled:
            return self.steps * self.batch
        whole, left = divmod(self.steps, self.per_round)
        return whole * self.segments + sum(len(self._in_turn(step)) for step in range(left))

    def part(self, step: int, weights: Sequence[float]) -> list[Part]:
        """The segments of a step. ``weights``: of each segment, its area outside the mask.

        Sampled ones count so that a step's loss is that of all segments, in the mean.
        """
        if not self.sampled:
            return [Part(slot) for slot in self._in_turn(step)]
        shares = chances(weights)
        ends = list(accumulate(shares))
        picked = []
        for number in range(step * self.batch, (step + 1) * self.batch):
            place = (0.5 + number * GOLDEN) % 1 * ends[-1]
            slot = min(bisect_right(ends, place), self.segments - 1)
            picked.append(Part(slot, 1 / (shares[slot] * self.batch)))
        return picked

    def rate(self, step: int) -> float:
        """A step's learning rate, as a share of the method's."""
        return 1 - (step + 0.5) / self.steps if self.sampled else 1.0

    def _in_turn(self, step: int) -> tuple[int, ...]:
        return batches(self.segments, self.batch)[step % self.per_round]


def chances(weights: Sequence[float]) -> list[float]:
    """How likely each segment is to be looked at: by its weight, and the chance is never 0."""
    total, count = sum(weights), len(weights)
    if not total:
        return [1 / count] * count
    return [(1 - EVEN) * weight / total + EVEN / count for weight in weights]
