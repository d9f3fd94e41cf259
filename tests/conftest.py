"""Settings for all tests: no time limits in property tests, one thread, no network; one Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_metrics_report_interval_ms", "1000")  # Ray's default is 10 seconds

settings.register_profile(
    "project", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("project")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for all tests that need it."""
    import ray

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@dataclass(frozen=True)
class Nodes:
    """A Ray of several nodes."""

    address: str
    raylets: list[int]  # process numbers, the head's first


@pytest.fixture
def start_nodes() -> Iterator[Callable[[int], Nodes]]:
    """Starts a Ray of so many nodes in the environment as it is."""
    with ExitStack() as stack:

        def start(number: int) -> Nodes:
            command = [sys.executable, str(Path(__file__).with_name("nodes.py")), str(number)]
            process = stack.enter_context(
                subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            assert process.stdin
            assert process.stdout
            stack.callback(process.stdin.close)
            return Nodes(**json.loads(process.stdout.readline()))

        yield start


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """An S3 server on this machine, and an empty bucket ``runs`` in it."""
    import fsspec
    from moto.server import ThreadedMotoServer

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
