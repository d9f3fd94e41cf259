"""Whatever stands in a manifest is read, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msbd_dist.batch.keys import EditKeys
from msbd_dist.batch.manifest import read_manifest
from msbd_dist.errors import ManifestError

LINE = {"id": "a", "image": "i.png", "mask": "m.png", "prompt": "a red star"}

words = st.sampled_from(
    ["", "a", "on", "i.png", "../x", "*.png", "{id}", "{stem}", "\0", "é" * 300]
)
numbers = st.one_of(st.integers(), st.floats(), st.just(10**30))
values = st.recursive(
    st.one_of(words, numbers, st.booleans(), st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["any", "boxes", "polygons", "edit", "seed", "x"]), inner),
    ),
    max_leaves=6,
)
keys = st.sampled_from([*EditKeys.model_fields, "stepz", "7"])
some = st.dictionaries(keys, values, max_size=3)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(some, some)
def test_any_keys_with_any_values(
    tmp_path: Path, row: dict[str, Any], defaults: dict[str, Any]
) -> None:
    rows = [{**LINE, **row}, row]
    document, lines = tmp_path / "jobs.yaml", tmp_path / "jobs.jsonl"
    document.write_text(json.dumps({"defaults": defaults, "edits": rows}))
    lines.write_text("".join(json.dumps(one) + "\n" for one in rows))
    for path in (document, lines):
        told: list[ManifestError] = []
        try:
            list(read_manifest(path, tell=told.append).edits)
        except ManifestError as error:
            told.append(error)
        assert all("\n" not in str(error) for error in told)
        assert all(str(error).startswith(str(path)) for error in told)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.text(alphabet="ab:-[]{},&*!#'\"\n \t\\|>%@0.", max_size=40), st.sampled_from(["yaml", "csv"])
)
def test_any_text(tmp_path: Path, text: str, kind: str) -> None:
    path = tmp_path / f"jobs.{kind}"
    path.write_text("edits:\n" + text if kind == "yaml" else "id,mask,image,prompt\n" + text)
    said = ""
    try:
        read_manifest(path)
    except ManifestError as error:
        said = str(error)
    assert "\n" not in said
