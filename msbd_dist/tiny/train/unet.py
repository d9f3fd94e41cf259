"""The UNet and its text encoder, trained together in the latents of the finished autoencoder.

Pictures are encoded once, as the means and spreads of their posteriors, which every use samples
anew. Of the levels of noise, the middle ones, where shapes are decided, are drawn more often.
"""

from __future__ import annotations

import json
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.utils.logging import disable_progress_bar

from msbd_dist.errors import ModelError
from msbd_dist.tiny.scenes import render
from msbd_dist.tiny.train import data
from msbd_dist.tiny.train.settings import NATIVE, SEGMENT, Prediction, Unet
from msbd_dist.tiny.train.words import LENGTH, tokenizer, tokens, write_tokenizer

_LEAST_SNR = 0.05  # that a level of v counts with
_DRAWN_MORE = 0.25, 0.85, 0.3  # this range of levels holds that share of the draws more


class UnetPart:
    """What `loop.train` trains: the UNet's prediction, weighted by min-SNR."""

    name = "unet"

    def __init__(self, settings: Unet, latents: Path) -> None:
        """``latents``: what `prepare` has made."""
        self.settings = settings
        self.recipe = settings.recipe
        self.module = nn.ModuleDict(
            {"unet": untrained_unet(settings), "text": untrained_text(settings)}
        )
        self.sets = [
            data.gathered(sorted((latents / str(side)).glob("*.npz"))) for side in (NATIVE, SEGMENT)
        ]
        self.empty = torch.tensor(tokens([""])[0])
        self.levels = scheduler(settings.prediction).alphas_cumprod
        self.weights = weights(settings.prediction, self.levels, settings.snr)

    def loss(self, rng: np.random.Generator, count: int) -> Tensor:
        """On ``count`` pictures of the native size, or on fewer segments of as many pixels."""
        s, device = self.settings, self.module["unet"].device
        large = rng.random() < s.segment_share
        if large:
            count = max(count * NATIVE**2 // SEGMENT**2, 1)
        clean, words = self._sample(rng, self.sets[large], count)
        t = torch.from_numpy(_levels(rng, count))
        noise = _normal(rng, clean.shape)
        a = self.levels[t].view(-1, 1, 1, 1)
        noised, target = _noised(s.prediction, clean, noise, a)
        text = self.module["text"](words.to(device))[0]
        predicted = self.module["unet"](noised.to(device), t.to(device), text).sample.float()
        squares = (predicted - target.to(device)).pow(2).mean((1, 2, 3))
        return (squares * self.weights[t].to(device)).mean()

    def _sample(
        self, rng: np.random.Generator, stored: dict[str, Tensor], count: int
    ) -> tuple[Tensor, Tensor]:
        """Clean latents (count, 4, h, w) and token numbers (count, 24)."""
        chosen = torch.from_numpy(rng.integers(len(stored["mean"]), size=count))
        mean, spread = stored["mean"][chosen].float(), stored["spread"][chosen].float()
        words = stored["tokens"][chosen].long()
        words[torch.from_numpy(rng.random(count) < self.settings.dropped)] = self.empty
        return mean + spread * _normal(rng, mean.shape), words

    def write(self, folder: Path) -> None:
        """Completes the family: everything but the upscaler and CLIP, beside ``folder/vae``."""
        s = self.settings
        pipeline = StableDiffusionPipeline(
            vae=AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float16),
            unet=self.module["unet"].half(),
            text_encoder=self.module["text"].half(),
            tokenizer=tokenizer(),
            scheduler=scheduler(s.prediction),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        disable_progress_bar()
        pipeline.save_pretrained(folder)
        write_tokenizer(folder / "tokenizer")
        for file in folder.rglob("*.json"):
            _forget_places(file)
        recommended = {
            "native": NATIVE,
            "segment": SEGMENT,
            "overlap": s.overlap,
            "guidance": s.guidance,
            "segment_guidance": s.segment_guidance,
            "middle_start": s.middle_start,
            "segment_start": s.segment_start,
            "sr": "upscaler/esrgan_x4.safetensors",
            "clip": "clip",
        }
        (folder / "msbd.json").write_text(json.dumps(recommended, indent=2) + "\n")


def _forget_places(file: Path) -> None:
    """Removes the paths of this machine that libraries write into their configurations."""
    known = json.loads(file.read_text())
    kept = {key: value for key, value in known.items() if key.lstrip("_") != "name_or_path"}
    if kept != known:
        file.write_text(json.dumps(kept, indent=2) + "\n")


# --- latents --------------------------------------------------------------------------------------


def prepare(settings: Unet, vae: Path, folder: Path, *, device: str, processes: int) -> None:
    """Draws and encodes all pictures: ``folder/128`` and ``folder/192``.

    Raises `ModelError` where ``folder`` holds latents of another encoder.
    """
    _claim(folder, _fingerprint(vae))
    seed = settings.recipe.seed
    for side, pictures in ((NATIVE, settings.pictures), (SEGMENT, settings.segments)):
        make = partial(_encode_chunk, vae, device, side, seed, settings.chunk)
        count = -(-pictures // settings.chunk)
        data.stored(folder / str(side), count, make, processes=processes)
        seed += pictures


def _claim(folder: Path, encoder: str) -> None:
    file = folder / "encoder.txt"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(encoder)
    elif file.read_text() != encoder:
        raise ModelError(f"{folder} holds latents of another autoencoder: delete {folder.parent}")


def _fingerprint(vae: Path) -> str:
    """Of the weights that make latents; the decoder has no part in them."""
    digest = sha256()
    for name, weights in sorted(load_file(vae / "diffusion_pytorch_model.safetensors").items()):
        if name.startswith(("encoder.", "quant_conv.")):
            digest.update(weights.numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def _encode_chunk(
    vae: Path, device: str, side: int, seed: int, count: int, index: int
) -> data.Arrays:
    """Posterior means and spreads (count, 4, h, w) in the UNet's scale, and tokens (count, 24)."""
    model = _encoder(vae, device)
    first = seed + index * count
    drawn = [_example(number, side) for number in range(first, first + count)]
    means, spreads = [], []
    for start in range(0, count, 20):
        pictures = data.tensor([render(scene) for scene, _ in drawn[start : start + 20]])
        with torch.autocast(device, torch.bfloat16):
            posterior = model.encode(pictures.to(device)).latent_dist
        means.append(posterior.mean.float() * model.config.scaling_factor)
        spreads.append(posterior.std.float() * model.config.scaling_factor)
    return {
        "mean": torch.cat(means).half().cpu().numpy(),
        "spread": torch.cat(spreads).half().cpu().numpy(),
        "tokens": np.array(tokens(words for _, words in drawn), np.int16),
    }


def _example(seed: int, side: int) -> tuple[Any, str]:
    """Segments show as much as a native picture but larger, or more of a scene, or a detail."""
    if side == NATIVE:
        return data.captioned(seed, side)
    unit = np.random.default_rng((seed, 2)).uniform(NATIVE, side)
    return data.captioned(seed, side, unit=unit, details=0.2)


@lru_cache(maxsize=1)
def _encoder(vae: Path, device: str) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(vae, torch_dtype=torch.float32).to(device).eval()


# --- noise ----------------------------------------------------------------------------------------


def scheduler(prediction: Prediction) -> DDIMScheduler:
    """Stable Diffusion's betas for epsilon; for v those betas rescaled to zero terminal SNR.

    (Lin et al., Common Diffusion Noise Schedules and Sample Steps are Flawed.)
    """
    zero = prediction == "v_prediction"
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
        rescale_betas_zero_snr=zero,
        timestep_spacing="trailing" if zero else "leading",
    )


def weights(prediction: Prediction, levels: Tensor, most: float) -> Tensor:
    """The weight of each level's squared error, mean 1: (1000,).

    As an error of the clean latent it counts min(SNR, most) (Hang et al., Efficient Diffusion
    Training via Min-SNR Weighting); v's a little where there is no signal at all, which epsilon's
    betas never reach.
    """
    snr = levels / (1 - levels)
    if prediction == "epsilon":
        raw = snr.clamp(max=most) / snr
    else:
        raw = snr.clamp(_LEAST_SNR, most) / (snr + 1)
    return raw / raw.mean()


def _noised(
    prediction: Prediction, clean: Tensor, noise: Tensor, a: Tensor
) -> tuple[Tensor, Tensor]:
    """The UNet's input at cumulative alpha ``a``, and what it is to predict."""
    noised = a.sqrt() * clean + (1 - a).sqrt() * noise
    velocity = a.sqrt() * noise - (1 - a).sqrt() * clean
    return noised, noise if prediction == "epsilon" else velocity


def _levels(rng: np.random.Generator, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Timesteps, one from each of ``count`` equal parts of the distribution."""
    low, high, more = _DRAWN_MORE
    below, above = (1 - more) * low, 1 - (1 - more) * (1 - high)
    place = (np.arange(count) + rng.random(count)) / count
    level = np.interp(place, (0, below, above, 1), (0, low, high, 1))
    return np.minimum(level * 1000, 999).astype(np.int64)


def _normal(rng: np.random.Generator, shape: torch.Size) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape, np.float32))


# --- untrained models -----------------------------------------------------------------------------


def untrained_unet(settings: Unet) -> UNet2DConditionModel:
    """Cross-attention at the middle resolution and below; residual branches start at zero."""
    torch.manual_seed(settings.recipe.seed)
    channels = settings.channels
    unet = UNet2DConditionModel(
        sample_size=NATIVE // 8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=settings.text_width,
        attention_head_dim=tuple(width // settings.heads_of for width in channels),
        norm_num_groups=settings.groups,
    )
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
        elif isinstance(module, Transformer2DModel):
            nn.init.zeros_(module.proj_out.weight)
    return unet


def untrained_text(settings: Unet) -> CLIPTextModel:
    torch.manual_seed(settings.recipe.seed + 1)
    words = tokenizer()
    width = settings.text_width
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=3 * width,
        projection_dim=width,
        num_hidden_layers=settings.text_layers,
        num_attention_heads=settings.text_heads,
        max_position_embeddings=LENGTH,
        hidden_act="quick_gelu",
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return CLIPTextModel(config)
