"""Decoder optimization (eq. 1 of the paper): the loss, one iteration's gradient, the whole fit.

    L = mean over m of (D_theta(z) - D_0(z))^2  +  lambda * mean over 1-m of (D_theta(z) - x_in)^2

``z`` is the latent that the stage produced, ``D_0`` the pretrained decoder, ``x_in`` the input. The
means are taken over the masked and unmasked elements of the whole region: each pixel counts once
where segments overlap, because segments enter with their compositing weights. The tuned weights are
a copy; the pretrained ones are never written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

Params = dict[str, torch.Tensor]
Decode = Callable[[torch.Tensor, Params | None], torch.Tensor]  # (z, weights or None) -> pixels


@dataclass(frozen=True)
class FitSegment:
    """What the loss needs of one segment; tensors are float32."""

    z: torch.Tensor  # (1, C, h, w): the stage's latent
    target: torch.Tensor  # (1, 3, H, W): D_0(z), the pretrained decoder's picture
    source: torch.Tensor  # (1, 3, H, W): x_in
    mask: torch.Tensor  # (1, 1, H, W) bool: inside the edit
    weight: torch.Tensor  # (1, 1, H, W): compositing weights


@dataclass(frozen=True)
class Areas:
    """Weighted element counts of the whole region: the denominators of the two means."""

    inside: float
    outside: float

    @classmethod
    def of(cls, segments: Iterable[FitSegment]) -> Areas:
        inside = outside = 0.0
        for s in segments:
            channels = s.source.shape[1]
            inside += channels * float((s.weight * s.mask).sum(dtype=torch.float64))
            outside += channels * float((s.weight * ~s.mask).sum(dtype=torch.float64))
        return cls(inside, outside)


def segment_loss(
    decode: Decode, params: Params | None, segment: FitSegment, areas: Areas, *, lam: float
) -> torch.Tensor:
    """This segment's share of the loss: a scalar; the shares of all segments sum to L."""
    out = decode(segment.z, params)
    inside = (segment.weight * segment.mask * (out - segment.target) ** 2).sum()
    outside = (segment.weight * ~segment.mask * (out - segment.source) ** 2).sum()
    return inside / max(areas.inside, 1.0) + lam * outside / max(areas.outside, 1.0)


def accumulate_gradient(
    decode: Decode, params: Params, segments: Sequence[FitSegment], areas: Areas, *, lam: float
) -> float:
    """Add the gradient of the segments' loss to ``params[...].grad``; returns their loss."""
    total = 0.0
    for segment in segments:
        loss = segment_loss(decode, params, segment, areas, lam=lam)
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total


def fit_decoder(
    decode: Decode,
    pretrained: Params,
    segments: Sequence[FitSegment],
    *,
    steps: int,
    lr: float,
    lam: float,
    minibatch: int | None = None,
) -> tuple[Params, list[float]]:
    """Tune a copy of the decoder's weights; returns them with the loss before each iteration.

    One iteration is one Adam step on the gradient summed over all segments; with ``minibatch`` one
    Adam step for each run of that many segments (the authors' variant, which uses 2).
    """
    params = {k: v.detach().clone().requires_grad_(True) for k, v in pretrained.items()}
    optimizer = torch.optim.Adam(list(params.values()), lr=lr)
    areas = Areas.of(segments)
    size = minibatch or len(segments)
    losses = []
    for _ in range(steps):
        loss = 0.0
        for first in range(0, len(segments), size):
            optimizer.zero_grad(set_to_none=True)
            part = segments[first : first + size]
            loss += accumulate_gradient(decode, params, part, areas, lam=lam)
            optimizer.step()
        losses.append(loss)
    return {k: v.detach() for k, v in params.items()}, losses
