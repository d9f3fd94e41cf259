"""Every gate under every fault: edits are made once for all gates that look at them."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path

from benchmarks.gates.edits import CASES, Made, Studio
from benchmarks.gates.faults import FAULTS
from benchmarks.gates.gates import GATES, Gate
from benchmarks.gates.measures import Eyes
from msbd_dist.tiny.scenes import Image

log = logging.getLogger(__name__)

Values = dict[str, float | None]
"""By the gate's name: what was measured; None where the edit has failed."""


class Gatehouse:
    """Makes edits as they are asked for, with or without a fault, and measures them."""

    def __init__(self, folder: Path) -> None:
        self._studio, self._eyes = Studio(folder), Eyes()
        self._made: dict[tuple[str, str | None], Made | None] = {}

    def made(self, case: str, fault: str | None) -> Made | None:
        """A case under a fault, made once; None where the fault made it fail."""
        if (case, fault) not in self._made:
            self._made[case, fault] = self._make(case, fault)
        return self._made[case, fault]

    def value(self, gate: Gate, fault: str | None) -> float | None:
        """What a gate measures; an intact edit that fails raises."""
        made = self.made(gate.case, fault)
        if made is None:
            return None
        try:
            return float(gate.measure(self._eyes, made))
        except Exception as error:  # nothing to measure is as bad as a bad value
            if fault is None:
                raise
            log.info("%s: %s: %s", fault, gate.name, error)
            return None

    def values(self, fault: str | None) -> Values:
        """Of all gates whose case has the part that is broken."""
        cases = FAULTS[fault].cases if fault else CASES
        return {g.name: self.value(g, fault) for g in GATES.values() if g.case in cases}

    def picture(self, case: str, fault: str | None) -> Image | None:
        """What there is to see: the finished picture, or the last stage where only that is run."""
        made = self.made(case, fault)
        if made is None:
            return None
        return made.before_paste if CASES[case].planted else made.after

    def forget(self, fault: str) -> None:
        """Let go of what was made under a fault."""
        self._made = {key: made for key, made in self._made.items() if key[1] != fault}

    def _make(self, case: str, fault: str | None) -> Made | None:
        try:
            with FAULTS[fault].broken() if fault else nullcontext():
                return self._studio.make(CASES[case])
        except Exception as error:  # a broken product may fail in any way
            if fault is None:
                raise
            log.info("%s: %s: %s", fault, case, error)
            return None


def caught(values: Values) -> list[str]:
    """The gates that do not pass."""
    return [name for name, value in values.items() if not GATES[name].passes(value)]
