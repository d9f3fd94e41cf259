"""What is behind URLs, by fsspec: which libraries they need, what their errors say, and folders.

system, path = system_of("s3://bucket/a")
with store_errors(url): ...                # errors of any store's library as OSErrors
"""

from __future__ import annotations

import difflib
import errno
import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msbd_dist.errors import ImageError, InputError

if TYPE_CHECKING:
    from zarr.abc.store import Store

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PACKAGES = {  # what pip calls what a scheme needs
    **dict.fromkeys(("s3", "s3a"), "msbd_dist[s3]"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), "adlfs"),
    **dict.fromkeys(("http", "https"), "aiohttp"),
    **dict.fromkeys(("ssh", "sftp"), "paramiko"),
    **dict.fromkeys(("oss",), "ossfs"),
    **dict.fromkeys(("smb",), "smbprotocol"),
    **dict.fromkeys(("webdav", "dav"), "webdav4"),
}
_COMMON = ("https", "s3", "gs", "az", "abfs", "file", "memory", "sftp", "hf")
READ_ONLY = ("http", "https", "zip")


def is_web(place: str) -> bool:
    """Whether a place is at a web server: files can be asked for there, but not listed."""
    return place.startswith(("http://", "https://"))


def plain_scheme(place: str) -> str:
    """A URL with its scheme in small letters, as libraries want it; a path stays."""
    found = SCHEME.match(place)
    return place if found is None else found[0].lower() + place[found.end() :]


def system_of(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it.

    InputError, which says what to do, for a scheme that is not known or whose package is not
    installed.
    """
    from fsspec.core import url_to_fs

    url = plain_scheme(url)
    try:
        system, path = url_to_fs(url, **url_options(url))
    except ImportError as error:
        raise InputError(f"{url}: {_what_to_install(url, error)}") from None
    except ValueError as error:
        raise InputError(f"{url}: {_what_was_meant(url, error)}") from None
    return system, str(path)


def url_options(url: str) -> dict[str, Any]:
    """How fsspec is to open a URL: nothing that was listed is remembered, and a web server may
    take as long as it likes, as long as it sends something."""
    options: dict[str, Any] = {"use_listings_cache": False}
    if is_web(url) and importlib.util.find_spec("aiohttp"):
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, sock_connect=30, sock_read=60)
        options["client_kwargs"] = {"timeout": timeout, "trust_env": True}
    return options


def why_read_only(url: str) -> str | None:
    """Why nothing can be written at a URL; None where it may be.

    InputError as `system_of` has it.
    """
    scheme = url.partition("://")[0].lower()
    if scheme in READ_ONLY:
        return f"{scheme}:// can only be read from"
    system_of(url)
    return None


def _what_to_install(url: str, error: ImportError) -> str:
    scheme = url.partition("://")[0]
    package = _PACKAGES.get(scheme)
    return f"for {scheme}:// install {package} (pip install {package})" if package else str(error)


def _what_was_meant(url: str, error: ValueError) -> str:
    from fsspec.registry import known_implementations, registry

    scheme = url.partition("://")[0]
    if scheme in known_implementations or scheme in registry:
        return str(error)
    near = difflib.get_close_matches(scheme, _COMMON, n=1, cutoff=0.5)
    if not near:
        return f"{scheme}:// is not known; give a path, or a URL such as https:// or s3://"
    return f"{scheme}:// is not known; did you mean {near[0]}://?"


_LIBRARIES = ("aiobotocore", "aiohttp", "azure", "botocore", "fsspec", "gcsfs", "google")
_MISSING = (404, 410)
_FORBIDDEN = (401, 403)


@contextmanager
def store_errors(url: str) -> Iterator[None]:
    """What only a store's library knows comes out as an OSError, in one line.

    FileNotFoundError and PermissionError where a web server says so, else ConnectionError.
    """
    try:
        yield
    except Exception as error:
        if type(error).__module__.split(".")[0] not in _LIBRARIES:
            raise
        status = getattr(error, "status", None)
        if status in _MISSING:
            raise FileNotFoundError(url) from None
        if status in _FORBIDDEN:
            what = "the server asks for a login" if status == 401 else "the server refuses access"
            raise PermissionError(errno.EACCES, f"{what} ({status})", url) from None
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConnectionError(f"{url}: {line}") from error


def archive_of(place: str) -> str | None:
    """The archive that a ``zip://`` URL looks into; None for any other place.

    ImageError where it names none.
    """
    if not place.startswith("zip://"):
        return None
    outer = place.partition("::")[2]
    if not outer:
        raise ImageError(f"{place}: names no archive; write zip://FOLDER::ARCHIVE, or its path")
    return outer


class UrlFiles:
    """A folder behind any fsspec file system."""

    def __init__(self, system: Any, path: str) -> None:
        self._system, self._path = system, path

    @property
    def url(self) -> str:
        return str(self._system.unstrip_protocol(self._path))

    def read(self, name: str) -> bytes:
        with store_errors(self.url):
            return bytes(self._system.cat_file(self._at(name)))

    def write(self, name: str, data: bytes) -> None:
        with store_errors(self.url):
            self._system.pipe_file(self._at(name), data)

    def create(self, name: str, data: bytes) -> bool:
        try:
            with store_errors(self.url):
                self._system.pipe_file(self._at(name), data, mode="create")
        except FileExistsError:
            return False
        return True

    def put(self, name: str, source: Path) -> None:
        with store_errors(self.url):
            if source.is_dir():
                self.remove(name)  # nothing of a former one may be left among its files
                self._system.put(f"{source}/", f"{self._at(name)}/", recursive=True)
            else:
                self._system.put_file(str(source), self._at(name))

    def names(self, folder: str = "") -> list[str]:
        return self._listed(folder, "file")

    def folders(self, folder: str = "") -> list[str]:
        return self._listed(folder, "directory")

    def _listed(self, folder: str, kind: str) -> list[str]:
        try:
            with store_errors(self.url):
                entries = self._system.ls(self._at(folder), detail=True)
        except FileNotFoundError:
            return []
        found = (e["name"].rstrip("/").rsplit("/", 1)[-1] for e in entries if e["type"] == kind)
        return sorted(name for name in found if name and not name.startswith("."))

    def size(self, name: str = "") -> int:
        with suppress(FileNotFoundError), store_errors(self.url):
            return int(self._system.du(self._at(name)))
        return 0

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError), store_errors(self.url):
            self._system.rm(self._at(name), recursive=True)

    @property
    def is_empty(self) -> bool:
        with store_errors(self.url):
            return not self._system.find(self._path, maxdepth=2)

    def zarr(self, name: str) -> Store:
        from zarr.storage import FsspecStore

        url = (self / name).url
        return FsspecStore.from_url(url, storage_options=url_options(url))

    def __truediv__(self, folder: str) -> UrlFiles:
        return UrlFiles(self._system, self._at(folder))

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}".rstrip("/")
