"""One part of a single file as a module: the original code's names made diffusers' by diffusers.

Only the part's own weights are read. None may be missing, and none may be left over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from msbd_dist.errors import ModelError
from msbd_dist.models.single_file import harmless, names_of_parts

_CONVERTERS = {  # what takes the original code's names, and what it wants before them
    "unet": (convert_ldm_unet_checkpoint, "model.diffusion_model."),
    "vae": (convert_ldm_vae_checkpoint, "first_stage_model."),
}
_OPEN_CLIP = "cond_stage_model.model."
_OF_OPEN_CLIP = re.compile(
    r"transformer\.resblocks\.|token_embedding|positional_embedding|ln_final"
)
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")


def load_part(file: Path, folder: Path, part: str, dtype: torch.dtype) -> nn.Module:
    """UNet, VAE or text encoder of a file, described by the configuration in ``folder``.

    Raises `ModelError` that names a weight which is missing, of another shape, or without a place.
    """
    where = f"{file}: {part}"
    given = _read(file, part)
    module, config = _empty(folder, part)
    wanted = module.state_dict()
    if part == "text_encoder":
        found, dropped = _text_encoder(given, module, config)
    else:
        found, dropped = _converted(part, given, config)
    fits = {k: v for k, v in found.items() if k in wanted and v.shape == wanted[k].shape}
    left = [k for k in found if k not in wanted]
    require_all_used(where, missing=[k for k in wanted if k not in fits], unused=[*left, *dropped])
    module.load_state_dict({k: v.to(dtype) for k, v in fits.items()}, assign=True)
    return module.to(dtype)


def require_all_used(where: str, *, missing: list[str], unused: list[str]) -> None:
    """`ModelError` unless every weight was there, and was used or is a known leftover."""
    unused = [name for name in unused if not harmless(name)]
    if missing:
        raise ModelError(
            f"{where}: weights missing or of another shape: {_named(missing)}: "
            f"configuration and weights are of different models, restore the files"
        )
    if unused:
        raise ModelError(
            f"{where}: weights that this part has no place for: {_named(unused)}: they would "
            f"change pictures where they are used (as a LoRA's do), and here are not: merge them "
            f"into the model, remove them, or give the configuration that has a place for them"
        )


def _named(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _read(file: Path, part: str) -> dict[str, Tensor]:
    """The part's weights, named as in `names_of_parts`."""
    with safe_open(file, framework="pt") as opened:
        names = names_of_parts(opened.keys())[part]
        return {name: opened.get_tensor(given) for name, given in names.items()}


def _empty(folder: Path, part: str) -> tuple[nn.Module, Any]:
    """The part without its weights, and its configuration."""
    if part == "text_encoder":
        config = CLIPTextConfig.from_pretrained(folder, subfolder=part, local_files_only=True)
        with init_empty_weights():
            return CLIPTextModel(config), config
    kind = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[part]
    config = kind.load_config(folder, subfolder=part, local_files_only=True)
    with init_empty_weights():
        return kind.from_config(config), config


def _converted(
    part: str, given: Mapping[str, Tensor], config: Any
) -> tuple[dict[str, Tensor], list[str]]:
    """UNet or VAE with diffusers' names, and what the converter took nothing of."""
    if any("_block." in name or "_blocks." in name for name in given if "resnets" in name):
        return dict(given), []
    convert, prefix = _CONVERTERS[part]
    found = convert({prefix + name: weight for name, weight in given.items()}, config)
    taken = {weight.untyped_storage().data_ptr() for weight in found.values()}
    left = [n for n, weight in given.items() if weight.untyped_storage().data_ptr() not in taken]
    return found, left


def _text_encoder(
    given: Mapping[str, Tensor], module: nn.Module, config: Any
) -> tuple[dict[str, Tensor], list[str]]:
    """The same of a text encoder, CLIP's own or open_clip's.

    One more layer than configured is known: such models use the last layer but one.
    """
    found, dropped = dict(given), list[str]()
    if "positional_embedding" in given:
        named = {_OPEN_CLIP + name: weight for name, weight in given.items()}
        found = convert_open_clip_checkpoint(module, named, prefix=_OPEN_CLIP)
        found = {name.removeprefix("text_model."): weight for name, weight in found.items()}
        dropped = [name for name in given if not _OF_OPEN_CLIP.match(name)]
    found = {n: w for n, w in found.items() if _layer(n) != config.num_hidden_layers}
    if hasattr(module, "text_model"):  # older versions of transformers
        found = {f"text_model.{name}": weight for name, weight in found.items()}
    return found, dropped


def _layer(name: str) -> int | None:
    found = _LAYER.match(name)
    return int(found[1]) if found else None
