"""Model folders and checkpoints for tests: the real classes, at tiny width, with random weights."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from msbd_dist.core.spec import ModelSpec
from msbd_dist.models.bundle import Models, load
from msbd_dist.models.card import bundled_folder, resolve
from msbd_dist.models.loading import hermetic

TEXT_WIDTH = 32
SD1_FILE = {  # the tensors by which a single file is known, in SD 1's shapes
    "model.diffusion_model.input_blocks.0.0.weight": [320, 4, 3, 3],
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": [320, 768],
    "first_stage_model.post_quant_conv.weight": [4, 4, 1, 1],
    "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight": [77, 768],
}


def loaded(folder: Path | str, **spec: str) -> Models:
    """The models of a folder or file on the CPU."""
    return load(resolve(ModelSpec(family=str(folder), **spec)), device="cpu")


def write_sd_folder(
    folder: Path, *, prediction: str = "epsilon", zero_snr: bool = False, seed: int = 0
) -> Path:
    """A diffusers folder with Stable Diffusion 1.5's block structure, its old text encoder keys."""
    with hermetic():
        torch.manual_seed(seed)
        _unet().save_pretrained(folder / "unet")
        _vae().save_pretrained(folder / "vae")
        _text_encoder().save_pretrained(folder / "text_encoder")
    _as_older_transformers(folder / "text_encoder" / "model.safetensors")
    DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type=prediction,
        rescale_betas_zero_snr=zero_snr,
    ).save_pretrained(folder / "scheduler")
    shutil.copytree(bundled_folder() / "tokenizer", folder / "tokenizer")
    write_json(folder / "model_index.json", model_index())
    return folder


def model_index(**changes: Any) -> dict[str, Any]:
    """The content of model_index.json of a Stable Diffusion 1.5 folder."""
    return {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.35.0",
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
        "requires_safety_checker": False,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    } | changes


def write_json(file: Path, content: object) -> Path:
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def edit_json(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file in place."""
    write_json(file, json.loads(file.read_text(encoding="utf-8")) | changes)


def write_single_file(folder: Path, file: Path) -> Path:
    """The weights of a folder as one file with the names of the original code."""
    unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    text = load_file(folder / "text_encoder" / "model.safetensors")
    weights = {f"model.diffusion_model.{_ldm_unet(k)}": v for k, v in unet.items()}
    weights |= {f"first_stage_model.{_ldm_vae(k)}": _as_conv(k, v) for k, v in vae.items()}
    weights |= {f"cond_stage_model.transformer.{k}": v for k, v in text.items()}
    save_file({k: v.contiguous() for k, v in weights.items()}, file)
    return file


def write_header(file: Path, shapes: dict[str, list[int]], **metadata: str) -> Path:
    """A safetensors file of which only the header is there."""
    entries = {k: {"dtype": "F16", "shape": v, "data_offsets": [0, 0]} for k, v in shapes.items()}
    text = json.dumps({"__metadata__": {"format": "pt", **metadata}, **entries}).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    return file


def fill_hub_cache(cache: Path, name: str, folder: Path, *, weights: bool = True) -> Path:
    """Put a folder where the model hub's client would have; returns the copy."""
    repository = cache / f"models--{name.replace('/', '--')}"
    skip = shutil.ignore_patterns() if weights else shutil.ignore_patterns("*.safetensors")
    snapshot = shutil.copytree(folder, repository / "snapshots" / ("0" * 40), ignore=skip)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    return snapshot


def rrdbnet_weights(
    *, scale: int = 4, filters: int = 16, blocks: int = 1, channels: int = 3, seed: int = 0
) -> dict[str, Tensor]:
    """Random weights of the x4 (or pixel-unshuffled x2) network of Real-ESRGAN, as published."""
    random = torch.Generator().manual_seed(seed)
    growth = 32
    shapes = {
        "conv_first": (filters, channels * (4 if scale == 2 else 1)),
        "conv_body": (filters, filters),
        "conv_up1": (filters, filters),
        "conv_up2": (filters, filters),
        "conv_hr": (filters, filters),
        "conv_last": (channels, filters),
    }
    for block in range(blocks):
        for dense in (1, 2, 3):
            for conv in (1, 2, 3, 4, 5):
                out = growth if conv < 5 else filters
                shapes[f"body.{block}.rdb{dense}.conv{conv}"] = (out, filters + growth * (conv - 1))
    weights = {}
    for name, (out, into) in shapes.items():
        spread = (9 * into) ** -0.5
        weights[f"{name}.weight"] = torch.randn(out, into, 3, 3, generator=random) * spread
        weights[f"{name}.bias"] = torch.rand(out, generator=random) * 0.2
    weights["conv_last.weight"] *= 0.3  # pictures about mid-grey, seldom clamped
    weights["conv_last.bias"] += 0.4
    return weights


def write_rrdbnet(file: Path, **shape: int) -> Path:
    """A checkpoint like RealESRGAN_x4plus.pth: weights under "params_ema"."""
    torch.save({"params_ema": rrdbnet_weights(**shape)}, file)
    return file


def _unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32, 32, 32),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        layers_per_block=2,
        attention_head_dim=4,
        norm_num_groups=8,
        cross_attention_dim=TEXT_WIDTH,
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=64,
    )


def _text_encoder() -> CLIPTextModel:
    words = json.loads((bundled_folder() / "tokenizer" / "vocab.json").read_text())
    end = words["<|endoftext|>"]
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=TEXT_WIDTH,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=24,
            bos_token_id=words["<|startoftext|>"],
            eos_token_id=end,
            pad_token_id=end,
        )
    )


def _as_older_transformers(file: Path) -> None:
    """Name the weights as the published checkpoints do: below text_model, with position_ids."""
    weights = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in load_file(file).items()}
    weights["text_model.embeddings.position_ids"] = torch.arange(24)[None]
    save_file(weights, file, metadata={"format": "pt"})


_UNET_NAMES = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
for _i in range(4):
    for _j in range(3):
        _UNET_NAMES |= {
            f"down_blocks.{_i}.resnets.{_j}": f"input_blocks.{3 * _i + _j + 1}.0",
            f"down_blocks.{_i}.attentions.{_j}": f"input_blocks.{3 * _i + _j + 1}.1",
            f"up_blocks.{_i}.resnets.{_j}": f"output_blocks.{3 * _i + _j}.0",
            f"up_blocks.{_i}.attentions.{_j}": f"output_blocks.{3 * _i + _j}.1",
        }
    _UNET_NAMES |= {
        f"down_blocks.{_i}.downsamplers.0.conv": f"input_blocks.{3 * _i + 3}.0.op",
        f"up_blocks.{_i}.upsamplers.0": f"output_blocks.{3 * _i + 2}.{2 if _i else 1}",
    }
_RESNET_NAMES = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_VAE_NAMES = {
    "conv_norm_out": "norm_out",
    "mid_block.attentions.0": "mid.attn_1",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def _ldm_unet(name: str) -> str:
    for ours, theirs in _UNET_NAMES.items():
        if name.startswith(ours + "."):
            rest = name.removeprefix(ours)
            if "resnets" in ours:
                for a, b in _RESNET_NAMES.items():
                    rest = rest.replace(f".{a}.", f".{b}.")
            return theirs + rest
    raise KeyError(name)


def _ldm_vae(name: str) -> str:
    for ours, theirs in _VAE_NAMES.items():
        name = name.replace(f"{ours}.", f"{theirs}.")
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(
        r"up_blocks\.(\d)\.resnets\.(\d)",
        lambda m: f"up.{3 - int(m[1])}.block.{m[2]}",
        name,
    )
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", name)


def _as_conv(name: str, weight: Tensor) -> Tensor:
    """The attention of the VAE's middle is 1x1 convolutions in the original code."""
    linear = "attentions" in name and name.endswith("weight") and weight.ndim == 2
    return weight[:, :, None, None] if linear else weight
