"""Which segments steps of decoder optimization look at."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msbd_dist.core.rounds import SAMPLE_STEPS, STEPS, Rounds, chances
from msbd_dist.core.spec import Method

KINDS = st.sampled_from(["sample", "full", "minibatch"])


@given(st.integers(1, 300), st.sampled_from(["full", "minibatch"]), st.integers(0, 5))
def test_a_round_has_each_segment_once(count: int, kind: str, number: int) -> None:
    rounds = Rounds.of(Method(decoder_batch=kind), count)  # type: ignore[arg-type]
    size, weights = rounds.per_round, [1.0] * count
    seen = [part for i in range(size) for part in rounds.part(number * size + i, weights)]
    assert sorted(part.slot for part in seen) == list(range(count))
    assert {part.factor for part in seen} == {1.0}


@given(st.integers(1, 300), KINDS, st.integers(1, 40))
def test_passes_are_those_of_all_parts(count: int, kind: str, steps: int) -> None:
    method = Method(decoder_batch=kind, decoder_steps=steps)  # type: ignore[arg-type]
    rounds = Rounds.of(method, count)
    parts = [rounds.part(step, [1.0] * count) for step in range(rounds.steps)]
    assert rounds.passes == sum(map(len, parts))
    assert all(1 <= len(part) <= rounds.batch for part in parts)


def test_the_paper_takes_100_steps_of_all_and_the_authors_a_step_for_each_pair() -> None:
    full = Rounds.of(Method(decoder_batch="full"), 20)
    assert (full.batch, full.steps, full.passes) == (20, 100, 2000)
    pairs = Rounds.of(Method(decoder_batch="minibatch"), 20)
    assert (pairs.batch, pairs.steps, pairs.passes) == (2, 1000, 2000)


@pytest.mark.parametrize("count", [15, 24, 80, 240])
def test_samples_cost_a_quarter_of_that_or_less(count: int) -> None:
    sample = Rounds.of(Method(), count)
    assert sample.steps == SAMPLE_STEPS
    assert 4 * sample.passes <= STEPS * count


@given(st.integers(1, 60), KINDS, st.integers(1, 40))
def test_the_learning_rate_of_samples_falls_in_a_line_from_the_methods_to_nothing(
    count: int, kind: str, steps: int
) -> None:
    method = Method(decoder_batch=kind, decoder_steps=steps)  # type: ignore[arg-type]
    rounds = Rounds.of(method, count)
    rates = [rounds.rate(step) for step in range(rounds.steps)]
    if not rounds.sampled:
        assert set(rates) == {1.0}
        return
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] <= 1 / steps
    assert sum(rates) / steps == pytest.approx(0.5)


def test_samples_are_never_more_work_than_all() -> None:
    assert not Rounds.of(Method(), 1).sampled
    for count in range(1, 60):
        assert Rounds.of(Method(), count).passes <= STEPS * count


AREAS = st.just(0.0) | st.floats(1e-3, 1e6)  # in thousandths, as they are counted


@given(st.lists(AREAS, min_size=4, max_size=60))
def test_segments_are_chosen_by_weight_and_count_as_all_do(weights: list[float]) -> None:
    """How often a segment is looked at, times what it counts then, is the same for all."""
    rounds, steps = Rounds(len(weights), 2, 4000, True), range(4000)
    seen: Counter[int] = Counter()
    for step in steps:
        for part in rounds.part(step, weights):
            seen[part.slot] += 1
            assert part.factor * chances(weights)[part.slot] == pytest.approx(0.5)
    for slot, chance in enumerate(chances(weights)):
        assert seen[slot] / 8000 == pytest.approx(chance, abs=0.003)
    assert sum(chances(weights)) == pytest.approx(1)
    assert min(chances(weights)) > 0
