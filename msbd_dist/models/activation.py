"""Which activation a CLIP's weights were trained with, where a file is given for them. No torch.

OpenAI's weights, and some later ones, want the quick GELU; with the other one scores come out, and
are wrong. Nothing in a weights file says which: its name, or a configuration beside it, may.
"""

from __future__ import annotations

import re
from pathlib import Path

from msbd_dist.models.sources import read_json

_BOTH = ("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-H-14", "ViT-bigG-14")  # published of both kinds
_QUICK = (  # architectures of which all published weights want it
    "RN50",
    "RN101",
    "RN50x4",
    "RN50x16",
    "RN50x64",
    "ViT-L-14-336",
    "ViT-H-14-378",
    "ViT-H-14-worldwide",
)
_WORDS = {  # in open_clip's names of weights; the longest counts
    "openai": True,
    "quickgelu": True,
    "yfcc15m": True,
    "cc12m": True,
    "metaclip": True,
    "metaclipaltogether": False,
    "dfn2b": True,
    "dfn2bs39b": False,
    "dfn5b": True,
    "laion2b": False,
    "laion400m": False,
    "datacomp": False,
    "commonpool": False,
}
_ONLY_OF = {("ViT-B-32", "laion400m"): True}


def quick_gelu(architecture: str, file: Path) -> bool | None:
    """Whether weights of open_clip's ``architecture`` in ``file`` want the quick GELU.

    None: both kinds are published, and neither the file's name, its folders' nor a configuration
    beside it says which these are.
    """
    if architecture in _QUICK:
        return True
    if architecture not in _BOTH:
        return False
    config = file.parent / "open_clip_config.json"
    if config.is_file():
        model = read_json(config).get("model_cfg")
        return bool(isinstance(model, dict) and model.get("quick_gelu", False))
    for name in (file.stem, *(folder.name for folder in list(file.absolute().parents)[:2])):
        text = re.sub(r"[^a-z0-9]", "", name.lower())
        if found := [word for word in _WORDS if word in text]:
            word = max(found, key=len)
            return _ONLY_OF.get((architecture, word), _WORDS[word])
    return None


def unknown_activation(clip: str) -> str | None:
    """What to tell of a scorer "NAME:FILE" of which it can't be known; None of all others."""
    architecture, _, file = clip.partition(":")
    if not file.lower().endswith(".safetensors") or not Path(file).is_file():
        return None
    if quick_gelu(architecture, Path(file)) is not None:
        return None
    return (
        f"clip: {file}: GELU is taken for its activation; if the weights are OpenAI's (or of "
        f"another kind that open_clip calls quickgelu), scores are wrong: then say "
        f"{architecture}-quickgelu:{file}; else put the weights' name into the file's, such as "
        f"{architecture}-laion2b.safetensors"
    )
