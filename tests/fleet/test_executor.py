"""Executors run tasks and report what became of them; the serial one and Ray alike."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray import cloudpickle

from msbd_dist.errors import (
    ClusterError,
    FullError,
    ImageError,
    ModelError,
    NonFiniteError,
    WorkerError,
)
from msbd_dist.fleet.executor import Beat, Executor, Outcome, SerialExecutor, Worker
from msbd_dist.fleet.ray_executor import Patience, RayExecutor
from msbd_dist.fleet.retry import (
    Attempt,
    Failure,
    History,
    MemoryShort,
    NodeLost,
    RetryPolicy,
    Unfit,
    WorkerLost,
    classify,
)


@dataclass(frozen=True)
class Job:
    name: str
    kind: str = "square"
    value: int = 0
    once: Path | None = None  # die only if this file is not there yet


class Calculator:
    def run(self, task: Job, attempt: Attempt, *, beat: Beat, team: Any = None) -> dict[str, Any]:
        if task.kind == "shared":
            return self._shared(task, team)
        if task.kind == "sleep":
            time.sleep(task.value)
        if task.kind == "one fails":
            if team.rank == 2:
                raise ImageError(f"{task.name}: got x, wanted y")
            team.start_sum(torch.ones(1)).wait()
        if task.kind == "fail":
            raise ImageError(f"{task.name}: got x, wanted y")
        if task.kind == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if task.kind == "slow once" and task.once is not None and not task.once.exists():
            task.once.touch()
            time.sleep(60)
        if task.kind == "die once" and task.once is not None and not task.once.exists():
            task.once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"result": task.value**2}

    def _shared(self, task: Job, team: Any) -> dict[str, Any]:
        """Counts to the job's value, one sum over the team at a time, and keeps its count."""
        kept = self.__dict__.setdefault("counts", {}).setdefault(task.name, [0])
        count = torch.tensor([kept[0]])
        team.max(count)
        kept[0] = int(count)
        while kept[0] < task.value:
            if kept[0] == 3 and team.rank == 1 and task.once and not task.once.exists():
                task.once.touch()
                os.kill(os.getpid(), signal.SIGSTOP if "freeze" in task.name else signal.SIGKILL)
            ones = torch.ones(1)
            team.start_sum(ones).wait()
            assert ones == team.size
            kept[0] += 1
            time.sleep(0.05)
        return {"count": kept[0], "size": team.size, "rank": team.rank}


# workers can't import test modules: send what is defined here along
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def make() -> Worker:
    return Calculator()


def outcome_of(pool: Executor) -> Outcome:
    outcome = pool.wait()
    assert outcome is not None
    return outcome


@pytest.fixture(params=["serial", "ray"])
def executor(request: pytest.FixtureRequest, ray_session: None) -> Iterator[Executor]:
    pool: Executor = SerialExecutor(make)
    if request.param == "ray":
        pool = RayExecutor(make, num_workers=2, use_gpus=False)
    yield pool
    pool.close()


def test_every_task_has_one_outcome(executor: Executor) -> None:
    for i in range(7):
        executor.submit(Job(f"j{i}", value=i))
    outcomes = [outcome_of(executor) for _ in range(7)]
    assert {o.task.name: o.facts for o in outcomes} == {
        f"j{i}": {"result": i * i} for i in range(7)
    }
    with pytest.raises(LookupError):
        executor.wait()


def test_an_error_comes_back_as_itself_and_harms_no_other_task(executor: Executor) -> None:
    executor.submit(Job("bad", kind="fail"))
    executor.submit(Job("good", value=3))
    outcomes = {o.task.name: o for o in (outcome_of(executor), outcome_of(executor))}
    assert type(outcomes["bad"].error) is ImageError
    assert str(outcomes["bad"].error) == "bad: got x, wanted y"
    assert outcomes["good"].facts == {"result": 9}


@dataclass(frozen=True)
class Prepared:
    """Makes a worker, which tells whether its process was prepared for it."""

    left: Path

    def prepare(self) -> None:
        time.sleep(0.5)
        self.left.write_text(str(os.getpid()))

    def __call__(self) -> Worker:
        assert self.left.read_text() == str(os.getpid())
        return Calculator()


def test_a_worker_prepares_before_a_task_has_come(ray_session: None, tmp_path: Path) -> None:
    pool = RayExecutor(Prepared(tmp_path / "pid"), num_workers=1, use_gpus=False)
    until = time.monotonic() + 60
    while not (tmp_path / "pid").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert (tmp_path / "pid").exists()
    pool.submit(Job("one", value=3))
    assert outcome_of(pool).facts == {"result": 9}
    pool.close()


def test_a_task_waits_until_its_worker_is_prepared(ray_session: None, tmp_path: Path) -> None:
    pool = RayExecutor(Prepared(tmp_path / "pid"), num_workers=1, use_gpus=False)
    pool.submit(Job("one", value=3))
    assert outcome_of(pool).facts == {"result": 9}
    pool.close()


def test_dropped_tasks_never_run(executor: Executor) -> None:
    for i in range(20):
        executor.submit(Job("a" if i % 2 else "b", value=i))
    dropped = executor.drop(lambda job: job.name == "a")
    seen = [outcome_of(executor).task.name for _ in range(20 - dropped)]
    assert dropped >= 8
    assert seen.count("b") == 10
    with pytest.raises(LookupError):
        executor.wait()


def test_a_task_whose_worker_dies_is_given_out_again(ray_session: None, tmp_path: Path) -> None:
    pool = RayExecutor(make, num_workers=2, use_gpus=False)
    pool.submit(Job("unlucky", kind="die once", value=5, once=tmp_path / "died"))
    for i in range(12):  # so many that workers have one in hand
        pool.submit(Job(f"j{i}", value=i))
    outcomes = {o.task.name: o for o in (outcome_of(pool) for _ in range(13))}
    pool.close()
    assert outcomes["unlucky"].facts == {"result": 25}
    assert outcomes["unlucky"].attempts == 2
    assert all(o.error is None for o in outcomes.values())


def test_a_task_that_kills_every_worker_fails_with_one_line(ray_session: None) -> None:
    pool = RayExecutor(make, num_workers=1, use_gpus=False)
    pool.submit(Job("poison", kind="die"))
    outcome = outcome_of(pool)
    pool.close()
    assert isinstance(outcome.error, WorkerError)
    assert "killed its worker 3 times" in str(outcome.error)
    assert "\n" not in str(outcome.error)


PATIENCE = Patience(tick=0.1, ping=0.5, hang=10.0, grow=1.0)


def all_there(pool: RayExecutor) -> RayExecutor:
    """The executor once all of its workers have answered."""
    until = time.monotonic() + 120
    while any(member.node is None for member in pool._members.values()):
        assert time.monotonic() < until
        pool._supervise()
        time.sleep(0.05)
    return pool


@pytest.fixture
def pool(ray_session: None) -> Iterator[RayExecutor]:
    made = RayExecutor(make, num_workers=3, use_gpus=False, patience=PATIENCE)
    with closing(made):
        yield all_there(made)


def test_idle_workers_share_a_task(pool: RayExecutor) -> None:
    pool.submit(Job("together", kind="shared", value=5), ranks=3)
    assert outcome_of(pool).facts == {"count": 5, "size": 3, "rank": 0}
    pool.submit(Job("two", kind="shared", value=5), ranks=2)
    pool.submit(Job("single", value=4))
    outcomes = {o.task.name: o.facts for o in (outcome_of(pool), outcome_of(pool))}
    assert outcomes["two"] == {"count": 5, "size": 2, "rank": 0}
    assert outcomes["single"] == {"result": 16}


@pytest.mark.parametrize("fault", ["die", "freeze"])
def test_a_gang_goes_on_without_a_member_that_is_lost(
    pool: RayExecutor, tmp_path: Path, fault: str
) -> None:
    pool.submit(Job(fault, kind="shared", value=40, once=tmp_path / "struck"), ranks=3)
    outcome = outcome_of(pool)
    assert (tmp_path / "struck").exists()
    assert outcome.facts is not None, outcome.error
    assert outcome.facts["count"] == 40
    assert outcome.attempts == 2


def test_a_shared_task_that_kills_its_workers_is_tried_alone_and_set_aside(
    pool: RayExecutor,
) -> None:
    pool.submit(Job("poison", kind="die"), ranks=3)
    outcome = outcome_of(pool)
    assert "killed its worker 3 times" in str(outcome.error)
    assert outcome.attempts > 3  # gangs were not held against it
    pool.submit(Job("together", kind="shared", value=2), ranks=3)
    assert outcome_of(pool).facts


def test_gangs_form_again_when_the_place_where_they_meet_is_lost(pool: RayExecutor) -> None:
    pool.submit(Job("before", kind="shared", value=2), ranks=3)
    assert outcome_of(pool).facts
    ray.kill(pool._rendezvous)
    pool.submit(Job("same", kind="shared", value=2), ranks=3)  # they need not meet again
    assert outcome_of(pool).attempts == 1
    pool.submit(Job("after", kind="shared", value=2), ranks=2)
    facts = outcome_of(pool).facts
    assert facts is not None
    assert facts["size"] == 2


def test_a_gang_lets_in_workers_that_have_become_idle(pool: RayExecutor) -> None:
    for index in range(2):
        pool.submit(Job(f"busy{index}", kind="sleep", value=2))
    pool.submit(Job("grows", kind="shared", value=100), ranks=3)
    outcomes = {o.task.name: o for o in (outcome_of(pool) for _ in range(3))}
    assert outcomes["grows"].facts == {"count": 100, "size": 3, "rank": 0}
    assert outcomes["grows"].attempts == 1


def test_a_task_that_is_slower_than_its_like_gets_a_twin(pool: RayExecutor, tmp_path: Path) -> None:
    for index in range(6):
        pool.submit(Job(f"j{index}"), kind="square")
        outcome_of(pool)
    pool.submit(Job("slow", kind="slow once", value=7, once=tmp_path / "slept"), kind="square")
    outcome = outcome_of(pool)
    assert (tmp_path / "slept").exists()
    assert outcome.facts == {"result": 49}
    assert pool.running == 1  # the sleeper, whose result nobody waits for


def test_a_worker_that_answers_but_makes_no_progress_is_replaced(
    ray_session: None, tmp_path: Path
) -> None:
    patience = Patience(tick=0.1, ping=0.5, stall=3.0)
    pool = RayExecutor(make, num_workers=1, use_gpus=False, patience=patience)
    pool.submit(Job("stuck", kind="slow once", value=7, once=tmp_path / "slept"))
    outcome = outcome_of(pool)
    pool.close()
    assert (tmp_path / "slept").exists()
    assert outcome.facts == {"result": 49}
    assert outcome.attempts == 2


def test_an_error_of_one_member_ends_the_task_and_frees_the_others(pool: RayExecutor) -> None:
    pool.submit(Job("bad", kind="one fails"), ranks=3)
    outcome = outcome_of(pool)
    assert type(outcome.error) is ImageError
    pool.submit(Job("together", kind="shared", value=2), ranks=3)
    facts = outcome_of(pool).facts
    assert facts is not None
    assert facts["size"] == 3


@dataclass(frozen=True)
class Refusing:
    """Makes workers on one node only."""

    error: Exception
    fit: str = ""  # the node's address

    def __call__(self) -> Worker:
        if ray.util.get_node_ip_address() != self.fit:
            raise self.error
        return Calculator()


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_host_that_refuses_is_named_and_none_is_left(ray_session: None, ranks: int) -> None:
    error = Unfit("its unet is another one")
    pool = RayExecutor(Refusing(error), num_workers=2, use_gpus=False)
    for index in range(4):
        pool.submit(Job(f"j{index}", kind="shared" if ranks > 1 else "square"), ranks=ranks)
    outcome = outcome_of(pool)
    pool.close()
    assert type(outcome.error) is ClusterError
    assert "no host can take part" in str(outcome.error)
    assert f"{socket.gethostname()} (" in str(outcome.error)
    assert str(error) in str(outcome.error)


def test_a_model_that_no_host_can_load_is_an_error_of_the_model(ray_session: None) -> None:
    pool = RayExecutor(Refusing(ModelError("x4.pth: is damaged")), num_workers=2, use_gpus=False)
    pool.submit(Job("one"))
    outcome = outcome_of(pool)
    pool.close()
    assert type(outcome.error) is ModelError
    assert str(outcome.error) == "x4.pth: is damaged"


# --- cards: of `carded.py`, whose Ray counts two GPUs ---


@pytest.fixture(scope="module")
def carded() -> dict[str, Any]:
    script = Path(__file__).with_name("carded.py")
    used = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=580
    )
    assert used.returncode == 0, used.stderr
    return dict(json.loads(used.stdout))


def test_one_dead_card_fails_no_task_and_is_left_out(carded: dict[str, Any]) -> None:
    found = carded["one is dead"]
    assert found["workers"] == 2
    assert found["errors"] == []
    assert found["done"] == 40
    assert "GPU 1: CUDA error: uncorrectable ECC error encountered" in found["trouble"]
    assert found["trouble"].startswith("left out: ")
    assert f"(on {socket.gethostname()}, GPU 1)" in found["trouble"]


def test_where_all_cards_are_dead_the_run_ends_and_no_task_is_blamed(
    carded: dict[str, Any],
) -> None:
    kind, text = carded["all are dead"]
    assert kind == "ClusterError"
    assert f"no host can take part in this run: {socket.gethostname()} (" in text
    assert "GPU 0: CUDA error: uncorrectable ECC error encountered" in text
    assert "\n" not in text


def test_workers_that_ray_has_no_room_for_are_told_of_and_the_others_work(
    carded: dict[str, Any],
) -> None:
    found = carded["one is held"]
    assert found["done"] == 6
    assert "1 of 2 workers are not there: each needs 1 GPU and 1 CPU" in found["trouble"]
    assert "this Ray has 0 GPU" in found["trouble"]


def test_three_workers_on_two_gpus_all_work(carded: dict[str, Any]) -> None:
    assert carded["three on two"] == ["0", "0", "1"]


def test_gangs_that_never_form_use_gloo_and_then_do_without(carded: dict[str, Any]) -> None:
    found = carded["never forms"]
    assert found["backend"] == "nccl"
    assert found["sizes"] == [2, 1]
    assert "gangs use gloo: a gang of 2 could not form" in found["trouble"][0]
    assert "gangs do without others" in found["trouble"][1]


def test_a_fault_of_cuda_ends_a_serial_run_and_sets_no_edit_aside() -> None:
    class Faulty(Calculator):
        def run(self, *_: Any, **__: Any) -> dict[str, Any]:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    pool = SerialExecutor(Faulty)
    pool.submit(Job("one"))
    error = outcome_of(pool).error
    assert type(error) is ClusterError
    assert "illegal memory access was encountered (in this process); run the same" in str(error)


# --- what a failure means ---


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (WorkerLost("gone"), Failure.TRANSIENT),
        (NodeLost("gone"), Failure.TRANSIENT),
        (ConnectionResetError("a store's hiccup"), Failure.TRANSIENT),
        (TimeoutError("a store's hiccup"), Failure.TRANSIENT),
        (MemoryShort("killed"), Failure.RESOURCE),
        (MemoryError(), Failure.RESOURCE),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), Failure.RESOURCE),
        (OSError(errno.ENOSPC, "No space left on device"), Failure.PERMANENT),
        (ImageError("bad"), Failure.PERMANENT),
        (NonFiniteError("NaN"), Failure.PERMANENT),
        (ValueError("bug"), Failure.PERMANENT),
    ],
)
def test_errors_are_told_apart(error: Exception, failure: Failure) -> None:
    assert classify(error) is failure


RNG = random.Random(1)


def ends_with(history: History, *errors: Exception) -> Exception | None:
    """What the last error comes to, where the ones before were forgiven."""
    for error in errors[:-1]:
        assert history.forgives(error, RNG) is None
    return history.forgives(errors[-1], RNG)


@pytest.fixture
def history() -> History:
    return History(7, RetryPolicy())


def test_no_two_attempts_have_one_name(history: History) -> None:
    assert [history.next().name for _ in range(3)] == ["7.0", "7.1", "7.2"]


def test_what_kills_three_workers_is_set_aside(history: History) -> None:
    final = ends_with(history, *[WorkerLost("gone")] * 3)
    assert isinstance(final, WorkerError)
    assert "set aside" in str(final)


def test_a_node_that_leaves_is_not_charged_to_the_task(history: History) -> None:
    assert ends_with(history, *[NodeLost("left")] * 50) is None


def test_a_store_gets_several_chances(history: History) -> None:
    assert isinstance(ends_with(history, *[TimeoutError("slow")] * 6), TimeoutError)


def test_short_memory_asks_for_smaller_pieces(history: History) -> None:
    parts = []
    for _ in range(6):
        assert history.forgives(MemoryShort("killed"), RNG) is None
        parts.append(history.next().parts)
    assert parts == [2, 4, 8, 16, 32, 64]
    assert "out of memory" in str(history.forgives(MemoryError(), RNG))


def test_a_full_disk_is_the_runs_own_trouble(history: History) -> None:
    final = ends_with(history, OSError(errno.ENOSPC, "No space left on device", "/runs/a"))
    assert isinstance(final, FullError)
    assert "/runs/a: can't be written (No space left on device); make room" in str(final)


def test_pauses_grow_to_a_limit_and_are_jittered() -> None:
    policy = RetryPolicy(first=1, longest=10)
    pauses = [policy.pause(tries, RNG) for tries in range(1, 9)]
    assert all(p <= 10 for p in pauses)
    assert all(0.5 <= p / min(10, 2**n) <= 1 for n, p in enumerate(pauses))
    assert len(set(pauses)) == len(pauses)
