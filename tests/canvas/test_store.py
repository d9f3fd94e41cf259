"""The canvas: one writer per chunk and attempt, and readers who are told whose results count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from msbd_dist.canvas.files import open_files
from msbd_dist.canvas.ledger import Version, Versions
from msbd_dist.canvas.store import Canvas, canvas_group
from msbd_dist.core.compose import Floats
from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.plan import Plan, make_plan
from msbd_dist.core.spec import Family, Method

FAMILY = Family(native=64, segment=128, overlap=32)


@pytest.fixture
def plan() -> Plan:
    return make_plan(
        Size(300, 260), Box(40, 30, 280, 240), lambda _: True, family=FAMILY, method=Method()
    )


def canvas(folder: Path, plan: Plan, versions: Versions, attempt: str | None = None) -> Canvas:
    group = canvas_group(open_files(folder))
    return Canvas(group, plan, np.dtype(np.uint8), versions, attempt=attempt)


def segment(plan: Plan, value: float) -> Floats:
    return np.full((3, *plan.final.grid.segment.shape), value, np.float32)


def test_whoever_was_given_up_changes_nothing(plan: Plan, tmp_path: Path) -> None:
    stage = plan.final
    late, chosen = (canvas(tmp_path, plan, {}, attempt) for attempt in ("1.0", "1.1"))
    chosen.write_segment(stage, 0, segment(plan, 0.5))
    reader = canvas(tmp_path, plan, {f"{stage.index}-decode": Version("1.1")})
    before = reader.segment(stage, 0)
    late.write_segment(stage, 0, segment(plan, 0.9))
    np.testing.assert_array_equal(reader.segment(stage, 0), before)


def test_what_was_written_is_counted(plan: Plan, tmp_path: Path) -> None:
    one = canvas(tmp_path, plan, {}, "1.0")
    for slot in range(2):
        one.write_segment(plan.final, slot, segment(plan, 0.5))
    assert one.written == 2 * segment(plan, 0).size * 2  # 16 bits a sample
    assert len(one.digests) == 2


def test_each_slot_is_read_from_the_attempt_that_counts(plan: Plan, tmp_path: Path) -> None:
    stage = plan.final
    for attempt, value in (("1.0", 0.25), ("2.1", 0.75)):
        one = canvas(tmp_path, plan, {}, attempt)
        for slot in range(2):
            one.write_segment(stage, slot, segment(plan, value))
    reader = canvas(tmp_path, plan, {f"{stage.index}-decode": Version("1.0", {1: "2.1"})})
    assert [round(float(reader.segment(stage, slot).mean()), 2) for slot in range(2)] == [
        0.25,
        0.75,
    ]


def test_a_composed_stage_is_read_across_attempts(plan: Plan, tmp_path: Path) -> None:
    stage = plan.final
    chunks = list(stage.grid.chunks())
    for number, chunk in enumerate(chunks):
        one = canvas(tmp_path, plan, {}, "2.0" if number in (1, 4) else "1.0")
        pixels = np.full((3, *chunk.box.size.shape), number / 100, np.float32)
        one.write_composed(stage, chunk.row, chunk.column, pixels)
    version = Version("1.0", {1: "2.0", 4: "2.0"})
    reader = canvas(tmp_path, plan, {f"{stage.index}-compose": version})
    whole = reader.composed(stage, Box.of(stage.size))
    for number, chunk in enumerate(chunks):
        assert np.allclose(whole[(slice(None), *chunk.box.slices)], number / 100, atol=1e-4)
    part = Box(20, 30, 150, 170)
    np.testing.assert_array_equal(reader.composed(stage, part), whole[(slice(None), *part.slices)])


def test_what_is_written_is_noted_with_its_digest(plan: Plan, tmp_path: Path) -> None:
    stage = plan.final
    one, two = (canvas(tmp_path, plan, {}, attempt) for attempt in ("1.0", "1.1"))
    for each in (one, two):
        each.write_segment(stage, 3, segment(plan, 0.5))
    ((name, digest),) = one.digests.items()
    assert name == f"{stage.index}/segments/1.0 3.0.0.0"
    assert list(two.digests.values()) == [digest]


def test_a_write_that_is_not_one_chunk_is_refused(plan: Plan, tmp_path: Path) -> None:
    one = canvas(tmp_path, plan, {}, "1.0")
    with pytest.raises(ValueError, match="chunk"):
        one.write_segment(plan.final, 0, segment(plan, 0.5)[:, :-1])
