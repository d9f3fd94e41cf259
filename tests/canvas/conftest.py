from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from msbd_dist.canvas.files import Files, open_files


@pytest.fixture(params=["local", "memory", "s3"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    """An empty folder in each kind of store."""
    if request.param == "local":
        return open_files(tmp_path / "run")
    if request.param == "memory":
        return open_files(f"memory://{uuid4().hex}/run")
    request.getfixturevalue("s3_server")
    return open_files(f"s3://runs/{uuid4().hex}")
