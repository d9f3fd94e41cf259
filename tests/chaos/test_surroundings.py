"""What is around a run fails: the store's writes, the disk, the clock, the memory."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from campaign import broken_promises, digests
from zarr.storage import LocalStore

from msbd_dist.batch.manifest import Manifest
from msbd_dist.batch.run import run_manifest
from msbd_dist.canvas.files import LocalFiles
from msbd_dist.errors import FullError

HERE = Path(__file__).parent
pytestmark = pytest.mark.long


def test_writes_that_fail_now_and_then_are_tried_again(
    edits: Manifest, quiet: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, failed = random.Random(5), []

    def fails(name: str) -> None:
        if rng.random() < 0.02:
            failed.append(name)
            raise ConnectionResetError(f"{name}: the store did not answer")

    real_set, real_create = LocalStore.set, LocalFiles.create

    async def shaky_set(store: LocalStore, key: str, *more: Any, **options: Any) -> None:
        fails(key)
        await real_set(store, key, *more, **options)

    def shaky_create(files: LocalFiles, name: str, data: bytes) -> bool:
        if not files.url.endswith("lease"):
            fails(name)
        return real_create(files, name, data)

    monkeypatch.setattr(LocalStore, "set", shaky_set)
    monkeypatch.setattr(LocalFiles, "create", shaky_create)
    result = run_manifest(edits, tmp_path / "out", executor="serial")
    monkeypatch.undo()
    assert result.exit_code == 0, result.edits
    assert len(failed) > 3
    assert digests(tmp_path / "out") == quiet
    assert not broken_promises(tmp_path / "out")


def test_a_clock_that_jumps_is_not_looked_at(
    edits: Manifest, quiet: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, real = random.Random(6), time.time
    monkeypatch.setattr(time, "time", lambda: real() + rng.uniform(-1e6, 1e6))
    result = run_manifest(edits, tmp_path / "out", executor="serial")
    monkeypatch.undo()
    assert result.exit_code == 0, result.edits
    assert digests(tmp_path / "out") == quiet


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user can't mount a file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_ends_the_run_in_one_line_and_loses_nothing(
    edits: Manifest, quiet: dict[str, str], small_disk: Path
) -> None:
    out = small_disk / "out"
    with pytest.raises(FullError, match=r"No space left on device.*make room"):
        run_manifest(edits, out, executor="serial")
    grow = ["mount", "-o", "remount,size=300m", str(small_disk)]
    subprocess.run(grow, check=True)
    done = {path: path.read_bytes() for path in out.glob("*/*/ledger/*.json")}
    assert done
    result = run_manifest(edits, out, executor="serial")
    assert result.exit_code == 0, result.edits
    assert all(path.read_bytes() == marker for path, marker in done.items())
    assert digests(out) == quiet


def test_a_worker_that_leaks_memory_is_replaced_before_its_host_dies(tmp_path: Path) -> None:
    memory = psutil.virtual_memory()
    allowed = (memory.total - memory.available + 2**31) / memory.total
    leaky = subprocess.run(
        [sys.executable, str(HERE / "leaky.py")],
        text=True,
        capture_output=True,
        timeout=300,
        env={
            **os.environ,
            "RAY_memory_usage_threshold": f"{allowed:.4f}",
            "RAY_memory_monitor_refresh_ms": "100",
        },
    )
    assert leaky.returncode == 0, leaky.stderr
    assert "all done" in leaky.stdout
    assert "low on memory" in leaky.stderr
