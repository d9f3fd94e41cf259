"""What a run tells Prometheus, through Ray: each node's agent has it, as ``ray_<name>``.

Ray serves metrics where its extra ``ray[default]`` is installed; elsewhere they are recorded and
nobody can ask for them. `NAMES` is all that there is, and what the dashboard in ``cluster/`` shows.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge, Histogram

from msbd_dist.fleet.executor import Facts
from msbd_dist.fleet.retry import Failure

BOUNDS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0]  # seconds

_COUNTERS = {
    "msbd_tasks_total": ("Tasks finished.", ("kind",)),
    "msbd_segments_total": ("Slots of finished tasks: segments, or composed chunks.", ("kind",)),
    "msbd_work_seconds_total": ("Seconds that workers spent on finished tasks.", ("kind",)),
    "msbd_bytes_total": ("Bytes stored by finished tasks, before compression.", ("kind",)),
    "msbd_retries_total": ("Tasks to be tried again, by class of failure.", ("kind", "failure")),
    "msbd_failures_total": ("Tasks that ended in an error.", ("kind",)),
    "msbd_quarantines_total": ("Of these, tasks that killed their workers.", ("kind",)),
    "msbd_workers_lost_total": ("Calls that lost their worker.", ()),
}
_GAUGES = {
    "msbd_workers": ("Workers, by whether they have a task.", ("state",)),
    "msbd_tasks": ("Tasks that wait, run, or pause before their next try.", ("state",)),
    "msbd_edits": ("Edits of the run, by state.", ("state",)),
}
_SECONDS = "msbd_task_seconds"  # how long each took: a histogram

NAMES = frozenset({*_COUNTERS, *_GAUGES, _SECONDS})


class Metrics:
    """The metrics of one driver. To be made where Ray is initialised."""

    def __init__(self) -> None:
        self._counters = {name: Counter(name, *rest) for name, rest in _COUNTERS.items()}
        self._gauges = {name: Gauge(name, *rest) for name, rest in _GAUGES.items()}
        self._seconds = Histogram(
            _SECONDS, "Seconds that a finished task took on its worker.", BOUNDS, ("kind",)
        )

    def finished(self, kind: str, facts: Facts) -> None:
        """A task has its facts; those that count are ``slots``, ``seconds`` and ``bytes``."""
        tags = {"kind": kind}
        self._count("msbd_tasks_total", 1, tags)
        self._count("msbd_segments_total", facts.get("slots", 0), tags)
        self._count("msbd_bytes_total", facts.get("bytes", 0), tags)
        seconds = facts.get("seconds")
        if seconds is not None:
            self._count("msbd_work_seconds_total", seconds, tags)
            self._seconds.observe(seconds, tags)

    def retried(self, kind: str, failure: Failure) -> None:
        """A task is to be tried again."""
        self._count("msbd_retries_total", 1, {"kind": kind, "failure": failure.value})

    def failed(self, kind: str, *, quarantined: bool) -> None:
        """A task is given up; ``quarantined``: because it killed its workers."""
        self._count("msbd_failures_total", 1, {"kind": kind})
        if quarantined:
            self._count("msbd_quarantines_total", 1, {"kind": kind})

    def lost(self) -> None:
        """A call has lost its worker."""
        self._count("msbd_workers_lost_total", 1, {})

    def show(self, name: str, states: Mapping[str, int]) -> None:
        """Set a gauge, for each state."""
        for state, number in states.items():
            self._gauges[name].set(number, {"state": state})

    def _count(self, name: str, amount: float, tags: dict[str, str]) -> None:
        if amount > 0:
            self._counters[name].inc(amount, tags)
