"""Q5b: what decoder optimization changes in a last stage of many segments."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.claims.decoder import (
    BAND,
    INSIDE,
    LINES,
    OUTSIDE,
    anything,
    apart,
    line_at_the_band,
    mismatch,
)
from benchmarks.claims.done import Done, image
from benchmarks.claims.measures import edge, pretrained
from benchmarks.claims.question import Claim, Column, Question, Row, Variant
from benchmarks.claims.scenes import Case, cases
from msbd_dist.batch.worker import stage_mask
from msbd_dist.core.compose import Bools, Floats, compose_chunk, stage_view
from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.plan import Stage
from msbd_dist.tiny.evaluate.edits import marked
from msbd_dist.tiny.scenes import Image

_SIZE = Size(384, 384)


def _cases(count: int) -> list[Case]:
    return cases(5, count, size=_SIZE, cells=(16, 24), inset=4, grounds=anything)


def _last(done: Done) -> tuple[dict[str, Floats], Floats, Bools]:
    """The last stage as it is, and as the pretrained decoder has its latents; input and mask."""
    edit = done.opened()
    stage = edit.record.plan.final
    canvas, whole = edit.canvas(stage), Box.of(stage.size)
    before = stage_view(canvas.source, stage, whole)
    slots = range(len(stage.segments))
    ways = {
        "plain": [pretrained(canvas.latent(stage, slot)) for slot in slots],
        "on": [canvas.segment(stage, slot) for slot in slots],
    }
    summed = {name: _summed(stage, segments, before) for name, segments in ways.items()}
    return summed, before, stage_mask(canvas, stage, whole)


def _summed(stage: Stage, segments: list[Floats], before: Floats) -> Floats:
    planned = zip(stage.segments, segments, strict=True)
    return compose_chunk(stage.grid, planned, lambda: before, Box.of(stage.size))


def _measure(done: Done) -> list[Row]:
    """Of what was tuned and of the same latents without it."""
    shown, before, mask = _last(done)
    rows = []
    for name, pixels in shown.items():
        pasted = image(np.where(mask, pixels, before))
        values = mismatch(pixels, before, mask) | edge(pasted, mask)
        values |= line_at_the_band(pasted, mask)
        if name == "on":
            values["inside"] = apart(pixels, shown["plain"], mask)
        rows.append(Row(done.case.id, name, values))
    return rows


def _tiles(case: Case, done: Mapping[str, Done]) -> tuple[Image, ...]:
    shown, before, mask = _last(done["on"])
    pasted = [image(np.where(mask, pixels, before)) for pixels in shown.values()]
    return (marked(case.before(), case.mask), *map(image, shown.values()), *pasted)


QUESTION = Question(
    key="q5b",
    title="Decoder optimization of many segments",
    cases=_cases,
    shared={"steps": 20, "repaint": 1, "samples": 1, "upscale_steps": 32},
    variants=(Variant(key="on", words="on, 300 steps of samples", every=8),),
    names={"plain": "the same latents by the pretrained decoder"},
    measure=_measure,
    columns=(
        *(OUTSIDE, BAND, INSIDE),
        Column(key="edge line", label="line at the edge, pasted", form="times"),
        LINES,
    ),
    claims=(
        Claim(
            words="on cuts the mismatch at the edge at least 2 times",
            column="band",
            variant="plain",
            against="on",
            how="ratio",
            bound=2.0,
        ),
        Claim(
            words="on changes what is painted by 3.5 levels at most",
            column="inside",
            variant="on",
            how="mean",
            more=False,
            bound=3.5,
        ),
        Claim(
            words="no line where the band ends: at most a tenth more than without optimization",
            column="band line",
            variant="on",
            against="plain",
            how="ratio",
            more=False,
            bound=1.1,
        ),
    ),
    heads=("mask", "pretrained", "tuned", "pretrained, pasted", "tuned, pasted"),
    tiles=_tiles,
    shown=4,
    side=256,
    cost=20.0,
)
