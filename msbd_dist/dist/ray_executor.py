"""Workers as Ray actors. The only file that imports ray.

One actor per worker with one task in flight; results are small facts, pixels never pass through
Ray. A task whose worker dies is given to another one; Ray restarts the dead worker.

A task that may be shared is given to a *gang* of idle workers, each with its place in it. When a
member is lost or hangs, the others are told to leave, and the task is given to a new gang of who is
there; workers keep what they have computed, so that it goes on from the last common step. A gang
also parts when others become idle, to form anew with them.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from msbd_dist.dist.collective import Backend, Formation, Gang, GangBroken
from msbd_dist.dist.executor import Facts, MakeWorker, Outcome, RetryPolicy, Verdict, WorkerLost
from msbd_dist.errors import ClusterError, WorkerError

log = logging.getLogger(__name__)

MAX_RESTARTS = (
    4  # of one actor; a worker that keeps dying in its constructor must not loop for ever
)
MAX_CPU_WORKERS = 8  # of the default; each holds its own models
CONTROL = "control"  # methods of this group answer while a task runs


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Seconds that the driver waits before it acts."""

    tick: float = 0.5  # between looks at what has not answered
    ping: float = 5.0  # between questions to a worker that is at work
    hang: float = 30.0  # for its answer: then it is killed
    grow: float = 10.0  # of a gang's age before it parts to let idle workers in


class _Actor:
    """Runs in the worker's process: makes its worker on the first task."""

    def __init__(self, make_worker: MakeWorker) -> None:
        self._make_worker = make_worker
        self._worker: Any = None
        self._left = 0  # gangs up to this generation are to be left

    def run(self, task: Any, place: Formation | None = None) -> Facts:
        if self._worker is None:
            self._worker = self._make_worker()
        if place is None:
            return dict(self._worker.run(task))
        gang = Gang(
            place,
            address=_own_address(),
            stopped=lambda: self._left >= place.generation,
        )
        return dict(self._worker.run(task, gang))

    @ray.method(concurrency_group=CONTROL)
    def leave(self, generation: int) -> None:
        self._left = max(self._left, generation)

    @ray.method(concurrency_group=CONTROL)
    def ping(self) -> int:
        return os.getpid()


def _own_address() -> str:
    """This node's, as Ray's other nodes know it."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


class _Rendezvous:
    """Where the members of gangs find one another; lives as long as the executor."""

    def __init__(self) -> None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        self._host = _own_address()
        self._store = TCPStore(self._host, 0, None, True, wait_for_workers=False)

    def address(self) -> tuple[str, int]:
        return self._host, self._store.port


@dataclass
class _Job:
    """A task on its way to an outcome."""

    task: Any
    ranks: int
    attempts: int = 0


@dataclass
class _Team:
    """The workers that share a job, each with its own call."""

    job: _Job
    generation: int
    members: dict[int, Any] = field(default_factory=dict)  # actor -> its call, until it returns
    size: int = 0
    parting: bool = False
    facts: Facts | None = None  # of rank 0
    error: Exception | None = None  # what is nobody's loss
    lost: WorkerLost | None = None
    started: float = field(default_factory=time.perf_counter)


@dataclass
class _Ping:
    """A question to an actor. One that has never answered may still be starting."""

    answer: Any  # reference
    asked: float
    answered: bool = False
    known: bool = False  # whether this actor has ever answered


@dataclass
class _Call:
    """A method of an actor that has not returned yet."""

    job: _Job
    actor: int
    team: _Team | None = None
    rank: int = 0
    started: float = field(default_factory=time.perf_counter)


class RayExecutor:
    """Actors on a Ray that is started here, or on the one at ``address``.

    ``num_workers`` None: one worker per GPU, or per CPU where there is no GPU or none is wanted.
    With GPUs each worker has one, or an equal share where there are more workers than GPUs.
    """

    def __init__(
        self,
        make_worker: MakeWorker,
        *,
        num_workers: int | None = None,
        use_gpus: bool = True,
        address: str | None = None,
        retry: RetryPolicy | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._retry, self._patience = retry or RetryPolicy(), patience or Patience()
        self._owns_ray = connect(address, num_cpus=num_workers or 1)
        have: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = have.get("GPU", 0.0) if use_gpus else 0.0
        cpus = have.get("CPU", 0.0)
        self.num_workers = num_workers or max(1, int(gpus or min(cpus, MAX_CPU_WORKERS)))
        if self.num_workers > cpus:
            raise ClusterError(
                f"{self.num_workers} workers need as many CPUs, this Ray has {cpus:g}; "
                "ask for fewer with --workers"
            )
        options: dict[str, Any] = {
            "num_cpus": 1,
            "num_gpus": min(1.0, gpus / self.num_workers),
            "max_restarts": MAX_RESTARTS,
            "max_task_retries": 0,
            "concurrency_groups": {CONTROL: 1},
        }
        actor = ray.remote(**options)(_Actor)
        self._actors: list[Any] = [actor.remote(make_worker) for _ in range(self.num_workers)]
        self._backend: Backend = "nccl" if gpus >= self.num_workers else "gloo"
        self._rendezvous: Any = None  # made for the first gang
        self._generation = 0
        self._queue: deque[_Job] = deque()
        self._calls: dict[Any, _Call] = {}  # by the reference of their result
        self._idle = set(range(self.num_workers))
        self._restarting: dict[int, float] = {}  # actors that were lost -> when to ask again
        self._pings: dict[int, _Ping] = {}  # the last one of each actor

    def submit(self, task: Any, *, ranks: int = 1) -> None:
        self._queue.append(_Job(task, min(ranks, self.num_workers)))
        self._dispatch()

    def wait(self) -> Outcome:
        while True:
            self._dispatch()
            if not self._calls and not self._restarting:
                if not self._queue:
                    raise LookupError("nothing to wait for")
                job = self._queue.popleft()
                return Outcome(job.task, error=_none_left(), attempts=job.attempts)
            ready: list[Any] = []
            if self._calls:
                ready, _ = ray.wait(
                    list(self._calls), timeout=self._patience.tick, fetch_local=False
                )
            else:
                time.sleep(self._patience.tick)
            self._supervise()
            for reference in ready:
                outcome = self._take(reference)
                if outcome is not None:
                    return outcome

    def drop(self, unwanted: Callable[[Any], bool]) -> int:
        kept = [job for job in self._queue if not unwanted(job.task)]
        dropped = len(self._queue) - len(kept)
        self._queue = deque(kept)
        return dropped

    def close(self) -> None:
        for actor in self._actors + ([self._rendezvous] if self._rendezvous else []):
            ray.kill(actor)
        if self._owns_ray:
            ray.shutdown()

    # -- giving out --------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        while self._queue and self._idle:
            job = self._queue.popleft()
            job.attempts += 1
            if job.ranks > 1:
                self._form(job)
            else:
                self._call(_Call(job, min(self._idle)), None)
        if not self._queue and self._idle:
            self._let_in()

    def _form(self, job: _Job) -> None:
        """Give a job to as many idle workers as may share it."""
        actors = sorted(self._idle)[: job.ranks]
        host, port = self._store_address()
        self._generation += 1
        team = _Team(job, self._generation, size=len(actors))
        for rank, actor in enumerate(actors):
            place = Formation(
                host=host,
                port=port,
                generation=team.generation,
                rank=rank,
                size=len(actors),
                backend=self._backend,
            )
            team.members[actor] = self._call(_Call(job, actor, team, rank), place)

    def _call(self, call: _Call, place: Formation | None) -> Any:
        self._idle.discard(call.actor)
        reference = self._actors[call.actor].run.remote(call.job.task, place)
        self._calls[reference] = call
        return reference

    def _let_in(self) -> None:
        """Let the oldest gang part that has room for workers which have nothing else to do."""
        now = time.perf_counter()
        for call in self._calls.values():
            team = call.team
            if team and team.size < team.job.ranks and now - team.started > self._patience.grow:
                self._part(team)
                return

    def _store_address(self) -> tuple[str, int]:
        if self._rendezvous is None:
            node = ray.get_runtime_context().get_node_id()
            here: dict[str, Any] = {
                "num_cpus": 0,
                "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
            }
            self._rendezvous = ray.remote(**here)(_Rendezvous).remote()
        host, port = ray.get(self._rendezvous.address.remote())
        return host, port

    # -- taking back -------------------------------------------------------------------------------

    def _take(self, reference: Any) -> Outcome | None:
        """What a call that has returned means for its job: its outcome, or None for not yet."""
        call = self._calls.pop(reference)
        facts, error = None, None
        try:
            facts = ray.get(reference)
        except Exception as raised:
            error = _as_ours(raised)
        if isinstance(error, WorkerLost):
            self._restarting[call.actor] = time.perf_counter()
            self._pings.pop(call.actor, None)
        else:
            self._idle.add(call.actor)
        if call.team is not None:
            return self._take_member(call, call.team, facts, error)
        return self._settle(call.job, facts, error, call.started)

    def _take_member(
        self, call: _Call, team: _Team, facts: Facts | None, error: Exception | None
    ) -> Outcome | None:
        """A gang's job is settled when its last member has returned."""
        del team.members[call.actor]
        if isinstance(error, WorkerLost):
            team.lost = error
        elif error is not None and not isinstance(error, GangBroken):
            team.error = team.error or error
        elif facts is not None and call.rank == 0:
            team.facts = facts
        if error is not None:
            self._part(team)
        if team.members:
            return None
        if team.facts is None and team.error is None and team.lost is None:  # told to part
            team.job.attempts -= 1
            self._queue.appendleft(team.job)
            return None
        return self._settle(team.job, team.facts, team.error or team.lost, team.started)

    def _settle(
        self, job: _Job, facts: Facts | None, error: Exception | None, started: float
    ) -> Outcome | None:
        if facts is not None:
            seconds = time.perf_counter() - started
            return Outcome(job.task, facts=facts, attempts=job.attempts, seconds=seconds)
        assert error is not None
        if self._retry.decide(error, job.attempts) is Verdict.RETRY:
            log.warning("a worker was lost; its task is given out again")
            self._queue.appendleft(job)
            return None
        return Outcome(job.task, error=_final(error, job.attempts), attempts=job.attempts)

    # -- watching ----------------------------------------------------------------------------------

    def _supervise(self) -> None:
        """Kill who does not answer, and see who is back."""
        now = time.perf_counter()
        for call in list(self._calls.values()):
            self._look_after(call.actor, now)
        for actor, due in list(self._restarting.items()):
            if now >= due:
                self._look_for(actor, now)

    def _look_after(self, actor: int, now: float) -> None:
        """Ask a worker at work for a sign of life from time to time; replace one that gives none.

        One that has not been heard of yet is still loading what it needs.
        """
        ping = self._pings.get(actor)
        if ping is not None and not ping.answered:
            ping.answered = bool(ray.wait([ping.answer], timeout=0)[0])
            ping.known = ping.known or ping.answered
        if ping is None or (ping.answered and now - ping.asked >= self._patience.ping):
            self._ask(actor, now, known=ping is not None)
        elif ping.known and not ping.answered and now - ping.asked > self._patience.hang:
            log.warning("worker %d does not answer; it is replaced", actor)
            ray.kill(self._actors[actor], no_restart=False)
            del self._pings[actor]

    def _look_for(self, actor: int, now: float) -> None:
        """Whether a lost worker has been restarted; one that never will be is forgotten."""
        ping = self._pings.get(actor)
        if ping is None:
            self._ask(actor, now, known=False)
        elif ray.wait([ping.answer], timeout=0)[0]:
            del self._pings[actor]
            try:
                ray.get(ping.answer)
            except ActorUnavailableError:
                self._restarting[actor] = now + self._patience.tick
            except RayActorError:
                del self._restarting[actor]
            else:
                del self._restarting[actor]
                self._idle.add(actor)

    def _ask(self, actor: int, now: float, *, known: bool) -> None:
        self._pings[actor] = _Ping(self._actors[actor].ping.remote(), now, known=known)

    def _part(self, team: _Team) -> None:
        if not team.parting:
            team.parting = True
            for actor in team.members:
                self._actors[actor].leave.remote(team.generation)


def _none_left() -> WorkerError:
    return WorkerError("all workers died too often; look for out-of-memory kills on their hosts")


def connect(address: str | None, *, num_cpus: int) -> bool:
    """Use a Ray that is already initialised, the one at ``address``, or start one here.

    A local one counts at least ``num_cpus`` CPUs. Returns whether this process started or joined
    it and must leave it. ClusterError when it can't be reached.
    """
    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        cpus = max(num_cpus, os.cpu_count() or 1)
        options |= {"num_cpus": cpus, "include_dashboard": False}
    try:
        if address is not None:  # given HOST:PORT, Ray by itself sends no token
            maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        _knock(address)
        ray.init(address=address or "local", **options)
    except Exception as error:
        line = next(iter(str(error).strip().splitlines()), repr(error))
        raise ClusterError(
            f"no Ray at {address or 'this machine'}: {line}; start one with `ray start --head` "
            "(~/.ray/auth_token must be the same there and here), or leave --address out to start "
            "one on this machine"
        ) from error
    return True


def _knock(address: str | None) -> None:
    """OSError where HOST:PORT does not answer: Ray itself would end the whole process."""
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _as_ours(raised: Exception) -> Exception:
    """The error that the worker raised, or WorkerLost when there is no worker any more."""
    if isinstance(raised, RayTaskError):
        return raised.cause if isinstance(raised.cause, Exception) else raised
    if isinstance(raised, (RayActorError, ActorUnavailableError)):
        lines = str(raised).strip().splitlines()
        born_dead = "creation task" in lines[0]  # then the last line has the reason
        return WorkerLost(lines[-1] if born_dead else lines[0])
    return raised


def _final(error: Exception, attempts: int) -> Exception:
    if isinstance(error, WorkerLost):
        return WorkerError(
            f"its worker died {attempts} times ({error}); look for out-of-memory kills, "
            "or try a smaller segment_batch"
        )
    return error
