"""A latent diffusion model as plain functions of tensors.

Pictures are ``(B, 3, H, W)`` float32 in [0, 1], latents ``(B, C, H/f, W/f)`` float32 with variance
near 1 (C = 4, f = 8 in Stable Diffusion). Inputs may lie on any device; results lie on the
model's. The model's own [-1, 1] range and its scaling factor appear in this file only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from msbd_dist.core.levels import Level, Step, ddpm
from msbd_dist.core.sampling import Denoiser
from msbd_dist.core.timesteps import Spacing
from msbd_dist.errors import PromptError
from msbd_dist.models.learned import in_full
from msbd_dist.models.parts import Parts
from msbd_dist.models.schedulers import spacing_of
from msbd_dist.models.tokens import tokens_of

_CACHED_PROMPTS = 64


@dataclass(frozen=True)
class Conditioning:
    """Text embeddings of a prompt, its negative prompt, and no words.

    Each is ``(1, tokens, width)``, for all rows of a batch, or ``(B, tokens, width)``, one for each
    row (`rows`).
    """

    prompt: Tensor
    negative: Tensor
    empty: Tensor

    @classmethod
    def rows(cls, each: Sequence[Conditioning]) -> Conditioning:
        """Of a batch whose rows have prompts of their own."""
        return cls(
            torch.cat([one.prompt for one in each]),
            torch.cat([one.negative for one in each]),
            torch.cat([one.empty for one in each]),
        )


class Decoder(nn.Module):
    """``(B, C, h, w)`` latents -> ``(B, 3, fh, fw)`` pictures, about [0, 1] and not clamped."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        quant = getattr(vae, "post_quant_conv", None)
        self.post_quant_conv = nn.Identity() if quant is None else quant
        self.decoder = vae.decoder
        self.scale = float(vae.config.scaling_factor)
        self.shift = float(getattr(vae.config, "shift_factor", None) or 0.0)

    def forward(self, z: Tensor) -> Tensor:
        picture: Tensor = self.decoder(self.post_quant_conv(z / self.scale + self.shift))
        return picture * 0.5 + 0.5


class LatentModel:
    """UNet, VAE and text encoder of one model. Calls draw no random numbers and keep no state."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._embedding = lru_cache(maxsize=_CACHED_PROMPTS)(self._embed)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """Cumulative alpha of each training step, ``(1000,)`` in SD, float64 on the CPU.

        As the model's scheduler configuration says, zero terminal SNR included.
        """
        return cast(Tensor, self.parts.scheduler.alphas_cumprod).double().cpu()

    @cached_property
    def prediction(self) -> str:
        """What the UNet predicts: "epsilon", "v_prediction" or "sample" (the clean latent)."""
        return str(self.parts.scheduler.config.prediction_type)

    @cached_property
    def spacing(self) -> Spacing:
        """Where the model's scheduler configuration puts the steps of a schedule."""
        return spacing_of(self.parts.settings)

    def schedule(self, steps: int, *, num_calls: int | None = None) -> tuple[Step, ...]:
        """The last ``num_calls`` of ``steps`` steps, as the model's configuration spaces them."""
        return ddpm(self.alphas_cumprod, steps, num_calls=num_calls, spacing=self.spacing)

    @cached_property
    def decoder(self) -> Decoder:
        """The pretrained decoder, for `torch.func.functional_call`. Never changed by this class."""
        return Decoder(self.parts.vae)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Pictures -> latents: the mean of the posterior, scaled. Sides are multiples of f."""
        decoder, vae = self.decoder, self.parts.vae
        x = x.to(self.parts.device, torch.float32)
        mean: Tensor = vae.encode(x * 2 - 1).latent_dist.mean
        return (mean - decoder.shift) * decoder.scale

    def decode(
        self,
        z: Tensor,
        params: Mapping[str, Tensor] | None = None,
        *,
        half: bool = False,
        frugal: bool = False,
    ) -> Tensor:
        """Latents -> pictures, about [0, 1] and not clamped.

        ``params`` replace weights of `decoder` by name for this call alone; where they require
        gradients, the result carries them (decoder optimization). The pretrained weights take no
        gradient and are never written. ``half``: products in bfloat16, weights and sums in float32.
        ``frugal``: what lies within blocks is not kept for the gradient but computed again, with
        the same bits: less memory and more work.
        """
        z = z.to(self.parts.device, torch.float32)
        if params is None:
            with torch.no_grad():
                return cast(Tensor, self.decoder(z))
        self.decoder.decoder.gradient_checkpointing = frugal
        self.decoder.decoder._gradient_checkpointing_func = _computed_again
        with torch.autocast(self.parts.device.type, torch.bfloat16, enabled=half):
            picture: Tensor = functional_call(self.decoder, dict(params), (z,))
        return picture.float()

    def decoder_weights(self) -> dict[str, Tensor]:
        """Copies of the weights that decoder optimization tunes: those of the decoder proper.

        Float32 leaves that require gradients, in the module's order, named as `decode` takes them.
        """
        return {
            name: weight.detach().clone().requires_grad_()
            for name, weight in self.decoder.named_parameters()
            if name.startswith("decoder.")
        }

    def text(self, prompt: str, negative_prompt: str = "") -> Conditioning:
        """Embed a prompt pair; `PromptError` where one is longer than the text encoder holds."""
        added = self.parts.tokenizer.added_tokens_encoder
        words, unwanted = (in_full(text, added) for text in (prompt, negative_prompt))
        for name, text in (("prompt", words), ("negative prompt", unwanted)):
            if why := tokens_of(self.parts.card).too_long(text):
                raise PromptError(f"{name} {why}")
        return Conditioning(*map(self._embedding, (words, unwanted, "")))

    def denoiser(self, cond: Conditioning, *, guidance: float) -> Denoiser:
        """The function that predicts the clean latent, with classifier-free guidance.

        ``raw = negative + guidance * (prompt - negative)`` in one doubled batch; guidance 1 runs
        the prompt alone and 0 no words at all, at half the cost: at 0 the formula would paint
        what the negative prompt is to keep away.
        """

        @torch.no_grad()
        def denoise(z: Tensor, level: Level) -> Tensor:
            z = z.to(self.parts.device, torch.float32)
            if guidance in (0.0, 1.0):
                raw = self._predict(z, level, cond.prompt if guidance else cond.empty)
            else:
                pair = [text.expand(len(z), -1, -1) for text in (cond.negative, cond.prompt)]
                both = self._predict(torch.cat([z, z]), level, torch.cat(pair))
                negative, prompt = both.chunk(2)
                raw = negative + guidance * (prompt - negative)
            return self._clean(z, raw, level)

        return denoise

    def _predict(self, z: Tensor, level: Level, text: Tensor) -> Tensor:
        """The UNet's raw output, in its own dtype inside and float32 outside."""
        step = torch.full((), int(level.t), device=z.device)  # made there: no copy to wait for
        raw: Tensor = self.parts.unet(
            z.to(self.parts.dtype), step, text.expand(len(z), -1, -1), return_dict=False
        )[0]
        return raw.float()

    def _clean(self, z: Tensor, raw: Tensor, level: Level) -> Tensor:
        """The clean latent that a raw prediction at a level means."""
        if self.prediction == "epsilon":
            return (z - level.sigma * raw) / level.alpha
        if self.prediction == "v_prediction":
            return level.alpha * z - level.sigma * raw
        return raw

    @torch.no_grad()
    def _embed(self, text: str) -> Tensor:
        tokens = self.parts.tokenizer(
            text,
            padding="max_length",
            max_length=self.parts.card.family.max_tokens,
            return_tensors="pt",
        ).input_ids
        return cast(Tensor, self.parts.text_encoder(tokens.to(self.parts.device))[0])


def _computed_again(block: nn.Module, x: Tensor, *rest: Any) -> Tensor:
    """A block's result, whose inner ones are forgotten. It is called again with the weights that it
    has now: those of a `functional_call` are gone by then."""
    weights: dict[str, Tensor] = dict(block.named_parameters())

    def run(inner: Tensor) -> Tensor:
        return cast(Tensor, functional_call(block, weights, (inner, *rest)))

    found = checkpoint(run, x, use_reentrant=False, preserve_rng_state=False)
    return cast(Tensor, found)
