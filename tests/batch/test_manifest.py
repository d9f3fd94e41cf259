"""Manifests: what is read, and one clear line with file, line and key for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msbd_dist.batch.manifest import Manifest, manifest_text, parse_settings, read_manifest
from msbd_dist.core.spec import Drawn, EditSpec, Method, ModelSpec
from msbd_dist.errors import ManifestError

GOOD = "edits:\n  - {id: a, image: i.png, mask: m.png, prompt: a red star}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "jobs.yaml"
    path.write_text(text)
    return path


def test_defaults_reach_every_edit_and_an_edit_overrides_them(tmp_path: Path) -> None:
    manifest = read_manifest(
        write(
            tmp_path,
            "models: {family: tiny, device: cpu}\n"
            "defaults: {steps: 20, prompt: a red star, image: i.png, margin: 1.4}\n"
            "edits:\n"
            "  - {id: a, mask: m.png, rerank: off}\n"
            "  - {id: b, mask: sub/m.png, steps: 7, decoder_lr: 1e-3, seed: 4, lowpass: off}\n",
        )
    )
    a, b = manifest.edits
    assert (a.method.steps, b.method.steps) == (20, 7)
    assert a.method.margin == b.method.margin == 1.4
    assert a.method.rerank is False
    assert b.method.decoder_lr == 1e-3
    assert b.method.lowpass == "off"
    assert a.prompt == "a red star"
    assert b.seed == 4
    assert b.mask == str((tmp_path / "sub/m.png").resolve())
    assert manifest.models.device == "cpu"


def test_a_number_may_be_an_id_and_off_may_be_one(tmp_path: Path) -> None:
    text = GOOD + "  - {id: 12, image: i.png, mask: m.png, prompt: x}\n"
    text += "  - {id: off, image: i.png, mask: m.png, prompt: no}\n"
    assert [e.id for e in read_manifest(write(tmp_path, text)).edits] == ["a", "12", "off"]


def test_names_and_prompts_that_begin_like_a_number_or_a_truth_stay_text(tmp_path: Path) -> None:
    text = "edits: [{id: 1.5x, image: 1.png, mask: 2e3.tif, prompt: true love}]\n"
    (edit,) = read_manifest(write(tmp_path, text)).edits
    assert (edit.id, edit.prompt) == ("1.5x", "true love")
    assert [Path(p).name for p in (edit.image, edit.mask)] == ["1.png", "2e3.tif"]


@settings(max_examples=30)
@given(prompt=st.text(), name=st.sampled_from(["off", "1e5", "0.5", "null", "12", "a"]))
def test_a_written_manifest_is_read_as_it_was(
    prompt: str, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    polygon = (((0.0, 1.5), (9.0, 1e-5), (4.0, 1e20)), ((1.0, 2.0), (3.0, 4.0), (5.0, 0.0)))
    drawn = Drawn(boxes=((1.0, 2.0, 3.5, 4.0),), polygons=(polygon,))
    method = Method(decoder_lr=1e-5, rerank=False, lowpass="off", guidance=3.0)
    manifest = Manifest(
        path=tmp_path_factory.getbasetemp() / "written.yaml",
        models=ModelSpec(clip="ViT-L-14:openai"),
        edits=(
            EditSpec(id=name, image="s3://b/a", mask=drawn, prompt="", seed=5, ome_zarr="0.5"),
            EditSpec(id="b", image="/b", mask="/m", prompt=prompt, method=method, in_place=True),
        ),
    )
    manifest.path.write_text(manifest_text(manifest))
    assert read_manifest(manifest.path) == manifest


BAD = {
    "unknown key": (GOOD.replace("prompt", "promt"), ["edits[0].promt", "did you mean `prompt`"]),
    "unknown option": (GOOD.replace("}", ", stepz: 3}"), [":2:", "stepz", "did you mean `steps`"]),
    "unknown top key": (GOOD + "edit: 1\n", [":3:", "edit", "did you mean `edits`"]),
    "unknown default": ("defaults: {marginn: 2}\n" + GOOD, [":1:", "marginn", "`margin`"]),
    "id in defaults": ("defaults: {id: x}\n" + GOOD, ["defaults.id", "not a known key"]),
    "duplicate id": (
        GOOD + "  - {id: A, image: i.png, mask: m.png, prompt: x}\n",
        [":3:", "edits[1].id", "used twice"],
    ),
    "duplicate key": (GOOD.replace("}", ", mask: n.png}"), [":2:", "mask is given twice"]),
    "missing key": ("edits:\n  - {id: a, image: i.png, prompt: x}\n", [":2:", "has no `mask`"]),
    "missing id": ("edits:\n  - {image: i.png, mask: m, prompt: x}\n", ["has no `id`"]),
    "no edits": ("models: tiny\n", ["edits", "at least one"]),
    "empty edits": ("edits: []\n", ["edits", "at least one"]),
    "edit is text": ("edits: [hello]\n", ["edits[0]", "'hello'"]),
    "empty file": ("", ["is not a mapping"]),
    "a list": ("- 1\n", ["is not a mapping"]),
    "not yaml": ("edits: [\n", ["not valid YAML"]),
    "tab": ("edits:\n\t- a\n", [":2:", "not valid YAML"]),
    "path as id": (GOOD.replace("id: a", "id: ../a"), ["edits[0].id", "../a"]),
    "prompt is a number": (GOOD.replace("a red star", "7"), ["edits[0].prompt", "wanted text"]),
    "seed is text": (GOOD.replace("}", ", seed: x}"), ["seed", "'x'", "whole number"]),
    "steps is text": (GOOD.replace("}", ", steps: many}"), [":2:", "steps", "'many'"]),
    "steps is a fraction": (GOOD.replace("}", ", steps: 2.5}"), ["steps", "2.5"]),
    "steps is zero": (GOOD.replace("}", ", steps: 0}"), ["steps", "got 0", "at least 1"]),
    "too many steps": (GOOD.replace("}", ", steps: 1001}"), ["steps", "at most 1000"]),
    "margin below one": (GOOD.replace("}", ", margin: 0.5}"), ["margin", "0.5", "at least 1"]),
    "unknown upscaler": (
        GOOD.replace("}", ", upscaler: lanczos}"),
        ["upscaler", "lanczos", "bicubic"],
    ),
    "rerank is a number": (GOOD.replace("}", ", rerank: 2}"), ["rerank", "got 2"]),
    "not a number": (GOOD.replace("}", ", margin: .nan}"), ["margin"]),
    "start of zero": (GOOD.replace("}", ", segment_start: 0}"), ["segment_start", "above 0"]),
    "models is a number": ("models: 3\n" + GOOD, ["models", "got 3"]),
    "unknown model key": ("models: {familly: x}\n" + GOOD, [":1:", "familly", "`family`"]),
    "defaults is a list": ("defaults: [1]\n" + GOOD, ["defaults", "not a mapping"]),
    "a name that the run needs": (
        GOOD.replace("id: a", "id: report.json"),
        ["edits[0].id", "report.json"],
    ),
    "an output that another edit reads": (
        GOOD.replace("}", ", output: o.png}")
        + "  - {id: b, image: o.png, mask: m.png, prompt: x}\n",
        [":2:", "edits[0].output", "is an input"],
    ),
    "output twice": (
        GOOD.replace("}", ", output: o.png}")
        + "  - {id: b, image: i.png, mask: m.png, prompt: x, output: o.png}\n",
        ["edits[1].output", "used twice"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_in_one_line(case: str, tmp_path: Path) -> None:
    text, wanted = BAD[case]
    path = write(tmp_path, text)
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    for words in wanted:
        assert words in line, line


def test_a_manifest_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none\.yaml: No such file"):
        read_manifest(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ManifestError, match=r"binary\.yaml: is not text"):
        read_manifest(tmp_path / "binary.yaml")
    with pytest.raises(ManifestError, match="Is a directory"):
        read_manifest(tmp_path)


def test_settings_on_the_command_line_are_typed_like_yaml() -> None:
    found = parse_settings(["steps=20", "decoder_lr=1e-4", "lowpass=off", "margin=1.5"])
    assert found == {"steps": 20, "decoder_lr": 1e-4, "lowpass": "off", "margin": 1.5}
    with pytest.raises(ManifestError, match="KEY=VALUE"):
        parse_settings(["steps"])
    with pytest.raises(ManifestError, match="did you mean `steps`"):
        parse_settings(["step=3"])


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "jobs").glob("*.yaml")))
def test_every_job_that_ships_is_a_good_manifest(path: Path) -> None:
    assert read_manifest(path).edits
