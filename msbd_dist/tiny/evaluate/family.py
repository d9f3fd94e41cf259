"""A family as the product loads it, and the two things it is asked to do: paint and edit.

Noise has the product's names and fields; each picture has its own seed, so that no picture depends
on what else is in its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from msbd_dist.core.compose import Floats, colour_agreement, composed, latent_mask
from msbd_dist.core.geometry import Box
from msbd_dist.core.noise import Draw, NoiseField
from msbd_dist.core.sampling import Denoiser, Noise, blended_diffusion
from msbd_dist.core.spec import Method, ModelSpec
from msbd_dist.models.bundle import Models, load
from msbd_dist.models.card import resolve
from msbd_dist.models.latent import Conditioning, LatentModel
from msbd_dist.models.loading import read_weights
from msbd_dist.tiny.evaluate.judge import Judge
from msbd_dist.tiny.scenes import Image, Mask

STEPS = 25
METHOD = Method()  # of which these measures use: samples, repaint, eta


@dataclass(frozen=True)
class Edit:
    """A picture, uint8 RGB (H, W, 3), and what is to happen where its mask (H, W) is True."""

    picture: Image
    mask: Mask
    prompt: str
    seed: int


class Family:
    """The models of one folder on one device."""

    def __init__(self, folder: Path, device: str = "auto") -> None:
        self.models: Models = load(resolve(ModelSpec(family=str(folder))), device=device)
        self.card = self.models.card

    @property
    def latent(self) -> LatentModel:
        return self.models.latent

    @property
    def guidance(self) -> float:
        """The scale that the family recommends."""
        return self.card.family.guidance

    @cached_property
    def judge(self) -> Judge:
        return Judge(self.card.clip, self.models.device)

    def reconstructed(self, pictures: Sequence[Image]) -> list[Image]:
        """Through the autoencoder and back, by the mean of its posterior."""
        return images(self.latent.decode(self.latent.encode(planes(pictures))))

    def painted(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        side: int,
        guidance: float,
        steps: int = STEPS,
    ) -> list[Image]:
        """Pictures of ``side`` pixels from words and pure noise."""
        cells = side // self.card.family.vae_factor
        noise = _noise([NoiseField(seed, 0) for seed in seeds], cells, self.models.device)
        z = blended_diffusion(
            guided(self.latent, prompts, guidance),
            noise(("blank",)),  # unit noise, which noise at any level leaves unit noise
            None,
            self.latent.schedule(steps),
            noise,
            eta=METHOD.eta,
        )
        return images(self.latent.decode(z))

    def edited(self, edits: Sequence[Edit], *, samples: int = METHOD.samples) -> list[Image]:
        """The first stage of real edits: RePaint, the best of ``samples``, pasted by the mask.

        The edits are worked on as one batch; either all or none of them have a prompt.
        """
        factor, count = self.card.family.vae_factor, len(edits)
        pictures = planes([edit.picture for edit in edits])
        z0 = self.latent.encode(pictures).repeat_interleave(samples, 0)
        cells = np.stack([latent_mask(edit.mask, factor) for edit in edits])[:, None]
        mask = torch.from_numpy(cells).to(z0.device).repeat_interleave(samples, 0)
        fields = [NoiseField(edit.seed, 0, b) for edit in edits for b in range(samples)]
        prompts = [edit.prompt for edit in edits for _ in range(samples)]
        z = blended_diffusion(
            guided(self.latent, prompts, self.guidance),
            z0,
            mask,
            self.latent.schedule(STEPS),
            _noise(fields, z0.shape[-1], self.models.device),
            eta=METHOD.eta,
            repaint=METHOD.repaint,
        )
        candidates = (
            self.latent.decode(z).clamp(0, 1).cpu().reshape(count, samples, *pictures[0].shape)
        )
        return [
            _pasted(edit, self._best(edit, some).numpy())
            for edit, some in zip(edits, candidates, strict=True)
        ]

    def _best(self, edit: Edit, candidates: Tensor) -> Tensor:
        """The product's choice: by CLIP, or by colour agreement where there are no words."""
        if len(candidates) == 1:
            return candidates[0]
        if edit.prompt.strip():
            scores = self.models.scorer(candidates, edit.prompt)
        else:
            scores = [colour_agreement(one.numpy(), edit.mask) for one in candidates]
        return candidates[int(np.argmax(scores))]

    def parameters(self) -> dict[str, int]:
        """How many numbers each part has learned."""
        parts = self.latent.parts
        modules = {
            "vae": parts.vae,
            "unet": parts.unet,
            "text_encoder": parts.text_encoder,
            "clip": self.judge.model,
        }
        counts = {name: sum(p.numel() for p in m.parameters()) for name, m in modules.items()}
        checkpoint = self.card.checkpoint("realesrgan")
        assert checkpoint is not None
        return counts | {"upscaler": sum(w.numel() for w in read_weights(checkpoint).values())}


def guided(latent: LatentModel, prompts: Sequence[str], guidance: float) -> Denoiser:
    """A denoiser with a prompt for each row of the batch."""
    texts = Conditioning.rows([latent.text(prompt) for prompt in prompts])
    return latent.denoiser(texts, guidance=guidance if any(prompts) else 0.0)


def planes(pictures: Sequence[Image]) -> Tensor:
    """uint8 RGB (H, W, 3) each -> (B, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def images(batch: Tensor) -> list[Image]:
    """(B, 3, H, W), about [0, 1] -> uint8 RGB (H, W, 3) each, clamped and rounded."""
    levels = (batch.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return list(levels.permute(0, 2, 3, 1).contiguous().cpu().numpy())


def _pasted(edit: Edit, picture: Floats) -> Image:
    """The edit where the mask is True, the picture's own bytes elsewhere."""
    levels = np.rint(picture * 255).astype(np.uint8)
    own = np.moveaxis(edit.picture, -1, 0)
    pasted: Image = np.ascontiguousarray(np.moveaxis(composed(edit.mask, levels, own), 0, -1))
    return pasted


def _noise(fields: Sequence[NoiseField], cells: int, device: torch.device) -> Noise:
    box = Box(0, 0, cells, cells)

    def draw(name: Draw) -> Tensor:
        return torch.stack([field.box(name, box) for field in fields]).to(device)

    return draw
