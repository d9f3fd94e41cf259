"""Workers as Ray actors.

Results are small facts, pixels never pass through Ray. An actor has one task at work and, while
many wait, one more in hand, so that it need not wait for the driver. A task whose worker dies is
given to another one, as a new attempt, and a new worker takes its place. Near the end, when workers
are idle, a task that takes much longer than its like gets a twin, and whoever is first counts.

A task that may be shared is given to a *gang* of idle workers, each with its place in it. When a
member is lost or hangs, the others are told to leave, and the task is given to a new gang of who is
there; workers keep what they have computed, so that it goes on from the last common step. A gang
also parts when others become idle, to form anew with them.

A host that can't take part, because its worker refuses or can't load the models, is left out: its
workers are made anew elsewhere, and what they had is given to others.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import signal
import socket
import statistics
import threading
import time
from bisect import insort_left, insort_right
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray._private import state as ray_state
from ray._private.authentication.authentication_token_setup import (  # type: ignore[attr-defined]
    AuthenticationTokenLoader,
    maybe_enable_token_auth_if_token_available,
)
from ray.exceptions import (
    ActorUnavailableError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from msbd_dist.errors import ClusterError, ModelError, WorkerError
from msbd_dist.fleet.collective import Backend, Formation, Gang, GangBroken
from msbd_dist.fleet.executor import (
    Attempt,
    Facts,
    History,
    MakeWorker,
    MemoryShort,
    NodeLost,
    Outcome,
    Patience,
    RetryPolicy,
    Unfit,
    WorkerLost,
    classify,
)
from msbd_dist.fleet.ray_metrics import Metrics

log = logging.getLogger(__name__)

MAX_BIRTHS = 5  # of a worker that dies each time before it has answered once
MAX_CPU_WORKERS = 8  # of the default; each holds its own models
_LOST = (RayActorError, OutOfMemoryError)  # what a call on a worker that is not there raises
CONTROL = "control"  # methods of this group answer while a task runs


PATIENCE = Patience()


class _Refused(NodeLost):
    """A task came to a worker that is left out."""


class _Actor:
    """Runs in the worker's process: prepares for its worker, and makes it on the first task."""

    def __init__(self, make_worker: MakeWorker) -> None:
        self._make_worker = make_worker
        self._worker: Any = None
        self._left = 0  # gangs up to this generation are to be left
        self._beats = 0
        self._prepared = threading.Thread(target=getattr(make_worker, "prepare", None), daemon=True)
        self._prepared.start()
        threading.Thread(target=_end_with_parent, daemon=True).start()

    def run(self, task: Any, attempt: Attempt, place: Formation | None = None) -> Facts:
        self._beat()
        if self._worker is None:
            self._prepared.join()
            self._worker = self._make_worker()
        if place is None:
            return dict(self._worker.run(task, attempt, beat=self._beat))
        gang = Gang(
            place,
            address=_own_address(),
            stopped=lambda: self._left >= place.generation,
        )
        return dict(self._worker.run(task, attempt, beat=self._beat, team=gang))

    def _beat(self) -> None:
        self._beats += 1

    @ray.method(concurrency_group=CONTROL)
    def leave(self, generation: int) -> None:
        self._left = max(self._left, generation)

    @ray.method(concurrency_group=CONTROL)
    def ping(self) -> tuple[str, int]:
        """The node, and a number that goes up with the work."""
        return str(ray.get_runtime_context().get_node_id()), self._beats


def _end_with_parent() -> None:
    """A worker whose raylet has gone is nobody's any more: it must not go on for minutes."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


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


@dataclass(eq=False)
class _Job:
    """A task on its way to an outcome."""

    task: Any
    ranks: int
    kind: str
    ahead: int
    history: History
    calls: int = 0  # under way: two where it has a twin
    settled: bool = False
    losses: int = 0  # of gangs that shared it
    broken: float | None = None  # when its gang was found to have lost a member

    @property
    def name(self) -> str:
        """What metrics call it."""
        return self.kind.partition(" ")[0] or "task"


def _place(job: _Job) -> int:
    return -job.ahead


@dataclass(eq=False)
class _Team:
    """The workers that share a job, each with its own call."""

    job: _Job
    generation: int
    size: int
    members: set[int] = field(default_factory=set)  # actors whose call has not returned
    parting: bool = False
    fell_apart: bool = False  # before it was told to part
    facts: Facts | None = None  # of rank 0
    error: Exception | None = None  # what is nobody's loss
    lost: WorkerLost | None = None
    started: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class _Call:
    """A method of an actor that has not returned yet."""

    job: _Job
    actor: int
    member: _Member  # who has it; another one may have taken that place since
    team: _Team | None = None
    rank: int = 0
    started: float = field(default_factory=time.monotonic)  # of the work, not of the waiting
    blameless: bool = False  # it had not begun when its worker was lost


@dataclass(eq=False)
class _Member:
    """What is known of one actor."""

    handle: Any
    births: int = 1  # since an answer
    calls: list[_Call] = field(default_factory=list)  # the first one is at work
    lost: float | None = None  # when to look whether it is back
    died: float | None = None  # when it was first missed
    question: Any = None  # reference of the answer to the last ping
    asked: float = 0.0
    node: str | None = None  # None until it has answered once
    beats: int = -1
    beaten: float = 0.0  # when it last gave a sign that work goes on


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
        epoch: int = 1,
        retry: RetryPolicy | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._epoch, self._make_worker = epoch, make_worker
        self._retry, self._patience = retry or RetryPolicy(), patience or PATIENCE
        self._rng = random.Random(self._retry.seed)
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
        self._needs = {"CPU": 1.0, "GPU": min(1.0, gpus / self.num_workers)}
        options: dict[str, Any] = {
            "num_cpus": self._needs["CPU"],
            "num_gpus": self._needs["GPU"],
            "max_restarts": 0,  # what Ray restarts does not say what it died of
            "max_task_retries": 0,
            "concurrency_groups": {CONTROL: 1},
        }
        self._actor = ray.remote(**options)(_Actor)
        self._out: dict[str, Exception] = {}  # nodes that get no work, and why
        self._members = {n: _Member(self._new_actor()) for n in range(self.num_workers)}
        self._backend: Backend = "nccl" if gpus >= self.num_workers else "gloo"
        self._rendezvous = self._new_rendezvous() if self.num_workers > 1 else None
        self._store: tuple[str, int] | None = None  # its address, when it has been asked for
        self._generation = 0
        self._queue: list[_Job] = []  # sorted: what most depends on goes first
        self._later: list[_Job] = []  # that pause before their next attempt
        self._calls: dict[Any, _Call] = {}  # by the reference of their result
        self._usual: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=101))  # seconds
        self._looked = 0.0
        self._draining: set[str] = set()
        self._drain_asked = 0.0
        self._metrics = Metrics()

    def _new_actor(self) -> Any:
        if not self._out:
            return self._actor.remote(self._make_worker)
        elsewhere = {"ray.io/node-id": f"!in({','.join(self._out)})"}
        return self._actor.options(label_selector=elsewhere).remote(self._make_worker)

    def submit(self, task: Any, *, ranks: int = 1, kind: str = "", ahead: int = 0) -> None:
        history = History(self._epoch, self._retry)
        job = _Job(task, min(ranks, self.num_workers), kind, ahead, history)
        insort_right(self._queue, job, key=_place)
        self._dispatch()

    def wait(self, seconds: float | None = None) -> Outcome | None:
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            self._supervise()
            self._dispatch()
            if not self._calls and not self._queue and not self._later:
                raise LookupError("nothing to wait for")
            if not self._members and (self._queue or self._later):
                return self._give_up()
            pause = self._patience.tick
            if until is not None:
                pause = min(pause, max(until - time.monotonic(), 0.0))
            if self._calls:
                ready, _ = ray.wait(list(self._calls), timeout=pause, fetch_local=False)
                for reference in ready:
                    outcome = self._take(reference)
                    if outcome is not None:
                        return outcome
            else:
                time.sleep(pause)
            if until is not None and time.monotonic() >= until:
                return None

    def drop(self, unwanted: Callable[[Any], bool]) -> int:
        before = len(self._queue) + len(self._later)
        self._queue = [job for job in self._queue if not unwanted(job.task)]
        self._later = [job for job in self._later if not unwanted(job.task)]
        return before - len(self._queue) - len(self._later)

    @property
    def running(self) -> int:
        return len({id(call.job) for call in self._calls.values()})

    def show(self, edits: Mapping[str, int]) -> None:
        self._metrics.show("msbd_edits", edits)

    def close(self) -> None:
        for member in self._members.values():
            ray.kill(member.handle)
        if self._rendezvous:
            ray.kill(self._rendezvous)
        if self._owns_ray:
            ray.shutdown()

    # -- giving out --------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        now = time.monotonic()
        for job in [job for job in self._later if job.history.due <= now]:
            self._later.remove(job)
            insort_left(self._queue, job, key=_place)
        while self._queue:
            idle = self._idle()
            job = self._queue[0]
            if idle and job.ranks > 1:
                self._form(self._queue.pop(0), idle)
            elif idle:
                self._call(self._queue.pop(0), idle[0])
            else:
                break
        if self._queue:
            self._hand_ahead()
        else:
            self._employ_idle(now)

    def _idle(self) -> list[int]:
        """Workers with nothing to do; those on nodes that are about to leave only if all are."""
        free = [n for n, m in self._members.items() if not m.calls and m.lost is None]
        staying = [n for n in free if self._members[n].node not in self._draining]
        everyone = all(m.node in self._draining for m in self._members.values())
        return free if everyone else staying

    def _hand_ahead(self) -> None:
        """One more task for workers that are at one, while more wait than there are workers."""
        for number, member in self._members.items():
            if len(self._queue) <= self.num_workers or self._queue[0].ranks > 1:
                return
            busy = len(member.calls) == 1 and member.calls[0].team is None
            if busy and member.lost is None and member.node and member.node not in self._draining:
                self._call(self._queue.pop(0), number)

    def _employ_idle(self, now: float) -> None:
        """Nothing waits: let idle workers into a gang, or give a slow task a twin."""
        idle = self._idle()
        if not idle:
            return
        for call in list(self._calls.values()):
            team, age = call.team, now - call.started
            if team is not None:
                if team.size < team.job.ranks and now - team.started > self._patience.grow:
                    self._part(team)
                    return
            elif call.member.calls[0] is call and call.job.calls == 1:
                usual = self._usual_seconds(call.job.kind)
                if usual is not None and age > self._patience.slow * usual + self._patience.tick:
                    self._call(call.job, idle[0])
                    return

    def _usual_seconds(self, kind: str) -> float | None:
        """The median of what tasks of this kind took; None as long as there are few."""
        seconds = self._usual[kind]
        return statistics.median(seconds) if len(seconds) >= 5 else None

    def _form(self, job: _Job, idle: list[int]) -> None:
        """Give a job to as many idle workers as may share it."""
        actors = idle[: job.ranks]
        if self._store is None:  # long there: it was begun with the workers
            assert self._rendezvous is not None
            self._store = ray.get(self._rendezvous.address.remote())
        host, port = self._store
        self._generation += 1
        team = _Team(job, self._generation, len(actors), set(actors))
        attempt = job.history.next()
        for rank, actor in enumerate(actors):
            place = Formation(
                host=host,
                port=port,
                generation=team.generation,
                rank=rank,
                size=len(actors),
                backend=self._backend,
            )
            self._call(job, actor, team, place, attempt)
        if job.broken is not None:
            log.info("a gang of %d goes on after %.2f s", team.size, team.started - job.broken)
            job.broken = None

    def _call(
        self,
        job: _Job,
        actor: int,
        team: _Team | None = None,
        place: Formation | None = None,
        attempt: Attempt | None = None,
    ) -> None:
        member = self._members[actor]
        call = _Call(job, actor, member, team, place.rank if place else 0)
        reference = member.handle.run.remote(job.task, attempt or job.history.next(), place)
        self._calls[reference] = call
        job.calls += 1
        member.calls.append(call)
        member.beaten = time.monotonic()

    def _new_rendezvous(self) -> Any:
        node = ray.get_runtime_context().get_node_id()
        here: dict[str, Any] = {
            "num_cpus": 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
        }
        return ray.remote(**here)(_Rendezvous).remote()

    # -- taking back -------------------------------------------------------------------------------

    def _take(self, reference: Any) -> Outcome | None:
        """What a call that has returned means for its job: its outcome, or None for not yet."""
        call = self._calls.pop(reference)
        member, facts, error = call.member, None, None
        try:
            facts = ray.get(reference)
        except Exception as raised:
            error = self._as_ours(raised, member)
        call.job.calls -= 1
        call.blameless = call.blameless or member.calls[0] is not call
        member.calls.remove(call)
        if member.calls:
            member.calls[0].started = member.beaten = time.monotonic()
        if isinstance(error, WorkerLost):
            self._metrics.lost()
            for other in member.calls:
                other.blameless = True
            member.lost, member.question = time.monotonic(), None
            member.died = member.died or time.monotonic()
        if facts is not None and call.team is None:
            self._usual[call.job.kind].append(time.monotonic() - call.started)
        if isinstance(error, (Unfit, ModelError)):
            self._leave_out(member, error)
            error = _Refused(str(error))
        if isinstance(error, WorkerLost) and call.blameless:
            error = NodeLost(str(error))
        if call.team is not None:
            return self._take_member(call, call.team, facts, error)
        return self._settle(call.job, facts, error)

    def _take_member(
        self, call: _Call, team: _Team, facts: Facts | None, error: Exception | None
    ) -> Outcome | None:
        """A gang's job is settled when its last member has returned."""
        team.members.discard(call.actor)
        if isinstance(error, WorkerLost):
            team.lost = team.lost if isinstance(team.lost, _Refused) else error
        elif error is not None and not isinstance(error, GangBroken):
            team.error = team.error or error
        elif facts is not None and call.rank == 0:
            team.facts = facts
        if error is not None:
            team.fell_apart = team.fell_apart or not team.parting
            self._part(team)
        if team.members:
            return None
        if team.lost is not None and team.facts is None:
            team.job.broken = team.job.broken or time.monotonic()
            known = team.size == 1 or isinstance(team.lost, _Refused)
            if not known:  # nobody knows who is to blame; if it goes on, it must work alone
                team.job.losses += 1
                team.job.ranks = 1 if team.job.losses >= self._retry.deaths else team.job.ranks
                team.lost = NodeLost(str(team.lost))
        if team.facts is None and team.error is None and team.lost is None:
            if team.fell_apart and self._rendezvous:  # nobody was lost: it is where they meet
                ray.kill(self._rendezvous)
                self._rendezvous, self._store = self._new_rendezvous(), None
            insort_left(self._queue, team.job, key=_place)
            return None
        return self._settle(team.job, team.facts, team.error or team.lost)

    def _settle(self, job: _Job, facts: Facts | None, error: Exception | None) -> Outcome | None:
        if job.settled:  # its twin was first
            return None
        if facts is not None:
            job.settled = True
            self._metrics.finished(job.name, facts)
            return Outcome(job.task, facts=facts, attempts=job.history.failed + 1)
        assert error is not None
        final = job.history.forgives(error, self._rng)
        if final is not None:
            job.settled = True
            killer = job.history.deaths >= self._retry.deaths
            self._metrics.failed(job.name, quarantined=killer)
            return Outcome(job.task, error=final, attempts=job.history.failed)
        if job.calls == 0:  # no twin is at it
            if not isinstance(error, _Refused):
                log.warning("a task is tried again: %s", error)
            self._metrics.retried(job.name, classify(error))
            self._later.append(job)
        return None

    def _give_up(self) -> Outcome:
        job = (self._queue or self._later)[0]
        self.drop(lambda task: task is job.task)
        self._metrics.failed(job.name, quarantined=False)
        error = _none_fit(self._out) if self._out else _none_left()
        return Outcome(job.task, error=error, attempts=job.history.failed)

    def _leave_out(self, refused: _Member, why: Exception) -> None:
        """Give a worker's host no work any more; its workers are made anew elsewhere, if there is
        such a place."""
        node = refused.node = refused.node or _node_of(refused)
        known = node is None or node in self._out
        if node is not None:
            self._out.setdefault(node, why)
        others = _nodes_with(self._needs) - self._out.keys()
        if node is not None and others and not known:
            log.warning("%s gets no work: %s", _host_of(node), why)
        for number, member in list(self._members.items()):
            if member is refused or member.node in self._out or not others:
                self._move(number, member, elsewhere=bool(others))

    def _move(self, number: int, member: _Member, *, elsewhere: bool) -> None:
        for call in member.calls:
            call.blameless = True
        ray.kill(member.handle)
        del self._members[number]
        if elsewhere:
            self._members[number] = _Member(self._new_actor(), lost=time.monotonic())

    def _as_ours(self, raised: Exception, member: _Member) -> Exception:
        """The error that the worker raised, or `WorkerLost` where there is no worker any more."""
        if isinstance(raised, RayTaskError):
            return raised.cause if isinstance(raised.cause, Exception) else raised
        if not isinstance(raised, _LOST):
            return raised
        lines = str(raised).strip().splitlines()
        unheard = all(m.node is None and m.births == 1 for m in self._members.values())
        if unheard and "cancelled before it started" in lines[-1]:  # Ray can't reach this process
            return ClusterError(_NO_WAY_BACK)
        born_dead = "creation task" in lines[0]  # then the last line has the reason
        line = lines[-1] if born_dead else lines[0]
        if isinstance(raised, OutOfMemoryError) or "low on memory" in str(raised):
            return MemoryShort(line)
        if getattr(raised, "preempted", False) or self._node_left(member):
            return NodeLost(line)
        return WorkerLost(line)

    def _node_left(self, member: _Member) -> bool:
        if member.node is None:
            return False
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
        return member.node not in alive

    # -- watching ----------------------------------------------------------------------------------

    def _supervise(self) -> None:
        """Kill who does not answer, and see who is back."""
        now = time.monotonic()
        if now - self._looked < self._patience.tick:
            return
        self._looked = now
        self._see_draining(now)
        self._show_work()
        if all(m.died and now - m.died > self._patience.hang for m in self._members.values()):
            _require_nodes()
        for number, member in list(self._members.items()):
            if member.lost is not None:
                if now >= member.lost:
                    self._look_for(number, member, now)
            elif member.calls:
                self._look_after(number, member, now)

    def _show_work(self) -> None:
        waiting, pausing = len(self._queue), len(self._later)
        tasks = {"waiting": waiting, "pausing": pausing, "running": self.running}
        self._metrics.show("msbd_tasks", tasks)
        busy = sum(bool(member.calls) for member in self._members.values())
        workers = {"busy": busy, "idle": len(self._members) - busy}
        self._metrics.show("msbd_workers", workers)

    def _look_after(self, number: int, member: _Member, now: float) -> None:
        """Ask a worker at work for a sign of life from time to time; replace one that gives none.

        One that has not been heard of yet is still loading what it needs.
        """
        with suppress(*_LOST):  # its call will say so
            for node, beats in self._answers(member):
                member.node = node
                if beats != member.beats:
                    member.beats, member.beaten = beats, now
        waiting = member.question is not None
        if not waiting and now - member.asked >= self._patience.ping:
            self._ask(member, now)
        call, still = member.calls[0], now - member.beaten
        usual = self._usual_seconds(call.job.kind)
        late = usual is not None and now - call.started > self._patience.deadline * usual
        silent = waiting and member.node and now - member.asked > self._patience.hang
        if silent or still > self._patience.stall * (1 if member.node else 2):
            self._replace(number, member, "does not answer" if silent else "makes no progress")
        elif late and now - call.started > self._patience.stall and call.team is None:
            self._replace(number, member, "takes far longer than its like")

    def _replace(self, number: int, member: _Member, why: str) -> None:
        log.warning("worker %d %s; it is replaced", number, why)
        ray.kill(member.handle)
        member.question, member.asked, member.beaten = None, time.monotonic(), time.monotonic()

    def _look_for(self, number: int, member: _Member, now: float) -> None:
        """Whether a lost worker is back; one that is dead is made anew, unless it never works."""
        if member.question is None:
            self._ask(member, now)
            return
        try:
            for node, beats in self._answers(member):
                member.node, member.beats, member.beaten, member.lost = node, beats, now, None
                log.info("worker %d is back after %.2f s", number, now - (member.died or now))
                member.died, member.births = None, 1
        except ActorUnavailableError:
            member.lost = now + self._patience.tick
        except _LOST:
            births = 1 if member.node else member.births
            if births == MAX_BIRTHS:
                del self._members[number]
            else:
                self._members[number] = _Member(
                    self._new_actor(), births=births + 1, lost=now, died=member.died
                )

    def _answers(self, member: _Member) -> Iterator[tuple[str, int]]:
        """The answer to the last question, if it is there."""
        if member.question is not None and ray.wait([member.question], timeout=0)[0]:
            question, member.question = member.question, None
            yield ray.get(question)

    def _ask(self, member: _Member, now: float) -> None:
        member.question, member.asked = member.handle.ping.remote(), now

    def _see_draining(self, now: float) -> None:
        """Which nodes are about to leave; gangs leave them first."""
        if now - self._drain_asked < self._patience.ping:
            return
        self._drain_asked = now
        try:
            self._draining = set(ray_state.state.get_draining_nodes())
        except (AttributeError, RayError) as error:  # no public way to ask: without it all works
            log.debug("draining nodes are not known: %s", error)
            return
        for call in list(self._calls.values()):
            if call.team and call.member.node in self._draining and self._idle():
                self._part(call.team)

    def _part(self, team: _Team) -> None:
        if not team.parting:
            team.parting = True
            for actor in team.members:
                if actor in self._members:
                    self._members[actor].handle.leave.remote(team.generation)


def _require_nodes() -> None:
    """ClusterError where no node is left."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    if not any(node["Alive"] for node in nodes):
        raise ClusterError("Ray has ended; run the same command again, it goes on from here")


def _node_of(member: _Member) -> str | None:
    """Where a worker is that has answered; None where it is gone since."""
    with suppress(RayError):
        return str(ray.get(member.handle.ping.remote(), timeout=10)[0])
    return None


def _nodes_with(needs: Mapping[str, float]) -> set[str]:
    """The nodes that can have workers, busy or not."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {
        node["NodeID"]
        for node in nodes
        if node["Alive"] and all(node["Resources"].get(k, 0) >= v for k, v in needs.items())
    }


def _host_of(node: str) -> str:
    """A node as people know it: its name and address."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    found = next((n for n in nodes if n["NodeID"] == node), None)
    if found is None:
        return f"node {node[:8]}"
    return f"{found['NodeManagerHostname']} ({found['NodeManagerAddress']})"


def _none_fit(out: Mapping[str, Exception]) -> Exception:
    """Why no host can have work: what all of them say, or what each says."""
    first = next(iter(out.values()))
    if len({str(why) for why in out.values()}) == 1 and isinstance(first, ModelError):
        return first
    whys = "; ".join(f"{_host_of(node)}: {why}" for node, why in out.items())
    return ClusterError(f"no host can take part in this run: {whys}")


def _none_left() -> WorkerError:
    return WorkerError("all workers died too often; look for out-of-memory kills on their hosts")


_NO_WAY_BACK = (
    "the cluster gives up workers before they start: it can't call back to this process; if it was "
    "started without a token, set RAY_AUTH_MODE=disabled here too, otherwise look for a firewall"
)


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
        _knock(address)
    except OSError as error:
        raise ClusterError(
            f"no Ray at {address}: {error.strerror or error}; start one with `ray start --head`, "
            "or leave --address out to start one on this machine"
        ) from error
    try:
        with _handlers_kept(), _quiet():
            if address is None:
                _bring_a_token()
            else:  # given HOST:PORT, Ray by itself sends no token
                maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
            ray.init(address=address or "local", **options)
    except Exception as error:
        line = next(iter(str(error).strip().splitlines()), repr(error))
        raise ClusterError(
            f"the Ray at {address or 'this machine'} does not take this process: {line}; it must "
            f"be Ray {ray.__version__} too, and have the same token (~/.ray/auth_token of its "
            "head, or RAY_AUTH_TOKEN)"
        ) from error
    return True


def _bring_a_token() -> None:
    """Give a Ray of this process's own a token of its own, where tokens are on and there is none:
    Ray would write one into the home folder, which may not be there, or be many processes'."""
    loader = AuthenticationTokenLoader.instance()
    wanted = os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"
    if wanted and not loader.has_token(ignore_auth_mode=True):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        loader.reset_cache()


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray's own code says each second that it is refused, straight to the error stream; so that one
    clear line is left, that stream is closed meanwhile."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray takes SIGTERM to end the process on the spot; what was set for it before stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def _knock(address: str | None) -> None:
    """OSError where HOST:PORT does not answer: Ray itself would end the whole process."""
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
