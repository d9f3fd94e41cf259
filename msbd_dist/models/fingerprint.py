"""Which model's files these are: a digest of each, and one of all, which names an edit's work.

Files are read whole. What a large one was found to be is remembered in the user's cache folder, by
its place, size, inode and times, so that it is read once on a machine and not before every run.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from msbd_dist.errors import ModelError
from msbd_dist.models.card import Card

_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_LOADED = (".json", ".txt", ".safetensors")  # suffixes of what is read of a part
_CONFIGURATIONS = (".yaml", ".yml")  # of what may lie beside a single file
_BLOCK = 16 << 20  # bytes that a thread reads at a time
_REMEMBERED = 1 << 20  # bytes from which on a file is worth it
_SETTLED = 2_000_000_000  # nanoseconds after which a file's times tell that it was changed again


def digests(card: Card) -> dict[str, str]:
    """Of each file that a card names and that is loaded: ``unet/config.json``, ``sr``, ``clip`` ...

    What is no file here stands for itself: a hub id with its commit, the name of a scorer's
    weights. `ModelError` names a file that can't be read.
    """
    return {
        name: str(place) if isinstance(place, str) else file_digest(place)
        for name, place in _named(card)
    }


def fingerprint(files: Mapping[str, str]) -> str:
    """One digest for all files of a model."""
    return hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Of a file's whole content; a large one that is as it was is not read again."""
    try:
        found = path.stat()
        state = f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"
        if found.st_size < _REMEMBERED:
            return hashlib.sha256(path.read_bytes()).hexdigest()[:32]
        if (known := _recall(path, state)) is not None:
            return known
        began = time.time_ns()
        digest = _read(path, found.st_size)
        settled = began - max(found.st_mtime_ns, found.st_ctime_ns) > _SETTLED
        if settled and path.stat().st_mtime_ns == found.st_mtime_ns:
            _remember(path, state, digest)
        return digest
    except OSError as error:
        raise ModelError(f"{path}: can't be read ({error.strerror}): restore the file") from error


def _named(card: Card) -> Iterator[tuple[str, str | Path]]:
    """What a card names, and what that is called."""
    location = Path(card.location)
    if location.is_dir():
        yield from _of_folder(location)
    else:
        yield "model" if card.file is None else "config", card.location
    if card.file is not None:
        file = Path(card.file)
        yield "file", file
        beside = (file.with_suffix(suffix) for suffix in _CONFIGURATIONS)
        yield from ((f"file{path.suffix}", path) for path in beside if path.is_file())
        if card.scheduler:
            yield "scheduler", repr(card.scheduler)
    if card.sr is not None:
        yield "sr", Path(card.sr)
    yield from _of_scorer(card.clip)


def _of_folder(folder: Path) -> Iterator[tuple[str, Path]]:
    small = (folder / name for name in ("model_index.json", "msbd.json"))
    yield from ((path.name, path) for path in small if path.is_file())
    for part in _PARTS:
        for path in sorted((folder / part).glob("*")):
            if path.suffix in _LOADED and path.is_file():
                yield f"{part}/{path.name}", path


def _of_scorer(name: str) -> Iterator[tuple[str, str | Path]]:
    """``ARCHITECTURE:TAG``, ``ARCHITECTURE:FILE`` or a folder."""
    architecture, _, tag = name.partition(":")
    folder, file = Path(name).expanduser(), Path(tag).expanduser()
    if folder.is_dir():
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            yield f"clip/{path.relative_to(folder)}", path
    elif tag and file.is_file():
        yield f"clip {architecture}", file
    else:
        yield "clip", name


def _read(path: Path, size: int) -> str:
    """The digest of the digests of a file's blocks, which threads read side by side."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        blocks = threads.map(partial(_block, path), range(0, size, _BLOCK))
        return hashlib.sha256(b"".join(blocks)).hexdigest()[:32]


def _block(path: Path, start: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        data = bytearray()
        while len(data) < _BLOCK and (more := file.read(_BLOCK - len(data))):
            data += more
    return hashlib.sha256(data).digest()


# -- what is remembered: a cache that can't be written or read costs time and nothing else ---------


def _recall(path: Path, state: str) -> str | None:
    with suppress(OSError, RuntimeError, ValueError):
        known, _, digest = _place(path).read_text().rpartition(" ")
        return digest if known == state and len(digest) == 32 else None
    return None


def _remember(path: Path, state: str, digest: str) -> None:
    with suppress(OSError, RuntimeError):
        place = _place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, hidden = tempfile.mkstemp(dir=place.parent)
        with os.fdopen(handle, "w") as file:
            file.write(f"{state} {digest}")
        os.replace(hidden, place)


def _place(path: Path) -> Path:
    """Where it is remembered of a file what it was. RuntimeError where nobody is at home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    cache = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    return cache / "msbd" / "digests" / hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
