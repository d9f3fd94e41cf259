"""Workers on a Ray that counts two GPUs, which this machine need not have.

    python tests/fleet/carded.py

Prints what became of each case as JSON. A process of its own, for the tests' own Ray has no GPUs.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import ray
import torch

from msbd_dist.fleet.executor import Outcome, Patience
from msbd_dist.fleet.ray_executor import RayExecutor
from msbd_dist.fleet.retry import RetryPolicy

PATIENCE = Patience(tick=0.1, ping=0.2, hang=60.0)


class Worker:
    """Takes a moment; on a dead card every call of CUDA fails."""

    def __init__(self, dead: tuple[str, ...] = ()) -> None:
        self._cards = [str(card) for card in ray.get_gpu_ids()]
        self._dead = dead

    def run(self, task: Any, attempt: Any, *, beat: Any, team: Any = None) -> dict[str, Any]:
        if set(self._cards) & set(self._dead):
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
        beat()
        if team is not None:
            team.start_sum(torch.ones(1)).wait()
        time.sleep(0.2)
        return {"size": team.size if team else 1}


class Holder:
    def ping(self) -> None: ...


@contextmanager
def pool(make: Any = Worker, **options: Any) -> Iterator[RayExecutor]:
    made = RayExecutor(make, **{"patience": PATIENCE, **options})
    yield made
    made.close()


def there(pool: RayExecutor) -> RayExecutor:
    """Once all workers have answered."""
    while any(member.node is None for member in pool._members.values()):
        pool._supervise()
        time.sleep(0.05)
    return pool


def outcome(pool: RayExecutor) -> Outcome:
    found = pool.wait()
    assert found is not None
    return found


def one_is_dead() -> Any:
    policy = RetryPolicy(first=0.05)
    with pool(partial(Worker, ("1",)), retry=policy) as workers:
        for index in range(40):
            workers.submit(index, kind="a")
        errors, done = [], 0
        while done + len(errors) < 40 or not workers._cards.bad:
            if done + len(errors) == 40:  # the other card was quicker
                workers.submit(40, kind="a")
                done -= 1
            found = outcome(workers)
            done += found.error is None
            errors += [str(found.error)] * (found.error is not None)
        return {
            "workers": workers.num_workers,
            "errors": errors,
            "done": done,
            "trouble": workers.trouble,
        }


def all_are_dead() -> Any:
    policy = RetryPolicy(first=0.05)
    with pool(partial(Worker, ("0", "1")), num_workers=1, retry=policy) as workers:
        workers.submit("one")
        error = outcome(workers).error
        return type(error).__name__, str(error)


def one_is_held() -> Any:
    holder = ray.remote(num_gpus=1, num_cpus=0)(Holder).remote()
    ray.get(holder.ping.remote())
    with pool(num_workers=2, patience=Patience(tick=0.1, ping=0.2, hang=1.0)) as workers:
        for index in range(6):
            workers.submit(index)
        done = sum(outcome(workers).error is None for _ in range(6))
        while not workers.trouble:
            workers._supervise()
            time.sleep(0.1)
        trouble = workers.trouble
    ray.kill(holder)
    return {"done": done, "trouble": trouble}


def three_on_two() -> Any:
    with pool(num_workers=3) as workers:
        return sorted(member.cards for member in there(workers)._members.values())


def gone(host: str, port: int) -> None:
    """Waits until nobody answers there any more: a killed actor lives a moment longer."""
    with suppress(OSError):
        for _ in range(600):
            socket.create_connection((host, port), timeout=5).close()
            time.sleep(0.05)


def never_forms() -> Any:
    """No torch sees a GPU, so that NCCL has nothing to connect."""
    with pool(retry=RetryPolicy(deaths=1, first=0.01)) as workers:
        there(workers)
        backend, sizes, trouble = workers._backend, [], []
        for again in (False, True):
            if again:  # they are to meet anew, and nobody is there
                workers._met = None
                ray.kill(workers._rendezvous)
                gone(*workers._meeting_place())
            workers.submit("fit", ranks=2)
            sizes.append((outcome(workers).facts or {})["size"])
            trouble.append(workers.trouble)
        return {"backend": backend, "sizes": sizes, "trouble": trouble}


def main() -> None:
    ray.init(address="local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
    ray.cloudpickle.register_pickle_by_value(__import__("__main__"))
    cases = (three_on_two, never_forms, one_is_dead, all_are_dead, one_is_held)
    print(json.dumps({case.__name__.replace("_", " "): case() for case in cases}))  # noqa: T201
    ray.shutdown()


if __name__ == "__main__":
    main()
