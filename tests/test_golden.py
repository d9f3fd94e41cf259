"""The golden jobs: that they touch every option, and that a change of a byte is seen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from benchmarks import golden
from msbd_dist.batch import steps
from msbd_dist.batch.record import load_edit
from msbd_dist.canvas.files import LocalFiles
from msbd_dist.canvas.ledger import Ledger
from msbd_dist.core.plan import StageKind, TaskKind
from msbd_dist.core.spec import EditSpec, Method, ModelSpec, Result
from msbd_dist.models.card import resolve


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of all jobs."""
    place = tmp_path_factory.mktemp("golden")
    golden.draw(place)
    return place


@pytest.fixture(scope="module")
def specs(folder: Path) -> list[EditSpec]:
    """All jobs as the manifests' reader understands them."""
    return [
        spec
        for family, jobs in golden.JOBS.items()
        for spec in golden.manifest_of(folder, family, jobs).edits
    ]


def choices(hint: Any) -> Iterator[Any]:
    """The values that a field of a few values may have."""
    if hint is bool:
        yield from (False, True)
    for part in (hint, *get_args(hint)):
        if get_origin(part) is Literal:
            yield from get_args(part)


def test_every_value_of_every_option_is_in_a_job(specs: list[EditSpec]) -> None:
    methods, hints = [spec.method for spec in specs], get_type_hints(Method)
    for field in fields(Method):
        given = {getattr(method, field.name) for method in methods}
        assert given >= set(choices(hints[field.name])), field.name
        assert given - {field.default}, f"no job has another {field.name}"


def test_every_key_of_an_edit_is_in_a_job(specs: list[EditSpec]) -> None:
    for field in fields(EditSpec):
        if field.default is not MISSING and field.name != "seed":
            given = {str(getattr(spec, field.name)) for spec in specs}
            assert given - {str(field.default)}, f"no job has another {field.name}"
    assert {spec.tiff for spec in specs} == set(get_args(get_type_hints(EditSpec)["tiff"]))
    assert all(spec.seed is not None for spec in specs)


def test_every_kind_of_stage_task_and_picture_is_in_a_job(
    specs: list[EditSpec], tmp_path: Path
) -> None:
    models = steps.Models(ModelSpec(), resolve(ModelSpec()), {"unet": "the bundled one"})
    alone = [spec for spec in specs if not isinstance(spec.image, Result)]
    alone = [spec for spec in alone if spec.method.upscaler != "realesrganer"]
    records = [steps.prepare(spec, LocalFiles(tmp_path / spec.id), models).record for spec in alone]
    stages = [record.plan.stages for record in records]
    assert {s.kind for several in stages for s in several} == set(get_args(StageKind))
    assert {several[0].kind for several in stages} == {"base", "segmented"}
    tasks = (task for record in records for task in record.plan.tasks("e"))
    assert {task.kind for task in tasks} == set(get_args(TaskKind))
    assert {(r.dtype, r.bands) for r in records} >= {("uint8", 3), ("uint16", 3), ("uint16", 1)}
    assert {record.direct for record in records} == {False, True}


def test_a_job_is_looked_at_whole_and_has_the_same_digests_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = golden.JOBS["velocity"]
    found = golden.made(folder, "velocity", jobs)
    files = LocalFiles(folder / "out-velocity" / "velocity")
    work = files / load_edit(files).key
    chunks = sum(len(facts.get("stored", ())) for facts in Ledger(work / "ledger").facts())
    kinds = [name.split() for name in found["velocity"]]
    of_chunks = ("candidate", "latents", "segments", "composed")
    assert chunks == sum(kind in of_chunks for words in kinds for kind in words[:2])
    assert {("source",), ("mask",), ("output",), ("0", "tuned")} <= set(map(tuple, kinds))

    golden.draw(tmp_path)
    now = golden.record_of(golden.made(tmp_path, "velocity", jobs))
    former = golden.record_of(json.loads(json.dumps(found)))
    assert golden.compare(former, now)
    assert "WARNING" not in capsys.readouterr().out
    former["jobs"]["velocity"]["0 latents 0"] = "another"
    former["machine"] = {"cpu": "another"}
    assert not golden.compare(former, now)
    told = capsys.readouterr().out
    assert "differ: 0 latents 0\n" in told
    assert "WARNING: the machine differed" in told
