"""Measures on real scenes: autoencoder, CLIP, the probe itself, and the upscaler."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from msbd_dist.tiny.evaluate import probe
from msbd_dist.tiny.evaluate.cases import (
    Kind,
    any_scenes,
    clear_scenes,
    large_scenes,
    single_scenes,
    star_scenes,
)
from msbd_dist.tiny.evaluate.family import Family, images, planes
from msbd_dist.tiny.evaluate.measure import Measure, Outcome, by_group, mean, named_right, psnr
from msbd_dist.tiny.evaluate.rows import Row
from msbd_dist.tiny.scenes import Image, Scene, caption, render

_FACTOR = 4  # of the upscaler


def _kind(scene: Scene) -> Kind:
    return Kind(scene.objects[0].colour, scene.objects[0].shape)


# --- autoencoder ----------------------------------------------------------------------------------


def _vae(family: Family, scenes: Sequence[Scene]) -> list[Outcome]:
    pictures = [render(scene) for scene in scenes]
    after = family.reconstructed(pictures)
    return [
        Outcome(
            {"psnr": psnr(two, one), "half": psnr(_shrunk(two, 2), _shrunk(one, 2))},
            (one, two),
            caption(scene),
            scene.background.kind,
        )
        for scene, one, two in zip(scenes, pictures, after, strict=True)
    ]


def _vae_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    worst = min(outcome.values["psnr"] for outcome in outcomes)
    row = Row(
        key="vae_psnr",
        label="autoencoder: PSNR, mean",
        value=mean(outcomes, "psnr"),
        unit="dB",
        cases=len(outcomes),
        bar=30.0,
        details={"worst": worst} | by_group(outcomes, "psnr"),
    )
    least = Row(
        key="vae_psnr_worst",
        label="autoencoder: PSNR, worst",
        value=worst,
        unit="dB",
        cases=len(outcomes),
    )
    half = Row(
        key="vae_psnr_half",
        label="autoencoder: PSNR of the pictures at half their size",
        value=mean(outcomes, "half"),
        unit="dB",
        cases=len(outcomes),
        details=by_group(outcomes, "half"),
    )
    return [row, least, half]


def _stars(family: Family, scenes: Sequence[Scene]) -> list[Outcome]:
    pictures = [render(scene) for scene in scenes]
    after = family.reconstructed(pictures)
    judged = zip(
        scenes,
        pictures,
        after,
        family.judge.kinds(pictures),
        family.judge.kinds(after),
        strict=True,
    )
    return [
        Outcome(
            named_right(said, _kind(scene)) | named_right(truth, _kind(scene), "real "),
            (one, two),
            ("" if said.shape == "star" else f"{said.shape}! ") + caption(scene),
        )
        for scene, one, two, truth, said in judged
    ]


def _star_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    row = Row(
        key="vae_stars",
        label="autoencoder: stars still named stars",
        value=mean(outcomes, "shape"),
        cases=len(outcomes),
        bar=0.90,
        real=mean(outcomes, "real shape"),
        details={"colour": mean(outcomes, "colour"), "real colour": mean(outcomes, "real colour")},
    )
    return [row]


# --- judges ---------------------------------------------------------------------------------------


def _clip(family: Family, scenes: Sequence[Scene]) -> list[Outcome]:
    said = family.judge.kinds([render(scene) for scene in scenes])
    return [
        Outcome(named_right(one, _kind(scene)), group=scene.objects[0].shape)
        for scene, one in zip(scenes, said, strict=True)
    ]


def _clip_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    shapes = by_group(outcomes, "shape")
    return [
        _share("clip_colour", "CLIP names real objects: colour", outcomes, "colour", 0.99),
        _share("clip_shape", "CLIP names real objects: shape", outcomes, "shape", 0.98, shapes),
    ]


def _probe(family: Family, scenes: Sequence[Scene]) -> list[Outcome]:
    pictures = [render(scene) for scene in scenes]
    said = family.judge.kinds(pictures)
    outcomes = []
    for scene, picture, clip in zip(scenes, pictures, said, strict=True):
        colour, shape = probe.name(picture)
        thing = scene.objects[0]
        values = {
            "colour": float(colour == thing.colour),
            "shape": float(shape == thing.shape),
            "agree": float((colour, shape) == (clip.colour, clip.shape)),
        }
        outcomes.append(Outcome(values, group=thing.shape))
    return outcomes


def _probe_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    shapes = by_group(outcomes, "shape")
    return [
        _share("probe_colour", "pixel probe on real objects: colour", outcomes, "colour", 0.95),
        _share(
            "probe_shape", "pixel probe on real objects: shape", outcomes, "shape", 0.93, shapes
        ),
        _share("probe_agrees_real", "probe and CLIP agree on real objects", outcomes, "agree"),
    ]


def _share(
    key: str,
    label: str,
    outcomes: Sequence[Outcome],
    value: str,
    bar: float | None = None,
    details: dict[str, float] | None = None,
) -> Row:
    return Row(
        key=key,
        label=label,
        value=mean(outcomes, value),
        cases=len(outcomes),
        bar=bar,
        details=details or {},
    )


# --- upscaler -------------------------------------------------------------------------------------


def _upscaler(family: Family, scenes: Sequence[Scene]) -> list[Outcome]:
    outcomes = []
    for scene in scenes:
        truth = render(scene)
        small = planes([_shrunk(truth, _FACTOR)])
        learned = images(family.models.upscaler("realesrgan")(small))[0]
        plain = images(family.models.upscaler("bicubic")(small))[0]
        values = {"learned": psnr(learned, truth), "bicubic": psnr(plain, truth)}
        values["gain"] = values["learned"] - values["bicubic"]
        outcomes.append(Outcome(values, (plain, learned, truth), caption(scene)))
    return outcomes


def _shrunk(picture: Image, factor: int) -> Image:
    """Smaller by a factor, each pixel the mean of those it covers."""
    height, width = (side // factor for side in picture.shape[:2])
    blocks = picture.reshape(height, factor, width, factor, 3).mean((1, 3))
    small: Image = np.rint(blocks).astype(np.uint8)
    return small


def _upscaler_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    worst = min(outcome.values["gain"] for outcome in outcomes)
    row = Row(
        key="upscaler_gain",
        label="upscaler: PSNR gain over bicubic, mean",
        value=mean(outcomes, "gain"),
        unit="dB",
        cases=len(outcomes),
        bar=2.0,
        details={
            "worst": worst,
            "learned": mean(outcomes, "learned"),
            "bicubic": mean(outcomes, "bicubic"),
        },
    )
    least = Row(
        key="upscaler_gain_worst",
        label="upscaler: PSNR gain over bicubic, worst",
        value=worst,
        unit="dB",
        cases=len(outcomes),
    )
    return [row, least]


MEASURES = (
    Measure(
        key="vae",
        count=200,
        batch=10,
        cost=0.12,
        cases=any_scenes,
        run=_vae,
        rows=_vae_rows,
    ),
    Measure(
        key="stars",
        count=200,
        batch=10,
        cost=0.12,
        cases=star_scenes,
        run=_stars,
        rows=_star_rows,
    ),
    Measure(
        key="clip",
        count=1000,
        batch=50,
        cost=0.01,
        cases=single_scenes,
        run=_clip,
        rows=_clip_rows,
    ),
    Measure(
        key="probe",
        count=300,
        batch=50,
        cost=0.08,
        cases=clear_scenes,
        run=_probe,
        rows=_probe_rows,
    ),
    Measure(
        key="upscaler",
        count=24,
        batch=2,
        cost=0.9,
        cases=large_scenes,
        run=_upscaler,
        rows=_upscaler_rows,
    ),
)
