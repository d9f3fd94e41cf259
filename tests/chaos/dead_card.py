"""Runs tasks on a Ray of two hosts with a GPU each, one of which fails every call.

    python tests/chaos/dead_card.py ADDRESS

Prints how many tasks were done, the errors of others, and what is told of the hosts, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from typing import Any

import ray
from ray import cloudpickle

from msbd_dist.fleet.executor import Beat, Patience
from msbd_dist.fleet.ray_executor import RayExecutor
from msbd_dist.fleet.retry import Attempt, RetryPolicy

TASKS = 60


class Worker:
    """On any host but the sound one, CUDA fails as it does with a broken card."""

    def __init__(self, sound: str) -> None:
        self._sound = sound == ray.util.get_node_ip_address()

    def run(self, task: int, attempt: Attempt, *, beat: Beat, team: Any = None) -> dict[str, Any]:
        if not self._sound:
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
        time.sleep(0.3)
        return {}


def main(address: str) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    pool = RayExecutor(
        partial(Worker, address.partition(":")[0]),
        num_workers=2,
        address=address,
        patience=Patience(tick=0.1, ping=0.2, hang=60.0),
        retry=RetryPolicy(first=0.05),
    )
    done, errors = 0, []
    for number in range(TASKS):
        pool.submit(number)
    while done + len(errors) < TASKS or not pool.trouble:
        if done + len(errors) >= TASKS:  # the sound one was quicker
            pool.submit(TASKS)
            done -= 1
        outcome = pool.wait()
        assert outcome is not None
        done += outcome.error is None
        errors += [str(outcome.error)] * (outcome.error is not None)
    print(json.dumps({"done": done, "errors": errors, "trouble": pool.trouble}))  # noqa: T201
    pool.close()


if __name__ == "__main__":
    main(sys.argv[1])
