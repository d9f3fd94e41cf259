"""What one ``.safetensors`` file holds, read from its header alone. No torch, no weights.

A part is found by a name that each of its kind has, whatever is written before that name: files
come with ``model.diffusion_model.``, ``diffusion_model.``, ``state_dict.model.diffusion_model.``
and others, with the original code's names or diffusers'.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from msbd_dist.errors import ModelError
from msbd_dist.models.sources import reason

PARTS = {"unet": "UNet", "vae": "VAE", "text_encoder": "text encoder"}

_LANDMARKS = {  # of each part: the ends of names, the original code's first
    "unet": ("input_blocks.0.0.weight", "time_embedding.linear_1.weight"),
    "vae": ("post_quant_conv.weight",),
    "text_encoder": (
        "text_model.embeddings.position_embedding.weight",
        "embeddings.position_embedding.weight",
        "positional_embedding",  # open_clip's, in SD 2
    ),
}
_ELSEWHERE = re.compile(r"control|visual|vision|loss|lora|embedders\.1\.")  # not the part itself
_UNET = re.compile(  # where nothing is written before a UNet's names
    r"(input|output)_blocks\.|middle_block\.|time_embed|out\.|label_emb|"
    r"(down|up|mid)_blocks?\.|conv_(in|out|norm_out)\."
)
_CONV_IN = ("input_blocks.0.0.weight", "conv_in.weight")
_CROSS = ".attn2.to_k.weight"
_VAE = "post_quant_conv.weight"

_ATTENTION = {  # in a VAE's middle: names of later and of earlier code -> the original's
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "query": "q",
    "key": "k",
    "value": "v",
    "proj_attn": "proj_out",
    "group_norm": "norm",
}
_IN_ATTENTION = re.compile(rf"(\.mid\.attn_1\.)({'|'.join(map(re.escape, _ATTENTION))})(?=\.)")

_HARMLESS = re.compile(  # known leftovers of training and of other tools: no picture needs them
    r"(^|[._])(model_ema|ema|loss|safety_checker|safety_model|feature_extractor|optimizers?"
    r"|callbacks|visual|vision_model|visual_projection|denoiser)\."
    r"|(^|\.)(betas|(\w+_)?alphas_cumprod(_prev)?|posterior_\w+|lvlb_weights|logvar|scale_factor"
    r"|position_ids|logit_scale|text_projection(\.weight)?|attn_mask|global_step|epoch|v_pred"
    r"|ztsnr)$"
)
_ADDED = re.compile(  # what changes a picture where it is used, and here would not be
    r"(^|[._])(lora|lokr|loha|hada|dora|oft)(_|\.|[ABw])|base_layer\.|ip_adapter|_ip\.|motion_modules"
    r"|^control_model\."
)
_EMA_ALONE = "model_ema.diffusion_modelinput_blocks00weight"  # names without their dots
_OTHERS = {  # beginnings of keys that tell other models apart
    "conditioner.embedders.1.": "SDXL",
    "conditioner.embedders.": "SDXL",
    "double_blocks.": "Flux",
    "model.diffusion_model.double_blocks.": "Flux",
    "model.diffusion_model.joint_blocks.": "SD 3",
    "control_model.": "ControlNet",
    "down_blocks.": "one part of a diffusers folder",
    "lora_": "LoRA",
    "emb_params": "textual inversion",
    "string_to_param": "textual inversion",
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


@dataclass(frozen=True)
class Header:
    """Names and shapes of a file's tensors, and what was written beside them."""

    tensors: Mapping[str, list[int]]
    metadata: Mapping[str, str]


class Contents(NamedTuple):
    """A whole Stable Diffusion file: what it is, and which weights of it nothing will use."""

    shape: Shape
    header: Header
    unused: tuple[str, ...]


def inspect(file: Path) -> Contents:
    """What a Stable Diffusion 1.x / 2.x file holds; `ModelError` if it is anything else.

    Also where weights lie beside the model's that would change pictures, such as a LoRA's.
    """
    header = read_header(file)
    found = names_of_parts(header.tensors)
    missing = [PARTS[part] for part in PARTS if not found[part]]
    unet = {name: header.tensors[given] for name, given in found["unet"].items()}
    conv_in = next((unet[name] for name in _CONV_IN if name in unet), None)
    cross = next((shape for name, shape in unet.items() if name.endswith(_CROSS)), None)
    if missing or not cross or not conv_in:
        raise _refused(file, header.tensors, missing or ["cross-attention"])
    if any(name.startswith("label_emb") for name in unet):
        raise _refused(file, header.tensors, ["UNet that takes text alone"])
    vae = header.tensors[found["vae"][_VAE]]
    if min(map(len, (conv_in, cross, vae))) < 2:
        raise _refused(file, header.tensors, ["weights of the usual shapes"])
    shape = Shape(conv_in[1], vae[1], conv_in[0], cross[1])
    return Contents(shape, header, tuple(_unused(file, header.tensors, found)))


def names_of_parts(tensors: Iterable[str]) -> dict[str, dict[str, str]]:
    """Of each part: the names of its weights as its own code has them -> as they are in the file.

    The text encoder's are without ``text_model.``, the VAE's attention has the original's names.
    """
    names = list(tensors)
    return {part: dict(_names_of(part, names)) for part in PARTS}


def harmless(name: str) -> bool:
    """Whether a weight that nothing uses is a known leftover that no picture needs."""
    return _HARMLESS.search(name) is not None


def changes_pictures(name: str) -> bool:
    """Whether a weight is of something that is added to a model, such as a LoRA."""
    return _ADDED.search(name) is not None and not harmless(name)


def _names_of(part: str, names: list[str]) -> Iterator[tuple[str, str]]:
    prefix = _prefix(part, names)
    if prefix is None:
        return
    for given in names:
        name = given.removeprefix(prefix)
        if not given.startswith(prefix) or (not prefix and _is_elsewhere(part, name)):
            continue
        if part == "text_encoder":
            name = name.removeprefix("text_model.")
        if part == "vae":
            name = _IN_ATTENTION.sub(lambda m: m[1] + _ATTENTION[m[2]], name)
        yield name, given


def _prefix(part: str, names: list[str]) -> str | None:
    """What is written before the names of a part; None where there is no such part."""
    for landmark in _LANDMARKS[part]:
        ends = (name.removesuffix(landmark) for name in names if name.endswith(landmark))
        before = [b for b in ends if (not b or b.endswith(".")) and not _ELSEWHERE.search(b)]
        own = [b for b in before if "ema" not in b]  # else the averaged ones are all there are
        if before:
            return min(own or before, key=len)
    return None


def _is_elsewhere(part: str, name: str) -> bool:
    """Whether a name without prefix is none of this part's: only a UNet comes so."""
    return part != "unet" or _UNET.match(name) is None


def _unused(
    file: Path, tensors: Mapping[str, list[int]], parts: Mapping[str, Mapping[str, str]]
) -> Iterator[str]:
    """Weights outside the three parts that are no known leftovers."""
    added = [name for name in tensors if changes_pictures(name)]
    if added:
        raise ModelError(
            f"{file}: holds {added[0]} and {len(added) - 1} more weights beside the model's "
            f"(a LoRA's, an adapter's or a ControlNet's), which are not used here and would change "
            f"pictures: merge them into the model, or give a file without them"
        )
    used = {given for names in parts.values() for given in names.values()}
    yield from (name for name in tensors if name not in used and not harmless(name))


def _refused(file: Path, tensors: Mapping[str, list[int]], missing: list[str]) -> ModelError:
    if _EMA_ALONE in tensors:
        return ModelError(
            f"{file}: holds only the averaged weights of training (model_ema), under names without "
            f"dots: save them under model.diffusion_model, or give a file for inference"
        )
    kinds = (kind for start, kind in _OTHERS.items() if any(k.startswith(start) for k in tensors))
    what = next((f" (it looks like {kind})" for kind in kinds), "")
    return ModelError(
        f"{file}: is not a Stable Diffusion 1.x or 2.x file{what}, it has no "
        f"{', '.join(missing)}: give a full checkpoint or a diffusers folder"
    )


def read_header(file: Path) -> Header:
    """8 bytes of length, little-endian, then that much JSON. `ModelError` where it is not that."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(_MAX_HEADER, file.stat().st_size - 8):
                raise ValueError("bad header length")
            entries = json.loads(stream.read(length))
        metadata = entries.pop("__metadata__", None) or {}
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
        if (size := file.stat().st_size) != 8 + length + end:
            raise ValueError(f"{size:,} bytes, wanted {8 + length + end:,}")
        tensors = {name: list(entry["shape"]) for name, entry in entries.items()}
        return Header(tensors, {str(k): str(v) for k, v in dict(metadata).items()})
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ModelError(
            f"{file}: is not a readable safetensors file ({reason(error)}): download it again"
        ) from error
