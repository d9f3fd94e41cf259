"""Names of content: of files and of folders, at paths and behind URLs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msbd_dist.canvas.places import asked, changed_of, file_digest, files_at, is_url
from msbd_dist.canvas.urls import archive_of, is_web

_ASKED = 4096  # files of a zarr at a web server that are asked for
_AT_ONCE = 32


def content_digest(place: str) -> str:
    """Names what is at a path or URL; FileNotFoundError where nothing is.

    SHA-256 of a file, and of a folder that of all names and files. Of what is behind a URL, that
    of all names, sizes and times of change (or the store's own tags of content): to read it all
    would take too long. A web server can't list a zarr's files: there it is that of the metadata
    and of up to 4096 of its chunks.
    """
    place = archive_of(place) or place
    if not is_url(place) and not os.path.isdir(place):
        return file_digest(Path(place))
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


def _listing(place: str) -> list[tuple[str, int, str]]:
    """The files below a place: name, size, and what changes with the content."""
    if not is_url(place):
        return [
            (str(path.relative_to(place)), path.stat().st_size, file_digest(path))
            for path in Path(place).rglob("*")
            if path.is_file()
        ]
    if is_web(place):
        from msbd_dist.canvas.ome import is_zarr

        if is_zarr(place):
            return list(_web_listing(place))
    return files_at(place)


def _web_listing(place: str) -> Iterator[tuple[str, int, str]]:
    """The same of a zarr's files, by asking for each."""
    from msbd_dist.canvas.ome import OmeReader

    root = place.rstrip("/")
    names = OmeReader.open(root).file_names(_ASKED)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for name, found in zip(names, pool.map(lambda n: asked(f"{root}/{n}"), names), strict=True):
            if found is not None:
                yield name, found["size"] or 0, changed_of(found)
