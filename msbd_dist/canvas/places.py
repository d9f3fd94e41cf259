"""Where pictures are: local paths and fsspec URLs, of files or of folders."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import tempfile
import time
import weakref
from functools import lru_cache
from pathlib import Path
from typing import Any

from msbd_dist.canvas.urls import is_web, store_errors, system_of
from msbd_dist.errors import InputError

_SETTLED = 2_000_000_000  # nanoseconds after which a file's times tell that it was changed again
_CHANGED_WITH = ("ETag", "etag", "LastModified", "last_modified", "Last-Modified", "Content-MD5",
                 "mtime", "updated", "created")  # fmt: skip


def is_url(place: str) -> bool:
    return "://" in place


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content; read once as long as nothing says that it has changed."""
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


def files_at(url: str) -> list[tuple[str, int, str]]:
    """The file at a URL, or those below it: name, size, and what changes with the content.

    A web server can't list files: there it is the one. FileNotFoundError where nothing is.
    """
    if is_web(url):
        return [("", *_of_web_file(url))]
    with store_errors(url):
        system, path = system_of(url)
        found: dict[str, dict[str, Any]] = system.find(path, detail=True)
        if not found:
            raise FileNotFoundError(url)
        return [
            (name.removeprefix(path), info["size"] or 0, changed_of(info))
            for name, info in found.items()
        ]


def stamp_of(place: str) -> str:
    """What changes with the content of the file at a path or URL."""
    return repr(files_at(place)) if is_url(place) else file_digest(Path(place))


def _of_web_file(place: str) -> tuple[int, str]:
    """Size, and what changes with the content: a digest of it, where the server tells nothing."""
    found = asked(place)
    if found is None:
        raise FileNotFoundError(place)
    if told := changed_of(found):
        return found["size"] or 0, told
    copy = _download(place)
    return os.stat(copy.name).st_size, _sha256_of(Path(copy.name))


def asked(url: str) -> dict[str, Any] | None:
    """What a web server says of a file; None where it has none."""
    system, path = system_of(url)
    try:
        with store_errors(url):
            found: dict[str, Any] = system.info(path)
            return found
    except FileNotFoundError as error:  # fsspec says so of everything
        if error.__cause__ is None or getattr(error.__cause__, "status", None) in (404, 410):
            return None
        with store_errors(url):
            raise error.__cause__ from None


def changed_of(info: dict[str, Any]) -> str:
    return str(next((info[key] for key in _CHANGED_WITH if info.get(key)), ""))


def first_bytes(place: str, count: int) -> bytes:
    """The beginning of a file. OSError where it can't be read."""
    if not is_url(place):
        mode = os.stat(place).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise OSError(errno.EINVAL, "is not a regular file", place)
        with Path(place).open("rb") as file:
            return file.read(count)
    if is_web(place):
        return _web_start(place, count)[1]
    with store_errors(place):
        system, path = system_of(place)
        return bytes(system.cat_file(path, start=0, end=count))


def takes_ranges(url: str) -> bool:
    """Whether a web server sends a part of a file where a part is asked for."""
    return _web_start(url, 1)[0] == 206


def _web_start(url: str, count: int) -> tuple[int, bytes]:
    """How a web server answers when the beginning of a file is asked for, and the beginning."""
    from fsspec.asyn import sync

    system, path = system_of(url)

    async def ask() -> tuple[int, bytes]:
        session = await system.set_session()
        headers = {"Range": f"bytes=0-{count - 1}"}
        async with session.get(system.encode_url(path), headers=headers) as answer:
            if answer.status != 416:  # it is empty
                answer.raise_for_status()
            start = b"" if answer.status == 416 else await _read(answer.content, count)
            return answer.status, start

    with store_errors(url):
        found: tuple[int, bytes] = sync(system.loop, ask)
    return found


async def _read(content: Any, count: int) -> bytes:
    """Of a stream, so many bytes or all; a server that sends more is not listened to."""
    parts: list[bytes] = []
    while count and (part := await content.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def local_copy(place: str) -> Path:
    """A file as libraries want it that know no URLs: itself, or a copy in TMPDIR that lasts as long
    as this process wants it."""
    return Path(held_copy(place).name) if is_url(place) else Path(place)


class Held:
    """A temporary file that is removed when nobody holds this any more.

    It is not kept open: an open file in a reference cycle may be finalized with a ResourceWarning.
    """

    def __init__(self, suffix: str) -> None:
        handle, self.name = tempfile.mkstemp(prefix="msbd-", suffix=suffix)
        os.close(handle)
        weakref.finalize(self, Path(self.name).unlink, missing_ok=True)


def held_copy(url: str) -> Held:
    """A temporary file with what is at a URL; it lasts at least as long as it is held."""
    return _fetched(url, stamp_of(url))


@lru_cache(maxsize=16)
def _fetched(place: str, _: str) -> Held:
    return _download(place)


def _download(place: str) -> Held:
    suffix = re.search(r"\.\w{1,8}$", place.partition("?")[0])
    copy = Held(suffix[0] if suffix else "")
    with store_errors(place):
        system, path = system_of(place)
        system.get_file(path, copy.name)
    return copy


def matching_urls(pattern: str) -> list[str]:
    """URLs of files, and of folders named ``.zarr``, that a URL with ``*`` matches; sorted."""
    if is_web(pattern):
        raise InputError(f"{pattern}: a web server can't be asked what there is; list the files")
    with store_errors(pattern):
        system, path = system_of(pattern)
        found: dict[str, dict[str, Any]] = system.glob(path, detail=True)
        return sorted(
            system.unstrip_protocol(name)
            for name, info in found.items()
            if info["type"] == "file" or name.rstrip("/").endswith(".zarr")
        )
