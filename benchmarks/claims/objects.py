"""Q1: one object asked for in a mask of most of the picture, by stages and by two baselines."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.claims.done import Done
from benchmarks.claims.measures import edge, obeyed, objects, sharp
from benchmarks.claims.question import JUMP, OBEYED, REAL, Claim, Column, Question, Row, Variant
from benchmarks.claims.scenes import Case, cases, plain
from msbd_dist.core.geometry import Size
from msbd_dist.tiny.evaluate.edits import marked
from msbd_dist.tiny.scenes import Image

_SIDE = 512  # pixels, four times the native size: three segments a side


def _cases(count: int) -> list[Case]:
    return cases(1, count, size=Size(_SIDE, _SIDE), cells=(8, 14), inset=3, grounds=plain)


def _measure(done: Done) -> list[Row]:
    picture = done.picture
    return [Row(done.case.id, done.variant, _values(done.case, picture, picture))]


def _real(case: Case) -> list[Row]:
    return [Row(case.id, REAL, _values(case, case.truth(), case.before()))]


def _values(case: Case, picture: Image, outline: Image) -> dict[str, float]:
    return (
        objects(case, picture)
        | obeyed(case, picture)
        | sharp(picture, case.mask, case.truth())
        | edge(outline, case.mask)
    )


def _tiles(case: Case, done: Mapping[str, Done]) -> tuple[Image, ...]:
    empty = marked(case.before(), case.mask)
    return (empty, *(one.picture for one in done.values()), case.truth())


def _straight(side: int) -> dict[str, object]:
    """Blended diffusion at a larger size than the native one, then bilinear enlargement."""
    return {"base_size": side, "upscaler": "bilinear", "upscale_diffusion": "off"}


_VARIANTS = (
    Variant(key="stages", words="multi-stage"),
    Variant(key="x2", words="straight at 2 x native, bilinear", keys=_straight(256), every=2),
    Variant(key="x3", words="straight at 3 x native, bilinear", keys=_straight(384), every=4),
    Variant(key="segments", words="each segment by itself", keys={"stages": "segments"}, every=4),
)


def _coherent(other: str, words: str) -> tuple[Claim, ...]:
    """What "one object" means, each as a claim against a baseline."""
    return (
        Claim(
            words=f"stages paint exactly one area of the colour more often than {words}",
            column="one",
            variant="stages",
            against=other,
        ),
        Claim(
            words=f"stages paint what is more like one such object than {words}",
            column="like",
            variant="stages",
            against=other,
        ),
        Claim(
            words=f"{words} repeats the object more than stages do: windows show it",
            column="window",
            variant=other,
            against="stages",
        ),
    )


QUESTION = Question(
    key="q1",
    title="One object in a large mask",
    cases=_cases,
    shared={
        "steps": 20,
        "repaint": 1,
        "samples": 1,
        "upscale_steps": 32,
        "decoder_optimization": False,
    },
    variants=_VARIANTS,
    measure=_measure,
    real=_real,
    columns=(
        Column(key="found", label="objects found, of 1", form="number"),
        Column(key="one", label="exactly one", form="share"),
        Column(key="like", label="like one such object", form="share"),
        Column(key="window", label="CLIP's score, best window less whole", form="number"),
        *OBEYED,
        Column(key="sharpness", label="sharpness against truth", form="times"),
        JUMP,
    ),
    claims=(
        *_coherent("x2", "blended diffusion at 2 x native size"),
        *_coherent("x3", "blended diffusion at 3 x native size"),
        *_coherent("segments", "painting each segment by itself"),
        Claim(
            words="stages are sharper than 2 x native size enlarged",
            column="sharpness",
            variant="stages",
            against="x2",
            how="ratio",
            bound=1.0,
        ),
    ),
    heads=("mask", "multi-stage", "2 x native", "3 x native", "segments", "real"),
    tiles=_tiles,
    side=144,
    cost=23.0,
)
