"""The schema and the tables say what the reader does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from msbd_dist.batch.documents import Loader
from msbd_dist.batch.reference import schema, tables
from msbd_dist.core.spec import EditSpec, Method

ROOT = Path(__file__).parents[2]
EDIT = {"id": "a", "image": "i.png", "mask": "m.png", "prompt": "x"}


def test_the_schema_that_is_published_is_the_one_that_is_printed() -> None:
    assert json.loads((ROOT / "docs/manifest.schema.json").read_text()) == schema()


def test_the_tables_of_the_manual_are_the_ones_that_are_printed() -> None:
    assert tables() in (ROOT / "docs/manifest.md").read_text()


def test_every_key_is_in_the_schema_and_the_tables() -> None:
    keys = {*EditSpec.__dataclass_fields__, *Method.__dataclass_fields__} - {"method"}
    models = schema()["$defs"]
    assert keys | {"matrix", "overrides"} == set(models["Edit"]["properties"])
    assert keys - {"id"} | {"matrix"} == set(models["Defaults"]["properties"])
    printed = tables()
    assert all(f"| `{key}` |" in printed for key in keys)
    assert all(about["description"] for about in models["Edit"]["properties"].values())


def test_the_schema_is_one_and_every_job_conforms() -> None:
    check = jsonschema.Draft202012Validator(schema())
    check.check_schema(schema())
    for path in sorted((ROOT / "jobs").glob("*.yaml")):
        check.validate(yaml.load(path.read_text(), Loader=Loader))
        assert "$schema=../docs/manifest.schema.json" in path.read_text()


@pytest.mark.parametrize(
    "edit",
    [
        {**EDIT, "stepz": 3},
        {**EDIT, "steps": 0},
        {**EDIT, "steps": "many"},
        {**EDIT, "rerank": 2},
        {**EDIT, "mask": [1, 2, 3]},
        {**EDIT, "mask": {"anny": []}},
        {**EDIT, "image": {"edti": "b"}},
        {**EDIT, "matrix": {"seed": []}},
        {**EDIT, "ome_zarr": "0.6"},
        {"image": "i.png"},
        {**EDIT, "id": "../a"},
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(edit: dict[str, Any]) -> None:
    check = jsonschema.Draft202012Validator(schema())
    assert check.is_valid({"edits": [EDIT]})
    assert not check.is_valid({"edits": [edit]})
