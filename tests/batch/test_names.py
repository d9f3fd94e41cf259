"""Files of any name that a file system takes."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from quick import FASTEST

from msbd_dist import cli
from msbd_dist.batch.expand import as_stored, distinct, names_of
from msbd_dist.batch.manifest import read_manifest
from msbd_dist.batch.run import run_manifest
from msbd_dist.batch.single import edit_manifest, workspace_of
from msbd_dist.batch.starter import starter
from msbd_dist.core.spec import ModelSpec
from msbd_dist.errors import ManifestError

NO_TEXT = os.fsdecode(b"caf\xe9")
NAMES = [f"-a b#100%25 {NO_TEXT}", "what?\nor [1]::'q\"" + "星" * 70]


def manifest(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "jobs.jsonl"
    base = {"mask": [8, 8, 20, 20], "prompt": "x", "seed": 1}
    path.write_text("".join(json.dumps({**base, **row}) + "\n" for row in rows))
    return path


def pictured(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)).save(path)


def test_a_picture_may_have_any_name(tmp_path: Path) -> None:
    pictured(*(tmp_path / f"{name}.png" for name in NAMES))
    rows = [
        {
            "id": f"e{n}",
            "image": f"{name}.png",
            "output": f"out/{{stem}}.{kind}",
            **FASTEST,
            "rerank": False,
        }
        for n, (name, kind) in enumerate(zip(NAMES, ["png", "tif"], strict=True))
    ]
    result = run_manifest(
        read_manifest(manifest(tmp_path, *rows)), tmp_path / "run", executor="serial"
    )
    assert [str(edit.error) for edit in result.edits] == ["None"] * len(NAMES)
    assert sorted(os.listdir(tmp_path / "out")) == sorted(
        f"{name}.{row['output'].partition('.')[2]}" for name, row in zip(NAMES, rows, strict=True)
    )
    again = run_manifest(
        read_manifest(tmp_path / "jobs.jsonl"), tmp_path / "run", executor="serial"
    )
    assert {edit.state for edit in again.edits} == {"kept"}


def test_an_output_s_name_may_be_as_long_as_they_are(tmp_path: Path) -> None:
    pictured(tmp_path / "a.png")
    for name in ("x" * 251 + ".png", "星" * 83 + ".tif", "s.png"):
        made = edit_manifest(
            tmp_path / "a.png", [1, 1, 9, 9], "x", output=tmp_path / name, models=ModelSpec()
        )
        workspace = workspace_of(made)
        workspace.mkdir()
        assert workspace.name.endswith(".msbd")
    assert workspace.name == "s.png.msbd"


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
def test_accents_may_be_stored_either_way(stored: str, tmp_path: Path) -> None:
    name = unicodedata.normalize(stored, "Größe/Émile.png")
    other = unicodedata.normalize("NFD" if stored == "NFC" else "NFC", name)
    pictured(tmp_path / name)
    (edit,) = read_manifest(manifest(tmp_path, {"id": "a", "image": other, "mask": other})).edits
    assert edit.image == edit.mask == str(tmp_path / name)
    assert as_stored(str(tmp_path / "Größe/none.png")) == str(tmp_path / "Größe/none.png")
    path = tmp_path / "jobs.yaml"
    head, tail = os.path.split(other)
    item = {"id": "a", "image": f"{head}/*.png", "mask": [1, 1, 9, 9], "prompt": "x"}
    path.write_text(json.dumps({"edits": [{**item, "overrides": {tail: {"seed": 7}}}]}))
    (edit,) = read_manifest(path).edits
    assert (edit.image, edit.seed) == (str(tmp_path / name), 7)


def test_files_of_one_name_in_several_folders_are_told_apart(tmp_path: Path) -> None:
    pictured(*(tmp_path / f"in/{name}.png" for name in ("a/x", "b/x", "b/c/x", "b/y", "x")))
    item = {"id": "e", "image": "in/**/*.png", "mask": [1, 1, 9, 9], "prompt": "x"}
    (tmp_path / "jobs.yaml").write_text(json.dumps({"edits": [item]}))
    ids = {e.id: Path(str(e.image)) for e in read_manifest(tmp_path / "jobs.yaml").edits}
    assert {name: str(p.relative_to(tmp_path / "in")) for name, p in ids.items()} == {
        "e-a-x": "a/x.png", "e-b-x": "b/x.png", "e-b-c-x": "b/c/x.png",
        "e-y": "b/y.png", "e-x": "x.png",
    }  # fmt: skip
    item["output"] = "out/{stem}.png"
    (tmp_path / "jobs.yaml").write_text(json.dumps({"edits": [item]}))
    with pytest.raises(ManifestError, match=r"used twice; write \{id\} into it"):
        read_manifest(tmp_path / "jobs.yaml")
    assert names_of(["s3://b/a/x.png", "s3://b/c/x.png"]) == ["a-x", "c-x"]


def test_names_of_no_letters_are_all_different() -> None:
    texts = [chr(0x4E00 + n // 100) + chr(0x5000 + n % 100) for n in range(9000)]
    assert len(set(distinct(texts))) == len(texts)  # 24 bits would not do


def test_a_starter_leaves_out_what_yaml_can_t_hold(tmp_path: Path) -> None:
    pictured(tmp_path / "a.png", tmp_path / "two\nlines.png", tmp_path / f"{NO_TEXT}.png")
    (tmp_path / "jobs.yaml").write_text(starter(tmp_path, "jobs.yaml"))
    assert r"its name is not UTF-8: 'caf\udce9.png'" in (tmp_path / "jobs.yaml").read_text()
    edits = read_manifest(tmp_path / "jobs.yaml").edits
    assert [Path(str(edit.image)).name for edit in edits] == ["a.png", "two\nlines.png"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"output": "b.ome.zarr"}, {"output": "b.ome.zarr/c.png"}),
        ({"output": "b.dzi"}, {"output": "b_files/c.png"}),
        ({"image": "in.zarr"}, {"output": "in.zarr/c.png"}),
    ],
)
def test_no_output_lies_inside_of_another_file(
    first: dict[str, str], second: dict[str, str], tmp_path: Path
) -> None:
    rows = [{"id": "a", "image": "a.png", **first}, {"id": "b", "image": "a.png", **second}]
    with pytest.raises(ManifestError, match=r":2: output: .* lies inside of an"):
        read_manifest(manifest(tmp_path, *rows))


def test_outputs_that_differ_in_how_accents_are_stored_are_one(tmp_path: Path) -> None:
    rows = [
        {"id": f, "image": "a.png", "output": unicodedata.normalize(f, "é.png")}
        for f in ("NFC", "NFD")
    ]
    with pytest.raises(ManifestError, match="used twice"):
        read_manifest(manifest(tmp_path, *rows))


def test_a_file_that_looks_like_an_option_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictured(tmp_path / "-a.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["msbd", "edit", "-a.png", "m.png", "x", "-o", "b.png"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert (
        "No such option: -a; the file is ./-a.png; see `msbd edit --help`"
        in capsys.readouterr().err
    )
