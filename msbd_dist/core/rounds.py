"""Which segments each step of decoder optimization looks at. No torch.

full        every step looks at all segments (the paper)
minibatch   a step for each pair in turn (the authors' code)
sample      every step looks at some, in an order that is shuffled anew for each round through
            all: gradients are a little noisy, and a step costs a fraction
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from msbd_dist.core.spec import Method
from msbd_dist.core.tiling import batches

PAIR = 2
SHARE = 12  # a sample is this part of the segments, or one
STEPS = 100  # the paper's
SAMPLE_STEPS = 150  # what samples take to the loss that the paper's steps reach


@dataclass(frozen=True)
class Rounds:
    """``steps`` Adam steps over ``segments``, in rounds through all of them."""

    segments: int
    batch: int  # segments of a step, at most
    steps: int
    shuffled: bool = False

    @classmethod
    def of(cls, method: Method, segments: int) -> Rounds:
        """As a method has it. ``decoder_steps`` counts Adam steps, of pairs rounds."""
        kind, steps = method.decoder_batch, method.decoder_steps or STEPS
        if kind == "minibatch":
            pairs = len(batches(segments, PAIR))
            return cls(segments, min(PAIR, segments), steps * pairs)
        if kind == "full" or segments == 1:
            return cls(segments, segments, steps)
        return cls(segments, -(-segments // SHARE), method.decoder_steps or SAMPLE_STEPS, True)

    @cached_property
    def per_round(self) -> int:
        """Steps of a round."""
        return -(-self.segments // self.batch)

    @property
    def passes(self) -> int:
        """Segments that all steps look at, each a pass through the decoder and back."""
        whole, left = divmod(self.steps, self.per_round)
        return whole * self.segments + sum(len(self.part(step)) for step in range(left))

    def part(self, step: int) -> tuple[int, ...]:
        """The segments of a step: each exactly once in a round."""
        number, place = divmod(step, self.per_round)
        parts = batches(self.segments, self.batch)
        if not self.shuffled:
            return parts[place]
        order = _shuffled(self.segments, number)
        return tuple(order[i] for i in parts[place])


@lru_cache(maxsize=4)
def _shuffled(count: int, number: int) -> tuple[int, ...]:
    """``0 .. count-1`` in an order of their own for each number, the same everywhere."""
    generator = np.random.Generator(np.random.Philox(key=number))
    return tuple(int(i) for i in generator.permutation(count))
