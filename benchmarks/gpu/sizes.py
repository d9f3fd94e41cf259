"""Networks at their published sizes, with random weights, loaded as the product loads them.

In a dry run they are the bundled family's, and pictures are small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.full_size import write_folder
from benchmarks.gpu.bench import Bench
from msbd_dist.core.levels import Level, level_at
from msbd_dist.core.spec import ModelSpec
from msbd_dist.models.bundle import Models, load
from msbd_dist.models.card import resolve
from msbd_dist.models.latent import Conditioning

PROMPT, STEP = "a red star", 241
BLOCKS = 23  # of Real-ESRGAN's x4plus
CLIP = "ViT-L-14"


@dataclass(frozen=True)
class Sizes:
    """Of pictures, in pixels, and of batches."""

    segment: int
    pictures: tuple[int, ...]
    enlarged: int  # a segment in the stage before, with its halo
    batches: tuple[int, ...]


FULL = Sizes(768, (512, 768, 1024), 224, (1, 2, 4, 8, 16))
DRY = Sizes(64, (64,), 24, (1, 2, 4))


class Full:
    """The networks, each call with inputs of its own that are the same each time."""

    def __init__(self, models: Models, sizes: Sizes) -> None:
        self.models, self.sizes = models, sizes

    @property
    def segment(self) -> int:
        return self.sizes.segment

    @cached_property
    def words(self) -> Conditioning:
        return self.models.latent.text(PROMPT)

    @cached_property
    def level(self) -> Level:
        return level_at(self.models.latent.alphas_cumprod, STEP)

    def denoise(self, px: int, batch: int, *, others: int = 0) -> Tensor:
        """One call of the UNet. ``others``: another number, other rows but the first."""
        rows = [self.latents(px, row + (others if row else 0)) for row in range(batch)]
        denoise = self.models.latent.denoiser(self.words, guidance=1.0)
        return denoise(torch.cat(rows), self.level)

    def guided(self, px: int, batch: int) -> Tensor:
        """The same with guidance: two rows for each."""
        rows = torch.cat([self.latents(px, row) for row in range(batch)])
        return self.models.latent.denoiser(self.words, guidance=7.5)(rows, self.level)

    def decode(self, px: int) -> Tensor:
        return self.models.latent.decode(self.latents(px))

    def encode(self, px: int) -> Tensor:
        return self.models.latent.encode(self.picture(px))

    def gradient(self, px: int, *, frugal: bool = False) -> Tensor:
        """Of a decoded picture's mean square by all weights, flat."""
        latent = self.models.latent
        half = self.models.products == torch.bfloat16
        weights = latent.decoder_weights()
        latent.decode(
            self.latents(px), weights, half=half, frugal=frugal
        ).square().mean().backward()
        return torch.cat([weight.grad.flatten() for weight in weights.values()])  # type: ignore[union-attr]

    def enlarge(self, px: int, batch: int = 1) -> Tensor:
        return self.models.upscaler("realesrgan")(self.picture(px).expand(batch, -1, -1, -1))

    def score(self, batch: int) -> Tensor:
        pictures = self.picture(self.segment).expand(batch, -1, -1, -1)
        return torch.tensor(self.models.scorer(pictures, PROMPT))

    def latents(self, px: int, seed: int = 0) -> Tensor:
        family = self.models.card.family
        side = px // family.vae_factor
        return random((1, family.latent_channels, side, side), seed)

    def picture(self, px: int) -> Tensor:
        return random((1, 3, px, px), 0).sigmoid()


def random(shape: Sequence[int], seed: int) -> Tensor:
    """Normal values on the card, drawn on the host."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to("cuda")


def full_size(bench: Bench) -> Full:
    """Stable Diffusion 1.x with Real-ESRGAN and CLIP L/14; of the dry run, the bundled family."""
    models = load(resolve(spec(bench)), device="cuda")
    return Full(models, DRY if bench.dry else FULL)


def spec(bench: Bench) -> ModelSpec:
    """What names the models, whose files are written when they are first asked for."""
    if bench.dry:
        return ModelSpec()
    folder, sr, clip = (
        bench.folder / name for name in ("sd", "x4.safetensors", "clip.safetensors")
    )
    if not clip.exists():
        write_folder(folder)
        write_upscaler(sr)
        write_clip(clip)
    return ModelSpec(family=str(folder), sr=str(sr), clip=f"{CLIP}:{clip}")


def write_upscaler(file: Path) -> None:
    from safetensors.torch import save_file
    from spandrel.architectures.ESRGAN import ESRGAN

    torch.manual_seed(0)
    save_file(ESRGAN(num_blocks=BLOCKS, num_filters=64, scale=4).state_dict(), file)


def write_clip(file: Path) -> None:
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(0)
    weights = open_clip.create_model(CLIP, precision="fp16").state_dict()
    save_file({name: weight.contiguous() for name, weight in weights.items()}, file)
