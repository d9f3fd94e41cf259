from __future__ import annotations

import pytest
from campaign import digests, write_manifest

from msbd_dist.batch.manifest import Manifest, read_manifest
from msbd_dist.batch.run import run_manifest


@pytest.fixture(scope="session")
def edits(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Three small edits."""
    return read_manifest(write_manifest(tmp_path_factory.mktemp("edits")))


@pytest.fixture(scope="session")
def quiet(edits: Manifest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a run of them that nothing disturbs has stored."""
    result = run_manifest(edits, tmp_path_factory.mktemp("quiet") / "out", executor="serial")
    assert result.exit_code == 0
    return digests(result.out)
