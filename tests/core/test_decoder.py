"""Decoder optimization on a small decoder (check C9's core; the real one is in tests/batch)."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.func import functional_call

from msbd_dist.core.decoder import (
    Areas,
    FitSegment,
    Params,
    accumulate_gradient,
    fit_decoder,
    segment_loss,
)


class Decoder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = torch.nn.Conv2d(4, 16, 3, padding=1)
            self.out = torch.nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        wide = torch.nn.functional.interpolate(z, scale_factor=8)
        return torch.sigmoid(self.out(torch.tanh(self.conv(wide))))


NET = Decoder().requires_grad_(False)


def decode(z: torch.Tensor, params: Params | None = None) -> torch.Tensor:
    return NET(z) if params is None else functional_call(NET, params, (z,))


def weights() -> Params:
    return dict(NET.named_parameters())


def segment(seed: int, weight: torch.Tensor | None = None) -> FitSegment:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(1, 4, 4, 4, generator=generator)
    mask = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    mask[..., 8:24, 10:20] = True
    source = torch.rand(1, 3, 32, 32, generator=generator) * 0.3 + 0.5
    ones = torch.ones(1, 1, 32, 32)
    return FitSegment(z, decode(z), source, mask, ones if weight is None else weight)


def test_the_loss_is_the_papers_with_means_over_each_side() -> None:
    one = segment(0)
    params = {k: v + 0.01 for k, v in weights().items()}
    out, m = decode(one.z, params), one.mask.expand(1, 3, 32, 32)
    wanted = ((out - one.target) ** 2)[m].mean() + 100 * ((out - one.source) ** 2)[~m].mean()
    found = segment_loss(decode, params, one, Areas.of([one]), lam=100)
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)


def test_only_the_background_term_is_there_at_the_start() -> None:
    one = segment(0)
    inside = segment_loss(decode, weights(), one, Areas.of([one]), lam=0)
    assert float(inside) == 0


def test_a_pixel_under_two_segments_counts_once() -> None:
    """Two half-weighted copies of a segment are one whole segment."""
    half = torch.full((1, 1, 32, 32), 0.5)
    twice, once = [segment(3, half), segment(3, half)], [segment(3)]
    grads = []
    for segments in (twice, once):
        params = {k: (v + 0.01).requires_grad_() for k, v in weights().items()}
        loss = accumulate_gradient(decode, params, segments, Areas.of(segments), lam=100)
        grads.append((loss, params["conv.weight"].grad))
    assert grads[0][0] == pytest.approx(grads[1][0], rel=1e-5)
    assert grads[0][1] is not None
    assert grads[1][1] is not None
    torch.testing.assert_close(grads[0][1], grads[1][1], rtol=1e-4, atol=1e-7)


def test_the_loss_falls_and_the_pretrained_weights_stay_bit_for_bit() -> None:
    before = copy.deepcopy(weights())
    tuned, losses = fit_decoder(
        decode, weights(), [segment(0), segment(1)], steps=60, lr=1e-3, lam=100
    )
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(before[k], v) for k, v in weights().items())
    assert any(not torch.equal(before[k], tuned[k]) for k in before)


@pytest.mark.parametrize("error", [RuntimeError("boom"), torch.cuda.OutOfMemoryError("full")])
def test_the_pretrained_weights_survive_an_error_in_the_middle(error: Exception) -> None:
    before, calls = copy.deepcopy(weights()), 0

    def failing(z: torch.Tensor, params: Params | None) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise error
        return decode(z, params)

    with pytest.raises(type(error)):
        fit_decoder(failing, weights(), [segment(0)], steps=10, lr=1e-2, lam=100)
    assert all(torch.equal(before[k], v) for k, v in weights().items())


def test_minibatches_take_a_step_for_every_pair() -> None:
    segments = [segment(i) for i in range(4)]
    full, _ = fit_decoder(decode, weights(), segments, steps=3, lr=1e-3, lam=100)
    pairs, _ = fit_decoder(decode, weights(), segments, steps=3, lr=1e-3, lam=100, minibatch=2)
    moved = [sum(float((p[k] - weights()[k]).abs().sum()) for k in p) for p in (full, pairs)]
    assert moved[1] > 1.5 * moved[0]


def test_a_mask_over_everything_has_no_background_term() -> None:
    one = segment(0)
    full = FitSegment(one.z, one.target, one.source, torch.ones_like(one.mask), one.weight)
    _, losses = fit_decoder(decode, weights(), [full], steps=2, lr=1e-3, lam=100)
    assert losses == [0.0, 0.0]
