"""Verbs about manifests: what they find, what they print, what they exit with."""

from __future__ import annotations

import json
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image, PngImagePlugin

from msbd_dist import cli
from msbd_dist.batch.manifest import read_manifest
from msbd_dist.batch.starter import starter
from msbd_dist.batch.validate import validate
from msbd_dist.errors import InputError

JOBS = Path(__file__).parents[2] / "jobs"
Msbd = Callable[..., tuple[int, str, str]]


@pytest.fixture
def msbd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Msbd:
    """Run the command in this process: (code, stdout, stderr)."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["msbd", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), *capsys.readouterr()

    return run


def drawn(path: Path, width: int = 80, height: int = 60, *, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (width, height), 200 if mode == "L" else (40, 50, 60)).save(path)
    return path


def manifest(folder: Path, *edits: dict[str, Any], **top: Any) -> Path:
    path = folder / "jobs.yaml"
    rows = [{"id": f"e{n}", "prompt": "x", **edit} for n, edit in enumerate(edits)]
    path.write_text(json.dumps({"edits": rows, **top}, indent=1))
    return path


# ---------------------------------------------------------------- validate


def test_a_right_manifest_is_right(tmp_path: Path, msbd: Msbd) -> None:
    drawn(tmp_path / "i.png")
    drawn(tmp_path / "m.png", mode="L")
    path = manifest(tmp_path, {"image": "i.png", "mask": {"any": ["m.png", [1, 2, 3, 4]]}})
    code, out, err = msbd("validate", path)
    assert (code, out) == (0, "")
    assert "1 edit, nothing is wrong" in err
    code, out, _ = msbd("validate", path, "-o", "json")
    assert code == 0
    found = json.loads(out)
    assert (found["version"], found["kind"], found["edits"]) == (1, "validate", 1)
    assert found["problems"] == []


def test_what_is_not_kept_is_told_once_with_its_line(tmp_path: Path, msbd: Msbd) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "steps: 20")
    info.add(b"sRGB", b"\0")
    Image.new("RGB", (80, 60)).save(tmp_path / "i.png", pnginfo=info)
    edit = {"image": "i.png", "mask": [8, 8, 40, 30]}
    rows = [{**edit, "output": f"{name}.webp", "allow_loss": ["text"]} for name in "abc"]
    path = manifest(tmp_path, *rows, {**edit, "output": "d.png"}, {**edit, "output": "e.webp"})
    code, out, err = msbd("validate", path)
    assert code == 2
    words = "not kept: text (parameters), the PNG's sRGB chunk (and so of 2 more edits)"
    assert err.count("not kept: ") == 1
    assert words in err
    assert "WebP can't keep text (parameters) of" in out
    assert "--allow-loss text (in a manifest: allow_loss: [text])" in out
    found = json.loads(msbd("validate", path, "-o", "json")[1])
    assert [(one["edit"], one["key"]) for one in found["warnings"]] == [("e0", "edits[0].output")]
    plan = json.loads(msbd("plan", path, "-o", "json")[1])
    assert "not kept: text (parameters), the PNG's sRGB chunk" in plan["edits"][0]["warnings"]
    assert not any("not kept" in one for one in plan["edits"][3]["warnings"])


def test_every_problem_has_a_line(tmp_path: Path, msbd: Msbd) -> None:
    drawn(tmp_path / "i.png")
    drawn(tmp_path / "m.png", mode="L")
    drawn(tmp_path / "tall.png", 60, 90, mode="L")
    (tmp_path / "text.png").write_text("hello")
    path = manifest(
        tmp_path,
        {"image": "none.png", "mask": "m.png"},
        {"image": "i.png", "mask": "tall.png"},
        {"image": "i.png", "mask": {"any": ["m.png", "none.geojson"]}},
        {"image": "text.png", "mask": "m.png"},
        {"image": "i.png", "mask": "m.png", "sead": 4},
        {"image": "i.png", "mask": "m.png", "output": "o.gif"},
        {"image": "i.png", "mask": "m.png", "in_place": True},
        {"image": {"edit": "e1"}, "mask": [500, 0, 3, 3]},
        {"image": "i.png", "mask": "m.png"},
    )
    code, out, err = msbd("validate", path)
    assert code == 2
    told = out.splitlines()
    text = path.read_text().splitlines()
    for number, key, words in (
        (4, "sead", "did you mean `seed`"),
        (0, "image", "none.png: no such file"),
        (1, "mask", "tall.png: the mask is 60x90"),
        (2, "mask", "none.geojson: no such file"),
        (3, "image", "text.png: is not a PNG"),
        (5, "output", "o.gif"),
        (6, "in_place", "only an OME-Zarr"),
        (7, "mask", "outside the picture of 80x60"),
    ):
        line = told.pop(0)
        prefix, number_of_line, rest = line.split(":", 2)
        assert prefix == str(path)
        assert f'"{key}"' in text[int(number_of_line) - 1]
        assert rest.startswith(f" edits[{number}].{key}: ")
        assert words in rest
    assert told == []
    assert "8 edits, 8 problems" in err

    code, out, _ = msbd("validate", path, "-o", "json")
    assert code == 2
    found = json.loads(out)["problems"]
    assert [one["edit"] for one in found] == [None, "e0", "e1", "e2", "e3", "e5", "e6", "e7"]
    assert found[1]["key"] == "edits[0].image"
    assert found[1]["line"] == int(found[1]["message"].split(":")[1])


def test_how_much_masks_cover_is_said_and_asked_about(tmp_path: Path, msbd: Msbd) -> None:
    drawn(tmp_path / "i.png")
    drawn(tmp_path / "j.png")
    Image.new("L", (80, 60), 255).save(tmp_path / "m.png")
    path = manifest(
        tmp_path,
        {"image": "i.png", "mask": "m.png"},
        {"image": "i.png", "mask": [0, 0, 40, 15]},
        {"image": "j.png", "mask": "m.png"},
    )
    code, out, err = msbd("validate", path)
    assert (code, out) == (0, "")
    assert "e0: the mask (also of 1 more edit) covers 100.0 % of the picture" in err
    assert "e1: the mask covers 12.5 % of the picture" in err
    assert err.count("warning: ") == 1
    assert "3 edits, nothing is wrong, 1 warning\n" in err
    assert f"warning: {path}:" in err
    assert "if the rest is meant, write mask: {file: m.png, invert: on}" in err
    found = json.loads(msbd("validate", path, "-o", "json")[1])
    assert found["masks"] == [
        {"edit": "e0", "percent": 100.0, "edits": 2},
        {"edit": "e1", "percent": 12.5, "edits": 1},
    ]
    assert [one["edit"] for one in found["warnings"]] == ["e0"]

    code, out, err = msbd("plan", path)
    assert code == 0
    assert out.count("the mask covers 100.0 % of the picture") == 2
    assert "edits[2].mask: the mask (m.png) covers 100.0 %" in err
    edits = json.loads(msbd("plan", path, "-o", "json")[1])["edits"]
    assert [one["mask_percent"] for one in edits] == [100.0, 12.5, 100.0]
    assert [len(one["warnings"]) for one in edits] == [1, 0, 1]


def test_a_manifest_that_can_not_be_read_is_one_problem(tmp_path: Path, msbd: Msbd) -> None:
    code, out, _ = msbd("validate", tmp_path / "none.yaml")
    assert code == 2
    assert out.startswith(f"{tmp_path}/none.yaml: No such file")
    (tmp_path / "jobs.jsonl").write_text('{"id": 7, "prompt": "x"}\n{\n')
    code, out, _ = msbd("validate", tmp_path / "jobs.jsonl", "-o", "json")
    assert code == 2
    assert [one["message"].split(":")[1] for one in json.loads(out)["problems"]] == ["1", "2"]
    code, _, err = msbd("validate", tmp_path / "jobs.jsonl", "-o", "xml")
    assert code == 2
    assert "wanted text or json" in err


def test_a_circle_of_results_is_said_and_not_followed(tmp_path: Path) -> None:
    drawn(tmp_path / "i.png")
    path = manifest(
        tmp_path,
        {"image": {"edit": "e1"}, "mask": [1, 2, 3, 4]},
        {"image": {"edit": "e0"}, "mask": [1, 2, 3, 4]},
        {"image": {"edit": "e1"}, "mask": [1, 2, 3, 4]},
        {"image": {"edit": "nobody"}, "mask": [1, 2, 3, 4]},
    )
    found = [problem.message for problem in validate(path).problems]
    assert len(found) == 2
    assert "e0 <- e1 <- e0" in found[0]
    assert "no edit has the id 'nobody'" in found[1]


def test_looking_at_a_manifest_loads_no_torch_and_no_ray(tmp_path: Path) -> None:
    drawn(tmp_path / "i.png")
    path = manifest(tmp_path, {"image": "i.png", "mask": [10, 10, 20, 20]})
    code = (
        "import sys; from msbd_dist import cli; sys.argv = ['msbd', *sys.argv[1:]]\n"
        "try: cli.main()\n"
        "finally: print([m for m in ('torch', 'ray', 'diffusers', 'scipy') if m in sys.modules])"
    )
    for arguments in (["validate", path], ["schema"], ["init", tmp_path, "--name", "new.yaml"]):
        call = [sys.executable, "-c", code, *map(str, arguments)]
        run = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        assert run.stdout.strip().endswith("[]")


# ---------------------------------------------------------------- files of a stranger


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def absurd(path: Path, edge: int = 100_000) -> Path:
    """A PNG whose header declares ten gigapixels, with a few bytes of them."""
    header = struct.pack(">IIBBBBB", edge, edge, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(100_000))
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


@pytest.mark.parametrize("part", ["image", "mask"])
def test_a_picture_that_declares_ten_gigapixels_is_refused_in_little_memory(
    part: str, tmp_path: Path
) -> None:
    drawn(tmp_path / "i.png")
    absurd(tmp_path / "absurd.png")
    path = manifest(tmp_path, {"image": "i.png", "mask": "i.png", part: "absurd.png"})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (problem,) = validate(path).problems
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    assert problem.key == f"edits[0].{part}"
    assert "declares 100000x100000 pixels" in problem.message
    assert "\n" not in problem.message


def test_what_would_be_written_elsewhere_is_a_problem_unless_allowed(
    tmp_path: Path, msbd: Msbd
) -> None:
    folder = tmp_path / "jobs"
    drawn(folder / "i.png")
    path = manifest(
        folder,
        {"image": "i.png", "mask": [1, 2, 9, 9], "output": "../o.png"},
        {"image": "i.png", "mask": [1, 2, 9, 9], "output": "/tmp/o.png"},
    )
    code, out, _ = msbd("validate", path)
    assert code == 2
    assert out.count("is outside of the manifest's folder") == 2
    assert msbd("validate", path, "--allow-anywhere")[0] == 0
    for verb in (["plan", path], ["run", path, "--out", tmp_path / "run"]):
        code, _, err = msbd(*verb)
        assert code == 2
        assert "is outside of the manifest's folder" in err
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- jobs


@pytest.fixture
def jobs(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the jobs with pictures of the names and sizes that they speak of."""
    folder = tmp_path / "jobs"
    folder.mkdir()
    for path in JOBS.glob("*.yaml"):
        shutil.copy(path, folder)
    inputs = folder / "demo-inputs"
    for name in ("meadow", "wall", "beach", "valley"):
        drawn(inputs / f"{name}.png", 1600, 1200)
        drawn(inputs / f"{name}_mask.png", 1600, 1200, mode="L")
    drawn(folder / "park.jpg", 300, 200)
    drawn(folder / "park_mask.png", 300, 200, mode="L")
    tiles = {"tile": (1024, 1024), "dtype": np.uint8, "photometric": "minisblack"}
    tifffile.imwrite(folder / "scan.tif", shape=(12_000, 21_500), **tiles)
    whole = {"shape": (3, 5100, 6200), "chunks": (1, 512, 512), "dtype": np.uint8}
    zarr.create_array(folder / "slide.ome.zarr", **whole)
    request.getfixturevalue("s3_server")
    store = fsspec.filesystem("s3")
    store.makedirs("maps", exist_ok=True)
    tifffile.imwrite(folder / "field.tif", np.zeros((64, 96), np.uint8), tile=(64, 64))
    drawn(folder / "field-mask.png", 96, 64, mode="L")
    for name in ("field.tif", "field-mask.png"):
        store.put(str(folder / name), f"maps/{name}")
    return folder


def test_every_job_that_ships_is_right(jobs: Path) -> None:
    names = {path.name for path in JOBS.glob("*.yaml")}
    assert {"demo.yaml", "paper.yaml", "ablations.yaml", "folder.yaml", "sweep.yaml"} < names
    for name in sorted(names):
        checked = validate(jobs / name)
        assert checked.problems == [], name
        assert checked.edits > 0
    assert [e.id for e in read_manifest(jobs / "folder.yaml").edits] == [
        f"demo-{name}" for name in ("beach", "meadow", "valley", "wall")
    ]


def test_plan_shows_what_a_matrix_stands_for(jobs: Path, msbd: Msbd) -> None:
    code, out, err = msbd("plan", jobs / "sweep.yaml")
    assert code == 0, err
    assert out.count("\nstar-") == 12
    assert "star-3-5-a-purple-heart-on-grass  PNG 1600x1200" in out


def test_plan_takes_the_picture_of_a_chain_from_its_beginning(tmp_path: Path, msbd: Msbd) -> None:
    drawn(tmp_path / "i.png", 300, 200)
    path = manifest(
        tmp_path,
        {"image": "i.png", "mask": [10, 10, 50, 50]},
        {"image": {"edit": "e0"}, "mask": [20, 20, 50, 50]},
    )
    code, out, err = msbd("plan", path)
    assert code == 0, err
    assert out.count("PNG 300x200") == 2


# ---------------------------------------------------------------- init


def test_init_writes_a_manifest_that_is_right(tmp_path: Path, msbd: Msbd) -> None:
    drawn(tmp_path / "meadow.png")
    drawn(tmp_path / "meadow_mask.png", mode="L")
    drawn(tmp_path / "IMG 001 «я».jpg", 90, 70)
    drawn(tmp_path / "masks/wall.png", mode="L")
    drawn(tmp_path / "wall.png")
    ring = [[1, 1], [30, 1], [30, 30], [1, 1]]
    (tmp_path / "slide.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    drawn(tmp_path / "slide.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "broken.png").write_text("not a picture")

    code, out, err = msbd("init", tmp_path)
    assert code == 0, err
    assert out.strip() == str(tmp_path / "jobs.yaml")
    assert validate(tmp_path / "jobs.yaml").problems == []
    edits = {Path(str(e.image)).name: e for e in read_manifest(tmp_path / "jobs.yaml").edits}
    assert set(edits) == {"meadow.png", "IMG 001 «я».jpg", "wall.png", "slide.png"}
    assert edits["meadow.png"].mask == str(tmp_path / "meadow_mask.png")
    assert edits["wall.png"].mask == str(tmp_path / "masks/wall.png")
    assert edits["slide.png"].mask == str(tmp_path / "slide.geojson")
    assert edits["IMG 001 «я».jpg"].id == "IMG-001"
    text = (tmp_path / "jobs.yaml").read_text()
    assert text.count("#") > 10
    assert "msbd run jobs.yaml --out runs/jobs" in text

    code, _, err = msbd("init", tmp_path)
    assert code == 2
    assert "is there already" in err
    assert (tmp_path / "jobs.yaml").read_text() == text


def test_init_needs_a_folder_of_pictures(tmp_path: Path, msbd: Msbd) -> None:
    code, _, err = msbd("init", tmp_path)
    assert code == 2
    assert "holds no picture" in err
    assert msbd("init", tmp_path / "none")[0] == 2
    drawn(tmp_path / "i.png")
    assert "without folders" in msbd("init", tmp_path, "--name", "../jobs.yaml")[2]
    with pytest.raises(InputError, match="is not a folder"):
        starter(tmp_path / "i.png", "jobs.yaml")


@pytest.mark.parametrize("verb", ["validate", "init", "schema"])
def test_help_has_an_example(verb: str, msbd: Msbd) -> None:
    code, out, _ = msbd(verb, "--help")
    assert code == 0
    assert f"Example: msbd {verb}" in out


def test_schema_prints_what_is_published(msbd: Msbd) -> None:
    code, out, _ = msbd("schema")
    assert code == 0
    assert out == (JOBS.parent / "docs/manifest.schema.json").read_text()
    assert msbd("schema", "--markdown")[1].startswith("### Keys of an edit")


# ---------------------------------------------------------------- prompts without effect


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({}, []),
        ({"negative_prompt": " "}, []),
        ({"negative_prompt": "blur"}, ["negative_prompt: has no effect in segmented stages"]),
        ({"negative_prompt": "blur", "segment_guidance": 3}, []),
        ({"negative_prompt": "blur", "upscale_diffusion": "unconditional"}, []),
        ({"guidance": 0}, ["prompt: has no effect on what is painted first, guidance is 0: where"]),
        ({"guidance": 0, "prompt": ""}, []),
        ({"segment_guidance": 0}, ["prompt: has no effect in segmented stages"]),
        (
            {"guidance": 1, "segment_guidance": 1, "negative_prompt": "blur"},
            ["negative_prompt: has no effect on what is painted first, guidance is 1: take one"],
        ),
    ],
)
def test_a_prompt_without_effect_is_told(
    tmp_path: Path, msbd: Msbd, edit: dict[str, Any], said: list[str]
) -> None:
    drawn(tmp_path / "i.png", 800, 600)
    drawn(tmp_path / "small.png")
    path = manifest(tmp_path, {"image": "i.png", "mask": [40, 40, 600, 500], **edit})
    found = validate(path).warnings
    assert len(found) == len(said)
    for warning, words in zip(found, said, strict=True):
        assert words in warning.message
        assert warning.key == f"edits[0].{words.split(':')[0]}"
        assert warning.line is not None
    code, _, err = msbd("plan", path)
    assert (code, err.count("has no effect")) == (0, len(said))
    path = manifest(tmp_path, {"image": "small.png", "mask": [9, 9, 9, 9], **edit})
    assert all("painted first" in w.message for w in validate(path).warnings)  # nothing segmented


@pytest.mark.parametrize("key", ["steps", "upscale_steps"])
def test_a_schedule_that_begins_where_nothing_can_change_is_told(tmp_path: Path, key: str) -> None:
    drawn(tmp_path / "i.png")
    rows = [{"image": "i.png", "mask": [9, 9, 9, 9], key: steps} for steps in (1, 2)]
    (warning,) = validate(manifest(tmp_path, *rows)).warnings
    assert warning.key == f"edits[0].{key}"
    assert "of 1 begins at t = 1 of 1000" in warning.message


def test_a_note_on_many_edits_is_one_line(tmp_path: Path) -> None:
    drawn(tmp_path / "i.png")
    rows = [{"image": "i.png", "mask": [9, 9, 9, 9]}] * 3
    (warning,) = validate(manifest(tmp_path, *rows, defaults={"guidance": 0})).warnings
    assert "which is guidance: 1 here (and so of 2 more edits)" in warning.message
