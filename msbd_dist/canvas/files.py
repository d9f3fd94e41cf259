"""A run's small files, on a local path or at an fsspec URL: whole or not there, first come or last.

    files = open_files("runs/demo")            # or s3://bucket/demo, gs://..., memory://...
    files.write("run.json", b"...")            # replaces, all of it or nothing
    files.create("ledger/a.json", b"...")      # False where somebody was first
    zarr.open_group(files.zarr("canvas.zarr"))

Local files are written under a hidden name, synced and renamed: a reader sees all of a file or
none, also after a crash. Objects behind a URL are whole by themselves; ``create`` needs a store
that honours put-if-absent (S3, Google, Azure do).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from msbd_dist.canvas.archives import ZipFiles
from msbd_dist.canvas.urls import UrlFiles, system_of
from msbd_dist.errors import InputError, RunError

if TYPE_CHECKING:
    from zarr.abc.store import Store


class Files(Protocol):
    """A folder. Names are relative to it, with slashes; a name that starts with a dot is hidden."""

    @property
    def url(self) -> str:
        """What `open_files` takes, in this process or on another host."""
        ...

    def read(self, name: str) -> bytes:
        """FileNotFoundError where there is none."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """All of it or nothing, in place of what was there."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """The same where there is none yet; False, and nothing done, where there is one."""
        ...

    def put(self, name: str, source: Path) -> None:
        """Write a local file or folder, however large; ``source`` may be gone afterwards."""
        ...

    def names(self, folder: str = "") -> list[str]:
        """The files right in a folder, sorted, without hidden ones; none where it is not there."""
        ...

    def folders(self, folder: str = "") -> list[str]:
        """The same of the folders in it."""
        ...

    def size(self, name: str = "") -> int:
        """Bytes of a file, or of all that is in a folder; 0 where there is nothing."""
        ...

    def remove(self, name: str) -> None:
        """A file, or a folder with all that is in it; nothing where there is none."""
        ...

    @property
    def is_empty(self) -> bool:
        """Whether nothing is in it, or it is not there."""
        ...

    def zarr(self, name: str) -> Store:
        """A folder as zarr's store."""
        ...

    def __truediv__(self, folder: str) -> Files: ...


def open_files(url: str | Path) -> Files:
    """The folder at a local path or an fsspec URL; it need not be there.

    RunError for a scheme that is not known or whose package is not installed.
    """
    text = str(url)
    if "://" not in text:
        return LocalFiles(Path(text).resolve())
    if text.startswith("zip://"):
        return ZipFiles(text)
    try:
        system, path = system_of(text)
    except InputError as error:
        raise RunError(str(error)) from None
    return UrlFiles(system, path.rstrip("/"))


class LocalFiles:
    """A folder on this machine, or on one that is mounted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def url(self) -> str:
        return str(self.path)

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except NotADirectoryError as error:
            raise FileNotFoundError(*error.args) from None

    def write(self, name: str, data: bytes) -> None:
        with self._written(name, data) as hidden:
            os.replace(hidden, self.path / name)

    def create(self, name: str, data: bytes) -> bool:
        with self._written(name, data) as hidden:
            try:
                os.link(hidden, self.path / name)
            except FileExistsError:
                return False
        return True

    def put(self, name: str, source: Path) -> None:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, target)

    def names(self, folder: str = "") -> list[str]:
        with suppress(FileNotFoundError, NotADirectoryError):
            entries = os.scandir(self.path / folder)
            return sorted(e.name for e in entries if e.is_file() and not e.name.startswith("."))
        return []

    def folders(self, folder: str = "") -> list[str]:
        with suppress(FileNotFoundError, NotADirectoryError):
            entries = os.scandir(self.path / folder)
            return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
        return []

    def size(self, name: str = "") -> int:
        target = self.path / name
        files = target.rglob("*") if target.is_dir() else [target]
        return sum(path.stat().st_size for path in files if path.is_file())

    def remove(self, name: str) -> None:
        target = self.path / name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)

    @property
    def is_empty(self) -> bool:
        return not self.path.exists() or not any(self.path.iterdir())

    def zarr(self, name: str) -> Store:
        from zarr.storage import LocalStore  # takes long to import, and who only looks needs none

        return LocalStore(self.path / name)

    def __truediv__(self, folder: str) -> LocalFiles:
        return LocalFiles(self.path / folder)

    @contextmanager
    def _written(self, name: str, data: bytes) -> Iterator[str]:
        """The data on disk under a hidden name, to be given its own within the block."""
        folder = (self.path / name).parent
        folder.mkdir(parents=True, exist_ok=True)
        handle, hidden = tempfile.mkstemp(dir=folder, prefix=f".{Path(name).name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(hidden, 0o644)
            yield hidden
        finally:
            Path(hidden).unlink(missing_ok=True)
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Make the names in a local folder last through a crash of the machine."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
