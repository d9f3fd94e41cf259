"""Measures on edits as the product's first stage makes them: insertion, seams, removal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.ndimage import distance_transform_edt

from msbd_dist.core.geometry import Box
from msbd_dist.tiny.evaluate import probe
from msbd_dist.tiny.evaluate.cases import (
    GROUNDS,
    NAMES,
    Placed,
    insertions,
    removal_scenes,
    siblings,
    unbroken,
)
from msbd_dist.tiny.evaluate.family import Edit, Family
from msbd_dist.tiny.evaluate.measure import Measure, Outcome, by_group, mean, named_right
from msbd_dist.tiny.evaluate.rows import Row
from msbd_dist.tiny.scenes import Image, Mask, Scene, caption, render, silhouette

_STRIP = 4  # pixels inside and outside of an edge whose mean colours are compared
_GROWN = 5  # pixels that the mask of a removal is wider than object and shadow
_RING = 8  # pixels around that mask that show how the background should go on
_SIBLINGS = 12  # real scenes that say how much colours differ between mask and ring ...
_SLACK = (1.5, 0.02)  # ... and how far beyond the most different of them is still as usual

# --- insertion ------------------------------------------------------------------------------------


def _insert(family: Family, cases: Sequence[Placed]) -> list[Outcome]:
    pictures = [render(case.scene) for case in cases]
    after = family.edited(
        [
            Edit(picture, case.mask, case.prompt, case.seed)
            for case, picture in zip(cases, pictures, strict=True)
        ]
    )
    said = family.judge.kinds([crop(*pair) for pair in zip(cases, after, strict=True)])
    truth = family.judge.kinds([crop(case, render(case.real())) for case in cases])
    outcomes = []
    for case, one, two, kind, real in zip(cases, pictures, after, said, truth, strict=True):
        assert case.kind is not None
        values = named_right(kind, case.kind) | named_right(real, case.kind, "real ")
        words = case.prompt if kind == case.kind else f"{kind.name}! {case.prompt}"
        outcomes.append(Outcome(values, (one, marked(one, case.mask), two), words, case.kind.shape))
    return outcomes


def crop(case: Placed, picture: Image) -> Image:
    """The smallest square that holds the mask, as far as the picture goes.

    On whole pictures CLIP misnames small real objects; on this it does not.
    """
    box = case.box
    side = max(box.height, box.width)
    y, x = (
        max(start, 0) for start in ((box.y0 + box.y1 - side) // 2, (box.x0 + box.x1 - side) // 2)
    )
    y, x = min(y, picture.shape[0] - side), min(x, picture.shape[1] - side)
    return np.ascontiguousarray(picture[y : y + side, x : x + side])


def marked(picture: Image, mask: Mask) -> Image:
    """The picture with the masked part in grey."""
    return np.where(mask[..., None], np.uint8(128), picture)


def _insert_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    return [
        Row(
            key=f"inpainting_{what}",
            label=f"inpainting an object: {what}",
            value=mean(outcomes, what),
            cases=len(outcomes),
            bar=bar,
            real=mean(outcomes, f"real {what}"),
        )
        for what, bar in (("colour", 0.99), ("shape", 0.95))
    ]


# --- seams ----------------------------------------------------------------------------------------


def _seams(family: Family, cases: Sequence[Placed], *, words: bool) -> list[Outcome]:
    pictures = [render(case.scene) for case in cases]
    edits = [
        Edit(picture, case.mask, case.prompt if words else "", case.seed)
        for case, picture in zip(cases, pictures, strict=True)
    ]
    after = family.edited(edits, samples=1)
    return [
        Outcome(
            {
                "edited": jump(two, case.box),
                "real": jump(one, case.box),
                "edited texture": texture(two, case.box),
                "real texture": texture(one, case.box),
            },
            (one, marked(one, case.mask), two),
            f'"{edit.prompt}" on {case.prompt}',
            case.scene.background.kind,
        )
        for case, edit, one, two in zip(cases, edits, pictures, after, strict=True)
    ]


def seams_with_words(family: Family, cases: Sequence[Placed]) -> list[Outcome]:
    """The prompt is the background's own name."""
    return _seams(family, cases, words=True)


def seams_without_words(family: Family, cases: Sequence[Placed]) -> list[Outcome]:
    return _seams(family, cases, words=False)


def jump(picture: Image, box: Box) -> float:
    """How far the mean colour changes across the four edges of a box inside a picture, in 0..1.

    Mean over edges and channels of the absolute difference of two strips along the edge.
    """
    pixels = picture / 255
    y0, x0, y1, x1, s = box.y0, box.x0, box.y1, box.x1, _STRIP
    sides = (
        (pixels[y0 - s : y0, x0:x1], pixels[y0 : y0 + s, x0:x1]),
        (pixels[y1 - s : y1, x0:x1], pixels[y1 : y1 + s, x0:x1]),
        (pixels[y0:y1, x0 - s : x0], pixels[y0:y1, x0 : x0 + s]),
        (pixels[y0:y1, x1 - s : x1], pixels[y0:y1, x1 : x1 + s]),
    )
    return float(np.mean([abs(a.mean((0, 1)) - b.mean((0, 1))) for a, b in sides]))


def texture(picture: Image, box: Box) -> float:
    """How much neighbouring pixels differ inside a box: root mean square of the steps, in 0..1."""
    pixels = picture[box.slices] / 255
    steps = [np.diff(pixels, axis=axis) ** 2 for axis in (0, 1)]
    return float(np.sqrt(np.mean([step.mean() for step in steps])))


def _seam_rows(outcomes: Sequence[Outcome], key: str, prompt: str) -> list[Row]:
    edited, real = by_group(outcomes, "edited"), by_group(outcomes, "real")
    return [
        Row(
            key=key,
            label=f"faint rectangle, {prompt}: colour jump against real",
            value=mean(outcomes, "edited") / mean(outcomes, "real"),
            unit="times",
            cases=len(outcomes),
            bar=1.5,
            at_most=True,
            real=1.0,
            details={kind: edited[kind] / real[kind] for kind in edited},
        ),
        Row(
            key=f"{key}_texture",
            label=f"faint rectangle, {prompt}: fine texture against real",
            value=mean(outcomes, "edited texture") / mean(outcomes, "real texture"),
            unit="times",
            cases=len(outcomes),
            real=1.0,
        ),
    ]


def _worded_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    return _seam_rows(outcomes, "seam_words", "background's words")


def _wordless_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    return _seam_rows(outcomes, "seam_empty", "empty prompt")


# --- removal --------------------------------------------------------------------------------------


def removal_mask(scene: Scene) -> Mask:
    """The scene's object with its shadow, and some pixels around them."""
    covered = silhouette(scene.objects[0], scene.size, shadow=True)
    mask: Mask = distance_transform_edt(~covered) <= _GROWN
    return mask


def _remove(family: Family, scenes: Sequence[Scene]) -> list[Outcome]:
    pictures, masks = [render(scene) for scene in scenes], [removal_mask(s) for s in scenes]
    after = family.edited(
        [
            Edit(picture, mask, "", scene.seed)
            for scene, picture, mask in zip(scenes, pictures, masks, strict=True)
        ]
    )
    empty = [render(replace(scene, objects=())) for scene in scenes]
    bare, real = _bare(family, after), _bare(family, empty)
    judged = zip(scenes, masks, pictures, after, empty, bare, real, strict=True)
    outcomes = []
    for scene, mask, one, two, truth, gone, never in judged:
        verdict = removal_verdict(scene, mask, two, bare=gone)
        ceiling = removal_verdict(scene, mask, truth, bare=never)
        values = verdict | {f"real {key}": value for key, value in ceiling.items()}
        failed = ", ".join(key for key in ("CLIP", "probe", "continued") if not verdict[key])
        words = (f"{failed}! " if failed else "") + caption(scene)
        outcomes.append(Outcome(values, (one, marked(one, mask), two), words))
    return outcomes


def _bare(family: Family, pictures: Sequence[Image]) -> list[bool]:
    """Whether CLIP prefers the name of a background alone to all names of objects."""
    best = family.judge.best(pictures, NAMES + GROUNDS)
    return [index >= len(NAMES) for index in best]


def removal_verdict(scene: Scene, mask: Mask, picture: Image, *, bare: bool) -> dict[str, float]:
    """What became of a scene's object on a picture that should show its background alone.

    "CLIP", "probe": it is gone; "continued": the mask is as like its surroundings as in real
    scenes; "removed": all of these.
    """
    colour = scene.objects[0].colour
    left = [b for b in probe.blobs(picture) if b.colour == colour and _inside(mask, b)]
    verdict = {
        "CLIP": bare,
        "probe": not left,
        "continued": contrast(picture, mask) <= _usual(scene, mask),
    }
    return {key: float(value) for key, value in verdict.items()} | {
        "removed": float(all(verdict.values()))
    }


def _inside(mask: Mask, blob: probe.Blob) -> bool:
    height, width = mask.shape
    return bool(mask[int(blob.y * height), int(blob.x * width)])


def contrast(picture: Image, mask: Mask) -> float:
    """How far the mean colours inside the mask and in a ring around it differ, 0..1."""
    ring = (distance_transform_edt(~mask) <= _RING) & ~mask
    return float(abs(picture[mask].mean(0) - picture[ring].mean(0)).mean() / 255)


def _usual(scene: Scene, mask: Mask) -> float:
    """The most contrast that such a background has by itself."""
    most = max(contrast(render(other), mask) for other in siblings(scene, _SIBLINGS))
    factor, more = _SLACK
    return factor * most + more


def _removal_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    parts = ("CLIP", "probe", "continued")
    return [
        Row(
            key="removal",
            label="removal: object gone, background continued",
            value=mean(outcomes, "removed"),
            cases=len(outcomes),
            bar=0.90,
            real=mean(outcomes, "real removed"),
            details={part: mean(outcomes, part) for part in parts}
            | {f"real {part}": mean(outcomes, f"real {part}") for part in parts},
        )
    ]


MEASURES = (
    Measure(
        key="inpainting",
        count=56,
        batch=2,
        cost=9.3,
        cases=insertions,
        run=_insert,
        rows=_insert_rows,
    ),
    Measure(
        key="removal",
        count=48,
        batch=2,
        cost=4.8,
        cases=removal_scenes,
        run=_remove,
        rows=_removal_rows,
    ),
    Measure(
        key="seam_words",
        count=20,
        batch=5,
        cost=1.9,
        cases=unbroken,
        run=seams_with_words,
        rows=_worded_rows,
    ),
    Measure(
        key="seam_empty",
        count=20,
        batch=10,
        cost=1.0,
        cases=unbroken,
        run=seams_without_words,
        rows=_wordless_rows,
    ),
)
