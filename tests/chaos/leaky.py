"""Workers that keep 300 MB of every task."""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Any

from ray import cloudpickle

from msbd_dist.fleet.executor import Beat
from msbd_dist.fleet.ray_executor import RayExecutor
from msbd_dist.fleet.retry import Attempt

TASKS = 16


class Leaky:
    def __init__(self) -> None:
        self._kept: list[bytearray] = []

    def run(self, task: int, attempt: Attempt, *, beat: Beat, team: Any = None) -> dict[str, Any]:
        self._kept.append(bytearray(os.urandom(2**20)) * 300)
        time.sleep(0.5)
        return {"task": task}


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    pool = RayExecutor(Leaky, num_workers=2, use_gpus=False)
    for task in range(TASKS):
        pool.submit(task)
    done = set()
    for _ in range(TASKS):
        outcome = pool.wait()
        assert outcome is not None
        assert outcome.facts is not None, outcome.error
        done.add(outcome.facts["task"])
    assert done == set(range(TASKS))
    print("all done")  # noqa: T201
    pool.close()


if __name__ == "__main__":
    main()
