"""A short campaign of faults; `make chaos` has the long one."""

from __future__ import annotations

from pathlib import Path

from campaign import campaign


def test_a_few_faults_change_nothing(tmp_path: Path) -> None:
    report = campaign(tmp_path, faults=4, seed=20, between=(2, 6))
    assert report.good, "\n".join(report.lines())
    assert sum(report.faults.values()) == 4
