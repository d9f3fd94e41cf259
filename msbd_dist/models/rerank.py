"""Scores of pictures against a prompt by CLIP, to choose among the first stage's candidates."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from msbd_dist.errors import ModelError
from msbd_dist.models.activation import quick_gelu
from msbd_dist.models.clip import check_folder, weights_file
from msbd_dist.models.loading import hermetic
from msbd_dist.models.sources import PICKLES, nearest, reason

Scorer = Callable[[Tensor, str], list[float]]
"""``(pictures (B, 3, H, W) in [0, 1], prompt)`` -> B scores: cosine similarity times 100."""

_FILES = (".safetensors", *PICKLES)


def load_scorer(name: str, *, device: torch.device) -> Scorer:
    """A scorer in float32.

    ``name`` is "ARCHITECTURE:TAG" (fetched by open_clip), "ARCHITECTURE:FILE" with a .safetensors
    file, or a folder with open_clip_config.json, weights and tokenizer. Pictures go through the
    model's own preprocessing as 8-bit values, as for any picture file. Raises `ModelError`.
    """
    identifier, tag, quick_gelu = _parse(name)
    try:
        with hermetic():
            model, preprocess = open_clip.create_model_from_pretrained(
                identifier,
                pretrained=tag,
                precision="fp32",
                force_quick_gelu=quick_gelu,
                weights_only=True,
            )
            tokenizer = open_clip.get_tokenizer(identifier)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"clip: {name} holds pickled objects, which are never loaded: "
            f"give a .safetensors file or a folder with one"
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"clip: {name} can't be loaded ({reason(error)}): give a folder with "
            f"open_clip_config.json and weights, or connect to the network once to fetch it"
        ) from error
    return _scorer(model.to(device).eval().requires_grad_(False), preprocess, tokenizer, device)


def check_name(name: str) -> None:
    """`ModelError` where no scorer has this name."""
    _parse(name)


def _scorer(model: Any, preprocess: Any, tokenizer: Any, device: torch.device) -> Scorer:
    @torch.no_grad()
    def score(images: Tensor, prompt: str) -> list[float]:
        pictures = torch.stack([preprocess(_picture(image)) for image in images]).to(device)
        image = model.encode_image(pictures, normalize=True)
        text = model.encode_text(tokenizer([prompt]).to(device), normalize=True)
        similarity: Tensor = 100 * (image @ text.T)[:, 0]
        return [float(value) for value in similarity.cpu()]

    return score


def _picture(image: Tensor) -> Image.Image:
    """``(3, H, W)`` in [0, 1], clamped and rounded to 8 bits."""
    pixels = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def _parse(name: str) -> tuple[str, str | None, bool]:
    """(open_clip's identifier, tag or file, whether its weights want the quick GELU)."""
    architecture, colon, tag = name.partition(":")
    folder = Path(name).expanduser()
    if folder.is_dir():
        check_folder(folder)
        return f"local-dir:{folder}", None, False
    if not colon:
        raise ModelError(
            f"clip: {name}: no such folder: give a folder with open_clip_config.json, "
            f"or ARCHITECTURE:TAG such as ViT-L-14:openai"
        )
    known = open_clip.list_models()
    if architecture not in known:
        raise ModelError(
            f"clip: {name}: no architecture {architecture!r}: {nearest(architecture, known)}"
        )
    if Path(tag).suffix.lower() in _FILES:
        file = weights_file(name, Path(tag).expanduser())
        return architecture, str(file), bool(quick_gelu(architecture, file))
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in tags:
        raise ModelError(f"clip: {name}: no weights {tag!r} of it: {nearest(tag, tags)}")
    settings = open_clip.get_pretrained_cfg(architecture, tag)
    # open_clip only warns when tag and architecture disagree, and then computes wrong scores
    return architecture, tag, bool(settings.get("quick_gelu", False))
