"""Where pictures are: local paths and fsspec URLs, of files or of folders."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import fsspec

from msbd_dist.canvas.files import store_errors

_SETTLED = 2_000_000_000  # nanoseconds after which a file's times tell that it was changed again
_CHANGED_WITH = ("ETag", "etag", "LastModified", "last_modified", "mtime", "updated", "created")


def is_url(place: str) -> bool:
    return "://" in place


def content_digest(place: str) -> str:
    """Names what is at a path or URL; FileNotFoundError where nothing is.

    SHA-256 of a file, and of a folder that of all names and files. Of what is behind a URL, that
    of all names, sizes and times of change (or the store's own tags of content): to read it all
    would take too long.
    """
    if not is_url(place) and not os.path.isdir(place):
        return _sha256(Path(place))
    digest = hashlib.sha256()
    for name, size, changed in sorted(_listing(place)):
        digest.update(f"{name} {size} {changed}\n".encode())
    return digest.hexdigest()


def stored_bytes(place: str) -> int:
    """What is at a path or URL takes."""
    if not is_url(place) and not os.path.isdir(place):
        return os.stat(place).st_size
    if is_url(place):
        return sum(size for _, size, _ in _listing(place))
    return sum(path.stat().st_size for path in Path(place).rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    """Of a file's content; read once as long as nothing says that it has changed."""
    found = path.stat()
    if time.time_ns() - found.st_mtime_ns < _SETTLED:  # it may change again at the same moment
        return _sha256_of(path)
    return _sha256_known(path, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


@lru_cache(maxsize=1 << 16)
def _sha256_known(path: Path, *_: int) -> str:
    return _sha256_of(path)


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _listing(place: str) -> list[tuple[str, int, str]]:
    """The files below a place: name, size, and what changes with the content."""
    if not is_url(place):
        return [
            (str(path.relative_to(place)), path.stat().st_size, _sha256(path))
            for path in Path(place).rglob("*")
            if path.is_file()
        ]
    with store_errors(place):
        system, path = fsspec.url_to_fs(place, use_listings_cache=False)
        found: dict[str, dict[str, Any]] = system.find(path, detail=True)
        if not found:
            raise FileNotFoundError(place)
        return [
            (name.removeprefix(path), info["size"] or 0, _changed(info))
            for name, info in found.items()
        ]


def _changed(info: dict[str, Any]) -> str:
    return str(next((info[key] for key in _CHANGED_WITH if info.get(key)), ""))


def first_bytes(place: str, count: int) -> bytes:
    """The beginning of a file. OSError where it can't be read."""
    if not is_url(place):
        with Path(place).open("rb") as file:
            return file.read(count)
    with store_errors(place):
        system, path = fsspec.url_to_fs(place, use_listings_cache=False)
        return bytes(system.cat_file(path, start=0, end=count))


def local_copy(place: str) -> Path:
    """A file as libraries want it that know no URLs: itself, or a copy in TMPDIR that lasts as long
    as this process wants it."""
    return Path(_fetched(place, content_digest(place)).name) if is_url(place) else Path(place)


@lru_cache(maxsize=16)
def _fetched(place: str, _: str) -> Any:
    copy = tempfile.NamedTemporaryFile(prefix="msbd-", suffix=Path(place).suffix)  # noqa: SIM115
    with store_errors(place):
        system, path = fsspec.url_to_fs(place, use_listings_cache=False)
        system.get_file(path, copy.name)
    return copy


def matching_urls(pattern: str) -> list[str]:
    """URLs of files, and of folders named ``.zarr``, that a URL with ``*`` matches; sorted."""
    with store_errors(pattern):
        system, path = fsspec.url_to_fs(pattern, use_listings_cache=False)
        found: dict[str, dict[str, Any]] = system.glob(path, detail=True)
        return sorted(
            system.unstrip_protocol(name)
            for name, info in found.items()
            if info["type"] == "file" or name.rstrip("/").endswith(".zarr")
        )
