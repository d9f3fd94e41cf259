"""Manifests: what is read, and one clear line with file, line and key for what is wrong."""

from __future__ import annotations

import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msbd_dist.batch.documents import scalar
from msbd_dist.batch.edits import heads_of
from msbd_dist.batch.manifest import Manifest, manifest_text, parse_settings, read_manifest
from msbd_dist.batch.single import edit_manifest
from msbd_dist.canvas.files import open_files
from msbd_dist.core.spec import (
    Combined,
    Drawn,
    EditSpec,
    MaskFile,
    Method,
    ModelSpec,
    Result,
    with_files,
)
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
    labels = MaskFile(file="/l", from_="values", values=(0, 3))
    chosen = MaskFile(file="/c.json", image_id=0, category=("off", "1"))
    parts = ("/m", drawn, labels, Combined(any=(chosen,), invert=True))
    method = Method(decoder_lr=1e-5, rerank=False, lowpass="off", guidance=3.0)
    manifest = Manifest(
        path=tmp_path_factory.getbasetemp() / "written.yaml",
        models=ModelSpec(clip="ViT-L-14:openai"),
        edits=(
            EditSpec(id=name, image="s3://b/a", mask=drawn, prompt="", seed=5, ome_zarr="0.5"),
            EditSpec(id="c", image=Result(edit="b"), mask=Combined(any=parts, grow=3), prompt=""),
            EditSpec(id="d", image="/d", mask=labels, prompt=""),
            EditSpec(id="b", image="/b", mask="/m", prompt=prompt, method=method, in_place=True),
        ),
    )
    manifest.path.write_text(manifest_text(manifest))
    found = read_manifest(manifest.path, anywhere=True)
    assert found.models == manifest.models
    assert list(found.edits) == list(manifest.edits)


BAD = {
    "mask from nothing": (
        GOOD.replace("m.png", "{boxes: [[1, 2, 3, 4]], from: luma}"),
        ["`file` b"],
    ),
    "mask of values": (GOOD.replace("m.png", "{file: m, values: 1}"), ["wanted `from: values`"]),
    "mask from elsewhere": (
        GOOD.replace("m.png", "{file: m, from: lum}"),
        ["mask.from", "luma, a"],
    ),
    "mask key": (GOOD.replace("m.png", "{file: m, form: luma}"), ["did you mean `from`"]),
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
    "unknown key of a default's mask": (
        "defaults: {mask: {bxes: [[1, 2, 3, 4]]}}\n" + GOOD,
        [":1:", "defaults.mask.bxes", "`boxes`"],
    ),
    "default of the wrong type": (
        "defaults: {steps: many}\n" + GOOD,
        [":1:", "defaults.steps", "'many'", "whole number"],
    ),
    "default out of range": ("defaults: {eta: 2}\n" + GOOD, [":1:", "defaults.eta", "at most 1"]),
    "mask is a number": (GOOD.replace("m.png", "7"), ["edits[0].mask", "got 7", "a file, a box"]),
    "box of three": (GOOD.replace("m.png", "[1, 2, 3]"), ["mask", "has 3 items", "at least 4"]),
    "box of five": (GOOD.replace("m.png", "[1, 2, 3, 4, 5]"), ["mask", "5 items", "at most 4"]),
    "box without a width": (GOOD.replace("m.png", "[1, 2, 0, 4]"), ["mask", "above 0"]),
    "box of words": (GOOD.replace("m.png", "[1, 2, x, 4]"), ["mask[2]", "'x'", "a number"]),
    "infinite box": (GOOD.replace("m.png", "[1, 2, 1e999, 4]"), ["mask[2]", "finite"]),
    "mask of nothing": (GOOD.replace("m.png", "{grow: 3}"), ["mask", "at least one of file, any"]),
    "unknown key of a mask": (
        GOOD.replace("m.png", "{any: [m.png], inverted: on}"),
        [":2:", "mask.inverted", "`invert`"],
    ),
    "mask of a mask of the wrong kind": (
        GOOD.replace("m.png", "{any: [m.png, {any: [[1, 2]]}]}"),
        ["edits[0].mask.any[1].any[0]", "has 2 items"],
    ),
    "mask grown too far": (
        GOOD.replace("m.png", "{any: [m.png], grow: 5000}"),
        ["mask.grow", "got 5000", "1024"],
    ),
    "mask that shrinks": (GOOD.replace("m.png", "{any: [m.png], grow: -2}"), ["mask.grow", "-2"]),
    "polygon of two": (
        GOOD.replace("m.png", "{polygons: [[[1, 2], [3, 4]]]}"),
        ["mask.polygons[0]", "2 items", "at least 3"],
    ),
    "image is a list": (GOOD.replace("i.png", "[i.png]"), ["edits[0].image", "a path, a URL"]),
    "result without an edit": (GOOD.replace("i.png", "{}"), ["image", "has no `edit`"]),
    "unknown key of a result": (GOOD.replace("i.png", "{edti: b}"), ["image.edti", "`edit`"]),
    "result of nobody": (
        GOOD.replace("i.png", "{edit: beach}") + "  - {id: baech, image: i, mask: m, prompt: x}\n",
        [":2:", "edits[0].image", "no edit has the id 'beach'", "did you mean 'baech'"],
    ),
    "result of itself": (
        GOOD.replace("i.png", "{edit: a}"),
        [":2:", "image", "own result: a <- a"],
    ),
    "results in a circle": (
        GOOD.replace("i.png", "{edit: b}")
        + "  - {id: b, image: {edit: c}, mask: m, prompt: x}\n"
        + "  - {id: c, image: {edit: b}, mask: m, prompt: x}\n",
        ["image", "begins with its own result", "b <- c <- b"],
    ),
    "result that can't be read": (
        GOOD.replace("}", ", output: o.dzi, allow_loss: on}")
        + "  - {id: b, image: {edit: a}, mask: m, prompt: x}\n",
        [":3:", "edits[1].image", ".dzi", "can't be read"],
    ),
    "result changed in place": (
        GOOD + "  - {id: b, image: {edit: a}, mask: m, prompt: x, in_place: on}\n",
        [":3:", "in_place", "result of another edit"],
    ),
    "in place and an output": (
        GOOD.replace("}", ", in_place: on, output: o.png}"),
        ["in_place", "has an output too"],
    ),
    "unknown key of a matrix": (
        GOOD.replace("}", ", matrix: {sed: [1]}}"),
        ["matrix.sed", "`seed`"],
    ),
    "matrix of a key that can't vary": (
        GOOD.replace("}", ", matrix: {image: [a]}}"),
        ["matrix.image", "not a known key"],
    ),
    "matrix without a list": (GOOD.replace("}", ", matrix: {seed: 1}}"), ["seed", "a list"]),
    "matrix of nothing": (GOOD.replace("}", ", matrix: {seed: []}}"), ["seed", "at least 1"]),
    "matrix of the wrong type": (
        GOOD.replace("}", ", matrix: {seed: [1, x]}}"),
        ["edits[0].matrix.seed[1]", "'x'", "whole number"],
    ),
    "matrix out of range": (
        GOOD.replace("}", ", matrix: {steps: [5, 0]}}"),
        ["edits[0].matrix.steps[1]", "got 0", "at least 1"],
    ),
    "a choice that is there twice": (
        GOOD.replace("}", ", matrix: {seed: [3, 3]}}"),
        ["edits[0].id", "used twice"],
    ),
    "one output for a matrix": (
        GOOD.replace("}", ", output: o.png, matrix: {seed: [1, 2]}}"),
        ["edits[0].output", "used twice", "write {id} into it"],
    ),
    "an expanded name that is taken": (
        GOOD.replace("}", ", matrix: {seed: [1]}}")
        + "  - {id: a-1, image: i.png, mask: m.png, prompt: x}\n",
        [":3:", "edits[1].id", "edits[0] has it too"],
    ),
    "a pattern of nothing": (
        GOOD.replace("i.png", "'none/*.png'"),
        ["image", "matches nothing"],
    ),
    "overrides of one file": (
        GOOD.replace("}", ", overrides: {i.png: {seed: 1}}}"),
        ["overrides", "a pattern"],
    ),
    "an output outside": (
        GOOD.replace("}", ", output: ../o.png}"),
        [":2:", "edits[0].output", "outside of the manifest's folder", "--allow-anywhere"],
    ),
    "an output anywhere": (GOOD.replace("}", ", output: /etc/o.png}"), ["/etc/o.png is outside"]),
    "an output at a local URL": (
        GOOD.replace("}", ", output: 'file:///etc/o.png'}"),
        ["file:///etc/o.png is outside"],
    ),
    "in place anywhere": (
        GOOD.replace("i.png", "../i.zarr").replace("}", ", in_place: on}"),
        ["in_place", "i.zarr is outside"],
    ),
    "a name with a zero": (GOOD.replace("i.png", '"i\\0.png"'), ["image", "zero"]),
    "a tag that makes an object": (
        GOOD.replace("m.png", "!!python/object/apply:os.system ['true']"),
        [":2:", "not valid YAML", "python/object"],
    ),
    "itself in itself": ("edits: &a [*a]\n", [":1:", "holds too much or itself"]),
    "a list as a key": ("{[a, b]: c}\n", [":1:", "a key is a list"]),
    "brackets without end": ("[" * 5000, ["jobs.yaml", "nested too deeply|not valid YAML"]),
    "a number of too many digits": (GOOD.replace("}", f", seed: {'9' * 5000}}}"), ["digits"]),
    "a number as a key": (GOOD.replace("}", ", 7: x}"), [":2:", "7", "not a known key"]),
    "an id that is too long": (GOOD.replace("id: a", f"id: {'a' * 101}"), ["id", "up to 100"]),
    "empty prompt without quotes": (GOOD.replace("a red star", "~"), ["prompt", "wanted text"]),
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
    assert len(line) < 400
    for words in wanted:
        assert any(one in line for one in words.split("|")), line


def test_a_manifest_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none\.yaml: No such file"):
        read_manifest(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\x00\x00\x81")
    with pytest.raises(ManifestError, match=r"binary\.yaml: is not text"):
        read_manifest(tmp_path / "binary.yaml")
    with pytest.raises(ManifestError, match="Is a directory"):
        read_manifest(tmp_path)
    with pytest.raises(ManifestError, match=r"none\.jsonl: No such file"):
        read_manifest(tmp_path / "none.jsonl")


def test_settings_on_the_command_line_are_typed_like_yaml() -> None:
    found = parse_settings(["steps=20", "decoder_lr=1e-4", "lowpass=off", "margin=1.5"])
    assert found == {"steps": 20, "decoder_lr": 1e-4, "lowpass": "off", "margin": 1.5}
    with pytest.raises(ManifestError, match="KEY=VALUE"):
        parse_settings(["steps"])
    with pytest.raises(ManifestError, match="did you mean `steps`"):
        parse_settings(["step=3"])


def test_aliases_that_grow_without_end_are_refused_before_they_take_memory(tmp_path: Path) -> None:
    levels = ["a: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"b{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(ManifestError, match="holds too much"):
        read_manifest(write(tmp_path, "\n".join(levels)))


# ---------------------------------------------------------------- files of lines


LINE = {"id": "a", "image": "i.png", "mask": "m.png", "prompt": "a red star"}


def lines(folder: Path, *rows: Any, name: str = "jobs.jsonl") -> Path:
    path = folder / name
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def test_jsonl_has_an_edit_on_each_line(tmp_path: Path) -> None:
    rows = [{**LINE, "seed": 4, "rerank": False}, "", {**LINE, "id": "b", "mask": [1, 2, 3, 4]}]
    edits = read_manifest(lines(tmp_path, *rows)).edits
    a, b = edits
    assert len(edits) == 2
    assert (a.id, a.seed, a.method.rerank) == ("a", 4, False)
    assert a.image == str(tmp_path / "i.png")
    assert b.mask == Drawn(boxes=((1, 2, 3, 4),))
    assert [e.id for e in edits] == ["a", "b"]  # again


def test_csv_has_a_header_of_keys_and_empty_cells_are_not_given(tmp_path: Path) -> None:
    path = lines(
        tmp_path,
        "\ufeffid,image,mask,prompt,seed,margin,rerank,ome_zarr",
        '7,i.png,"[1, 2, 3, 4]","a red star, on grass",5,1.5,off,0.4',
        "",
        'b,i.png,"{any: [m.png], grow: 3}",12,,,,',
        'c,i.png,m.png,"two\nlines",,,on,',
        "d,{edit: c},7,x,,,,",
        name="jobs.csv",
    )
    a, b, c, d = read_manifest(path).edits
    assert (a.id, a.prompt, a.seed, a.ome_zarr) == ("7", "a red star, on grass", 5, "0.4")
    assert (a.method.margin, a.method.rerank) == (1.5, False)
    assert b.mask == Combined(any=(str(tmp_path / "m.png"),), grow=3)
    assert (b.prompt, b.seed, b.method) == ("12", None, Method())
    assert c.prompt == "two\nlines"
    assert (d.image, d.mask) == (Result(edit="c"), str(tmp_path / "7"))


MEANT = {
    "{file: m.png}": "m.png",
    "{file: m.png, from: alpha}": MaskFile(file="m.png", from_="alpha"),
    "{file: m.png, from: values, values: 3}": MaskFile(file="m.png", from_="values", values=(3,)),
    "{file: m.json, category: dog}": MaskFile(file="m.json", category=("dog",)),
    "{file: m.png, from: alpha, invert: on}": Combined(
        any=(MaskFile(file="m.png", from_="alpha"),), invert=True
    ),
    "{any: [{file: m.png, from: luma}], grow: 2}": Combined(
        any=(MaskFile(file="m.png", from_="luma"),), grow=2
    ),
}


@pytest.mark.parametrize("text", MEANT)
def test_what_is_meant_by_a_mask_s_file_is_said_in_every_kind_of_list(
    text: str, tmp_path: Path
) -> None:
    made = [
        read_manifest(write(tmp_path, GOOD.replace("m.png", text))).edits,
        read_manifest(lines(tmp_path, HEAD, f'a,i.png,"{text}",x', name="a.csv")).edits,
        read_manifest(lines(tmp_path, {**LINE, "mask": scalar(text)})).edits,
        edit_manifest("i.png", text, "x", output="o.png", models=ModelSpec()).edits,
    ]
    for (edit,) in made:
        assert with_files(edit.mask, lambda place: Path(place).name) == MEANT[text]


HEAD = "id,image,mask,prompt"
BAD_LINES: dict[str, tuple[str, list[Any], list[str]]] = {
    "no JSON": ("jsonl", [LINE, "{"], [":2:", "not valid JSON"]),
    "a list": ("jsonl", ["[1]"], [":1:", "an edit is an object"]),
    "a word": ("jsonl", ["hello"], [":1:", "not valid JSON"]),
    "nothing": ("jsonl", [], ["has no edits"]),
    "unknown key": ("jsonl", [LINE, {**LINE, "id": "b", "sead": 1}], [":2: sead:", "`seed`"]),
    "key twice": ("jsonl", ['{"id": "a", "id": "b"}'], [":1: id: is given twice"]),
    "nested key twice": (
        "jsonl",
        ['{"id": "a", "mask": {"any": [], "any": []}}'],
        ["any: is given"],
    ),
    "wrong type": ("jsonl", [{**LINE, "steps": "9"}], [":1: steps:", "'9'", "whole number"]),
    "out of range": ("jsonl", [{**LINE, "steps": 0}], [":1: steps:", "at least 1"]),
    "missing": ("jsonl", [{"id": "a", "image": "i", "prompt": ""}], [":1: has no `mask`"]),
    "not a number": ("jsonl", ['{"id": "a", "margin": NaN}'], [":1: margin:"]),
    "id twice": ("jsonl", [LINE, {**LINE, "id": "A"}], [":2: id: 'A' is used twice", "line 1"]),
    "output twice": (
        "jsonl",
        [{**LINE, "output": "o.png"}, {**LINE, "id": "b", "output": "o.png"}],
        [":2: output:", "used twice", "line 1"],
    ),
    "an output that is read": (
        "jsonl",
        [{**LINE, "output": "o.png"}, {**LINE, "id": "b", "image": "o.png"}],
        [":1: output:", "is an input"],
    ),
    "a mask that is written": (
        "jsonl",
        [{**LINE, "output": "o.png"}, {**LINE, "id": "b", "mask": {"any": ["m.png", "o.png"]}}],
        [":1: output:", "is an input"],
    ),
    "a circle": ("jsonl", [{**LINE, "image": {"edit": "a"}}], [":1: image:", "a <- a"]),
    "a matrix": ("jsonl", [{**LINE, "matrix": {"seed": [1]}}], [":1: matrix:", "not a known"]),
    "outside": ("jsonl", [{**LINE, "output": "../o.png"}], [":1: output:", "outside"]),
    "nested without end": ("jsonl", ["[" * 200_000], [":1:", "nested too deeply"]),
    "unknown column": ("csv", [HEAD + ",stepz", "a,i,m,p,4"], [":1: stepz:", "`steps`"]),
    "column twice": ("csv", [HEAD + ",id", "a,i,m,p,b"], [":1: id: is given twice"]),
    "column without a name": ("csv", [HEAD + ",,seed", "a,i,m,p,2,1"], [":2:", "without a name"]),
    "cells of no column": ("csv", [HEAD, "a,i,m,p,4"], [":2:", "5 cells", "4"]),
    "an unknown separator": ("csv", ["id|image|mask|prompt", "a|i|m|p"], [":1:", "known key"]),
    "an open quote": ("csv", [HEAD, 'a,i,m,"p'], [":2:", "not valid CSV"]),
    "a cell of the wrong type": (
        "csv",
        [HEAD + ",steps", "a,i,m,p,many"],
        [":2: steps:", "'many'"],
    ),
    "no mask": ("csv", ["id,image,prompt", "a,i,p"], [":2: has no `mask`"]),
    "a header alone": ("csv", [HEAD], ["has no edits"]),
    "a line later": ("csv", [HEAD, 'a,i,m,"two\nlines"', "b,i,m,p", "b,i,m,p"], [":5: id:"]),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_what_is_wrong_with_a_line_is_said_in_one(case: str, tmp_path: Path) -> None:
    kind, rows, wanted = BAD_LINES[case]
    path = lines(tmp_path, *rows, name=f"jobs.{kind}")
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(str(path))
    for words in wanted:
        assert words in line, line


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_lines_that_are_not_text(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"jobs.{suffix}").write_bytes(b"\xff\xfe\x00\x81\n")
    with pytest.raises(ManifestError, match="is not UTF-8 text"):
        read_manifest(tmp_path / f"jobs.{suffix}")


def test_a_long_list_is_read_one_line_at_a_time(tmp_path: Path) -> None:
    """Three thousand edits with prompts of a thousand letters: names are kept, edits are not."""
    prompt = "a red star " * 100
    rows = ({**LINE, "id": f"e{i}", "seed": i, "prompt": prompt} for i in range(3_000))
    path = lines(tmp_path, *rows)
    tracemalloc.start()
    edits = read_manifest(path).edits
    assert sum(e.seed or 0 for e in edits) == 2_999 * 1_500
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(edits) == 3_000
    assert path.stat().st_size > 3_000_000
    assert peak < 1_500_000


def test_lines_that_were_changed_are_not_read_as_if_they_were_not(tmp_path: Path) -> None:
    path = lines(tmp_path, LINE)
    edits = read_manifest(path).edits
    lines(tmp_path, LINE, {**LINE, "id": "../b"})
    with pytest.raises(ManifestError, match="was changed since it was checked"):
        list(edits)


@pytest.mark.parametrize("name", ["jobs.yaml", "jobs.jsonl"])
def test_all_edits_can_be_changed_without_being_held(name: str, tmp_path: Path) -> None:
    rows = [LINE, {**LINE, "id": "b", "allow_loss": False}]
    if name == "jobs.yaml":
        path = write(tmp_path, json.dumps({"edits": rows}))
    else:
        path = lines(tmp_path, *rows)
    before = read_manifest(path)
    after = before.with_(models=ModelSpec(device="cpu"), changes={"allow_loss": True})
    assert [e.allow_loss for e in before.edits] == [False, False]
    assert [e.allow_loss for e in after.edits] == [True, True]
    assert [e.allow_loss for e in after.edits] == [True, True]
    assert len(after.edits) == 2
    assert after.models.device == "cpu"


def test_what_is_wrong_with_edits_may_be_told_and_the_others_read(tmp_path: Path) -> None:
    rows = [LINE, {**LINE, "id": "b", "seed": "x"}, {**LINE, "id": "c", "stepz": 1}, LINE]
    for path in (lines(tmp_path, *rows), write(tmp_path, json.dumps({"edits": rows}))):
        told: list[ManifestError] = []
        edits = read_manifest(path, tell=told.append).edits
        assert {e.id for e in edits} == {"a"}
        assert [e.line for e in told] == ([1] * 3 if path.suffix == ".yaml" else [2, 3, 4])
        assert [str(e.key).rsplit(".", 1)[-1] for e in told] == ["seed", "stepz", "id"]


# ---------------------------------------------------------------- one that stands for several


def pictures(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_a_matrix_is_an_edit_for_each_choice(tmp_path: Path) -> None:
    text = GOOD.replace(
        "prompt: a red star",
        "output: 'out/{id}.png', matrix: {seed: [1, 20], prompt: [a red star, a blue ring!], "
        "rerank: [on, off], guidance: [null, 7.5]}",
    )
    edits = list(read_manifest(write(tmp_path, text)).edits)
    assert len(edits) == 16
    assert edits[0].id == "a-1-a-red-star-on-none"
    assert [e.id for e in edits[-2:]] == ["a-20-a-blue-ring-off-none", "a-20-a-blue-ring-off-7.5"]
    last = edits[-1]
    assert (last.seed, last.prompt, last.method.rerank) == (20, "a blue ring!", False)
    assert last.method.guidance == 7.5
    assert last.output == str(tmp_path / "out/a-20-a-blue-ring-off-7.5.png")


def test_choices_whose_names_would_be_the_same_are_told_apart(tmp_path: Path) -> None:
    text = GOOD.replace(
        "prompt: a red star", "matrix: {prompt: ['a star', 'a star!', 'звезда', '']}"
    )
    names = [e.id for e in read_manifest(write(tmp_path, text)).edits]
    assert len(set(names)) == 4
    assert all(re.fullmatch(r"a-a-star-[0-9a-f]{6}", name) for name in names[:2])
    assert re.fullmatch(r"a-[0-9a-f]{6}", names[2])
    assert names[3] == "a-none"


def test_a_pattern_is_an_edit_for_each_file(tmp_path: Path) -> None:
    pictures(tmp_path, "in/b two.tif", "in/a.png", "in/x.ome.zarr/zarr.json", "in/sub/c.png")
    text = (
        "defaults: {seed: 1, prompt: a star}\n"
        "edits:\n"
        "  - id: s\n"
        "    image: in/*\n"
        "    mask: {any: ['masks/{stem}.png', shared.png], grow: 2}\n"
        "    output: out/{stem}.tif\n"
        "    overrides:\n"
        "      a.png: {prompt: a ring, mask: [1, 2, 3, 4]}\n"
    )
    a, b, x = read_manifest(write(tmp_path, text)).edits
    assert [e.id for e in (a, b, x)] == ["s-a", "s-b-two", "s-x"]
    assert (a.prompt, a.mask) == ("a ring", Drawn(boxes=((1, 2, 3, 4),)))
    assert b.prompt == "a star"
    assert b.mask == Combined(
        any=(str(tmp_path / "masks/b two.png"), str(tmp_path / "shared.png")), grow=2
    )
    assert [Path(str(e.output)).name for e in (a, b, x)] == ["a.tif", "b two.tif", "x.tif"]
    deep = read_manifest(write(tmp_path, text.replace("in/*", "in/**/[ac].png"))).edits
    assert [e.id for e in deep] == ["s-a", "s-c"]


def test_masks_and_outputs_beside_the_pictures_are_no_pictures(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "a_mask.png", "b.png", "b_mask.png", "a-new.png")
    text = (
        "edits: [{id: s, image: '*.png', mask: '{stem}_mask.png', prompt: x, "
        "output: '{stem}-new.png'}]"
    )
    assert [e.id for e in read_manifest(write(tmp_path, text)).edits] == ["s-a", "s-b"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    pictures(tmp_path, "photo [1].png", "photo 1.png")
    (edit,) = read_manifest(write(tmp_path, GOOD.replace("i.png", "'photo [1].png'"))).edits
    assert edit.image == str(tmp_path / "photo [1].png")


def test_a_pattern_may_be_a_url(tmp_path: Path) -> None:
    files = open_files("memory://patterns")
    for name in ("a.png", "b.png", "c.txt"):
        files.write(name, b"")
    text = GOOD.replace("i.png", "'memory://patterns/*.png'").replace("m.png", "'{stem}.png'")
    a, b = read_manifest(write(tmp_path, text)).edits
    assert open_files(a.image.rsplit("/", 1)[0]).names() == ["a.png", "b.png", "c.txt"]
    assert a.mask == str(tmp_path / "a.png")
    assert b.id == "a-b"


@pytest.mark.parametrize("wrong", ["c.png", "A.png"])
def test_an_override_that_nobody_uses_is_wrong(wrong: str, tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    text = GOOD.replace("i.png", "'[a-c].png'").replace(
        "}", f", overrides: {{{wrong}: {{seed: 1}}}}}}"
    )
    with pytest.raises(ManifestError, match=rf":2: .*overrides\.{wrong}: .*did you mean `.\.png`"):
        read_manifest(write(tmp_path, text))


def test_an_override_is_checked_as_an_edit_is(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    text = GOOD.replace("i.png", "'*.png'").replace("}", ", overrides: {a.png: {%s}}}")
    for keys, words in (("sead: 1", "sead: .*`seed`"), ("steps: 0", r"a\.png\.steps: got 0")):
        with pytest.raises(ManifestError, match=words):
            read_manifest(write(tmp_path, text % keys))


def test_the_result_of_another_edit_and_the_picture_a_chain_begins_with(tmp_path: Path) -> None:
    rows = [
        {**LINE, "id": "c", "image": {"edit": "b"}},
        {**LINE, "id": "b", "image": {"edit": "a"}, "output": "{id}.png"},
        LINE,
    ]
    for path in (lines(tmp_path, *rows), write(tmp_path, json.dumps({"edits": rows}))):
        manifest = read_manifest(path)
        c, b, _ = manifest.edits
        assert c.image == Result(edit="b")
        assert b.output == str(tmp_path / "b.png")
        assert heads_of(manifest.edits) == dict.fromkeys("cb", str(tmp_path / "i.png"))
        assert {e.image for e in manifest.settled()} == {str(tmp_path / "i.png")}
        with pytest.raises(ValueError, match="result of b is not there"):
            _ = c.source


def test_a_chain_of_thousands_is_followed_at_once(tmp_path: Path) -> None:
    rows = [
        LINE,
        *({**LINE, "id": f"e{i}", "image": {"edit": f"e{i - 1}"}} for i in range(1, 3000)),
    ]
    rows[1]["image"] = {"edit": "a"}
    manifest = read_manifest(lines(tmp_path, *rows))
    assert len(set(heads_of(manifest.edits).values())) == 1


def test_a_result_has_no_name_for_stem(tmp_path: Path) -> None:
    rows = [LINE, {**LINE, "id": "b", "image": {"edit": "a"}, "mask": "{stem}.png"}]
    with pytest.raises(ManifestError, match=r":2: mask: has \{stem\}"):
        read_manifest(lines(tmp_path, *rows))


# ---------------------------------------------------------------- what a manifest may write


def test_outputs_lie_below_the_manifest_unless_they_may_be_anywhere(tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    for output in ("../o.png", str(tmp_path / "o.png"), "sub/../../o.png", "link/o.png"):
        path = lines(folder, {**LINE, "output": output})
        with pytest.raises(ManifestError, match=f"{tmp_path}/o.png is outside"):
            read_manifest(path)
        (edit,) = read_manifest(path, anywhere=True).edits
        assert edit.output == str(tmp_path / "o.png")
    for output in ("o.png", "deep/er/o.png", "sub/../o.png", str(folder / "o.png")):
        assert len(read_manifest(lines(folder, {**LINE, "output": output})).edits) == 1
    for url in ("s3://bucket/o.png", "memory://o.png"):
        (edit,) = read_manifest(lines(folder, {**LINE, "output": url})).edits
        assert edit.output == url


@pytest.mark.parametrize("name", ["..", ".", "a/b", "/etc", ".hidden", "a\\b", "lease", "Run.json"])
def test_an_id_never_leaves_the_run_directory(name: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="id: got"):
        read_manifest(lines(tmp_path, {**LINE, "id": name}))


def test_a_prompt_is_text_whatever_it_holds(tmp_path: Path) -> None:
    prompt = "<script>alert(1)</script> {id} {stem} ${HOME} `ls`"
    (edit,) = read_manifest(lines(tmp_path, {**LINE, "prompt": prompt})).edits
    assert edit.prompt == prompt


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("on", True),
        ("off", False),
        ("[iptc, Second picture]", ("iptc", "second-picture")),
        ('"comment,16_bit"', ("comment", "16-bit")),
    ],
)
def test_what_may_be_lost_is_said_by_name(tmp_path: Path, text: str, wanted: Any) -> None:
    listed = GOOD.replace("}", f", output: o.png, allow_loss: {text}}}")
    manifest = read_manifest(write(tmp_path, listed))
    assert read_manifest(write(tmp_path, manifest_text(manifest))).edits[0].allow_loss == wanted
    (spec,) = manifest.edits
    assert spec.allow_loss == wanted


def test_a_loss_that_nobody_knows_is_answered_with_the_nearest_name(tmp_path: Path) -> None:
    text = GOOD.replace("}", ", output: o.png, allow_loss: [ipct]}")
    with pytest.raises(ManifestError, match=r"allow_loss: .*'ipct' is perhaps iptc"):
        read_manifest(write(tmp_path, text))


def test_what_may_be_lost_stands_in_one_cell(tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text(
        "id,image,mask,prompt,output,allow_loss\n"
        "a,i.png,m.png,x,a.png,TRUE\n"
        'b,i.png,m.png,x,b.png,"iptc, Second picture"\n'
        "c,i.png,m.png,x,c.png,\n"
    )
    allowed = [edit.allow_loss for edit in read_manifest(tmp_path / "jobs.csv").edits]
    assert allowed == [True, ("iptc", "second-picture"), False]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("edits:\n  - prompt: a sign: stop\n", ":2: .*in quotes"),
        ("edits:\n  - prompt: *star\n", ":2: .*in quotes"),
        ("edits:\n  - prompt: @home\n", ":2: .*in quotes"),
        ("edits:\n\t- prompt: x\n", ":2: .*indent with spaces"),
        ("edits:\n  - id: a\n   mask: b\n", ":3: .*(indent|quotes)"),
        ('edits: "x\n', ":.*quotes"),
    ],
)
def test_what_is_wrong_with_yaml_says_what_to_do(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=said):
        read_manifest(write(tmp_path, text))
