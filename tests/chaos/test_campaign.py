"""A short campaign of faults; `make chaos` has the long one."""

from __future__ import annotations

from pathlib import Path

import pytest
from campaign import campaign

from msbd_dist.batch.manifest import Manifest


@pytest.mark.long
def test_a_few_faults_change_nothing(
    one_edit: Manifest, quiet_one: dict[str, str], tmp_path: Path
) -> None:
    report = campaign(one_edit.path, quiet_one, tmp_path, faults=3, seed=20, between=(2, 6))
    assert report.good, "\n".join(report.lines())
    assert sum(report.faults.values()) == 3
