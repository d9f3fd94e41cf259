"""What a Prometheus server reads at a node while a driver works there."""

from __future__ import annotations

import os
import re
import sys
import time
import urllib.request
from typing import Any

import ray
from ray import cloudpickle

from msbd_dist.errors import ImageError
from msbd_dist.fleet.executor import Beat
from msbd_dist.fleet.ray_executor import Patience, RayExecutor
from msbd_dist.fleet.ray_metrics import NAMES
from msbd_dist.fleet.retry import Attempt, RetryPolicy

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Worker:
    """Reports facts as those that come from a model do."""

    def __init__(self) -> None:
        self._tried = False

    def run(self, task: str, attempt: Attempt, *, beat: Beat, team: Any = None) -> dict[str, Any]:
        if task == "wrong":
            raise ImageError("got x, wanted y")
        if task == "hiccup" and not self._tried:
            self._tried = True
            raise ConnectionResetError("a store's hiccup")
        if task == "poison":
            os._exit(1)
        return {"seconds": 2.5, "slots": 3, "bytes": 1000}


def read_metrics() -> dict[str, float]:
    """Our samples at this node's agent: ``name{kind="x"} `` -> value, other labels left out."""
    port = ray.nodes()[0]["MetricsExportPort"]  # type: ignore[no-untyped-call]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    found: dict[str, float] = {}
    for line in lines:
        if match := re.fullmatch(r"ray_(msbd_\w+)\{(.*)\} (\S+)", line):
            name, labels, value = match.groups()
            own = re.findall(r'\b((?:kind|failure|state|le)="[^"]*")', labels)
            key = f"{name}{{{','.join(sorted(own))}}}"
            found[key] = found.get(key, 0.0) + float(value)
    return found


def wait_for(wanted: dict[str, float]) -> dict[str, float]:
    """The samples once they have at least these values, or as they are after half a minute."""
    until = time.monotonic() + 30
    found: dict[str, float] = {}
    while time.monotonic() < until:
        found = read_metrics()
        if all(found.get(name, -1.0) >= value for name, value in wanted.items()):
            break
        time.sleep(0.3)
    return found


def test_what_becomes_of_tasks_can_be_read_at_the_node(ray_session: None) -> None:
    policy = RetryPolicy(deaths=1, first=0.05)
    pool = RayExecutor(
        Worker, num_workers=1, use_gpus=False, retry=policy, patience=Patience(tick=0.1)
    )
    for task in ("good", "good", "wrong", "hiccup", "poison"):
        pool.submit(task, kind="counted 2 100")  # a kind that no other test has
        assert pool.wait() is not None
    pool.show({"running": 1, "done": 4})
    wanted = {
        'msbd_tasks_total{kind="counted"}': 3.0,
        'msbd_segments_total{kind="counted"}': 9.0,
        'msbd_work_seconds_total{kind="counted"}': 7.5,
        'msbd_bytes_total{kind="counted"}': 3000.0,
        'msbd_retries_total{failure="transient",kind="counted"}': 1.0,
        'msbd_failures_total{kind="counted"}': 2.0,
        'msbd_quarantines_total{kind="counted"}': 1.0,
        'msbd_edits{state="done"}': 4.0,
        'msbd_edits{state="running"}': 1.0,
        'msbd_tasks{state="waiting"}': 0.0,
        'msbd_task_seconds_bucket{kind="counted",le="3.0"}': 3.0,
        'msbd_task_seconds_count{kind="counted"}': 3.0,
    }
    found = wait_for(wanted)
    pool.close()
    assert {name: found.get(name) for name in wanted} == wanted
    assert found["msbd_workers_lost_total{}"] >= 1.0  # other tests lose some too
    assert found['msbd_workers{state="busy"}'] + found['msbd_workers{state="idle"}'] == 1.0
    plain = {re.sub(r"(_bucket|_count|_sum)?\{.*", "", name) for name in found}
    assert plain == NAMES
