"""Runs tasks on a Ray of several nodes and drains one of them on the way.

    python tests/chaos/drained.py ADDRESS

Prints which nodes the tasks ran on that began before, and well after.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle

from msbd_dist.fleet.executor import Beat, Patience
from msbd_dist.fleet.ray_executor import RayExecutor
from msbd_dist.fleet.retry import Attempt

SETTLED = 3.0  # seconds after which the driver must have noticed


class Teller:
    def run(self, task: int, attempt: Attempt, *, beat: Beat, team: Any = None) -> dict[str, Any]:
        began = time.time()
        time.sleep(0.3)
        return {"began": began, "node": ray.get_runtime_context().get_node_id()}


def main(address: str) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    pool = RayExecutor(
        Teller, num_workers=3, use_gpus=False, address=address, patience=Patience(tick=0.2, ping=1)
    )
    facts: list[dict[str, Any]] = []

    def run(tasks: int) -> None:
        for number in range(tasks):
            pool.submit(number)
        for _ in range(tasks):
            outcome = pool.wait()
            assert outcome is not None
            assert outcome.facts is not None, outcome.error
            facts.append(outcome.facts)

    run(20)
    here = ray.get_runtime_context().get_node_id()
    drained = next(fact["node"] for fact in facts if fact["node"] != here)
    drain = [str(Path(sys.executable).with_name("ray")), "drain-node", "--address", address]
    drain += ["--node-id", drained, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    drain += ["--reason-message", "test", "--deadline-remaining-seconds", "300"]
    subprocess.run(drain, check=True, capture_output=True, timeout=60)
    moment = time.time()
    run(60)
    found = {
        "drained": drained,
        "before": [fact["node"] for fact in facts if fact["began"] < moment],
        "after": [fact["node"] for fact in facts if fact["began"] > moment + SETTLED],
    }
    print(json.dumps(found))  # noqa: T201
    pool.close()


if __name__ == "__main__":
    main(sys.argv[1])
