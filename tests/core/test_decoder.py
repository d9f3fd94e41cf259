"""Decoder optimization on a small decoder (check C9's core; the real one is in tests/batch)."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.func import functional_call

from msbd_dist.core import decoder
from msbd_dist.core.decoder import (
    ALIKE,
    Areas,
    Decode,
    DecoderFit,
    FitSegment,
    FitSettings,
    Params,
    segment_loss,
    shown,
)
from msbd_dist.core.gang import Alone, Team
from msbd_dist.core.rounds import Rounds


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
    depth = torch.zeros(1, 1, 32, 32)
    depth[..., 8:24, 10:20] = 0.5
    depth[..., 10:22, 12:18] = 1
    source = torch.rand(1, 3, 32, 32, generator=generator) * 0.3 + 0.5
    ones = torch.ones(1, 1, 32, 32)
    return FitSegment(z, decode(z), source, depth, ones if weight is None else weight)


def fitted(
    segments: list[FitSegment], network: Decode = decode, team: Team | None = None, **settings: Any
) -> tuple[Params, list[float]]:
    """Tuned weights and losses."""
    values = {"steps": 3, "lr": 1e-3, "lam": 100.0, **settings}
    rounds = values.pop("rounds", Rounds(len(segments), len(segments), values.pop("steps")))
    load = segments.__getitem__
    fit = DecoderFit(network, weights(), load, rounds, FitSettings(**values))
    return fit.run(team or Alone()), fit.losses


def test_the_loss_is_the_papers_but_for_what_the_pretrained_decoder_will_show() -> None:
    one = segment(0)
    params = {k: v + 0.01 for k, v in weights().items()}
    out, depth = decode(one.z, params), one.depth.expand(1, 3, 32, 32)
    changed, mismatch = (out - one.target) ** 2, (out - one.source) ** 2
    inside = (changed * depth)[(depth > 0) & (depth < 1)].sum() / (depth > 0).sum()
    found = segment_loss(decode, params, one, Areas.of([one]), lam=100)
    wanted = inside + 100 * mismatch[depth == 0].mean()
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)


def test_where_all_of_the_mask_counts_alike_the_loss_is_the_papers() -> None:
    depth = torch.zeros(1, 1, 32, 32)
    depth[..., 8:24, 10:20] = ALIKE
    one = replace(segment(0), depth=depth)
    params = {k: v + 0.01 for k, v in weights().items()}
    out, m = decode(one.z, params), (depth > 0).expand(1, 3, 32, 32)
    wanted = ((out - one.target) ** 2)[m].mean() + 100 * ((out - one.source) ** 2)[~m].mean()
    found = segment_loss(decode, params, one, Areas.of([one]), lam=100)
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)


def test_a_stage_shows_the_tuned_decoder_outside_and_the_pretrained_one_deep_inside() -> None:
    tuned, plain = torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4)
    depth = torch.tensor([0, 0.25, 0.75, 1]).expand(1, 1, 4, 4)
    out = shown(tuned, plain, depth)
    assert torch.equal(out[..., 0], tuned[..., 0])
    assert torch.equal(out[..., 3], plain[..., 3])
    share = ((out - tuned) / (plain - tuned))[..., 1:3]
    assert share.mean(dim=(0, 1, 2)).tolist() == pytest.approx([0.578125, 0.984375], abs=1e-3)


def test_only_the_background_term_is_there_at_the_start() -> None:
    one = segment(0)
    inside = segment_loss(decode, weights(), one, Areas.of([one]), lam=0)
    assert float(inside) == 0


def test_a_pixel_under_two_segments_counts_once() -> None:
    """Two half-weighted copies of a segment are one whole segment."""
    half = torch.full((1, 1, 32, 32), 0.5)
    one, losses = fitted([segment(3, half), segment(3, half)], lr=1e-2)
    other, same = fitted([segment(3)], lr=1e-2)
    assert losses == pytest.approx(same, rel=1e-4)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4)


def test_the_loss_falls_and_the_pretrained_weights_stay_bit_for_bit() -> None:
    before = copy.deepcopy(weights())
    tuned, losses = fitted([segment(0), segment(1)], steps=60)
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
        fitted([segment(0)], failing, steps=10, lr=1e-2)
    assert all(torch.equal(before[k], v) for k, v in weights().items())


def test_minibatches_take_a_step_for_every_pair() -> None:
    segments = [segment(i) for i in range(4)]
    full, _ = fitted(segments)
    pairs, _ = fitted(segments, rounds=Rounds(4, 2, 6))
    moved = [sum(float((p[k] - weights()[k]).abs().sum()) for k in p) for p in (full, pairs)]
    assert moved[1] > 1.5 * moved[0]


def test_samples_reach_the_loss_of_all_segments_with_a_fraction_of_the_passes() -> None:
    segments = [segment(i) for i in range(16)]
    full, sample = Rounds(16, 16, 40), Rounds(16, 2, 60, True)
    areas = Areas.of(segments)

    def reached(rounds: Rounds) -> float:
        tuned, _ = fitted(segments, rounds=rounds, lr=1e-3 / rounds.rate(rounds.steps // 2))
        return sum(float(segment_loss(decode, tuned, s, areas, lam=100)) for s in segments)

    assert reached(sample) <= reached(full)
    assert sample.passes * 5 < full.passes


def test_the_losses_of_samples_are_those_of_all_segments() -> None:
    segments = [segment(0)] * 4
    _, full = fitted(segments, lr=1e-9)
    _, sampled = fitted(segments, lr=1e-9, rounds=Rounds(4, 1, 11, True))
    assert sampled == pytest.approx(full[:2], rel=1e-4)  # the third round is not whole


def test_a_mask_over_everything_has_no_background_term() -> None:
    one = segment(0)
    full = FitSegment(one.z, one.target, one.source, torch.ones_like(one.depth), one.weight)
    _, losses = fitted([full], steps=2)
    assert losses == [0.0, 0.0]


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    one = segment(0)
    bad = FitSegment(one.z, one.target, one.source * torch.nan, one.depth, one.weight)
    with pytest.raises(ArithmeticError, match="not finite"):
        fitted([bad])


def test_segments_that_are_not_held_give_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    segments = [segment(seed) for seed in range(4)]
    held, losses = fitted(segments, steps=3)
    monkeypatch.setattr(decoder, "HELD_BYTES", segments[0].num_bytes)
    loaded: list[int] = []

    def load(slot: int) -> FitSegment:
        loaded.append(slot)
        return segments[slot]

    settings = FitSettings(lr=1e-3, lam=100.0)
    fit = DecoderFit(decode, weights(), load, Rounds(4, 4, 3), settings)
    assert all(torch.equal(held[name], weight) for name, weight in fit.run(Alone()).items())
    assert fit.losses == losses
    assert loaded.count(0) == 1
    assert loaded.count(3) == 1 + 3


def fit_of(steps: int, lr: float = 1e-3) -> DecoderFit:
    segments = [segment(0), segment(1)]
    settings = FitSettings(lr=lr, lam=100.0)
    return DecoderFit(decode, weights(), segments.__getitem__, Rounds(2, 2, steps), settings)


def stored(fit: DecoderFit, **changed: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**fit.state(), **changed}


def test_what_is_not_the_state_of_such_a_fit_is_refused_and_changes_nothing() -> None:
    fit = fit_of(2)
    fit.run(Alone())
    numel = sum(w.numel() for w in weights().values())
    damaged = [
        {"weights": fit.state()["weights"]},
        stored(fit, weights=torch.zeros(3, numel + 1)),
        stored(fit, weights=torch.zeros(numel)),
        stored(fit, weights=torch.full((3, numel), float("nan"))),
        stored(fit, losses=torch.zeros(3)),  # more turns than the fit has
        stored(fit, losses=torch.zeros(2, 2)),
        stored(fit, more=torch.zeros(1)),
    ]
    for state in damaged:
        fresh = fit_of(2)
        with pytest.raises(ValueError, match="the state of a fit"):
            fresh.restore(state)
        assert fresh.turn == 0
        assert fresh.run(Alone()).keys() == fit.params.keys()
        assert fresh.losses == fit.losses
