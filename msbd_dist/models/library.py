"""Which models are at hand, and fetching others: safetensors, never more than is needed.

At hand are the bundled family, what the hub's cache holds, and what lies in a folder of models.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from msbd_dist.core.spec import ModelSpec
from msbd_dist.errors import ModelError
from msbd_dist.models.audit import SUMS, WEIGHTS, Checked, check, require_tensors_only, write_sums
from msbd_dist.models.card import BUNDLED, bundled_folder, resolve
from msbd_dist.models.sources import hub_of, nearest, refused

_SMALL = ("*.json", "*.txt", "*.model", "LICENSE*", "README.md")
_MODEL = (  # of a diffusers model: no second copy in another precision or in one file
    "unet/diffusion_pytorch_model{}.safetensors",
    "vae/diffusion_pytorch_model{}.safetensors",
    "text_encoder/model{}.safetensors",
)
_NOTES = Path(".cache", "huggingface")  # of the hub's client, beside what it fetches
_UPSCALERS = (WEIGHTS, ".pth")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A model at hand."""

    name: str  # what to say for --models, --sr or --clip
    kind: str  # model; part: a folder of other weights, such as a CLIP; file, such as an upscaler
    bytes: int
    why: str | None = None  # it can't be used, if it can't


def at_hand(folder: Path | None = None) -> list[Entry]:
    """The bundled family, what is in the hub's cache, and what lies in ``folder``.

    Raises `ModelError` where there is no such folder.
    """
    entries = [_entry(BUNDLED, bundled_folder())]
    entries += [_entry(name, place) for name, place in _cached()]
    if folder is not None:
        if not folder.is_dir():
            raise ModelError(f"{folder}: no such folder: give one that holds models")
        entries += [_entry(str(place), place) for place in _models_in(folder)]
    return entries


def pull(
    id: str, folder: Path, *, revision: str | None = None, allow_pickle: bool = False
) -> Checked:
    """Fetch a model of the hub into ``folder``, check it and list its digests there.

    Of a diffusers model its parts are fetched, in one precision; of any other repository all its
    safetensors files, and with ``allow_pickle`` its ``.pth`` files if it has none and they hold
    nothing but tensors. Raises `ModelError` where something is missing or not as the hub has it.
    """
    from huggingface_hub import HfApi, snapshot_download

    hub = hub_of(id, revision)
    known = any((folder / name).exists() for name in (SUMS, _NOTES))
    if folder.is_dir() and any(folder.iterdir()) and not known:
        raise ModelError(f"{folder}: holds other files: give a folder of the model's own")
    try:
        about = HfApi().model_info(hub.id, revision=hub.revision, files_metadata=True)
        names = [file.rfilename for file in about.siblings or ()]
        chosen = _chosen(id, names, allow_pickle=allow_pickle)
        snapshot_download(hub.id, revision=about.sha, local_dir=folder, allow_patterns=chosen)
    except ModelError:
        raise
    except Exception as error:  # the hub's client has many, of several libraries
        raise refused(hub, "it", error) from error
    for file in about.siblings or ():
        if file.rfilename in chosen and file.size != (folder / file.rfilename).stat().st_size:
            raise ModelError(f"{folder / file.rfilename}: is not whole: pull again")
    for name in chosen:
        if name.endswith(".pth"):
            require_tensors_only(folder / name)
    shutil.rmtree(folder / _NOTES, ignore_errors=True)
    with suppress(OSError):  # not ours alone
        (folder / _NOTES).parent.rmdir()
    digests = {file.rfilename: file.lfs.sha256 for file in about.siblings or () if file.lfs}
    write_sums(folder)
    if not any(name.endswith(WEIGHTS) for name in chosen):
        place, what = str(folder), "an upscaler's weights"
        return Checked(name=id, place=place, what=what, family=None, files=())
    checked = check(str(folder))
    for one in checked.files:
        if digests.get(one.path, one.sha256) != one.sha256:
            raise ModelError(f"{folder / one.path}: is not the file that the hub has: pull again")
    return checked


def _chosen(id: str, names: list[str], *, allow_pickle: bool) -> list[str]:
    """Which files of a repository are needed."""
    small = [name for name in names if any(fnmatch(name, pattern) for pattern in _SMALL)]
    if "model_index.json" in names and "msbd.json" not in names:  # that one names more files
        parts = [_weights_of(id, pattern, names) for pattern in _MODEL]
        return small + [name for part in parts for name in part]
    weights = [name for name in names if name.endswith(WEIGHTS)]
    if weights:
        return small + weights
    pickled = [name for name in names if name.endswith(".pth")]
    if pickled and allow_pickle:
        return small + pickled
    hint = "say --allow-pickle if it is an upscaler" if pickled else "give another model"
    raise ModelError(f"{id}: has no safetensors weights: {hint}")


def _weights_of(id: str, pattern: str, names: list[str]) -> list[str]:
    """One part's weights: whole, in shards or in half precision, whichever comes first."""
    for variant in ("", "-?????-of-?????", ".fp16", ".fp16-?????-of-?????"):
        found = [name for name in names if fnmatch(name, pattern.format(variant))]
        if found:
            return found
    raise ModelError(
        f"{id}: has no {pattern.format('')}: give a model whose weights are safetensors "
        f"({nearest(pattern.format(''), names)})"
    )


def _cached() -> Iterator[tuple[str, Path]]:
    """Models in the hub's cache, with their newest copy."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return
    for one in sorted(repositories, key=lambda repository: repository.repo_id):
        if one.repo_type == "model" and one.revisions:
            newest = max(one.revisions, key=lambda revision: revision.last_modified)
            yield one.repo_id, newest.snapshot_path


def _models_in(folder: Path) -> Iterator[Path]:
    """Diffusers folders and weights files in a folder, or itself if it is one."""
    if (folder / "model_index.json").is_file():
        yield folder
        return
    for place in sorted(folder.iterdir()):
        has_weights = place.is_dir() and any(place.rglob(f"*{WEIGHTS}"))
        if has_weights or place.suffix.lower() in _UPSCALERS:
            yield place


def _entry(name: str, place: Path) -> Entry:
    whole, why = (place / "model_index.json").is_file(), None
    kind = "model" if whole else "part" if place.is_dir() else "file"
    try:
        if whole:
            resolve(ModelSpec(family=str(place)))
        elif place.suffix.lower() == ".pth":
            require_tensors_only(place)
    except ModelError as error:
        why = str(error)
    return Entry(name=name, kind=kind, bytes=_size(place), why=why)


def _size(place: Path) -> int:
    files: Iterable[Path] = place.rglob("*") if place.is_dir() else [place]
    return sum(file.stat().st_size for file in files if file.is_file())
