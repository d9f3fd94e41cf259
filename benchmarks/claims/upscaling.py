"""Q4: the paper's Figure 5, ways to go from the first stage to full resolution.

Seeds are fixed, so that the first stage is the same in all. Sharpness is told relative to the
same scene with a real object where the first stage has painted one, of that size: its place is what
the probe sees of the first stage, the middle of the mask where it sees nothing of that colour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from benchmarks.claims.done import Done, image, planes
from benchmarks.claims.measures import coded, edge, obeyed, sharp
from benchmarks.claims.question import (
    JUMP,
    LINE,
    OBEYED,
    REAL,
    Claim,
    Column,
    Question,
    Row,
    Variant,
)
from benchmarks.claims.scenes import Case, cases, plain
from msbd_dist.core.compose import Floats, resample
from msbd_dist.core.geometry import Rect, Size
from msbd_dist.tiny.evaluate import probe
from msbd_dist.tiny.evaluate.edits import marked
from msbd_dist.tiny.scenes import Image, render

_SIDE = 352  # pixels: two segments a side
MIDDLE = 192  # of the stage before the last


def _cases(count: int) -> list[Case]:
    return cases(4, count, size=Size(_SIDE, _SIDE), cells=(8, 12), inset=3, grounds=plain)


def _measure(done: Done) -> list[Row]:
    picture, mask = done.picture, done.case.mask
    values = obeyed(done.case, picture) | edge(picture, mask)
    return [Row(done.case.id, done.variant, values | sharp(picture, mask, truth_of(done)))]


def truth_of(done: Done) -> Image:
    """The scene with a real object where the first stage has painted it."""
    scene, kind = done.case.placed.real(), done.case.kind
    first = image(done.composed(0)[1])
    found = [blob for blob in probe.blobs(first) if blob.colour == kind.colour]
    if not found:
        return render(scene)
    thing = replace(
        scene.objects[0],
        center_y=found[0].y * scene.size.height,
        center_x=found[0].x * scene.size.width,
        radius=probe.radius(first, kind.colour, kind.shape) * scene.size.height,
    )
    return render(replace(scene, objects=(thing,)))


def _real(case: Case) -> list[Row]:
    before, mask = case.before(), case.mask
    values = obeyed(case, case.truth()) | edge(before, mask) | {"sharpness": 1.0}
    return [Row(case.id, REAL, values), *backgrounds(case)]


def backgrounds(case: Case) -> list[Row]:
    """What the autoencoder and the low-pass leave of the untouched picture."""
    before = case.before()
    low = low_passed(before)
    left = {"ae": coded(before), "low": low, "low ae": coded(low)}
    return [Row(case.id, name, sharp(one, case.mask, before)) for name, one in left.items()]


def low_passed(picture: Image) -> Image:
    """No sharper than the stage before the last: shrunk to its size and enlarged again."""
    small = scaled(planes(picture), Size(MIDDLE, MIDDLE))
    return image(scaled(small, Size(*picture.shape[:2])))


def scaled(pixels: Floats, size: Size) -> Floats:
    """All of a picture (3, h, w) at another size."""
    return resample(pixels, Rect(0, 0, *pixels.shape[1:]), size)


def tiles(case: Case, done: Mapping[str, Done]) -> tuple[Image, ...]:
    truth = truth_of(next(iter(done.values())))
    return (marked(case.before(), case.mask), *(one.picture for one in done.values()), truth)


_VARIANTS = (
    Variant(
        key="a",
        words="a) bilinear",
        keys={"upscaler": "bilinear", "upscale_diffusion": "off"},
    ),
    Variant(key="b", words="b) super-resolution", keys={"upscale_diffusion": "off"}),
    Variant(
        key="c",
        words="c) unconditional",
        keys={"upscale_diffusion": "unconditional", "blend": False, "lowpass": "off"},
        every=4,
    ),
    Variant(key="d", words="d) conditional", keys={"blend": False, "lowpass": "off"}, every=4),
    Variant(key="e", words="e) blended, as it is", keys={"lowpass": "off"}, every=2),
    Variant(key="f", words="f) blended, low-pass"),
    Variant(key="half", words="low-pass: half", keys={"lowpass": "half"}, every=4),
)


BACKGROUNDS = {
    "ae": "untouched, through the autoencoder",
    "low": "untouched, low-passed",
    "low ae": "untouched, low-passed, through the autoencoder",
}
SHARPNESS = Column(key="sharpness", label="sharpness against truth", form="times")
LOWPASS = Claim(
    words="without the low-pass the edited part gets more blurred (f sharper than e)",
    column="sharpness",
    variant="f",
    against="e",
    how="ratio",
    bound=1.0,
)
KEPT = Claim(
    words="the autoencoder leaves the low-pass something to do: the picture as it is comes out "
    "of it sharper than the low-passed one went in",
    column="sharpness",
    variant="ae",
    against="low",
    how="ratio",
    bound=1.0,
)
SHARED = {
    "steps": 20,
    "repaint": 1,
    "samples": 1,
    "upscale_steps": 32,
    "middle_start": 0.4,
    "segment_start": 0.25,
    "decoder_optimization": False,
}


QUESTION = Question(
    key="q4",
    title="From the first stage to full resolution",
    cases=_cases,
    shared=SHARED,
    variants=_VARIANTS,
    names=BACKGROUNDS,
    measure=_measure,
    real=_real,
    columns=(
        SHARPNESS,
        JUMP,
        LINE,
        *OBEYED,
    ),
    claims=(
        LOWPASS,
        KEPT,
        Claim(
            words="f is sharper than bilinear enlargement (a)",
            column="sharpness",
            variant="f",
            against="a",
            how="ratio",
            bound=1.0,
        ),
        Claim(
            words="f is sharper than super-resolution alone (b)",
            column="sharpness",
            variant="f",
            against="b",
            how="ratio",
            bound=1.0,
        ),
        Claim(
            words="blending makes the mask's edge show less: colours (f against d)",
            column="edge colour",
            variant="f",
            against="d",
            how="ratio",
            more=False,
            bound=1.0,
        ),
        Claim(
            words="blending makes the mask's edge show less: as a line (f against d)",
            column="edge line",
            variant="f",
            against="d",
            how="ratio",
            more=False,
            bound=1.0,
        ),
        Claim(
            words="the prompt above the first stage helps (d obeyed more than c)",
            column="clip",
            variant="d",
            against="c",
        ),
    ),
    heads=("mask", *(variant.words for variant in _VARIANTS), "truth"),
    tiles=tiles,
    shown=6,
    side=176,
    cost=28.0,
)
