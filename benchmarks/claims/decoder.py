"""Q5: what decoder optimization changes outside the mask and inside it, before the paste."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt

from benchmarks.claims.done import Done, image, planes
from benchmarks.claims.measures import edge
from benchmarks.claims.question import REAL, Claim, Column, Question, Row, Variant
from benchmarks.claims.scenes import Case, cases
from msbd_dist.tiny.evaluate.cases import SIZE
from msbd_dist.tiny.evaluate.edits import marked
from msbd_dist.tiny.scenes import Background, Image

_BAND = 8  # pixels beside the mask's edge
_GAIN = 6  # by which differences are shown


def _any(_: int, __: Background) -> bool:
    return True


def _cases(count: int) -> list[Case]:
    return cases(5, count, size=SIZE, cells=(6, 9), inset=2, grounds=_any)


def _measure(done: Done) -> list[Row]:
    """Mean absolute differences in 8-bit levels."""
    _, pixels = done.composed()
    before, mask = planes(done.case.before()), done.case.mask
    off = abs(pixels - before).mean(0) * 255
    band = (distance_transform_edt(~mask) <= _BAND) & ~mask
    values = {"outside": float(off[~mask].mean()), "band": float(off[band].mean())}
    values |= edge(done.picture, mask)
    if done.variant != "off":
        plain = Done(done.case, "off", f"{done.case.id}-off", Path(done.run))
        change = abs(pixels - plain.composed()[1]).mean(0) * 255
        values["inside"] = float(change[mask].mean())
    return [Row(done.case.id, done.variant, values)]


def _real(case: Case) -> list[Row]:
    return [Row(case.id, REAL, edge(case.before(), case.mask))]


def _tiles(case: Case, done: Mapping[str, Done]) -> tuple[Image, ...]:
    """The composed stage and its difference to the picture outside the mask, off and on."""
    before = planes(case.before())
    shown: list[Image] = [marked(case.before(), case.mask)]
    for key in ("off", "on"):
        _, pixels = done[key].composed()
        apart = np.where(case.mask, 0, abs(pixels - before)) * _GAIN
        shown += [image(pixels), image(apart), done[key].picture]
    return tuple(shown)


def _iterations(steps: int, every: int) -> Variant:
    return Variant(
        key=f"plain{steps}",
        words=f"{steps} iterations of the plain descent",
        keys={"decoder_batch": "full", "decoder_steps": steps},
        every=every,
    )


QUESTION = Question(
    key="q5",
    title="Decoder optimization",
    cases=_cases,
    shared={"steps": 20, "repaint": 1, "samples": 1},
    variants=(
        Variant(key="off", words="off", keys={"decoder_optimization": False}),
        Variant(key="on", words="on, as by default"),
        _iterations(10, every=2),
        _iterations(30, every=4),
        _iterations(100, every=4),
    ),
    measure=_measure,
    real=_real,
    columns=(
        Column(key="outside", label="mismatch outside, levels", form="levels"),
        Column(key="band", label=f"the same within {_BAND} px of the edge", form="levels"),
        Column(key="inside", label="change inside, levels", form="levels"),
        Column(key="edge line", label="line at the edge, pasted", form="times"),
        Column(key="edge colour", label="colour jump at the edge, pasted", form="times"),
    ),
    claims=(
        Claim(
            words="on cuts the mismatch at the edge at least 3 times",
            column="band",
            variant="off",
            against="on",
            how="ratio",
            bound=3.0,
        ),
        Claim(
            words="on cuts the mismatch outside at least 3 times",
            column="outside",
            variant="off",
            against="on",
            how="ratio",
            bound=3.0,
        ),
        Claim(
            words="100 plain iterations cut the mismatch at the edge at least 3 times",
            column="band",
            variant="off",
            against="plain100",
            how="ratio",
            bound=3.0,
        ),
        Claim(
            words="on makes the edge show less in the finished picture",
            column="edge line",
            variant="on",
            against="off",
            how="ratio",
            more=False,
            bound=1.0,
        ),
    ),
    heads=(
        "mask",
        "off: decoded",
        f"difference x {_GAIN}",
        "pasted",
        "on: decoded",
        f"difference x {_GAIN}",
        "pasted",
    ),
    tiles=_tiles,
    cost=16.0,
)
