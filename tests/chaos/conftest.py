from __future__ import annotations

import pytest
from campaign import quiet_run, write_manifest

from msbd_dist.batch.manifest import Manifest, read_manifest


@pytest.fixture(scope="session")
def edits(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Three small edits, for the long tests."""
    return read_manifest(write_manifest(tmp_path_factory.mktemp("edits")))


@pytest.fixture(scope="session")
def quiet(edits: Manifest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a run of them that nothing disturbs has stored."""
    return quiet_run(edits.path, tmp_path_factory.mktemp("quiet") / "out")


@pytest.fixture(scope="session")
def one_edit(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """One of them, with a shorter decoder optimization."""
    star = {"star": {"prompt": "a red star", "seed": 1, "decoder_steps": 3}}
    return read_manifest(write_manifest(tmp_path_factory.mktemp("edit"), star))


@pytest.fixture(scope="session")
def quiet_one(one_edit: Manifest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return quiet_run(one_edit.path, tmp_path_factory.mktemp("quiet") / "out")
