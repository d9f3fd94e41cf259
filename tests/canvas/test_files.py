"""Small files in every kind of store: whole or not there, and first come or last."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr

from msbd_dist.canvas.files import Files, open_files
from msbd_dist.errors import RunError


def test_what_is_written_is_read(files: Files) -> None:
    files.write("a/b.json", b"one")
    files.write("a/b.json", b"two")
    assert files.read("a/b.json") == (files / "a").read("b.json") == b"two"
    assert open_files(files.url).read("a/b.json") == b"two"


def test_what_is_not_there_is_not_found(files: Files) -> None:
    assert files.is_empty
    assert files.names("nowhere") == []
    with pytest.raises(FileNotFoundError):
        files.read("nothing")
    files.remove("nothing")


def test_only_the_first_creates(files: Files) -> None:
    assert files.create("ledger/a.json", b"first")
    assert not files.create("ledger/a.json", b"second")
    assert files.read("ledger/a.json") == b"first"


def test_of_many_at_once_one_creates(files: Files) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: files.create("marker", str(n).encode()), range(8)))
    assert won.count(True) == 1
    assert files.read("marker") == str(won.index(True)).encode()


def test_names_are_the_files_right_in_a_folder(files: Files) -> None:
    for name in ("b", "a", "deeper/c", ".hidden"):
        files.write(f"folder/{name}", b"")
    assert files.names("folder") == ["a", "b"]
    assert not files.is_empty


def test_a_folder_is_removed_with_all_in_it(files: Files) -> None:
    files.write("folder/deeper/c", b"")
    files.write("beside", b"")
    files.remove("folder")
    assert files.names("folder/deeper") == []
    assert files.names() == ["beside"]


def test_a_local_file_is_put(files: Files, tmp_path: Path) -> None:
    source = tmp_path / "large"
    source.write_bytes(b"pixels")
    files.put("edit/output.png", source)
    assert files.read("edit/output.png") == b"pixels"


def test_zarr_finds_its_arrays_again(files: Files) -> None:
    group = zarr.open_group(files.zarr("canvas.zarr"), mode="a")
    group.create_array("0/latents", shape=(4, 8), chunks=(1, 8), dtype="f4")[2] = 7
    again = zarr.open_group(open_files(files.url).zarr("canvas.zarr"), mode="a")
    assert np.asarray(again["0/latents"])[2].tolist() == [7] * 8


def test_a_local_write_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = open_files(tmp_path)
    files.write("a", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for write in (files.write, files.create):
        with pytest.raises(OSError, match="space"):
            write("a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert files.read("a") == b"old"


def test_an_unknown_scheme_is_one_line() -> None:
    with pytest.raises(RunError, match="nonsense://"):
        open_files("nonsense://bucket/run")
