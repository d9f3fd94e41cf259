"""How far a run is: one value for bars and lines, for `status.json` and for `msbd status`.

    OUT/status.json    written while a run goes on, and when it ends
    OUT/cancel.json    the wish that it ends
    OUT/profile.json   what a unit of work took, for estimates

Loads neither torch nor ray nor zarr: who looks at a run need not wait for them.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from msbd_dist.canvas.files import Files
from msbd_dist.canvas.lease import last_holder
from msbd_dist.errors import RunError

NAME, CANCEL = "status.json", "cancel.json"
SILENT = 60.0  # seconds without a word after which a driver elsewhere is taken for gone

EditState = Literal["waiting", "running", "done", "kept", "failed", "quarantined", "stopped"]
RunState = Literal["looking", "starting", "running", "ended", "interrupted"]
FINISHED: tuple[EditState, ...] = ("done", "kept")
FAILED: tuple[EditState, ...] = ("failed", "quarantined")


@dataclass(frozen=True, kw_only=True)
class Doing:
    """An edit that is worked at."""

    id: str
    what: str  # stage 2 denoise, taking in, writing
    done: int  # segments, or percent of a chore
    of: int
    share: float  # of all its work
    seconds_left: float | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """An edit and what has become of it."""

    id: str
    state: EditState
    seconds: float = 0.0
    output: str | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Status:
    """A run at one moment. Times are Unix seconds; ``busy`` is the share of the workers' time that
    went into tasks since they were there."""

    state: RunState
    began: float
    now: float
    total: int  # edits
    counts: Mapping[str, int]  # by state
    share: float = 0.0
    seconds_left: float | None = None
    workers: int = 0
    busy: float | None = None
    looked: int = 0  # edits that have been looked at, before any work
    doing: tuple[Doing, ...] = ()
    stopped: str | None = None  # why it ended early
    error: str | None = None  # what ended it
    trouble: str = ""  # why fewer workers are at work than were wanted
    edits: tuple[Row, ...] = field(default=(), repr=False)  # all of them, only in the file

    @property
    def finished(self) -> int:
        return sum(self.counts.get(state, 0) for state in FINISHED)

    @property
    def failed(self) -> int:
        return sum(self.counts.get(state, 0) for state in FAILED)


def in_words(counts: Mapping[str, int]) -> str:
    """How many edits are in which state."""
    return ", ".join(f"{number} {state}" for state, number in counts.items() if number)


def save_status(out: Files, status: Status) -> None:
    out.write(NAME, as_json(status).encode())


def as_json(status: Status) -> str:
    return json.dumps({"version": 1, "kind": "status", **asdict(status)})


def load_status(out: Files) -> Status:
    """What a run last said of itself; one whose driver is gone is ``interrupted``.

    RunError where there is no run.
    """
    try:
        values: dict[str, Any] = json.loads(out.read(NAME))
        values["doing"] = tuple(Doing(**one) for one in values["doing"])
        values["edits"] = tuple(Row(**one) for one in values["edits"])
        status = Status(**{k: v for k, v in values.items() if k not in ("version", "kind")})
    except FileNotFoundError:
        raise RunError(f"{out.url}: holds no run; give the --out of `msbd run`") from None
    except (ValueError, TypeError, KeyError):
        raise RunError(f"{out.url}/{NAME}: is damaged; `msbd resume` writes it anew") from None
    if status.state != "ended" and not is_driven(out, status):
        return _interrupted(status)
    return status


def ended_by(out: Files) -> str | None:
    """The error that ended a run, if one did."""
    with suppress(RunError):
        return load_status(out).error
    return None


def _interrupted(status: Status) -> Status:
    """A run whose driver is gone: nobody works at its edits."""
    counts = Counter(status.counts)
    counts["stopped"] += counts.pop("running", 0)
    rows = (replace(r, state="stopped") if r.state == "running" else r for r in status.edits)
    return replace(status, state="interrupted", doing=(), counts=dict(+counts), edits=tuple(rows))


def is_driven(out: Files, status: Status) -> bool:
    """Whether a process drives the run, as far as can be seen from here."""
    holder = last_holder(out)
    if holder is None or holder.gone:
        return False
    return holder.is_here or time.time() - status.now < SILENT


def ask_to_cancel(out: Files, grace: float) -> None:
    """Leave the wish that a run ends, with so many seconds for what is under way; its driver looks
    for it every few seconds. RunError where nobody drives the run."""
    status = load_status(out)
    if status.state in ("ended", "interrupted"):
        raise RunError(f"{out.url}: nothing runs there; there is nothing to cancel")
    out.write(CANCEL, json.dumps({"grace": grace}).encode())


def cancelled(out: Files) -> float | None:
    """The grace in seconds that came with the wish that a run ends; None: go on."""
    try:
        return float(json.loads(out.read(CANCEL))["grace"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
