"""The small CLIP, in open_clip's format: judges and ranks the family's pictures.

Beside the captions of a batch, each of which may fit several of its pictures, it learns from
captions that are almost right: two colours exchanged, left for right, another shape. The names of
single objects, and a linear head that is dropped afterwards, teach it the shapes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from itertools import product
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from msbd_dist.tiny.scenes import COLOURS, SHAPES, Scene, caption, object_name, random_scene, render
from msbd_dist.tiny.train import data
from msbd_dist.tiny.train.settings import NATIVE, Clip
from msbd_dist.tiny.train.words import LENGTH, tokenizer, tokens, write_tokenizer

NAMES = [object_name(colour, shape) for colour, shape in product(COLOURS, SHAPES)]
_NOT_ONE = -1  # the number of the name of a picture without exactly one object


class ClipPart:
    """What `loop.train` trains: captions both ways, names of objects, colours and shapes."""

    name = "clip"

    def __init__(self, settings: Clip, pictures: Path) -> None:
        """``pictures``: what `prepare` has made."""
        self.settings = settings
        self.recipe = settings.recipe
        torch.manual_seed(settings.recipe.seed)
        self.module = nn.ModuleDict(
            {
                "clip": open_clip.CLIP(**configuration(settings)["model_cfg"]),
                "head": nn.Linear(settings.embedding, len(COLOURS) + len(SHAPES)),
            }
        )
        self.stored = data.gathered(sorted(pictures.glob("*.npz")))
        self.names = torch.tensor(tokens(NAMES))

    def loss(self, rng: np.random.Generator, count: int) -> Tensor:
        clip = self.module["clip"]
        device = clip.logit_scale.device
        chosen = torch.from_numpy(rng.integers(len(self.stored["name"]), size=count))
        stored = {key: values[chosen] for key, values in self.stored.items()}
        pictures = self._changed(rng, stored["pictures"])
        right, wrong = stored["right"].long(), stored["wrong"].long()
        captions, place = torch.unique(torch.cat([right, wrong]), dim=0, return_inverse=True)
        raw = clip.encode_image(pictures.to(device)).float()
        texts = clip.encode_text(torch.cat([captions, self.names]).to(device)).float()
        scale = clip.logit_scale.exp().clamp(max=self.settings.largest_scale)
        logits = scale * F.normalize(raw, dim=-1) @ F.normalize(texts, dim=-1).T
        described, named = logits[:, : len(captions)], logits[:, len(captions) :]
        own = place[:count].to(device)
        return self.settings.captions * _captions_loss(described, own) + _names_loss(
            named, self.module["head"](raw), stored["name"].to(device)
        )

    def _changed(self, rng: np.random.Generator, pictures: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 -> normalized (B, 3, H, W): zoomed, shrunk, brighter, grainier.

        In quarters of the batch, each changed in one way. Never mirrored: left stays left.
        """
        s, parts = self.settings, []
        for part in pictures.permute(0, 3, 1, 2).float().div(255).chunk(4):
            if rng.random() < s.zoomed:
                side = int(rng.integers(int(0.85 * NATIVE), NATIVE))
                y, x = rng.integers(NATIVE - side + 1, size=2)
                part = part[:, :, y : y + side, x : x + side]
            if rng.random() < s.shrunk:
                part = F.interpolate(part, size=int(rng.integers(NATIVE // 3, 90)), mode="area")
            parts.append(_resized(part))
        batch = torch.cat(parts)
        noise = torch.from_numpy(rng.standard_normal(batch.shape, np.float32))
        light = torch.from_numpy(rng.standard_normal((len(batch), 1, 1, 1), np.float32))
        batch = (batch * (1 + s.brightness * light) + s.grain * noise).clamp(0, 1)
        mean, std = (
            torch.tensor(values).view(1, 3, 1, 1)
            for values in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
        )
        return (batch - mean) / std

    @torch.no_grad()
    def write(self, folder: Path) -> None:
        """``folder/clip``, for ``open_clip.create_model("local-dir:...")``, fp16."""
        target = folder / "clip"
        target.mkdir(parents=True, exist_ok=True)
        clip = self.module["clip"]
        clip.logit_scale.clamp_(max=log(self.settings.largest_scale))
        weights = {
            name: (value.half() if value.is_floating_point() else value).contiguous()
            for name, value in clip.state_dict().items()
        }
        save_file(weights, target / "open_clip_model.safetensors", metadata={"format": "pt"})
        config = json.dumps(configuration(self.settings), indent=2)
        (target / "open_clip_config.json").write_text(config + "\n")
        write_tokenizer(target)


def _captions_loss(logits: Tensor, own: Tensor) -> Tensor:
    """Cross-entropy of pictures over captions, and of captions over pictures.

    ``logits`` (B, captions), ``own`` (B,): the caption of each picture; some have several pictures,
    and the wrong ones have none.
    """
    fits = F.one_hot(own, logits.shape[1]).float()
    present = fits.sum(0) > 0
    shares = fits[:, present] / fits[:, present].sum(0)
    by_caption = -(shares * F.log_softmax(logits[:, present], 0)).sum(0).mean()
    return F.cross_entropy(logits, own) + by_caption


def _names_loss(named: Tensor, head: Tensor, name: Tensor) -> Tensor:
    """Of pictures with one object: its name, its colour and its shape."""
    single = name != _NOT_ONE
    name = name[single]
    colour, shape = head[single].split([len(COLOURS), len(SHAPES)], dim=-1)
    return (
        F.cross_entropy(named[single], name)
        + F.cross_entropy(colour, name // len(SHAPES))
        + F.cross_entropy(shape, name % len(SHAPES))
    )


def _resized(pictures: Tensor) -> Tensor:
    if pictures.shape[-1] == NATIVE:
        return pictures
    return F.interpolate(pictures, size=NATIVE, mode="bilinear", align_corners=False)


def configuration(settings: Clip) -> dict[str, Any]:
    """What open_clip_config.json holds."""
    s = settings
    vision = {"image_size": NATIVE, "layers": list(s.layers), "width": s.width}
    text = {"context_length": LENGTH, "vocab_size": len(tokenizer()), "width": s.text_width}
    return {
        "model_cfg": {
            "embed_dim": s.embedding,
            "vision_cfg": {**vision, "head_width": s.head_width},
            "text_cfg": {
                **text,
                "hf_tokenizer_name": "tokenizer",
                "heads": s.text_heads,
                "layers": s.text_layers,
            },
        },
        "preprocess_cfg": {
            "mean": list(OPENAI_DATASET_MEAN),
            "std": list(OPENAI_DATASET_STD),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }


# --- pictures with a right and a wrong caption ----------------------------------------------------


def prepare(settings: Clip, folder: Path, *, processes: int) -> None:
    """Draws all pictures."""
    make = partial(_draw_chunk, settings)
    data.stored(folder, -(-settings.pictures // settings.chunk), make, processes=processes)


def _draw_chunk(settings: Clip, index: int) -> data.Arrays:
    first = settings.recipe.seed + index * settings.chunk
    drawn = [_example(seed) for seed in range(first, first + settings.chunk)]
    scenes, right, wrong = zip(*drawn, strict=True)
    return {
        "pictures": np.stack([render(scene) for scene in scenes]),
        "right": np.array(tokens(right), np.int16),
        "wrong": np.array(tokens(wrong), np.int16),
        "name": np.array([_name_number(scene) for scene in scenes], np.int64),
    }


def _example(seed: int) -> tuple[Scene, str, str]:
    """A scene, a caption, and one that does not fit."""
    rng = np.random.default_rng((seed, 1))
    scene = random_scene(seed, data.square(NATIVE))
    sizes, places, background = (bool(b) for b in rng.random(3) < (0.4, 0.6, 0.5))
    words = partial(caption, sizes=sizes, places=places, background=background)
    right = words(scene)
    while (wrong := words(_altered(rng, scene))) == right:
        pass
    return scene, right, wrong


def _altered(rng: np.random.Generator, scene: Scene) -> Scene:
    """The scene with something else in it; its words may still be the same."""
    if not scene.objects:
        return random_scene(int(rng.integers(2**62)), scene.size)
    things = list(scene.objects)
    index, other = int(rng.integers(len(things))), int(rng.integers(len(things)))
    one, two, kind = things[index], things[other], rng.random()
    if kind < 0.25 and len(things) > 1:  # exchange colours
        things[index], things[other] = (
            replace(one, colour=two.colour),
            replace(two, colour=one.colour),
        )
    elif kind < 0.5 and len(things) > 1:  # exchange places
        things[index] = replace(one, center_y=two.center_y, center_x=two.center_x)
        things[other] = replace(two, center_y=one.center_y, center_x=one.center_x)
    elif kind < 0.7:
        things[index] = replace(one, colour=COLOURS[rng.integers(len(COLOURS))])
    elif kind < 0.9:
        things[index] = replace(one, shape=SHAPES[rng.integers(len(SHAPES))])
    else:
        things[index] = replace(one, radius=scene.unit * rng.uniform(0.1, 0.5))
    return replace(scene, objects=tuple(things))


def _name_number(scene: Scene) -> int:
    if len(scene.objects) != 1:
        return _NOT_ONE
    (thing,) = scene.objects
    return COLOURS.index(thing.colour) * len(SHAPES) + SHAPES.index(thing.shape)
