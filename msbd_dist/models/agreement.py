"""Whether the weights of a diffusers folder are those that its configuration describes. No torch.

Looked at are the tensors by which models differ: what goes in and out of each part, the width of
the text, the words of the text encoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msbd_dist.errors import ModelError
from msbd_dist.models.shapes import Shape, shapes_of
from msbd_dist.models.sources import Folder, read_json, weights_of

PARTS = ("unet", "vae", "text_encoder")


def check_agreement(folder: Folder) -> None:
    """`ModelError` that names the first tensor that is missing or of another shape."""
    for part in PARTS:
        tensors = tensors_of(folder, part)
        config = folder.read(f"{part}/config.json")
        for ending, wanted in _expected(part, config):
            found = {name: shape for name, shape in tensors.items() if name.endswith(ending)}
            if not found:
                raise ModelError(
                    f"{folder}/{part}: has no tensor {ending.lstrip('.')}: its weights are of "
                    f"another kind of model, restore them from where the model came"
                )
            for name, shape in found.items():
                _compare(f"{folder}/{part}", name, shape, wanted)


def tensors_of(folder: Folder, part: str) -> dict[str, Shape]:
    """All tensors of a part; `ModelError` where a file of them is not whole, or lacks one that an
    index says it has."""
    variant, files = weights_of(folder, part)
    dot = "" if variant is None else f".{variant}"
    for index in (folder.path / part).glob(f"*.safetensors.index{dot}.json"):
        check_index(index)
    held = [shapes_of(folder.path / file) for file in files]
    return {name: shape for tensors in held for name, shape in tensors.items()}


def check_index(index: Path) -> None:
    """`ModelError` where a file that an index of shards names is missing, or lacks a tensor."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ModelError(f"{index}: has no weight_map of files: restore the file")
    held = {name: shapes_of(index.parent / name) for name in sorted(set(map(str, places.values())))}
    for name, file in places.items():
        if name not in held[file]:
            raise ModelError(
                f"{index.parent / file}: has no {name}, which {index.name} places there: restore "
                f"the files from where the model came"
            )


def _expected(part: str, config: dict[str, Any]) -> Iterator[tuple[str, tuple[int | None, ...]]]:
    """Endings of names of tensors, and their shapes as far as the configuration gives them."""
    blocks = config.get("block_out_channels") or [None]
    if part == "unet":
        width = config.get("cross_attention_dim")
        yield "conv_in.weight", (blocks[0], config.get("in_channels", 4))
        yield "conv_out.weight", (config.get("out_channels", 4), blocks[0])
        yield ".attn2.to_k.weight", (None, width if isinstance(width, int) else None)
    elif part == "vae":
        yield "encoder.conv_in.weight", (blocks[0], config.get("in_channels", 3))
        yield "decoder.conv_in.weight", (blocks[-1], config.get("latent_channels", 4))
        yield "decoder.conv_out.weight", (config.get("out_channels", 3), blocks[0])
    else:
        width = config.get("hidden_size")
        yield "token_embedding.weight", (config.get("vocab_size"), width)
        yield "position_embedding.weight", (config.get("max_position_embeddings"), width)
        yield "final_layer_norm.weight", (width,)


def _compare(where: str, name: str, found: Shape, wanted: tuple[int | None, ...]) -> None:
    said = [f"{one}" if one is not None else "any" for one in wanted]
    if any(two not in (None, one) for one, two in zip(found, wanted, strict=False)):
        raise ModelError(
            f"{where}: {name} is {list(found)} and config.json describes [{', '.join(said)}, ...]: "
            f"configuration and weights are of different models, restore the files"
        )
