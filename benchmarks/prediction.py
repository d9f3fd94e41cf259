"""Epsilon with Stable Diffusion's betas against v-prediction with zero terminal SNR.

    python -m benchmarks.prediction [--work runs/tiny] [--steps 550] [-o FILE]

Trains the UNet of the bundled family twice, in everything else alike and for the same number of
steps, and evaluates both. Needs a finished autoencoder in WORK (`python -m msbd_dist.tiny.train
--part vae`); CLIP and upscaler are those of the package.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import get_args

import torch

from benchmarks.machine import describe_machine
from msbd_dist.models.card import bundled_folder
from msbd_dist.tiny.evaluate.run import evaluate
from msbd_dist.tiny.train.command import Job, prepare, train
from msbd_dist.tiny.train.settings import SETTINGS, Prediction

MEASURES = ("text_to_image_3", "text_to_image_6", "text_to_image_9", "seam_words")


def main() -> None:
    options = arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    jobs = {kind: job(options.work, kind, options.steps) for kind in get_args(Prediction)}
    prepare(replace(next(iter(jobs.values())), processes=len(jobs)))  # the latents, for both
    with ProcessPoolExecutor(len(jobs), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        assert all(pool.map(train, jobs.values()))
    numbers = {kind: measured(one.family, options.scale, len(jobs)) for kind, one in jobs.items()}
    text = json.dumps({"steps": options.steps, **numbers, "machine": describe_machine()}, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--steps", type=int, default=550)
    parser.add_argument("--scale", type=float, default=0.25, help="of the evaluation's cases")
    parser.add_argument("-o", "--output", type=Path)
    return parser.parse_args()


def job(work: Path, kind: Prediction, steps: int) -> Job:
    """The training of one kind, in a folder of its own that shares the autoencoder's latents."""
    folder = work / "prediction" / kind
    shutil.rmtree(folder, ignore_errors=True)
    latents = work / "unet" / "drawn"
    latents.mkdir(parents=True, exist_ok=True)
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "drawn").symlink_to(latents.resolve())
    shutil.copytree(work / "family" / "vae", folder / "family" / "vae")
    for part in ("clip", "upscaler"):
        shutil.copytree(bundled_folder() / part, folder / "family" / part)
    recipe = replace(SETTINGS.unet.recipe, steps=steps)
    settings = replace(SETTINGS, unet=replace(SETTINGS.unet, prediction=kind, recipe=recipe))
    return Job(
        part="unet", work=folder, settings=settings, device="cpu", processes=1, deadline=None
    )


def measured(family: Path, scale: float, processes: int) -> dict[str, float]:
    found = evaluate(family, scale=scale, processes=processes, measures=MEASURES)
    return {row.key: round(row.value, 4) for row in found.rows}


if __name__ == "__main__":
    main()
