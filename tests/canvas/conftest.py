from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from msbd_dist.canvas.files import Files, open_files


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """An S3 server on this machine, and an empty bucket ``runs`` in it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        }.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("runs")
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["local", "memory", "s3"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    """An empty folder in each kind of store."""
    if request.param == "local":
        return open_files(tmp_path / "run")
    if request.param == "memory":
        return open_files(f"memory://{uuid4().hex}/run")
    request.getfixturevalue("s3_server")
    return open_files(f"s3://runs/{uuid4().hex}")
