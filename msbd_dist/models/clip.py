"""Whether a CLIP for scores is there and can be read, known before any work. No torch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from msbd_dist.errors import ModelError
from msbd_dist.models.asked import Looks, asked
from msbd_dist.models.card import CLIP
from msbd_dist.models.shapes import shapes_of
from msbd_dist.models.sources import PICKLES, nearest, read_json

_FILES = (".safetensors", *PICKLES)
_CONFIG = "open_clip_config.json"


def check_scorer(name: str) -> None:
    """`ModelError` where ``name``, as `rerank.load_scorer` takes it, leads to nothing usable."""
    _looks(name, Path(name).expanduser(), Path(name.partition(":")[2]).expanduser())


def _look(name: str) -> None:
    architecture, colon, tag = name.partition(":")
    folder = Path(name).expanduser()
    if folder.is_dir():
        _check_folder(folder)
    elif not colon:
        raise ModelError(
            f"clip: {name}: no such folder: give a folder with {_CONFIG}, or ARCHITECTURE:TAG "
            f"such as {CLIP}"
        )
    elif Path(tag).suffix.lower() in _FILES:
        _check_architecture(name, architecture)
        shapes_of(weights_file(name, Path(tag).expanduser()))
    elif name != CLIP:
        asked("rerank", "check_name", name)


_looks = Looks(_look)


def check_folder(folder: Path) -> None:
    """`ModelError` unless a folder has what open_clip needs of one."""
    for wanted in (_CONFIG, "*.safetensors"):
        if not any(folder.glob(wanted)):
            raise ModelError(
                f"clip: {folder}: has no {wanted}: give a folder with {_CONFIG}, "
                f"open_clip_model.safetensors and the tokenizer's files"
            )


def weights_file(name: str, file: Path) -> Path:
    """The file of a scorer's weights; `ModelError` where it is none that is loaded."""
    if file.suffix.lower() in PICKLES:
        raise ModelError(f"clip: {name}: is a pickle: give a .safetensors file")
    if not file.is_file():
        raise ModelError(f"clip: {name}: no such file: give the .safetensors file of the weights")
    return file


def _check_folder(folder: Path) -> None:
    check_folder(folder)
    if not isinstance(read_json(folder / _CONFIG).get("model_cfg"), dict):
        raise ModelError(f"clip: {folder}/{_CONFIG}: has no model_cfg: restore the file")
    for file in sorted(folder.glob("*.safetensors")):
        shapes_of(file)


def _check_architecture(name: str, architecture: str) -> None:
    """`ModelError` for an architecture that open_clip has no configuration of."""
    found = find_spec("open_clip")
    assert found is not None
    assert found.origin is not None
    known = {file.stem for file in Path(found.origin).parent.glob("model_configs/*.json")}
    if known and architecture not in known:
        raise ModelError(
            f"clip: {name}: no architecture {architecture!r}: {nearest(architecture, known)}"
        )
