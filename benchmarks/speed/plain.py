"""The plain way: diffusers' own pipelines, a call for each segment, nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
)
from torch import Tensor

from benchmarks.speed.edit import PROMPT, Prepared
from msbd_dist.models.latent import LatentModel

PIPELINES = {
    "img2img": StableDiffusionImg2ImgPipeline,
    "inpaint": StableDiffusionInpaintPipeline,
}
Plain = Callable[[Sequence[tuple[Tensor, Tensor]]], list[Tensor]]
"""Pictures (1, 3, H, W) in [0, 1] with masks (1, 1, H, W), float32 -> edited pictures."""


def plain(kind: str, latent: LatentModel, prepared: Prepared, dtype: torch.dtype) -> Plain:
    """A loop over a pipeline with the same weights, steps, guidance and eta as the final stage.

    Such a pipeline runs in one dtype, its VAE too.
    """
    parts, stage = latent.parts, prepared.stage
    pipeline = PIPELINES[kind](
        vae=copy.deepcopy(parts.vae).to(dtype),
        unet=copy.deepcopy(parts.unet).to(dtype, memory_format=torch.contiguous_format),
        text_encoder=copy.deepcopy(parts.text_encoder).to(dtype),
        tokenizer=parts.tokenizer,
        scheduler=DDIMScheduler.from_config(parts.scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    method = prepared.plan.method
    options: dict[str, Any] = {
        "prompt": PROMPT,
        "num_inference_steps": stage.steps,
        "strength": stage.num_calls / stage.steps + 1e-9,  # it cuts off what follows the point
        "guidance_scale": float(method.segment_guidance or 0.0),
        "eta": method.eta,
        "output_type": "pt",
        "return_dict": False,
    }

    @torch.no_grad()
    def loop(segments: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        found = []
        for picture, mask in segments:
            given = {"mask_image": mask} if kind == "inpaint" else {}
            height, width = picture.shape[-2:]
            sized = {"height": height, "width": width} if kind == "inpaint" else {}
            found.append(pipeline(image=picture, **given, **sized, **options)[0].cpu())
        return found

    return loop
