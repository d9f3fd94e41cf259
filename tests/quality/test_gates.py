"""Intact edits pass every quality gate, and each gate fails when its part is broken.

All gates under all faults: `python -m benchmarks.gates`, whose table is `docs/gates.md`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gates.faults import FAULTS
from benchmarks.gates.gates import GATES
from benchmarks.gates.matrix import Gatehouse, caught
from benchmarks.gates.pages import HEADING, tables, whole
from msbd_dist.core.threads import intra_op_threads

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gatehouse]:
    with intra_op_threads(1):
        yield Gatehouse(tmp_path_factory.mktemp("edits"))


@pytest.mark.parametrize("name", GATES)
def test_an_intact_edit_passes(house: Gatehouse, name: str) -> None:
    value = house.value(GATES[name], None)
    assert GATES[name].passes(value), value


@pytest.mark.parametrize("name", GATES)
def test_a_gate_fails_when_its_part_is_broken(house: Gatehouse, name: str) -> None:
    value = house.value(GATES[name], GATES[name].fault)
    assert not GATES[name].passes(value), value


def test_a_fault_is_gone_when_its_context_ends(house: Gatehouse, tmp_path: Path) -> None:
    for fault in FAULTS.values():
        with fault.broken():
            pass
    before, again = house.made("star", None), Gatehouse(tmp_path).made("star", None)
    assert before is not None
    assert again is not None
    assert np.array_equal(before.after, again.after)


def test_a_gate_looks_at_a_case_that_has_the_part_it_is_there_for() -> None:
    assert all(gate.case in FAULTS[gate.fault].cases for gate in GATES.values())


def test_an_edit_that_fails_passes_no_gate() -> None:
    assert caught({"named": None}) == ["named"]


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What `python -m benchmarks.gates` found when it was last run."""
    found: dict[str, Any] = json.loads((ROOT / "benchmarks/results/gates.json").read_text())
    return found


def test_what_was_measured_is_of_these_gates_and_faults(found: dict[str, Any]) -> None:
    assert list(found["faults"]) == list(FAULTS)
    for name, values in found["faults"].items():
        assert list(values) == [g.name for g in GATES.values() if g.case in FAULTS[name].cases]
    ranges = {g.name: whole({"low": g.low, "high": g.high}) for g in GATES.values()}
    assert found["passes"] == ranges


def test_every_fault_was_caught_and_every_gate_caught_one(found: dict[str, Any]) -> None:
    assert not caught(found["intact"])
    by_fault = {name: caught(values) for name, values in found["faults"].items()}
    assert [name for name, gates in by_fault.items() if not gates] == []
    assert {gate for gates in by_fault.values() for gate in gates} == set(GATES)


def test_the_page_has_what_was_measured(found: dict[str, Any]) -> None:
    page = (ROOT / "docs/gates.md").read_text()
    assert page.endswith(tables(found))
    assert page.count(HEADING) == 1
