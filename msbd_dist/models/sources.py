"""Where a model's small JSON files come from: a diffusers folder or the model hub. No torch."""

from __future__ import annotations

import difflib
import json
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msbd_dist.errors import ModelError

PICKLES = (".bin", ".ckpt", ".pt", ".pth")  # suffixes of files that may execute code when loaded

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
_TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))


@dataclass(frozen=True)
class Folder:
    """A diffusers folder on this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def find(self, name: str) -> dict[str, Any] | None:
        """The content of the JSON file ``name``, or None where there is no such file."""
        file = self.path / name
        return read_json(file) if file.is_file() else None

    def read(self, name: str) -> dict[str, Any]:
        """The content of the JSON file ``name``; `ModelError` where there is none."""
        content = self.find(name)
        if content is None:
            raise ModelError(
                f"{self}: has no {name}: give a complete diffusers folder, as written by "
                f"pipeline.save_pretrained, with model_index.json beside unet/ and vae/"
            )
        return content

    def fetch(self, part: str | None = None) -> Path:
        """The folder that holds ``part``, or all configuration: this one."""
        return self.path

    def check_weights(self) -> None:
        """`ModelError` unless each part has safetensors weights and the tokenizer its files."""
        for part in _STEMS:
            weights_variant(self.path, part)
        here = self.path / "tokenizer"
        if not any(all((here / file).is_file() for file in files) for files in _TOKENIZER_FILES):
            raise ModelError(
                f"{here}: has neither tokenizer.json nor vocab.json and merges.txt: "
                f"restore the tokenizer's files"
            )


@dataclass(frozen=True)
class Hub:
    """A repository of the model hub, its files fetched into the hub's cache when asked for."""

    id: str

    def __str__(self) -> str:
        return self.id

    def find(self, name: str) -> dict[str, Any] | None:
        """The content of the JSON file ``name``, or None where the repository has none."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        try:
            with _silenced("huggingface_hub"):
                return read_json(Path(hf_hub_download(self.id, name)))
        except EntryNotFoundError:  # also raised when offline and not in the cache
            return None
        except (OSError, ValueError) as error:
            raise self._unreachable(name, reason(error)) from error

    def read(self, name: str) -> dict[str, Any]:
        """The content of the JSON file ``name``; `ModelError` where it can't be had."""
        content = self.find(name)
        if content is None:
            raise self._unreachable(name, "not in the cache, and no answer or no such file")
        return content

    def fetch(self, part: str | None = None) -> Path:
        """The cache's copy, with the weights and text files of ``part``, or all configuration."""
        from huggingface_hub import snapshot_download

        names = [f"{part or '*'}/*.json", f"{part or '*'}/*.txt", "model_index.json"]
        if part in _STEMS:
            names += [f"{part}/{_STEMS[part]}{end}.safetensors" for end in ("", "-?????-of-?????")]
        try:
            with _silenced("huggingface_hub"):
                return Path(snapshot_download(self.id, allow_patterns=names))
        except (OSError, ValueError) as error:
            raise self._unreachable(part or "its configuration", reason(error)) from error

    def _unreachable(self, name: str, why: str) -> ModelError:
        return ModelError(
            f"{self.id}: no folder of this name here, and {name} could not be had from the model "
            f"hub ({why}): give the path of a diffusers folder, or fill the hub's cache first"
        )


Source = Folder | Hub


def locate(text: str) -> Folder | Hub | Path:
    """A folder, a hub id "org/name" or a ``.safetensors`` file (as `Path`); else `ModelError`."""
    path = Path(text).expanduser()
    if path.is_dir():
        return Folder(path)
    if path.suffix.lower() in PICKLES:
        raise ModelError(
            f"{text}: is a pickle, which can run code when loaded: give a .safetensors file or a "
            f"diffusers folder (diffusers' scripts convert, or pipeline.save_pretrained)"
        )
    if path.is_file():
        if path.suffix.lower() == ".safetensors":
            return path
        raise ModelError(f"{text}: is not a model: give a diffusers folder or a .safetensors file")
    if path.suffix.lower() != ".safetensors" and _HUB_ID.fullmatch(text):
        return Hub(text)
    raise ModelError(
        f"{text}: no such file or folder: give 'tiny', a diffusers folder, a .safetensors file "
        f"or a hub id 'org/name'"
    )


def source(location: str) -> Source:
    """The source that a card's ``location`` names."""
    return Folder(Path(location)) if Path(location).is_dir() else Hub(location)


def weights_variant(folder: Path, part: str) -> str | None:
    """Which safetensors weights ``folder/part`` has: None for the plain name, "fp16" for halves.

    `ModelError` where there are none, or only pickled ones.
    """
    stem = _STEMS[part]
    for variant in (None, "fp16"):
        name = stem if variant is None else f"{stem}.{variant}"
        index = f"{stem}.safetensors.index" + (f".{variant}.json" if variant else ".json")
        if (folder / part / f"{name}.safetensors").is_file() or (folder / part / index).is_file():
            return variant
    pickled = [file.name for file in sorted((folder / part).glob("*")) if file.suffix in PICKLES]
    if pickled:
        raise ModelError(
            f"{folder / part}: has only pickled weights ({pickled[0]}), which are never loaded: "
            f"convert them once with pipeline.save_pretrained(..., safe_serialization=True)"
        )
    raise ModelError(f"{folder / part}: has no {stem}.safetensors: restore the file")


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; `ModelError` where it can't be read or isn't an object."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{file}: can't be read as JSON ({reason(error)}): restore the file"
        ) from error
    if not isinstance(content, dict):
        raise ModelError(f"{file}: holds {type(content).__name__}, not an object: restore the file")
    return content


def reason(error: BaseException, length: int = 160) -> str:
    """What another library's error says, in one line of limited length."""
    text = " ".join(str(error).split()).rstrip(".:") or type(error).__name__
    return text if len(text) <= length else text[:length].rsplit(" ", 1)[0] + " …"


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a mistyped word: "did you mean 'a' or 'b'?", or the known words."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return f"known: {', '.join(words[:8])}{' ...' if len(words) > 8 else ''}"


@contextmanager
def _silenced(name: str) -> Iterator[None]:
    """Without the log lines below ERROR of one library: the error itself says what happened."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
