"""Which segments steps of decoder optimization look at."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msbd_dist.core.rounds import SAMPLE_STEPS, SHARE, STEPS, Rounds
from msbd_dist.core.spec import Method


@given(st.integers(1, 300), st.sampled_from(["sample", "full", "minibatch"]), st.integers(0, 5))
def test_a_round_has_each_segment_once(count: int, kind: str, number: int) -> None:
    rounds = Rounds.of(Method(decoder_batch=kind), count)  # type: ignore[arg-type]
    size = rounds.per_round
    seen = [slot for i in range(size) for slot in rounds.part(number * size + i)]
    assert sorted(seen) == list(range(count))


@given(st.integers(1, 300), st.sampled_from(["sample", "full", "minibatch"]), st.integers(1, 40))
def test_passes_are_those_of_all_parts(count: int, kind: str, steps: int) -> None:
    method = Method(decoder_batch=kind, decoder_steps=steps)  # type: ignore[arg-type]
    rounds = Rounds.of(method, count)
    assert rounds.passes == sum(len(rounds.part(step)) for step in range(rounds.steps))
    assert all(1 <= len(rounds.part(step)) <= rounds.batch for step in range(rounds.steps))


def test_the_paper_takes_100_steps_of_all_and_the_authors_a_step_for_each_pair() -> None:
    full = Rounds.of(Method(decoder_batch="full"), 20)
    assert (full.batch, full.steps, full.passes) == (20, 100, 2000)
    pairs = Rounds.of(Method(decoder_batch="minibatch"), 20)
    assert (pairs.batch, pairs.steps, pairs.passes) == (2, 1000, 2000)


@pytest.mark.parametrize("count", [24, 84, 240])
def test_samples_cost_an_eighth_of_that(count: int) -> None:
    sample = Rounds.of(Method(), count)
    assert (sample.batch, sample.steps) == (count // SHARE, SAMPLE_STEPS)
    assert 8 * sample.passes <= STEPS * count


def test_of_one_segment_there_is_no_sample() -> None:
    assert Rounds.of(Method(), 1) == Rounds.of(Method(decoder_batch="full"), 1)


def test_each_round_has_an_order_of_its_own_and_always_the_same() -> None:
    rounds = Rounds.of(Method(), 24)
    orders = [[rounds.part(12 * number + i) for i in range(12)] for number in range(3)]
    assert orders[0] != orders[1] != orders[2]
    assert orders[0] == [Rounds(24, 2, 7, True).part(i) for i in range(12)]
