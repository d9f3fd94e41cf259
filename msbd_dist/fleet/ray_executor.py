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
workers are made anew elsewhere, and what they had is given to others. So is a card that loses
worker after worker to errors of CUDA (`fleet/cards.py`): the next worker to which Ray gives it
holds it and gets no task.

A worker gets tasks once it has answered. One that Ray has no room for has not: the others work, and
`RayExecutor.trouble` says what is missing.
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
from functools import lru_cache
from typing import Any, NamedTuple

import ray
from ray._private import state as ray_state
from ray._private.authentication.authentication_token_setup import (  # type: ignore[attr-defined]
    AuthenticationTokenLoader,
    maybe_enable_token_auth_if_token_available,
)
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from msbd_dist.errors import ClusterError, ModelError, WorkerError
from msbd_dist.fleet.cards import CardFault, CardFull, Cards, Place, card_fault
from msbd_dist.fleet.collective import Backend, Formation, Gang, GangBroken, Links
from msbd_dist.fleet.executor import Facts, MakeWorker, Outcome, Patience
from msbd_dist.fleet.ray_metrics import Metrics
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
from msbd_dist.fleet.room import Host, shape

log = logging.getLogger(__name__)

MAX_BIRTHS = 5  # of a worker that dies each time before it has answered once
_LOST = (RayActorError, OutOfMemoryError)  # what a call on a worker that is not there raises
CONTROL = "control"  # methods of this group answer while a task runs
_LAST_WORDS_S = 2.0  # seconds in which a worker that ends says why


PATIENCE = Patience()


class _Refused(NodeLost):
    """A task came to a worker that is left out."""


class _Answer(NamedTuple):
    """What a worker says of itself."""

    node: str
    cards: str  # that Ray has given it, "0" or "0, 1"; "" where it has none
    beats: int  # a number that goes up with the work


class _Actor:
    """Runs in the worker's process: prepares for its worker, and makes it on the first task."""

    def __init__(self, make_worker: MakeWorker) -> None:
        self._make_worker = make_worker
        self._worker: Any = None
        self._left = 0  # gangs up to this generation are to be left
        self._beats = 0
        self._links = Links()
        self._prepared = threading.Thread(target=getattr(make_worker, "prepare", None), daemon=True)
        self._prepared.start()
        threading.Thread(target=_end_with_parent, daemon=True).start()

    def run(self, task: Any, attempt: Attempt, place: Formation | None = None) -> Facts:
        try:
            return self._run(task, attempt, place)
        except Exception as error:
            fault = error if isinstance(error, CardFault) else card_fault(error, _own_cards())
            if fault is None:
                raise
            end = threading.Timer(_LAST_WORDS_S, os._exit, (1,))  # and what it holds of the card
            end.daemon = True
            end.start()
            raise fault from None

    def _run(self, task: Any, attempt: Attempt, place: Formation | None) -> Facts:
        self._beat()
        if self._worker is None:
            self._prepared.join()
            self._worker = self._make_worker()
        if place is None:
            return dict(self._worker.run(task, attempt, beat=self._beat))
        with Gang(
            place,
            address=_own_address(),
            stopped=lambda: self._left >= place.generation,
            links=self._links,
        ) as gang:
            return dict(self._worker.run(task, attempt, beat=self._beat, team=gang))

    def _beat(self) -> None:
        self._beats += 1

    @ray.method(concurrency_group=CONTROL)
    def leave(self, generation: int) -> None:
        self._left = max(self._left, generation)

    @ray.method(concurrency_group=CONTROL)
    def ping(self) -> _Answer:
        node = str(ray.get_runtime_context().get_node_id())
        return _Answer(node, ", ".join(map(str, ray.get_gpu_ids())), self._beats)


def _end_with_parent() -> None:
    """A worker whose raylet has gone is nobody's any more: it must not go on for minutes."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _own_cards() -> str:
    """What people call this worker's place: its host, and its card."""
    cards = ", ".join(map(str, ray.get_gpu_ids()))
    return f"on {socket.gethostname()}" + (f", GPU {cards}" if cards else "")


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
    avoid: set[Place] = field(default_factory=set)  # where it has lost a worker, or found no memory
    broken: float | None = None  # when its gang was found to have lost a member

    @property
    def name(self) -> str:
        """What metrics call it."""
        return self.kind.partition(" ")[0] or "task"


def _order(job: _Job) -> int:
    return -job.ahead


@dataclass(eq=False)
class _Team:
    """The workers that share a job, each with its own call."""

    job: _Job
    generation: int
    size: int
    members: set[int] = field(default_factory=set)  # actors whose call has not returned
    ranks: tuple[int, ...] = ()  # who they are, in the order of their ranks
    met: int = 0  # the generation in which they met
    parting: bool = False
    fell_apart: bool = False  # before it was told to part
    why: str = ""  # what the first member said that left it
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
    lost: float | None = None  # when to look whether it is there, or back
    died: float | None = None  # when it was first missed
    question: Any = None  # reference of the answer to the last ping
    asked: float = 0.0
    node: str | None = None  # None until it has answered once
    cards: str = ""
    beats: int = -1
    beaten: float = 0.0  # when it last gave a sign that work goes on
    made: float = field(default_factory=time.monotonic)
    worked: bool = False  # has done a task


def _home(number: int, member: _Member) -> Place:
    """Where a worker is: Ray's number of its card; on a host without cards its own number."""
    return Place(member.node or "", f"GPU {member.cards}" if member.cards else f"worker {number}")


class RayExecutor:
    """Actors on a Ray that is started here, or on the one at ``address``.

    ``num_workers`` None: one worker per GPU, or per CPU where there is no GPU or none is wanted.
    With GPUs each worker has one, or a share where there are more workers (`fleet/room.py`).
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
        self._shape = shape(_hosts().values(), num_workers, use_gpus=use_gpus)
        self.num_workers = self._shape.workers
        self._needs = {"CPU": 1.0, "GPU": self._shape.gpu}
        options: dict[str, Any] = {
            "num_cpus": self._needs["CPU"],
            "num_gpus": self._needs["GPU"],
            "max_restarts": 0,  # what Ray restarts does not say what it died of
            "max_task_retries": 0,
            "concurrency_groups": {CONTROL: 1},
        }
        self._actor = ray.remote(**options)(_Actor)
        self._out: dict[str, Exception] = {}  # nodes that get no work, and why
        self._cards = Cards()
        self._members = {n: self._new_member() for n in range(self.num_workers)}
        self._backend: Backend = "nccl" if self._shape.per_gpu == 1 else "gloo"
        self._rendezvous = self._new_rendezvous() if self.num_workers > 1 else None
        self._store: tuple[str, int] | None = None  # its address, when it has been asked for
        self._generation = 0
        self._met: tuple[tuple[int, ...], int] | None = None  # the last whole gang, and when it met
        self._unmet = 0  # gangs in a row that fell apart though nobody was lost
        self._alone = False  # no more gangs are formed
        self._apart = ""  # why they are formed in another way
        self._queue: list[_Job] = []  # sorted: what most depends on goes first
        self._later: list[_Job] = []  # that pause before their next attempt
        self._calls: dict[Any, _Call] = {}  # by the reference of their result
        self._usual: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=101))  # seconds
        self._looked = 0.0
        self._draining: set[str] = set()
        self._drain_asked = 0.0
        self._wait_asked = 0.0
        self._metrics = Metrics()
        self._waiting = ""  # what workers wait for that are not there

    def _new_member(self, **known: Any) -> _Member:
        """A worker that is looked for until it answers."""
        return _Member(self._new_actor(), lost=time.monotonic(), **known)

    def _new_actor(self) -> Any:
        if not self._out:
            return self._actor.remote(self._make_worker)
        elsewhere = {"ray.io/node-id": f"!in({','.join(self._out)})"}
        return self._actor.options(label_selector=elsewhere).remote(self._make_worker)

    def submit(self, task: Any, *, ranks: int = 1, kind: str = "", ahead: int = 0) -> None:
        history = History(self._epoch, self._retry)
        job = _Job(task, min(ranks, self.num_workers), kind, ahead, history)
        insort_right(self._queue, job, key=_order)
        self._dispatch()

    def wait(self, seconds: float | None = None) -> Outcome | None:
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            self._supervise()
            self._dispatch()
            if not self._calls and not self._queue and not self._later:
                raise LookupError("nothing to wait for")
            if not self._calls and not any(map(self._counts, self._members)):
                return self._give_up()
            pause = self._patience.tick
            if until is not None:
                pause = min(pause, max(until - time.monotonic(), 0.0))
            for reference in self._news(pause):
                outcome = self._take(reference)
                if outcome is not None:
                    return outcome
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

    def _news(self, seconds: float) -> list[Any]:
        """Calls that have returned; none after so many seconds, or when a new worker answers."""
        born = [m.question for m in self._members.values() if m.lost is not None and m.question]
        if not self._calls and not born:
            time.sleep(seconds)
            return []
        awaited = [*self._calls, *born]
        ready, _ = ray.wait(awaited, timeout=seconds, fetch_local=False)
        if any(reference not in self._calls for reference in ready):
            self._looked = 0.0
        return [reference for reference in ready if reference in self._calls]

    @property
    def trouble(self) -> str:
        """Why fewer workers are at work than were wanted, in a line; nothing where none are."""
        bad = [f"{_place_of(place)}: {fault}" for place, fault in self._cards.bad.items()]
        out = [f"{_host_of(node)}: {why}" for node, why in self._out.items()]
        parts = [self._waiting, self._apart, *(f"left out: {why}" for why in (*out, *bad))]
        return "; ".join(filter(None, parts))

    # -- giving out --------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        now = time.monotonic()
        for job in [job for job in self._later if job.history.due <= now]:
            self._later.remove(job)
            insort_left(self._queue, job, key=_order)
        while found := self._next():
            job, idle = found
            if job.ranks > 1:
                self._form(job, idle)
            else:
                self._call(job, idle[0])
        if self._queue:
            self._hand_ahead()
        else:
            self._employ_idle(now)

    def _next(self) -> tuple[_Job, list[int]] | None:
        """The first task that has workers, taken from the queue, and these.

        One that has lost a worker somewhere waits for another place, if there is any; else it lets
        others go first, so that it is seen whose fault it was.
        """
        idle, last = self._idle(), None
        for job in self._queue if idle else ():
            willing = self._willing(job, idle)
            if not willing and last is None and not self._has_other(job):
                last = job, idle
            if willing:
                self._queue.remove(job)
                return job, willing
        if last is not None:
            self._queue.remove(last[0])
        return last

    def _willing(self, job: _Job, idle: list[int]) -> list[int]:
        """Of these workers, those at places where the task was not yet lost."""
        return [n for n in idle if _home(n, self._members[n]) not in job.avoid]

    def _has_other(self, job: _Job) -> bool:
        """Whether a worker is, or soon will be, at a place where the task was not yet lost."""
        young = time.monotonic() - self._patience.hang
        return any(
            (m.node or m.made > young) and self._counts(n) and _home(n, m) not in job.avoid
            for n, m in self._members.items()
        )

    def _counts(self, number: int) -> bool:
        """Whether a worker gets tasks, now or when it is there."""
        return _home(number, self._members[number]) not in self._cards.bad

    def _idle(self) -> list[int]:
        """Workers with nothing to do; those on nodes that are about to leave only if all are."""
        there = [n for n, m in self._members.items() if not m.calls and m.lost is None]
        free = [n for n in there if self._counts(n)]
        staying = [n for n in free if self._members[n].node not in self._draining]
        everyone = all(m.node in self._draining for m in self._members.values())
        return free if everyone else staying

    def _hand_ahead(self) -> None:
        """One more task for workers that are at one, while more wait than there are workers."""
        for number, member in self._members.items():
            if len(self._queue) <= self.num_workers or self._queue[0].ranks > 1:
                return
            busy = len(member.calls) == 1 and member.calls[0].team is None
            sound = self._counts(number) and _home(number, member) not in self._queue[0].avoid
            if busy and sound and member.lost is None and member.node not in self._draining:
                self._call(self._queue.pop(0), number)

    def _employ_idle(self, now: float) -> None:
        """Nothing waits: let idle workers into a gang, or give a slow task a twin."""
        idle = self._idle()
        if not idle:
            return
        for call in list(self._calls.values()):
            team, age = call.team, now - call.started
            if team is not None:
                small = team.size < team.job.ranks and not self._alone
                if (
                    small
                    and self._willing(team.job, idle)
                    and now - team.started > self._patience.grow
                ):
                    self._part(team)
                    return
            elif call.member.calls[0] is call and call.job.calls == 1:
                usual = self._usual_seconds(call.job.kind)
                slow = usual is not None and age > self._patience.slow * usual + self._patience.tick
                if slow and (willing := self._willing(call.job, idle)):
                    self._call(call.job, willing[0])
                    return

    def _usual_seconds(self, kind: str) -> float | None:
        """The median of what tasks of this kind took; None as long as there are few."""
        seconds = self._usual[kind]
        return statistics.median(seconds) if len(seconds) >= 5 else None

    def _form(self, job: _Job, idle: list[int]) -> None:
        """Give a job to as many idle workers as may share it."""
        actors = idle[: 1 if self._alone else job.ranks]
        try:
            host, port = self._meeting_place() if len(actors) > 1 else ("", 0)
        except (RayActorError, GetTimeoutError) as error:
            self._meet_otherwise(job, f"no place to meet: {str(error).splitlines()[0]}")
            return
        self._generation += 1
        ranks = tuple(id(self._members[actor]) for actor in actors)
        met = self._met[1] if self._met and self._met[0] == ranks else 0
        self._met = None  # until it has ended well
        met_in = met or self._generation
        team = _Team(job, self._generation, len(actors), set(actors), ranks, met_in)
        attempt = job.history.next()
        for rank, actor in enumerate(actors):
            place = Formation(
                host=host,
                port=port,
                generation=team.generation,
                rank=rank,
                size=len(actors),
                backend=self._backend,
                met=met,
            )
            self._call(job, actor, team, place, attempt)
        if job.broken is not None:
            log.info("a gang of %d goes on after %.2f s", team.size, team.started - job.broken)
            job.broken = None

    def _meeting_place(self) -> tuple[str, int]:
        if self._store is None:  # long there: it was begun with the workers
            assert self._rendezvous is not None
            self._store = ray.get(self._rendezvous.address.remote(), timeout=self._patience.hang)
        return self._store

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
        if facts is not None:
            member.worked = True
            self._cards.worked(_home(call.actor, member))
            if call.team is None:
                self._usual[call.job.kind].append(time.monotonic() - call.started)
        elif error is not None and _is_of_the_place(error, call):
            call.job.avoid.add(_home(call.actor, member))
        if isinstance(error, CardFault):
            error = self._blame(call.actor, member, error)
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
            if not team.parting:
                team.fell_apart, team.why = True, str(error)
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
            if team.fell_apart:  # and nobody was lost
                self._meet_otherwise(team.job, team.why)
            else:
                insort_left(self._queue, team.job, key=_order)
            return None
        if team.facts is not None and team.size > 1 and not team.parting:
            self._unmet, self._met = 0, (team.ranks, team.met)
        return self._settle(team.job, team.facts, team.error or team.lost)

    def _meet_otherwise(self, job: _Job, why: str) -> None:
        """A gang that nobody was lost from could not form, or fell apart: it is tried again from
        another place to meet, then with gloo, then one worker has the task alone."""
        self._unmet += 1
        log.warning("a gang fell apart (%s); it is tried again", why)
        if self._unmet >= self._retry.deaths:
            alone = self._backend == "gloo"
            self._unmet = 0
            self._apart = f"gangs {'do without others' if alone else 'use gloo'}: {why}"
            log.warning("%s", self._apart)
            self._backend, self._alone = "gloo", alone
        self._forget_rendezvous()
        job.history.due = time.monotonic() + self._retry.pause(self._unmet + 1, self._rng)
        self._later.append(job)

    def _forget_rendezvous(self) -> None:
        if self._rendezvous:
            ray.kill(self._rendezvous)
            self._rendezvous, self._store = self._new_rendezvous(), None
        self._met = None

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
        whys: dict[str, Exception] = {_host_of(node): why for node, why in self._out.items()}
        for place, fault in self._cards.bad.items():
            whys.setdefault(_place_of(place), fault)
        return Outcome(job.task, error=_none_fit(whys), attempts=job.history.failed)

    def _blame(self, number: int, member: _Member, fault: CardFault) -> WorkerLost:
        """End a worker that CUDA has failed in. Its place is left out where that was not the first
        time; then the fault is none of the task's."""
        home = _home(number, member)
        ray.kill(member.handle)  # it ends by itself as well
        if not self._cards.lost(home, fault):
            charged = self._cards.ever_worked(home) or isinstance(fault, CardFull)
            return fault if charged else NodeLost(str(fault))
        log.warning("%s gets no work: %s", _place_of(home), fault)
        if not member.cards:
            self._drop(number, member, fault)
        self._hire()
        return NodeLost(str(fault))

    def _drop(self, number: int, member: _Member, fault: CardFault) -> None:
        """Do without a worker that has no card; without its host, where no task was ever done."""
        if member.node and not self._cards.node_worked(member.node):
            self._leave_out(member, fault)
        elif self._members.get(number) is member:
            self._move(number, member, elsewhere=False)

    def _hire(self) -> None:
        """Make workers for those that hold a bad card, as far as Ray has room."""
        hosts = (host for node, host in _hosts().items() if node not in self._out)
        room = sum(host.holds(self._shape.per_gpu) for host in hosts) if self._cards.bad else 0
        missing = self.num_workers - sum(map(self._counts, self._members))
        for _ in range(min(missing, room - len(self._members)) if self._shape.per_gpu else 0):
            self._members[max(self._members) + 1] = self._new_member()

    def _leave_out(self, refused: _Member, why: Exception) -> None:
        """Give a worker's host no work any more; its workers are made anew elsewhere, if there is
        such a place."""
        node = refused.node = refused.node or _node_of(refused)
        known = node is None or node in self._out
        if node is not None:
            self._out.setdefault(node, why)
        fit = {node for node, host in _hosts().items() if host.holds(self._shape.per_gpu)}
        others = fit - self._out.keys()
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
            self._members[number] = self._new_member()

    def _as_ours(self, raised: Exception, member: _Member) -> Exception:
        """The error that the worker raised, or `WorkerLost` where there is no worker any more."""
        if isinstance(raised, RayTaskError):
            return raised.cause if isinstance(raised.cause, Exception) else raised
        if not isinstance(raised, _LOST):
            return raised
        lines = str(raised).strip().splitlines()
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
        self._see_waiting(now)
        self._show_work()
        if all(m.died and now - m.died > self._patience.hang for m in self._members.values()):
            _require_nodes()
        for number, member in list(self._members.items()):
            if member.lost is not None:
                if now >= member.lost:
                    self._look_for(number, member, now)
            elif member.calls:
                self._look_after(number, member, now)

    def _see_waiting(self, now: float) -> None:
        """Tell which workers Ray has not begun, and what they need."""
        if now - self._wait_asked < self._patience.ping:
            return
        self._wait_asked = now
        young = now - self._patience.hang
        late = sum(m.node is None and m.made < young for m in self._members.values())
        free = ray.available_resources() if late else {}  # type: ignore[no-untyped-call]
        told = _waiting(late, self.num_workers, self._needs, free)
        if told and not self._waiting:
            log.warning("%s", told)
        self._waiting = told

    def _show_work(self) -> None:
        waiting, pausing = len(self._queue), len(self._later)
        tasks = {"waiting": waiting, "pausing": pausing, "running": self.running}
        self._metrics.show("msbd_tasks", tasks)
        busy = sum(bool(member.calls) for member in self._members.values())
        workers = {"busy": busy, "idle": len(self._members) - busy}
        self._metrics.show("msbd_workers", workers)

    def _look_after(self, number: int, member: _Member, now: float) -> None:
        """Ask a worker at work for a sign of life from time to time; replace one that gives none.

        One that has not done a task yet is still loading what it needs.
        """
        with suppress(*_LOST):  # its call will say so
            for answer in self._answers(member):
                if answer.beats != member.beats:
                    member.beats, member.beaten = answer.beats, now
        waiting = member.question is not None
        if not waiting and now - member.asked >= self._patience.ping:
            self._ask(member, now)
        call, still = member.calls[0], now - member.beaten
        usual = self._usual_seconds(call.job.kind)
        late = usual is not None and now - call.started > self._patience.deadline * usual
        silent = waiting and now - member.asked > self._patience.hang
        if silent or still > self._patience.stall * (1 if member.worked else 2):
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
            for answer in self._answers(member):
                member.node, member.cards, member.beats = answer
                member.beaten, member.lost = now, None
                if member.died is not None:
                    log.info("worker %d is back after %.2f s", number, now - member.died)
                member.died, member.births = None, 1
                if not self._counts(number):
                    self._hire()
        except ActorUnavailableError:
            member.lost = now + self._patience.tick
        except _LOST as error:
            self._require_way_back(error)
            births = 1 if member.node else member.births
            if births == MAX_BIRTHS:
                del self._members[number]
            else:
                self._members[number] = self._new_member(births=births + 1, died=member.died)

    def _require_way_back(self, error: Exception) -> None:
        """ClusterError where Ray can't reach this process."""
        unheard = all(m.node is None and m.births == 1 for m in self._members.values())
        if unheard and "cancelled before it started" in str(error).strip().splitlines()[-1]:
            raise ClusterError(_NO_WAY_BACK)

    def _answers(self, member: _Member) -> Iterator[_Answer]:
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


def _is_of_the_place(error: Exception, call: _Call) -> bool:
    """Whether another place may be better for the task. A gang's loss may be due to any member."""
    if isinstance(error, WorkerLost) and not isinstance(error, CardFault):
        return call.team is None and not call.blameless
    return isinstance(error, CardFault) or classify(error) is Failure.RESOURCE


def _hosts() -> dict[str, Host]:
    """What each node has in all, busy or not."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {
        node["NodeID"]: Host(*(int(node["Resources"].get(kind, 0)) for kind in ("CPU", "GPU")))
        for node in nodes
        if node["Alive"]
    }


@lru_cache(maxsize=1024)
def _host_of(node: str) -> str:
    """A node as people know it: its name and address."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    found = next((n for n in nodes if n["NodeID"] == node), None)
    if found is None:
        return f"node {node[:8]}"
    return f"{found['NodeManagerHostname']} ({found['NodeManagerAddress']})"


def _place_of(place: Place) -> str:
    """A card, or a worker's own place, as people know it."""
    return f"{_host_of(place.node)}, {place.card}"


def _waiting(late: int, of: int, needs: Mapping[str, float], free: Mapping[str, float]) -> str:
    """``2 of 3 workers are not there: each needs 0.5 GPU and 1 CPU, this Ray has 0 GPU and 2 CPU
    free``."""
    if not late:
        return ""
    kinds = [kind for kind in ("GPU", "CPU") if needs.get(kind)]
    wanted, left = (
        " and ".join(f"{round(have.get(kind, 0.0), 2):g} {kind}" for kind in kinds)
        for have in (needs, free)
    )
    return f"{late} of {of} workers are not there: each needs {wanted}, this Ray has {left} free"


def _none_fit(whys: Mapping[str, Exception]) -> Exception:
    """Why no host can have work: what all of them say, or what each says."""
    if not whys:
        return WorkerError("all workers died too often; look for out-of-memory kills on the hosts")
    first = next(iter(whys.values()))
    if len({str(why) for why in whys.values()}) == 1 and isinstance(first, ModelError):
        return first
    told = "; ".join(f"{host}: {why}" for host, why in whys.items())
    return ClusterError(f"no host can take part in this run: {told}")


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
