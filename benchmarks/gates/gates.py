"""The gates: a measure of one case, the range that it must lie in, and the fault it is there for.

Ranges leave room for what rounding on other machines changes; `docs/gates.md` has the intact value
of each beside its value under every fault.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from benchmarks.gates import measures
from benchmarks.gates.edits import Made
from benchmarks.gates.measures import Eyes

Measure = Callable[[Eyes, Made], float]


@dataclass(frozen=True, kw_only=True)
class Gate:
    """``case`` and ``fault`` are names; the measure's docstring says what it is."""

    name: str
    case: str
    measure: Measure
    low: float = -inf
    high: float = inf
    fault: str

    @property
    def words(self) -> str:
        """The first sentence of the measure's docstring."""
        first = (self.measure.__doc__ or "").strip().split("\n\n")[0]
        return " ".join(first.split())

    def passes(self, value: float | None) -> bool:
        """None: the edit has failed."""
        return value is not None and self.low <= value <= self.high


GATES = {
    gate.name: gate
    for gate in (
        # the words
        Gate(name="named", case="star", measure=measures.named, low=7, fault="prompt-lost"),
        Gate(name="painted", case="star", measure=measures.painted, low=0.3, fault="prompt-lost"),
        Gate(name="still named", case="wide", measure=measures.named, low=12, fault="guidance-off"),
        Gate(name="chosen", case="choice", measure=measures.chosen, low=0, fault="rerank-worst"),
        # removal
        Gate(
            name="removed", case="gone", measure=measures.removed, low=20, fault="sigma-too-large"
        ),
        Gate(name="continued", case="gone", measure=measures.continued, high=4, fault="blend-off"),
        Gate(
            name="texture",
            case="gone",
            measure=measures.texture,
            high=0.12,
            fault="sigma-too-large",
        ),
        Gate(
            name="edge step", case="gone", measure=measures.edge_step, high=3.2, fault="blend-off"
        ),
        Gate(
            name="edge colour",
            case="gone",
            measure=measures.edge_colour,
            high=2.1,
            fault="blend-off",
        ),
        Gate(
            name="liveliness",
            case="gone",
            measure=measures.liveliness,
            low=0.91,
            high=1.0,
            fault="sigma-without-noise",
        ),
        # what is held
        Gate(name="held", case="star", measure=measures.held, high=0.01, fault="mask-one-cell-off"),
        Gate(name="reached", case="star", measure=measures.reached, low=1, fault="mask-min-pool"),
        Gate(
            name="background",
            case="star",
            measure=measures.background,
            high=8.5,
            fault="scale-left-out",
        ),
        Gate(
            name="level", case="star", measure=measures.level, high=1.15, fault="background-level"
        ),
        # later stages
        Gate(
            name="low-pass",
            case="wide",
            measure=measures.lowpass,
            low=0.13,
            high=0.4,
            fault="lowpass-off",
        ),
        Gate(
            name="refined",
            case="wide",
            measure=measures.refined,
            low=0.1,
            high=0.5,
            fault="later-start-lost",
        ),
        Gate(name="seams", case="wide", measure=measures.seam, high=1.05, fault="weights-hard"),
        Gate(
            name="one noise",
            case="wide",
            measure=measures.one_noise,
            high=0,
            fault="noise-per-segment",
        ),
        Gate(
            name="agreement",
            case="wide",
            measure=measures.agreement,
            high=7,
            fault="noise-per-segment",
        ),
        Gate(
            name="between", case="wide", measure=measures.between, high=0.01, fault="compose-over"
        ),
        Gate(
            name="enlarged", case="enlarged", measure=measures.enlarged, low=2, fault="sr-nearest"
        ),
        Gate(
            name="crisp",
            case="enlarged",
            measure=measures.crisp,
            low=0.46,
            fault="sr-bilinear",
        ),
        Gate(
            name="halo", case="enlarged", measure=measures.agreement, high=0.05, fault="sr-no-halo"
        ),
        # decoder optimization
        Gate(name="fitted", case="fitted", measure=measures.fitted, high=0.8, fault="fit-unused"),
        Gate(
            name="kept",
            case="fitted",
            measure=measures.kept,
            low=4.0,
            high=4.75,
            fault="fit-to-input",
        ),
        Gate(name="deep", case="fitted", measure=measures.deep, high=0.3, fault="fit-shows-inside"),
        Gate(
            name="summed",
            case="summed",
            measure=measures.fitted,
            high=0.74,
            fault="gradient-not-summed",
        ),
        # the file
        Gate(name="exact", case="star", measure=measures.exact, high=0, fault="paste-mask-off"),
        Gate(name="pasted", case="star", measure=measures.pasted, high=0.4, fault="truncated"),
    )
}
