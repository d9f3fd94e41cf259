"""Where a model's small JSON files come from: a diffusers folder or the model hub. No torch."""

from __future__ import annotations

import difflib
import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

from msbd_dist.errors import HubError, ModelError

PICKLES = (".bin", ".ckpt", ".pt", ".pth")  # suffixes of files that may execute code when loaded

_HUB_ID = re.compile(
    r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w.-]+(?:/[\w.-]+)*))?"
)
_BRANCH = "main"  # what is meant where no revision is given
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CONFIGURATION = ("*/*.json", "*/*.txt", "model_index.json", "msbd.json")
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

    def has(self, name: str) -> bool:
        """Whether there is a file ``name``."""
        return (self.path / name).is_file()

    def read(self, name: str) -> dict[str, Any]:
        """The content of the JSON file ``name``; `ModelError` where there is none."""
        return _read(self, name)

    def fetch(self, part: str | None = None) -> Path:
        """The folder that holds ``part``, or all configuration: this one."""
        return self.path

    def check_weights(self) -> None:
        """`ModelError` unless each part has safetensors weights and the tokenizer its files."""
        _check_parts(self)

    def in_folder(self, part: str) -> list[str]:
        """The names of the files of ``part``."""
        return [f"{part}/{file.name}" for file in (self.path / part).glob("*")]


@dataclass(frozen=True)
class Hub:
    """A repository of the model hub at a revision; files are fetched into the hub's cache.

    ``revision`` is a branch, a tag or a commit. `pinned` makes it a commit, and only of a commit is
    anything read: so a model stays the same while its branch moves, on every machine.
    """

    id: str
    revision: str = _BRANCH

    def __str__(self) -> str:
        return self.id if self.revision == _BRANCH else f"{self.id}@{self.revision}"

    def pinned(self) -> Hub:
        """The same at the commit that its revision is now, by the cache where the hub is away."""
        if _COMMIT.fullmatch(self.revision):
            return self
        return replace(self, revision=self.configuration.name)

    @cached_property
    def configuration(self) -> Path:
        """The cache's copy of all small files: a folder that is named by its commit."""
        return self._snapshot(_CONFIGURATION, "its configuration")

    def has(self, name: str) -> bool:
        """Whether the repository has the file ``name``."""
        small = any(fnmatch(name, pattern) for pattern in _CONFIGURATION)  # and so is all there
        return (self.configuration / name).is_file() or (not small and name in self._listed[0])

    def find(self, name: str) -> dict[str, Any] | None:
        """The content of the JSON file ``name``, or None where the repository has none."""
        file = self.configuration / name
        return read_json(file) if file.is_file() else None

    def read(self, name: str) -> dict[str, Any]:
        """The content of the JSON file ``name``; `ModelError` where there is none."""
        return _read(self, name)

    def fetch(self, part: str | None = None) -> Path:
        """The cache's copy, with the weights of ``part``, or all configuration."""
        names = weights_of(self, part)[1] if part in _STEMS else ()
        if all((self.configuration / name).is_file() for name in names):
            return self.configuration
        return self._snapshot(names, f"the weights of {part}")

    def check_weights(self) -> None:
        """`ModelError` unless each part has safetensors weights, here or on the hub."""
        try:
            _check_parts(self)
        except ModelError as error:
            trouble = self._listed[1]
            if trouble is None:
                raise
            raise refused(self, "its weights", trouble) from error

    def in_folder(self, part: str) -> list[str]:
        """The names of the files of ``part``."""
        return [name for name in self._listed[0] if name.startswith(f"{part}/")]

    @cached_property
    def _listed(self) -> tuple[frozenset[str], Exception | None]:
        """All files, and what kept the hub from listing them: then those in the cache."""
        from huggingface_hub import HfApi

        try:
            with _silenced("huggingface_hub"):
                names = HfApi().list_repo_files(self.id, revision=self.pinned().revision)
            return frozenset(names), None
        except Exception as error:  # the hub's client has many, of several libraries
            here = self.configuration
            files = (file for file in here.rglob("*") if file.is_file())
            return frozenset(str(file.relative_to(here)) for file in files), error

    def _snapshot(self, names: Iterable[str], what: str) -> Path:
        from huggingface_hub import constants, snapshot_download

        try:
            with _silenced("huggingface_hub"):
                found = snapshot_download(
                    self.id,
                    revision=self.revision,
                    allow_patterns=list(names),
                    local_files_only=constants.HF_HUB_OFFLINE,  # 1.x asks for a commit's files
                )
            return Path(found)
        except Exception as error:  # the hub's client has many, of several libraries
            raise refused(self, f"no folder of this name here, and {what}", error) from error


Source = Folder | Hub


def _read(source: Source, name: str) -> dict[str, Any]:
    content = source.find(name)
    if content is None:
        raise ModelError(
            f"{source}: has no {name}: give a complete diffusers folder, as written by "
            f"pipeline.save_pretrained, with model_index.json beside unet/ and vae/"
        )
    return content


def _check_parts(source: Source) -> None:
    for part in _STEMS:
        weights_of(source, part)
    if not any(all(source.has(f"tokenizer/{f}") for f in files) for files in _TOKENIZER_FILES):
        raise ModelError(
            f"{source}/tokenizer: has neither tokenizer.json nor vocab.json and merges.txt: "
            f"restore the tokenizer's files"
        )


def locate(text: str) -> Folder | Hub | Path:
    """A folder, a hub id "org/name" or a ``.safetensors`` file (as `Path`); else `ModelError`."""
    path = Path(text).expanduser()
    if path.is_dir():
        return Folder(path)
    if "://" in text:
        raise ModelError(
            f"{text}: models are not read from URLs: copy it to a folder that every worker has, "
            f"and give its path"
        )
    if path.suffix.lower() in PICKLES:
        raise ModelError(
            f"{text}: is a pickle, which can run code when loaded: give a .safetensors file or a "
            f"diffusers folder (diffusers' scripts convert, or pipeline.save_pretrained)"
        )
    if path.is_file():
        if path.suffix.lower() == ".safetensors":
            return path
        raise ModelError(f"{text}: is not a model: give a diffusers folder or a .safetensors file")
    found = _HUB_ID.fullmatch(text)
    if found and path.suffix.lower() != ".safetensors":
        return Hub(found["id"], found["revision"] or _BRANCH)
    raise ModelError(
        f"{text}: no such file or folder: give 'tiny', a diffusers folder, a .safetensors file "
        f"or a hub id 'org/name', with '@' and a commit if it is to stay the same"
    )


def hub_of(id: str, revision: str | None = None) -> Hub:
    """The repository "org/name" or "org/name@revision"; `ModelError` for any other name."""
    found = _HUB_ID.fullmatch(id)
    if found is None:
        raise ModelError(f"{id}: is no hub id: write 'org/name', or 'org/name@' and a revision")
    return Hub(found["id"], revision or found["revision"] or _BRANCH)


def source(location: str) -> Source:
    """The source that a card's ``location`` names."""
    if Path(location).is_dir():
        return Folder(Path(location))
    id, _, revision = location.partition("@")
    return Hub(id, revision or _BRANCH)


def weights_of(source: Source, part: str) -> tuple[str | None, tuple[str, ...]]:
    """Which safetensors weights a part has: (None or "fp16" for halves, the names of its files).

    `ModelError` where there are none, only pickled ones, or not all that an index names.
    """
    stem = f"{part}/{_STEMS[part]}"
    for variant in (None, "fp16"):
        dot = "" if variant is None else f".{variant}"
        whole, index = f"{stem}{dot}.safetensors", f"{stem}.safetensors.index{dot}.json"
        if source.has(index) and not (part == "text_encoder" and source.has(whole)):
            return variant, _shards(source, part, index)  # diffusers asks for the index first
        if source.has(whole):
            return variant, (whole,)
    pickled = sorted(name for name in source.in_folder(part) if name.endswith(PICKLES))
    if pickled:
        raise ModelError(
            f"{source}/{part}: has only pickled weights ({Path(pickled[0]).name}), which are never "
            f"loaded: convert them once with pipeline.save_pretrained(..., safe_serialization=True)"
        )
    raise ModelError(f"{source}/{part}: has no {_STEMS[part]}.safetensors: restore the file")


def weights_variant(folder: Path, part: str) -> str | None:
    """The same of a folder: None for the plain name, "fp16" for halves."""
    return weights_of(Folder(folder), part)[0]


def _shards(source: Source, part: str, index: str) -> tuple[str, ...]:
    """The files that an index names; `ModelError` where one is missing."""
    places = source.read(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(f, str) for f in places.values()):
        raise ModelError(f"{source}/{index}: has no weight_map of files: restore the file")
    names = tuple(sorted({f"{part}/{file}" for file in places.values()}))
    missing = [name for name in names if not source.has(name)]
    if missing or not names:
        what = f"{len(missing)} of {len(names)} files are missing, such as {missing[0]}"
        raise ModelError(f"{source}/{index}: {what if missing else 'names none'}: restore them")
    return names


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


def refused(hub: Hub, what: str, error: Exception) -> ModelError:
    """What the hub's client raised when it was asked for ``what``, with what to do about it."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError

    chain = list(_causes(error))
    answers = (getattr(getattr(one, "response", None), "status_code", None) for one in chain)
    code = next((answer for answer in answers if answer is not None), None)

    def is_a(kind: type[Exception]) -> bool:
        return any(isinstance(one, kind) for one in chain)

    known = True
    if is_a(GatedRepoError) or code == 403:
        why = (
            "it is shown only to those who have accepted its terms: accept them on its page, and "
            "set HF_TOKEN to a token of that account"
        )
    elif is_a(RevisionNotFoundError):
        why = f"it has no revision {hub.revision!r}: give a branch, a tag or a commit that is there"
    elif code in (401, 404):
        why = (
            "it has none of this name, or shows it only to some: check the name, and set HF_TOKEN "
            "to a token that may read it"
        )
    else:
        known, why = False, _no_answer(code, chain[-1], offline=constants.HF_HUB_OFFLINE)
    return (ModelError if known else HubError)(
        f"{hub}: {what} could not be had from the model hub: {why}"
    )


def _no_answer(code: int | None, error: BaseException, *, offline: bool) -> str:
    if offline:
        return (
            "HF_HUB_OFFLINE is set and it is not in the cache: unset it, or fill the cache first, "
            "or give the path of a diffusers folder"
        )
    if code == 429:
        return (
            "it answers 429, too many requests: wait some minutes, or set HF_TOKEN, with which "
            "more are allowed"
        )
    if code is not None and code >= 500:
        return f"it answers {code}, an error of its own: try again later"
    return (
        f"{reason(error)}: connect this machine to the network (HF_ENDPOINT, HTTPS_PROXY), or fill "
        f"the hub's cache first, or give the path of a diffusers folder"
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it came from, to the first one."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


@contextmanager
def _silenced(name: str) -> Iterator[None]:
    """Without the log lines below ERROR of one library, and without its bars in a pipe."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    logger = logging.getLogger(name)
    level, bars = logger.level, not (are_progress_bars_disabled() or sys.stderr.isatty())
    logger.setLevel(logging.ERROR)
    if bars:
        disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            enable_progress_bars()
