"""Gangs of real processes: sums, what members see when one dies or hangs, forming anew."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch
import torch.distributed as dist

from msbd_dist.fleet.collective import Formation, Gang, GangBroken

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
