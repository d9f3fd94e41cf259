"""Sums of gradients over segments, wherever the segments are: flat buffers, in buckets.

    exact   64-bit fixed point: integer sums do not depend on order or grouping, so that any number
            of processes gets the same bits
    fast    float32: as accurate, but the last bits depend on who added what
    bf16    float32 here, bfloat16 between processes: half of the traffic, three digits

The last two elements of a buffer are the loss and the number of values that were not finite or
beyond all reason.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from msbd_dist.core.gang import Sum, Team
from msbd_dist.core.spec import Reduction

_UNIT = 2.0**-44  # of the fixed point, far below any gradient of a mean loss that matters
_LARGEST = 2.0**8  # of a segment; 2,000 segments of this size still fit into 64 bits
_EXTRA = 2  # elements after the gradient: loss, bad segments
BUCKET = 1 << 22  # elements that are reduced in one message


class GradientSum:
    """The gradient of one step: segments add to it, a team sums it, an optimizer reads it.

    ``weights`` are the parameters in their order. Buckets hold whole parameters from the last to
    the first, about the order in which a backward pass finishes them, and each is sent as soon as
    it and those before it are complete: messages overlap with the rest of the pass.
    """

    def __init__(self, weights: Sequence[Tensor], kind: Reduction, *, bucket: int = BUCKET) -> None:
        self.kind = kind
        sizes = [weight.numel() for weight in reversed(weights)]
        dtype = torch.int64 if kind == "exact" else torch.float32
        self._flat = torch.zeros(sum(sizes) + _EXTRA, dtype=dtype, device=weights[0].device)
        parts = torch.split(self._flat[:-_EXTRA], sizes)
        self._views = [p.view_as(w) for p, w in zip(parts, reversed(weights), strict=True)][::-1]
        self._buckets = _bucket_ends(sizes, bucket)
        self._begin()

    def _begin(self) -> None:
        self._flat.zero_()
        self._sent = 0  # elements that are on their way
        self._open = set(range(len(self._views)))  # parameters that more may be added to
        self._sums: list[tuple[Sum, Tensor, Tensor]] = []

    def add(self, index: int, gradient: Tensor) -> None:
        """Add a segment's gradient of parameter ``index``."""
        self._add(self._views[index], gradient)

    def add_loss(self, loss: Tensor) -> None:
        """Add a segment's loss."""
        self._add(self._flat[-2], loss)

    def _add(self, place: Tensor, values: Tensor) -> None:
        """What is bad is counted, not added: it would make a sum of integers wrap.

        The host asks for no value here: it would wait for the card, once for each parameter.
        """
        good = values.abs().max() < _LARGEST  # not so where one is NaN
        values = torch.where(good, values, 0.0)
        self._flat[-1] += ~good
        place += (values.double() / _UNIT).round_().long() if self.kind == "exact" else values

    def complete(self, index: int, team: Team) -> None:
        """No more is added to parameter ``index``: send what can be sent."""
        self._open.discard(index)
        last = max(self._open, default=-1)
        ready = sum(view.numel() for view in self._views[last + 1 :])
        for end in self._buckets:
            if self._sent < end <= ready:
                self._send(self._flat[self._sent : end], team)
                self._sent = end

    def total(self, team: Team) -> tuple[list[Tensor], float]:
        """Sum what has not been sent yet, wait for all; the gradients in float32, and the loss.

        ArithmeticError where a segment's loss or gradient was bad: for every process of the team
        alike. The buffer is empty afterwards.
        """
        for index in range(len(self._views)):
            self.complete(index, team)
        self._send(self._flat[self._sent :], team)
        for started, sent, part in self._sums:
            started.wait()
            if sent is not part:
                part.copy_(sent)
        gradients = [self._left(view) for view in self._views]
        loss, bad = float(self._left(self._flat[-2])), float(self._flat[-1])
        self._begin()
        if bad:
            raise ArithmeticError("a loss or a gradient is not finite")
        return gradients, loss

    def _send(self, part: Tensor, team: Team) -> None:
        sent = part.bfloat16() if self.kind == "bf16" and team.size > 1 else part
        self._sums.append((team.start_sum(sent), sent, part))

    def _left(self, values: Tensor) -> Tensor:
        return (values.double() * _UNIT).float() if self.kind == "exact" else values.clone()


def _bucket_ends(sizes: Sequence[int], most: int) -> list[int]:
    """Where buckets end that hold whole parameters, about ``most`` elements each."""
    ends, end, begun = [], 0, 0
    for size in sizes:
        end += size
        if end - begun >= most:
            ends.append(end)
            begun = end
    return ends
