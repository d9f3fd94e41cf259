"""A Ray that wants a token, one that wants none, and processes that have another."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TOKENS = {"a": "a" * 40, "b": "b" * 40}
USES = """
import sys
from ray import cloudpickle
from msbd_dist.fleet.ray_executor import RayExecutor

class Worker:
    def run(self, task, attempt, *, beat, team=None):
        return {"task": task}

cloudpickle.register_pickle_by_value(sys.modules["__main__"])
try:
    address = sys.argv[1] if len(sys.argv) > 1 else None
    pool = RayExecutor(Worker, num_workers=1, use_gpus=False, address=address)
    pool.submit(3)
    print(pool.wait(60))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def set_token(environment: pytest.MonkeyPatch, token: str | None) -> None:
    environment.setenv("RAY_AUTH_MODE", "token" if token else "disabled")
    environment.setenv("RAY_AUTH_TOKEN", TOKENS[token] if token else "")


@pytest.mark.long
@pytest.mark.parametrize("wants", ["a", None], ids=["with token", "without token"])
def test_who_has_the_same_token_is_served_and_others_are_told_why(
    wants: str | None, environment: pytest.MonkeyPatch, start_nodes: Callable[[int], Any]
) -> None:
    set_token(environment, wants)
    address = start_nodes(1).address
    for token in ("a", "b", None):
        set_token(environment, token)
        used = subprocess.run(
            [sys.executable, "-c", USES, address], text=True, capture_output=True, timeout=120
        )
        said = used.stdout.strip()
        if token == wants:
            assert "facts={'task': 3}" in said
        elif wants:
            assert said.startswith("ClusterError the Ray at")
            assert "the same token" in said
            assert "InvalidAuthToken" not in used.stderr
        else:
            assert "ClusterError" in said
            assert "RAY_AUTH_MODE=disabled" in said


@pytest.mark.long
def test_a_ray_of_its_own_needs_no_token_of_the_user_and_no_home(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.write_text("not a folder")
    environment.setenv("HOME", str(home))
    environment.setenv("RAY_AUTH_MODE", "token")
    used = subprocess.run([sys.executable, "-c", USES], text=True, capture_output=True, timeout=240)
    assert "facts={'task': 3}" in used.stdout, used.stdout + used.stderr


def test_under_uv_run_nothing_is_packed() -> None:
    """Ray takes a parent `uv run` for the wish that workers build an environment anew."""
    code = (
        "import msbd_dist.fleet.ray_executor; from ray._private import ray_constants; "
        "print(ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV)"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert done.stdout.strip() == "False"
