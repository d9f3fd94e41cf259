"""Whether a model's files are what they should be, without loading any: no torch, no pickle is run.

A model is sound if its configuration describes one that this software runs (`card.resolve`), each
weights file is a whole safetensors file, and the digests agree with the list that `pull` left.
"""

from __future__ import annotations

import hashlib
import pickletools
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

from msbd_dist.core.spec import Family, ModelSpec
from msbd_dist.errors import ModelError
from msbd_dist.models.agreement import check_agreement, check_index
from msbd_dist.models.card import BUNDLED, bundled_folder, resolve
from msbd_dist.models.factor import kind_by_shapes, other_kind
from msbd_dist.models.shapes import shapes_of
from msbd_dist.models.single_file import names_of_parts
from msbd_dist.models.sources import PICKLES, Folder, Hub, locate, reason

SUMS = "SHA256SUMS"  # beside the files it lists, as sha256sum writes and checks it
WEIGHTS = ".safetensors"

_PICKLES = 5  # in a checkpoint of torch's older format
_HARMLESS = ("torch", "torch._utils", "collections")  # modules that tensors are made of
_HARMLESS_NAMES = ("_rebuild_tensor_v2", "_rebuild_parameter", "OrderedDict", "Size", "device")
_OPAQUE = ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4")  # opcodes that hide what they call


@dataclass(frozen=True, kw_only=True)
class CheckedFile:
    """A weights file that is as it should be."""

    path: str  # relative to the model
    bytes: int
    tensors: int
    sha256: str
    listed: bool  # in the list of digests, with this one


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A model that is as it should be."""

    name: str  # as it was given
    place: str  # the folder or file
    what: str  # it is, in words
    family: Family | None  # None of a file that is only a part, such as an upscaler
    files: tuple[CheckedFile, ...]
    ignored: tuple[str, ...] = ()  # pickles beside the weights, which are never loaded


def check(name: str, *, allow_pickle: bool = False) -> Checked:
    """Check 'tiny', a folder, a file or a hub id whose files are in the cache.

    ``allow_pickle``: a ``.pth`` of an upscaler that holds nothing but tensors will do. Raises
    `ModelError` that names the first file that is not as it should be, and what to do.
    """
    found = bundled_folder() if name == BUNDLED else _place(name, allow_pickle=allow_pickle)
    if found.is_file():
        return _check_file(name, found)
    family = _family(name, found)
    weights = tuple(_checked(found, file) for file in _files(found, WEIGHTS))
    if not weights:
        raise ModelError(f"{found}: has no {WEIGHTS} file: give the folder of a model")
    if family is not None:
        check_agreement(Folder(found))
    else:
        _check_indexes(found)
    _require_all_listed(found)
    ignored = tuple(str(f.relative_to(found)) for f in _files(found, *PICKLES))
    what = _in_words(family) if family else "weights"
    return Checked(
        name=name, place=str(found), what=what, family=family, files=weights, ignored=ignored
    )


def write_sums(folder: Path) -> None:
    """List the digests of all files in a folder, for `check` and for ``sha256sum -c``."""
    lines = [f"{_sha256(f)}  {f.relative_to(folder)}\n" for f in _files(folder, "")]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def require_tensors_only(file: Path) -> None:
    """`ModelError` unless a pickle calls nothing but what tensors are made with.

    The instructions are read, not run. torch's own reader, which loads such files, refuses the
    rest by itself (`loading.read_weights`).
    """
    try:
        for called in _calls(file):
            module, _, name = called.partition(" ")
            storage = module == "torch" and name.endswith(("Storage", "Tensor"))
            if module not in _HARMLESS or not (storage or name in _HARMLESS_NAMES):
                raise ModelError(
                    f"{file}: is a pickle that calls {called.replace(' ', '.')}, which is never "
                    f"loaded: get the weights as safetensors, and delete this file"
                )
    except (ValueError, zipfile.BadZipFile, OSError) as error:
        raise ModelError(f"{file}: can't be read ({reason(error)}): download it again") from error


def _calls(file: Path) -> Iterator[str]:
    """What the pickles in a checkpoint call, as "module name"."""
    with file.open("rb") as stream:
        if stream.read(4) != b"PK\x03\x04":  # the older format: pickles, then the raw tensors
            stream.seek(0)
            for _ in range(_PICKLES):
                yield from _calls_in(stream)
            return
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.endswith(".pkl")]
        if not pickles:
            raise ValueError("an archive without a pickle")
        for name in pickles:
            yield from _calls_in(BytesIO(archive.read(name)))


def _calls_in(stream: IO[bytes]) -> Iterator[str]:
    """The same of one pickle; the stream is left behind it."""
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "GLOBAL":
            yield str(argument)
        elif opcode.name in _OPAQUE:
            yield f"something that it hides ({opcode.name})"


def _place(name: str, *, allow_pickle: bool) -> Path:
    path = Path(name).expanduser()
    if path.is_file() and path.suffix.lower() in (".pth", ".pt"):
        require_tensors_only(path)
        if not allow_pickle:
            raise ModelError(
                f"{name}: is a pickle, of tensors alone: get it as safetensors, or say "
                f"--allow-pickle if it is an upscaler (--sr), the only one that may be one"
            )
        return path
    found = locate(name)
    if isinstance(found, Hub):
        return _cached(found)
    return found if isinstance(found, Path) else found.path


def _cached(hub: Hub) -> Path:
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(hub.id, revision=hub.revision, local_files_only=True)
        return Path(found)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{hub}: no folder of this name, and not in the hub's cache: fetch it with "
            f"`msbd models pull {hub} --to FOLDER`"
        ) from error


def _family(name: str, folder: Path) -> Family | None:
    """The geometry of a whole model; None where a folder holds other weights, such as a CLIP's."""
    if not (folder / "model_index.json").is_file():
        return None
    family = name if name == BUNDLED else str(folder)
    return resolve(ModelSpec(family=family)).family


def _check_file(name: str, file: Path) -> Checked:
    family, what = None, None
    checked = _checked(file.parent, file)
    if file.suffix.lower() == WEIGHTS:
        try:
            card = resolve(ModelSpec(family=str(file)))
            predicted = dict(card.scheduler).get("prediction_type", "epsilon")
            family = card.family
            what = "; ".join([f"{_in_words(family)}, predicts {predicted}", *card.notes])
        except ModelError as error:  # or it is a part, such as an upscaler
            if all(names_of_parts(shapes_of(file)).values()):
                what = f"a model that can't be used as it is ({error})"
    what = what or _kind(file)
    return Checked(name=name, place=str(file), what=what, family=family, files=(checked,))


def _in_words(family: Family) -> str:
    return f"a model of native {family.native} px, segments of {family.segment} px"


def _kind(file: Path) -> str:
    """What a file that is no whole model is, by its names and shapes; an upscaler's factor."""
    shapes = shapes_of(file)
    kind = kind_by_shapes(shapes)
    if kind is not None:
        into, out = kind.channels
        return f"{kind.name}, enlarges by {kind.factor}, from {into} to {out} channels"
    return other_kind(shapes) or f"weights of a kind that is not known, {len(shapes)} tensors"


def _check_indexes(folder: Path) -> None:
    """`ModelError` where an index of shards names a file that is not there, or lacks a tensor."""
    for index in _files(folder, ".json"):
        if ".safetensors.index." in index.name:
            check_index(index)


def _checked(root: Path, file: Path) -> CheckedFile:
    """A weights file with its digest; `ModelError` where it is damaged or not the listed one."""
    tensors = len(shapes_of(file))  # which refuses what is not whole
    name, digest = str(file.relative_to(root)), _sha256(file)
    wanted = _listed(root).get(name)
    if wanted not in (None, digest):
        raise ModelError(
            f"{file}: its digest is {digest[:16]}..., {SUMS} says {wanted[:16]}...: it was changed "
            f"or damaged, download it again"
        )
    return CheckedFile(
        path=name,
        bytes=file.stat().st_size,
        tensors=tensors,
        sha256=digest,
        listed=wanted is not None,
    )


def _require_all_listed(folder: Path) -> None:
    """`ModelError` where a listed file is missing or is another one."""
    for name, wanted in _listed(folder).items():
        file = folder / name
        if not file.is_file():
            raise ModelError(f"{file}: is listed in {SUMS} and missing: download it again")
        if file.suffix.lower() != WEIGHTS and _sha256(file) != wanted:
            raise ModelError(
                f"{file}: is not the file that {SUMS} lists: restore it, or download it again"
            )


def _listed(root: Path) -> dict[str, str]:
    """Digests by name, as sha256sum writes them; {} where there is no list."""
    with suppress(FileNotFoundError):
        lines = (root / SUMS).read_text(encoding="utf-8").splitlines()
        rows = (line.split(maxsplit=1) for line in lines if line.strip())
        return {name.removeprefix("*"): digest for digest, name in rows}
    return {}


def _files(folder: Path, *suffixes: str) -> Iterator[Path]:
    """Files with these suffixes; not those of hidden folders, nor the list itself."""
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        wanted = "" in suffixes or file.suffix.lower() in suffixes
        if wanted and file.is_file() and not hidden and file.name != SUMS:
            yield file


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
