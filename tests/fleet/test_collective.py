"""Gangs of real processes: sums, what members see when one dies or hangs, forming anew."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch
import torch.distributed as dist

from msbd_dist.fleet import collective
from msbd_dist.fleet.cards import CardFault
from msbd_dist.fleet.collective import Formation, Gang, GangBroken, Links, let_go

SIZE = 3


def member(pipe: Connection) -> None:
    """Serves one test: forms gangs and sums what it is told."""
    torch.set_num_threads(1)
    left: list[int] = []
    gang: Gang | None = None
    while True:
        what, *values = pipe.recv()
        try:
            answer: Any = None
            if what == "form":
                gang = Gang(values[0], stopped=lambda: bool(left) or pipe.poll())
            elif what == "end":
                return
            else:
                answer = do(gang, what, *values) if gang else "broken: no gang"
        except GangBroken as broken:
            gang, answer = None, f"broken: {broken}"
        pipe.send(answer)


def do(gang: Gang, what: str, values: torch.Tensor, *root: int) -> torch.Tensor:
    if what == "sum":
        gang.start_sum(values).wait()
    elif what == "max":
        gang.max(values)
    else:
        gang.send(values, *root)
    return values


class Members:
    def __init__(self) -> None:
        self.store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
        context = get_context("spawn")
        pairs = [context.Pipe() for _ in range(SIZE)]
        self.pipes = [ours for ours, _ in pairs]
        self.processes = [context.Process(target=member, args=(theirs,)) for _, theirs in pairs]
        for process in self.processes:
            process.start()
        self.generation = 0

    def form(self, *ranks: int) -> None:
        self.generation += 1
        for rank, index in enumerate(ranks):
            place = Formation(
                host="127.0.0.1",
                port=self.store.port,
                generation=self.generation,
                rank=rank,
                size=len(ranks),
            )
            self.pipes[index].send(("form", place))
        assert [self.answer(index) for index in ranks] == [None] * len(ranks)

    def ask(self, what: str, ranks: tuple[int, ...], *values: Any) -> list[Any]:
        for index in ranks:
            self.pipes[index].send((what, torch.tensor([float(index + 1), -index]), *values))
        return [self.answer(index) for index in ranks]

    def answer(self, index: int, seconds: float = 60) -> Any:
        assert self.pipes[index].poll(seconds), f"member {index} is silent"
        return self.pipes[index].recv()


@pytest.fixture
def members() -> Iterator[Members]:
    made = Members()
    yield made
    for process in made.processes:
        process.kill()
        process.join()


def test_members_have_the_sum_the_greatest_and_what_one_sends(members: Members) -> None:
    members.form(0, 1, 2)
    everyone = (0, 1, 2)
    assert [v.tolist() for v in members.ask("sum", everyone)] == [[6.0, -3.0]] * 3
    assert [v.tolist() for v in members.ask("max", everyone)] == [[3.0, 0.0]] * 3
    assert [v.tolist() for v in members.ask("send", everyone, 1)] == [[2.0, -1.0]] * 3


def test_a_gang_of_one_is_a_gang(members: Members) -> None:
    members.form(2)
    assert members.ask("sum", (2,))[0].tolist() == [3.0, -2.0]


def test_survivors_of_a_death_are_out_at_once_and_form_anew(members: Members) -> None:
    members.form(0, 1, 2)
    for index in (0, 2):
        members.pipes[index].send(("sum", torch.ones(1 << 20)))
    os.kill(members.processes[1].pid or 0, signal.SIGKILL)
    first = members.answer(0)
    members.pipes[2].send(("sum", torch.ones(2)))  # told to leave, whether or not it has noticed
    answers = [first, members.answer(2)]
    assert all(str(answer).startswith("broken") for answer in answers)
    members.answer(2)  # of the second question
    members.form(2, 0)
    assert [v.tolist() for v in members.ask("sum", (0, 2))] == [[4.0, -2.0]] * 2


def test_members_that_wait_for_a_frozen_one_leave_when_told(members: Members) -> None:
    members.form(0, 1, 2)
    os.kill(members.processes[1].pid or 0, signal.SIGSTOP)
    for index in (0, 2):
        members.pipes[index].send(("sum", torch.ones(1 << 20)))
    time.sleep(0.3)
    assert not members.pipes[0].poll()
    started = time.monotonic()
    for index in (0, 2):
        members.pipes[index].send(("end",))
        assert "told to part" in members.answer(index)
    assert time.monotonic() - started < 30
    os.kill(members.processes[1].pid or 0, signal.SIGCONT)


# --- what is left, and what is kept ---


class Line:
    """A link whose library blocks where it is told to."""

    device = torch.device("cpu")

    def __init__(self, *, holds: bool = False) -> None:
        self.aborted, self.holds = 0, threading.Event()
        if not holds:
            self.holds.set()

    def reduce(self, values: torch.Tensor, operation: Any) -> Any:
        return Never()

    def broadcast(self, values: torch.Tensor, root: int) -> Any:
        return Never()

    def abort(self) -> None:
        self.aborted += 1
        self.holds.wait(60)


class Never:
    """An operation that another member never joins."""

    def is_completed(self) -> bool:
        return False

    def wait(self) -> None:
        raise AssertionError("would never return")


def place(generation: int = 1, met: int = 0, **changed: Any) -> Formation:
    return Formation(
        host="", port=0, generation=generation, met=met, **{"rank": 0, "size": 2, **changed}
    )


def soon() -> Callable[[], bool]:
    """Told to leave after a moment."""
    until = time.monotonic() + 0.2
    return lambda: time.monotonic() > until


def test_who_waits_for_an_operation_leaves_and_aborts() -> None:
    line = Line()
    gang = Gang(place(), stopped=soon(), links=Links(lambda *_: line))
    with pytest.raises(GangBroken, match="told to part"), gang:
        gang.start_sum(torch.ones(1)).wait()
    assert line.aborted == 1


def test_an_operation_that_is_late_breaks_the_gang() -> None:
    line = Line()
    gang = Gang(place(seconds=0.2), stopped=lambda: False, links=Links(lambda *_: line))
    with pytest.raises(GangBroken, match="sends nothing"), gang:
        gang.max(torch.ones(1))
    assert line.aborted == 1


def test_joining_can_be_left_and_what_comes_of_it_is_aborted() -> None:
    go, line = threading.Event(), Line()

    def connect(*_: Any) -> Line:
        go.wait(60)  # as in a library that can't be interrupted
        return line

    with pytest.raises(GangBroken, match="told to part"):
        Gang(place(), stopped=soon(), links=Links(connect))
    go.set()
    until = time.monotonic() + 60
    while not line.aborted and time.monotonic() < until:
        time.sleep(0.01)
    assert line.aborted


def test_a_gang_that_can_not_form_says_why() -> None:
    def connect(*_: Any) -> Line:
        raise RuntimeError("no route to host\nmore")

    with pytest.raises(GangBroken, match=r"a gang of 2 could not form: no route to host$"):
        Gang(place(), stopped=lambda: False, links=Links(connect))


def test_the_same_members_keep_their_link_and_others_make_a_new_one() -> None:
    lines = [Line(), Line()]
    links = Links(lambda *_: lines.pop(0))
    first, second = lines

    def gang(**where: Any) -> Gang:
        return Gang(place(**where), stopped=lambda: False, links=links)

    with gang(generation=1) as one:
        assert one._link is first
    with gang(generation=2, met=1) as one:
        assert one._link is first
    with gang(generation=3) as one:
        assert one._link is second
    assert (first.aborted, second.aborted) == (1, 0)
    with pytest.raises(GangBroken, match="has lost its link"):
        gang(generation=4, met=1)
    assert second.aborted == 1


def test_a_member_that_fails_leaves_its_gang() -> None:
    line = Line()
    gang = Gang(place(), stopped=lambda: False, links=Links(lambda *_: line))
    with pytest.raises(ValueError, match="of the task"), gang:
        raise ValueError("of the task")
    assert line.aborted == 1


def test_a_library_that_does_not_let_go_costs_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collective, "_ABORT", 0.2)
    line = Line(holds=True)
    with pytest.raises(CardFault, match="does not let go"):
        let_go(line)
    line.holds.set()


def test_without_a_gpu_nccl_is_a_gang_that_can_not_form(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in collective._NCCL:
        monkeypatch.setenv(name, "")
    store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    where = Formation(
        host="127.0.0.1", port=store.port, generation=1, rank=0, size=2, backend="nccl"
    )
    with pytest.raises(GangBroken, match="could not form"):
        Gang(where, stopped=lambda: False)
    assert os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "0"
