"""Measures on pictures that the family paints from words alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from msbd_dist.tiny.evaluate import probe
from msbd_dist.tiny.evaluate.cases import LIKE, NATIVE, Kind, Prompted, pair_scenes, prompted, sized
from msbd_dist.tiny.evaluate.family import Family
from msbd_dist.tiny.evaluate.measure import Measure, Outcome, by_group, mean, named_right
from msbd_dist.tiny.evaluate.rows import Row
from msbd_dist.tiny.scenes import Image, Scene, caption, render

GUIDANCES = (3.0, 6.0, 9.0)
_RELATIONS = ("left of", "right of", "above", "below")
_LARGEST = 0.3  # of the picture's area: a circle of radius 0.31 units; of two, none is larger
_EVERY = 5  # pair of objects is named without its relation: "and"
_SMALL, _BIG = 0.20, 0.33  # units: between them lies what captions give no size


# --- one object -----------------------------------------------------------------------------------


def _painted(
    family: Family, cases: Sequence[Prompted], *, guidance: float | None, side: int | None
) -> list[Outcome]:
    """``guidance`` and ``side`` of None: the family's own, and its segments'."""
    pictures = family.painted(
        [case.prompt for case in cases],
        [case.seed for case in cases],
        side=family.card.family.segment if side is None else side,
        guidance=family.guidance if guidance is None else guidance,
    )
    said = family.judge.kinds(pictures)
    return [
        Outcome(
            named_right(kind, case.kind) | (_probed(picture, kind, case) if case.plain else {}),
            (picture,),
            _verdict(case.prompt, kind, case.kind),
            case.kind.shape,
        )
        for case, picture, kind in zip(cases, pictures, said, strict=True)
    ]


def _probed(picture: Image, said: Kind, case: Prompted) -> dict[str, float]:
    colour, shape = probe.name(picture)
    return {
        "probe colour": float(colour == case.kind.colour),
        "probe shape": float(shape == case.kind.shape),
        "agree": float((colour, shape) == (said.colour, said.shape)),
    }


def _verdict(prompt: str, said: Kind, wanted: Kind) -> str:
    return prompt if said == wanted else f"{said.name}! {prompt}"


def _shares(
    outcomes: Sequence[Outcome], *, key: str, label: str, bars: tuple[float, float]
) -> list[Row]:
    """A row each for colour and shape by CLIP, then what the probe says on plain backgrounds."""
    plain = [outcome for outcome in outcomes if "agree" in outcome.values]
    by_clip = [
        Row(
            key=f"{key}_{what}",
            label=f"{label}: {what}",
            value=mean(outcomes, what),
            cases=len(outcomes),
            bar=bar,
            details=by_group(outcomes, what),
        )
        for what, bar in zip(("colour", "shape"), bars, strict=True)
    ]
    by_probe = [
        Row(
            key=f"{key}_{what.replace(' ', '_')}",
            label=f"{label}: {words}",
            value=mean(plain, what),
            cases=len(plain),
        )
        for what, words in (
            ("probe colour", "colour by the probe"),
            ("probe shape", "shape by the probe"),
            ("agree", "probe and CLIP agree"),
        )
    ]
    return [*by_clip, *by_probe]


def _guided_rows(outcomes: Sequence[Outcome], *, guidance: float) -> list[Row]:
    key, label = f"text_to_image_{guidance:g}", f"text to image, guidance {guidance:g}"
    return _shares(outcomes, key=key, label=label, bars=(0.99, 0.95))


# --- sizes ----------------------------------------------------------------------------------------


def _sized(family: Family, cases: Sequence[Prompted]) -> list[Outcome]:
    pictures = family.painted(
        [case.prompt for case in cases],
        [case.seed for case in cases],
        side=NATIVE,
        guidance=family.guidance,
    )
    outcomes = []
    for case, picture in zip(cases, pictures, strict=True):
        radius = probe.radius(picture, case.kind.colour, case.kind.shape)
        held = radius < _SMALL if case.size == "small" else radius > _BIG
        words = f"{case.prompt}: {radius:.2f}{'' if held else '!'}"
        outcomes.append(Outcome({"held": float(held)}, (picture,), words, str(case.size)))
    return outcomes


def _sized_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    row = Row(
        key="sizes",
        label='"small" and "big" objects: of that size, by the probe',
        value=mean(outcomes, "held"),
        cases=len(outcomes),
        details=by_group(outcomes, "held"),
    )
    return [row]


# --- two objects ----------------------------------------------------------------------------------


def pair_prompt(scene: Scene) -> str:
    """The words for a scene of two objects: with their relation, but for every fifth."""
    return caption(scene, places=scene.seed % _EVERY > 0)


def _pairs(family: Family, scenes: Sequence[Scene]) -> list[Outcome]:
    prompts = [pair_prompt(scene) for scene in scenes]
    pictures = family.painted(
        prompts, [scene.seed for scene in scenes], side=NATIVE, guidance=family.guidance
    )
    outcomes = []
    for scene, prompt, picture in zip(scenes, prompts, pictures, strict=True):
        real = {f"real {key}": value for key, value in pair_verdict(scene, render(scene)).items()}
        verdict = pair_verdict(scene, picture)
        words = prompt if verdict["both"] else f"no! {prompt}"
        outcomes.append(Outcome(verdict | real, (picture,), words))
    return outcomes


def pair_verdict(scene: Scene, picture: Image) -> dict[str, float]:
    """What the probe finds of the two objects of a scene on a picture.

    "both": an area of each colour, of an object's size and of some shape, and no other area that
    is of no colour of the background;
    "shapes": these are of the named shapes; "relation", where the prompt names one and both are
    there: whether it holds.
    """
    one, other = scene.objects
    like = LIKE[scene.background.kind]
    found = [blob for blob in probe.blobs(picture) if blob.colour not in like]
    whole = all(blob.shape is not None and blob.area <= _LARGEST for blob in found)
    both = whole and {blob.colour for blob in found} == {one.colour, other.colour}
    both = both and len(found) == 2
    verdict = {"both": float(both), "shapes": 0.0}
    if both:
        first, second = sorted(found, key=lambda blob: blob.colour != one.colour)
        shapes = (first.shape, second.shape) == (one.shape, other.shape)
        verdict["shapes"] = float(shapes)
        relation = [words for words in _RELATIONS if f" {words} " in pair_prompt(scene)]
        if relation:
            verdict["relation"] = float(_holds(relation[0], first, second))
    return verdict


def _holds(relation: str, one: probe.Blob, other: probe.Blob) -> bool:
    down, right = one.y - other.y, one.x - other.x
    return {"left of": right < 0, "right of": right > 0, "above": down < 0, "below": down > 0}[
        relation
    ]


def _pair_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    told = [outcome for outcome in outcomes if "relation" in outcome.values]
    return [
        Row(
            key="two_objects",
            label="two objects: both there, once each",
            value=mean(outcomes, "both"),
            cases=len(outcomes),
            bar=0.70,
            real=mean(outcomes, "real both"),
        ),
        Row(
            key="two_objects_shapes",
            label="two objects: and of the named shapes",
            value=mean(outcomes, "shapes"),
            cases=len(outcomes),
            real=mean(outcomes, "real shapes"),
        ),
        Row(
            key="two_objects_relation",
            label="two objects, where both are there: as placed",
            value=mean(told, "relation"),
            cases=len(told),
            real=mean(outcomes, "real relation"),
        ),
    ]


MEASURES = (
    *(
        Measure(
            key=f"text_to_image_{guidance:g}",
            count=112,
            batch=14,
            cost=0.31,
            cases=prompted,
            run=partial(_painted, guidance=guidance, side=NATIVE),
            rows=partial(_guided_rows, guidance=guidance),
        )
        for guidance in GUIDANCES
    ),
    Measure(
        key="sizes",
        count=56,
        batch=14,
        cost=0.31,
        cases=sized,
        run=_sized,
        rows=_sized_rows,
    ),
    Measure(
        key="two_objects",
        count=64,
        batch=16,
        cost=0.35,
        cases=pair_scenes,
        run=_pairs,
        rows=_pair_rows,
    ),
    Measure(
        key="segments",
        count=56,
        batch=8,
        cost=0.85,
        cases=prompted,
        run=partial(_painted, guidance=None, side=None),
        rows=partial(_shares, key="segments", label="text to image, segments", bars=(0.90, 0.90)),
    ),
)
