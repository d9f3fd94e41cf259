"""What one ``.safetensors`` file holds, read from its header alone. No torch, no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from msbd_dist.errors import ModelError
from msbd_dist.models.sources import reason

_UNET = "model.diffusion_model."
_CONV_IN = _UNET + "input_blocks.0.0.weight"
_CROSS = ".attn2.to_k.weight"
_VAE = "first_stage_model.post_quant_conv.weight"
_TEXT = (  # the text encoder of SD 1 and of SD 2
    "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight",
    "cond_stage_model.model.token_embedding.weight",
)
_OTHERS = {  # beginnings of keys that tell other models apart
    "conditioner.embedders.": "SDXL",
    "double_blocks.": "Flux",
    "model.diffusion_model.double_blocks.": "Flux",
    "model.diffusion_model.joint_blocks.": "SD 3",
    "down_blocks.": "one part of a diffusers folder",
    "lora_": "LoRA",
    "model.0.": "upscaler",
    "conv_first.": "upscaler",
}
_MAX_HEADER = 100_000_000  # bytes; the limit of the format's own reader


class Shape(NamedTuple):
    """What the header says of a Stable Diffusion file."""

    in_channels: int  # of the UNet: 4, or 9 for inpainting
    latent_channels: int  # of the autoencoder
    width: int  # channels of the UNet's first block: 320 in SD 1 and 2
    text_width: int  # of the cross-attention: 768 in SD 1, 1024 in SD 2


def inspect(file: Path) -> Shape:
    """The shape of a Stable Diffusion 1.x / 2.x file; `ModelError` if it is anything else."""
    tensors = _header(file)
    needed = {"UNet": (_CONV_IN,), "VAE": (_VAE,), "text encoder": _TEXT}
    missing = [part for part, keys in needed.items() if not any(k in tensors for k in keys)]
    cross = [key for key in tensors if key.startswith(_UNET) and key.endswith(_CROSS)]
    if missing or not cross:
        raise _refused(file, tensors, missing or ["cross-attention"])
    conv_in = tensors[_CONV_IN]
    return Shape(conv_in[1], tensors[_VAE][1], conv_in[0], tensors[cross[0]][1])


def _refused(file: Path, tensors: dict[str, list[int]], missing: list[str]) -> ModelError:
    kinds = (kind for start, kind in _OTHERS.items() if any(k.startswith(start) for k in tensors))
    what = next((f" (it looks like {kind})" for kind in kinds), "")
    return ModelError(
        f"{file}: is not a Stable Diffusion 1.x or 2.x file{what}, it has no "
        f"{', '.join(missing)}: give a full checkpoint or a diffusers folder"
    )


def _header(file: Path) -> dict[str, list[int]]:
    """Tensor names and shapes: 8 bytes of length, little-endian, then that much JSON."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(_MAX_HEADER, file.stat().st_size - 8):
                raise ValueError("bad header length")
            entries = json.loads(stream.read(length))
        return {k: list(v["shape"]) for k, v in entries.items() if k != "__metadata__"}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"{file}: is not a readable safetensors file ({reason(error)}): download it again"
        ) from error
