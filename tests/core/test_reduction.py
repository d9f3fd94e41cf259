"""Teams of threads: the same weights for any number of them, also when members come and go."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call

from msbd_dist.core.decoder import DecoderFit, FitSettings, Params
from msbd_dist.core.gang import Alone, Sum
from msbd_dist.core.reduction import GradientSum
from msbd_dist.core.rounds import Rounds
from msbd_dist.core.spec import Reduction
from tests.core.test_decoder import NET, segment, weights

REDUCTIONS = get_args(Reduction)


class Broken(Exception):
    """A member is lost."""


class Room:
    """Where the members of a team meet; breaks at a given meeting."""

    def __init__(self, size: int, breaks_at: int | None = None) -> None:
        self.size, self.breaks_at, self.meetings = size, breaks_at, 0
        self.barrier = threading.Barrier(size)
        self.brought: dict[int, torch.Tensor] = {}

    def meet(self, rank: int, values: torch.Tensor) -> list[torch.Tensor]:
        self.brought[rank] = values.clone()
        self._wait()
        if rank == 0:
            self.meetings += 1
        everything = [self.brought[r] for r in range(self.size)]
        self._wait()
        if self.meetings == self.breaks_at and rank != 1:  # who is lucky notices one meeting later
            self.barrier.abort()
            raise Broken
        return everything

    def _wait(self) -> None:
        try:
            self.barrier.wait(timeout=60)
        except threading.BrokenBarrierError:
            raise Broken from None


class Member:
    def __init__(self, room: Room, rank: int) -> None:
        self.room, self.rank, self.size = room, rank, room.size

    def start_sum(self, values: torch.Tensor) -> Sum:
        values.copy_(sum(self.room.meet(self.rank, values)))  # type: ignore[call-overload]
        return Alone().start_sum(values)

    def max(self, values: torch.Tensor) -> None:
        values.copy_(torch.stack(self.room.meet(self.rank, values)).amax(0))

    def send(self, values: torch.Tensor, root: int) -> None:
        values.copy_(self.room.meet(self.rank, values)[root])


def decode(z: torch.Tensor, params: Params | None = None) -> torch.Tensor:
    """On a network of its own: `functional_call` is not for several threads on one."""
    return functional_call(copy.deepcopy(NET), params or {}, (z,))


SEGMENTS = [segment(i) for i in range(5)]


def new_fit(**changes: Any) -> DecoderFit:
    values = {"lr": 1e-2, "lam": 100.0, "rounds": Rounds(5, 5, 4), **changes}
    rounds, load = values.pop("rounds"), SEGMENTS.__getitem__
    return DecoderFit(decode, weights(), load, rounds, FitSettings(**values))


def run(fits: list[DecoderFit], breaks_at: int | None = None) -> list[Any]:
    """What each member's `run` returned or raised."""
    room = Room(len(fits), breaks_at)

    def member(rank: int) -> Any:
        try:
            return fits[rank].run(Member(room, rank))
        except Broken as broken:
            return broken

    with ThreadPoolExecutor(len(fits)) as pool:
        return list(pool.map(member, range(len(fits))))


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("size", [2, 3, 5, 7])
@pytest.mark.parametrize(
    "rounds", [Rounds(5, 5, 4), Rounds(5, 2, 12), Rounds(5, 3, 6, True)], ids=str
)
def test_any_number_of_processes_has_the_same_weights_bit_for_bit(
    size: int, rounds: Rounds
) -> None:
    alone = new_fit(rounds=rounds)
    wanted = alone.run(Alone())
    fits = [new_fit(rounds=rounds) for _ in range(size)]
    for tuned in run(fits):
        assert_equal(tuned, wanted)
    assert all(fit.losses == alone.losses for fit in fits)


@pytest.mark.parametrize("kind", ["fast", "bf16"])
def test_the_faster_reductions_are_close(kind: Reduction) -> None:
    alone, fits = new_fit(), [new_fit(reduction=kind) for _ in range(3)]
    alone.run(Alone())
    one, *others = run(fits)
    for other in others:
        assert_equal(one, other)
    assert fits[0].losses == pytest.approx(alone.losses, rel=0.02)


@pytest.mark.parametrize("breaks_at", range(2, 7))
def test_a_broken_team_is_taken_up_by_another_with_the_same_result(breaks_at: int) -> None:
    wanted = new_fit().run(Alone())
    fits = [new_fit() for _ in range(3)]
    results = run(fits, breaks_at)
    assert any(isinstance(result, Broken) for result in results)
    survivors = [fits[2], new_fit(), fits[0], new_fit()]  # other ranks, a newcomer at each end
    for tuned in run(survivors):
        assert_equal(tuned, wanted)
    assert survivors[0].losses == survivors[1].losses
    assert len(survivors[0].losses) == 4


def test_a_state_is_taken_up_where_it_was_left() -> None:
    whole, part, rest = new_fit(), new_fit(), new_fit()
    wanted = whole.run(Alone())

    def stop(turn: int) -> None:
        if turn == 2:
            raise Broken

    with pytest.raises(Broken):
        part.run(Alone(), on_turn=stop)
    rest.restore(part.state())
    assert_equal(rest.run(Alone()), wanted)
    assert rest.losses == whole.losses


def test_a_team_with_different_fits_is_refused() -> None:
    with pytest.raises(RuntimeError, match="different computations"):
        run([new_fit(), new_fit(rounds=Rounds(5, 5, 5))])


# --- buffers ---

values = st.floats(-4, 4, width=32)


@given(
    st.lists(st.tuples(values, values, values), min_size=1, max_size=8),
    st.integers(1, 4),
    st.randoms(),
)
@settings(deadline=None, max_examples=60)
def test_exact_sums_have_no_order_and_no_grouping(
    gradients: list[tuple[float, ...]], groups: int, order: Any
) -> None:
    shape = [torch.zeros(2), torch.zeros(1)]

    def total(parts: list[tuple[float, ...]]) -> torch.Tensor:
        buffer = GradientSum(shape, "exact")
        for one in parts:
            buffer.add(0, torch.tensor(one[:2]))
            buffer.add(1, torch.tensor(one[2:]))
        return buffer._flat

    shuffled = list(gradients)
    order.shuffle(shuffled)
    grouped = sum(total(shuffled[i::groups]) for i in range(groups))
    assert torch.equal(torch.as_tensor(grouped), total(gradients))


@pytest.mark.parametrize("kind", REDUCTIONS)
def test_a_sum_is_the_sum(kind: Reduction) -> None:
    shapes = [torch.zeros(3, 2), torch.zeros(5), torch.zeros(1)]
    buffer = GradientSum(shapes, kind, bucket=4)
    drawn = [[torch.randn_like(shape) for shape in shapes] for _ in range(3)]
    for one in drawn:
        for index in (2, 0, 1):
            buffer.add(index, one[index])
        buffer.add_loss(torch.tensor(0.5))
    for _ in range(2):
        gradients, loss = buffer.total(Alone())
        wanted = [sum(one[i] for one in drawn) for i in range(3)]
        if loss == 0:  # the buffer was emptied by the first turn
            wanted = [torch.zeros_like(shape) for shape in shapes]
        for found, sum_ in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(found, sum_)
    assert loss == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("kind", REDUCTIONS)
def test_what_is_not_finite_is_an_error_for_all(kind: Reduction, bad: float) -> None:
    buffer = GradientSum([torch.zeros(2)], kind)
    buffer.add(0, torch.tensor([1.0, bad]))
    with pytest.raises(ArithmeticError):
        buffer.total(Alone())
    gradients, _ = buffer.total(Alone())
    assert torch.equal(gradients[0], torch.zeros(2))


class Counting(Alone):
    def __init__(self) -> None:
        self.sent: list[int] = []

    def start_sum(self, values: torch.Tensor) -> Sum:
        self.sent.append(values.numel())
        return super().start_sum(values)


def test_buckets_are_sent_as_soon_as_they_are_complete_and_alike_everywhere() -> None:
    shapes = [torch.zeros(n) for n in (3, 4, 5, 2)]
    worker, idle = Counting(), Counting()
    buffer = GradientSum(shapes, "exact", bucket=6)
    buffer.complete(2, worker)
    assert worker.sent == [], "the last parameter is still open"
    buffer.complete(3, worker)
    assert worker.sent == [7]
    buffer.total(worker)
    GradientSum(shapes, "exact", bucket=6).total(idle)
    assert worker.sent == idle.sent == [7, 7, 2]
