"""Zipped zarrs, as folders that can only be read: ``.ozx``, ``.zip``, ``zip://INNER::OUTER``.

    inside(place)      the URL of the zarr in an archive

The archive may be a local file or a URL, which is fetched.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from msbd_dist.canvas.places import local_copy, stamp_of
from msbd_dist.canvas.urls import UrlFiles, archive_of
from msbd_dist.errors import ImageError

if TYPE_CHECKING:
    from zarr.abc.store import Store

SUFFIXES = (".ozx", ".zip")
_ROOTS = ("zarr.json", ".zgroup", ".zarray")


def inside(place: str) -> str:
    """The URL of the zarr in an archive: at its top, or in the one folder that it holds.

    ImageError where the archive is damaged, or holds none or several.
    """
    outer = archive_of(place) or place
    inner = place.removeprefix("zip://").partition("::")[0].strip("/") if outer != place else ""
    system = _system(outer)
    start = f"{inner}/" if inner else ""
    found = (str(name).rpartition("/") for name in system.find(inner))
    folders = {
        folder for folder, _, name in found if name in _ROOTS and f"{folder}/".startswith(start)
    }
    tops = sorted(folder for folder in folders if not folders.intersection(_above(folder)))
    if not tops:
        raise ImageError(f"{place}: is an archive without a zarr; unpack it and give the picture")
    if len(tops) > 1:
        raise ImageError(
            f"{place}: holds several zarrs; give one of them, such as zip://{tops[0]}::{outer}"
        )
    return f"zip://{tops[0]}::{outer}"


def _above(folder: str) -> list[str]:
    """The folders that a folder is in, up to the archive's top."""
    parts = folder.split("/") if folder else []
    return ["/".join(parts[:count]) for count in range(len(parts))]


def _system(outer: str) -> Any:
    """fsspec's file system of what is in an archive."""
    try:
        return _opened(str(local_copy(outer)), stamp_of(outer))
    except FileNotFoundError:
        raise ImageError(f"{outer}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{outer}: is a folder, not an archive; give its path alone") from None


@lru_cache(maxsize=64)
def _opened(path: str, _: str) -> Any:
    from zipfile import BadZipFile

    from fsspec.implementations.zip import ZipFileSystem

    try:
        return ZipFileSystem(path, skip_instance_cache=True)
    except BadZipFile as error:
        raise ImageError(f"{path}: is a damaged zip archive ({error}); get it again") from None


class ZipFiles(UrlFiles):
    """A folder in an archive."""

    def __init__(self, url: str) -> None:
        self._outer = archive_of(url) or ""
        inner = url.removeprefix("zip://").partition("::")[0].strip("/")
        super().__init__(_system(self._outer), inner)

    @property
    def url(self) -> str:
        return f"zip://{self._path}::{self._outer}"

    def zarr(self, name: str) -> Store:
        from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
        from zarr.storage import FsspecStore

        system = AsyncFileSystemWrapper(self._system, asynchronous=True)
        return FsspecStore(system, path=self._at(name), read_only=True)

    def __truediv__(self, folder: str) -> ZipFiles:
        return ZipFiles(f"zip://{self._at(folder)}::{self._outer}")

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}".strip("/")
