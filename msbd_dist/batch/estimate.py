"""How long work will take, from what it took before: seconds of a worker, by kind of task, for a
unit of `Plan.cost`.

    OUT/profile.json    written by every run that did work
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from msbd_dist.canvas.files import Files, open_files
from msbd_dist.core.plan import Plan
from msbd_dist.errors import InputError

NAME = "profile.json"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What work took on one kind of worker."""

    seconds: Mapping[str, float] = field(default_factory=dict)  # by kind, for a unit of cost
    models: str = "tiny"
    worker_mb: int = 0  # highest resident memory of a worker

    def of(self, plan: Plan, stages: Iterable[int] | None = None) -> float:
        """Seconds of one worker for a plan, or for some of its stages."""
        wanted = None if stages is None else set(stages)
        costs = defaultdict[str, float](float)
        for task in plan.tasks(""):
            if wanted is None or task.stage in wanted:
                costs[task.kind] += plan.cost(task)
        return sum(cost * self._rate(kind) for kind, cost in costs.items())

    def alone(self, plan: Plan) -> float:
        """Seconds of a plan in which no more than one worker can help: its unsegmented stages."""
        return self.of(plan, (s.index for s in plan.stages if s.kind != "segmented"))

    def _rate(self, kind: str) -> float:
        if kind in self.seconds:
            return self.seconds[kind]
        return sum(self.seconds.values()) / len(self.seconds)  # no such task was run


def hours_of(profile: Profile, plans: Iterable[Plan], workers: int) -> tuple[float, float]:
    """Hours of one worker for all plans, and hours until so many workers are done with them: no
    less than the longest edit's unsegmented stages take."""
    total, longest = 0.0, 0.0
    for plan in plans:
        total += profile.of(plan)
        longest = max(longest, profile.alone(plan))
    return total / 3600, max(total / workers, longest) / 3600


def save_profile(out: Files, profile: Profile) -> None:
    text = json.dumps({"version": 1, "kind": "profile", **asdict(profile)}, indent=1)
    out.write(NAME, text.encode())


def load_profile(place: str) -> Profile:
    """A profile from a file, or from a run directory. InputError where there is none."""
    where, name = (place, NAME) if not place.endswith(".json") else _split(place)
    try:
        values = json.loads(open_files(where).read(name))
        seconds = {str(kind): float(value) for kind, value in values["seconds"].items()}
        if not seconds or min(seconds.values()) <= 0:
            raise ValueError("no seconds")
        return Profile(
            seconds=seconds, models=str(values["models"]), worker_mb=int(values["worker_mb"])
        )
    except FileNotFoundError:
        raise InputError(
            f"--profile {place}: holds no {NAME}; give the --out of a run that did some work"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"--profile {place}: is not a profile; give the --out of a run") from None


def _split(place: str) -> tuple[str, str]:
    folder, _, name = place.rpartition("/")
    return folder or str(Path.cwd()), name
