"""What validate and plan know before any work: all that a run would find out."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tifffile
import zarr
from PIL import Image

from msbd_dist import cli
from msbd_dist.batch import look

BOX = [10, 10, 30, 20]
Told = Callable[..., list[str]]


@pytest.fixture
def told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Told:
    """The lines that both `validate` and `plan` say of edits in a list."""

    def say(*edits: dict[str, Any], options: tuple[str, ...] = ()) -> list[str]:
        path = tmp_path / "jobs.jsonl"
        rows = [{"id": f"e{n}", "mask": BOX, "prompt": "x", **e} for n, e in enumerate(edits)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        said: list[list[str]] = []
        for verb in ("validate", "plan"):
            monkeypatch.setattr(sys, "argv", ["msbd", verb, str(path), *options])
            with pytest.raises(SystemExit):
                cli.main()
            out, err = capsys.readouterr()
            lines = (
                line.removeprefix(f"{path}:")
                for line in (out + err).splitlines()
                if line.startswith(f"{path}:")
            )
            said.append([line for line in lines if not re.match(r" \d+ edits?, ", line)])
        assert said[0] == said[1]
        return [line.strip() for line in said[0]]

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)).save(
        tmp_path / "a.png"
    )
    return say


def test_outputs_that_can_t_be_written_are_told(told: Told, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "there_files").mkdir()
    outputs = {
        "folder.png": "is a folder; give the output a file's name",
        "file/b.png": f"{tmp_path}/file: can't be written to",
        "星" * 90 + ".png": "the name has 274 bytes and may have 255",
        "x/" * 2040 + "b.png": "the path is too long",
        "there.dzi": "there_files: is in the way of the tiles of there.dzi",
        "b.gif": ".gif is not written",
        "http://x/b.png": "http:// can only be read from",
        "gs://x/b.png": "for gs:// install gcsfs",
        "new/folders/b.png": "",
        "星" * 83 + ".png": "",
    }
    edits = [{"image": "a.png", "output": o, "allow_loss": True} for o in outputs]
    lines = told(*edits)
    wanted = [(n, words) for n, words in enumerate(outputs.values(), 1) if words]
    assert len(lines) == len(wanted)
    for line, (number, words) in zip(lines, wanted, strict=True):
        assert line.startswith(f"{number}: output: ")
        assert words in line


def test_a_folder_that_can_t_be_written_to_is_told(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.access
    monkeypatch.setattr(os, "access", lambda p, mode: not str(p).endswith("shut") and real(p, mode))
    (tmp_path / "shut").mkdir()
    (line,) = told({"image": "a.png", "output": "shut/b.png"})
    assert "shut: can't be written to; choose another output" in line
    (line,) = told({"image": "a.png"}, options=("--out", f"{tmp_path}/shut/run"))
    assert "shut: can't be written to; choose another --out" in line


def test_a_damaged_picture_is_told(told: Told, tmp_path: Path) -> None:
    picture = Image.open(tmp_path / "a.png").resize((800, 600))
    picture.save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    large = np.random.default_rng(0).integers(0, 255, (512, 512, 3), np.uint8)
    tifffile.imwrite(tmp_path / "t.tif", large, tile=(128, 128), compression="deflate")
    with tifffile.TiffFile(tmp_path / "t.tif") as file:
        tiles = file.pages[0].dataoffsets
    with (tmp_path / "t.tif").open("r+b") as file:
        file.seek(tiles[15] + 9)
        file.write(b"\0" * 400)
    lines = told(
        {"image": "cut.jpg"},
        {"image": "t.tif", "mask": [400, 400, 20, 20]},
        {"image": "t.tif", "output": "b.tif"},  # a copy keeps the tile as it is
        {"image": "t.tif", "output": "b.png"},
    )
    assert [line[:10] for line in lines] == ["1: image: ", "2: image: ", "4: image: "]
    assert all("decoded" in line for line in lines)


def test_a_disk_without_room_is_told(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "largest_bytes", lambda *_: 1 << 60)
    (line,) = told({"image": "a.png"})
    assert "GB free and the run may need 1152921504." in line


def test_memory_that_is_not_there_is_told(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "memory_bytes", lambda *_: psutil.virtual_memory().total * 2)
    (line,) = told({"image": "a.png"})
    assert "1: output: " in line
    assert "GB of memory" in line


def test_what_ends_an_edit_in_place_is_told(told: Told, tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "z.zarr", shape=(60, 80), dtype="u1", chunks=(64, 64))
    array[...] = 7
    lines = told(
        {"image": "a.png", "in_place": True}, {"image": str(tmp_path / "z.zarr"), "in_place": True}
    )
    assert len(lines) == 1
    assert lines[0].startswith("1: in_place: ")


def test_a_run_directory_of_something_else_is_told(told: Told, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    (line,) = told({"image": "a.png"}, options=("--out", f"{tmp_path}/full"))
    assert "holds files that are not of a run" in line
    (line,) = told({"image": "a.png"}, options=("--out", f"{tmp_path}/a.png"))
    assert "is a file; give --out a folder's name" in line
    (line,) = told({"image": "a.png"}, options=("--out", "https://x/run"))
    assert "https:// can only be read from" in line


# ---------------------------------------------------------------- chains


def test_what_begins_with_a_failing_edit_fails_with_it(told: Told) -> None:
    lines = told(
        {"image": {"edit": "e1"}},  # also where it comes first
        {"image": "none.png"},
        {"image": {"edit": "e0"}},
        {"image": "a.png"},
        {"image": {"edit": "e3"}, "output": "b.gif"},
    )
    assert sorted(lines) == [
        "1: image: edit e1, whose result it uses, fails",
        f"2: image: {lines[0].split(': ')[2]}: no such file",
        "3: image: edit e0, whose result it uses, fails",
        f"5: output: {lines[-1].split(': ', 2)[2]}",
    ]


def test_a_result_is_foreseen_as_it_will_be_written(told: Told, tmp_path: Path) -> None:
    samples = np.zeros((60, 80, 4), np.uint16)
    tifffile.imwrite(tmp_path / "deep.tif", samples, photometric="rgb", tile=(32, 32))
    lines = told(
        {"image": "deep.tif", "output": "b.png"},
        {"image": {"edit": "e0"}, "output": "c.webp"},  # it still has 16 bits
        {"image": "deep.tif", "output": "d.webp", "allow_loss": True},
        {"image": {"edit": "e2"}, "output": "e.webp"},  # it has 8
        {"image": {"edit": "e2"}, "output": "f.tif", "tiff": "copy"},  # it is no TIFF
        {"image": {"edit": "e0"}, "output": "g.tif"},
        {"image": {"edit": "e5"}, "output": "h.tif", "tiff": "copy"},
    )
    assert [line.split(": ")[0] for line in lines] == ["2", "5"]
    assert "16 bits" in lines[0]
    assert "can't be a copy" in lines[1]
