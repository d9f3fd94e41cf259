"""The driver dies at every kind of write, or is told to stop; the same command continues."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from uuid import uuid4

import pytest
from campaign import broken_promises, digests

from msbd_dist.batch.manifest import Manifest

HERE = Path(__file__).parent
WRITES = [
    "run.json",
    "lease/*.json",
    "star/edit.json",
    "canvas.zarr/mask/*/c/0/0",
    "ledger/ingest.json",
    "ledger/0-denoise-0.json",
    "ledger/0-fit-0.json",
    "ledger/1-decode-0.json",
    "previews/stage-1.png",
    "2/latents/*/c/1/0/0/0",
    "ledger/2-denoise-2.json",
    "tuned-2-*.safetensors",
    "2/canvas/*/c/0/0/0",
    "ledger/2-compose-*.json",
    "star/output.png",
    "ledger/export.json",
    "report.json",
]


def run(script: str, edits: Manifest, out: Path | str, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / script), str(edits.path), str(out), *more]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.long)])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "out")
    request.getfixturevalue("s3_server")
    return f"s3://runs/{uuid4().hex}"


def test_a_driver_killed_at_every_kind_of_write_loses_nothing(
    one_edit: Manifest, quiet_one: dict[str, str], out: str
) -> None:
    killed = 0
    for number, pattern in enumerate(WRITES):
        driver = run("mortal.py", one_edit, out, ("before", "after")[number % 2], pattern)
        words, _ = driver.communicate(timeout=300)
        assert driver.returncode in (0, -signal.SIGKILL), words
        killed += driver.returncode == -signal.SIGKILL
    last = run("mortal.py", one_edit, out, "before", "nothing")
    words, _ = last.communicate(timeout=300)
    assert last.returncode == 0, words
    assert killed >= len(WRITES) - 2
    assert digests(out) == quiet_one
    assert not broken_promises(out)
    assert not [path for path in Path(out).rglob("*.part*") if "://" not in out]


# of one edit, in the order in which it reaches them
PHASES = ["ingest", "0-denoise-0", "0-fit-0", "1-denoise-0", "2-denoise-2", "2-fit-0"]


@pytest.mark.long
def test_a_driver_killed_in_each_phase_repeats_at_most_a_task_for_each_worker(
    edits: Manifest, quiet: dict[str, str], tmp_path: Path
) -> None:
    out, workers = tmp_path / "out", 2
    for phase in PHASES:
        driver = run("driver.py", edits, out, str(workers))
        until = time.monotonic() + 240
        while not list(out.glob(f"star/*/ledger/{phase}.json")) and driver.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.05)
        driver.kill()
        driver.wait()
        assert driver.stdout is not None
        driver.stdout.close()
    last = run("driver.py", edits, out, str(workers))
    words, _ = last.communicate(timeout=300)
    assert last.returncode == 0, words
    assert digests(out) == quiet
    assert not broken_promises(out)
    begun: dict[str, set[str]] = defaultdict(set)  # by the driver that gave them out
    for line in Path(f"{out}.begun").read_text().splitlines():
        attempt, task = line.split(" ", 1)
        begun[attempt.split(".")[0]].add(task)
    distinct = set().union(*begun.values())
    assert sum(map(len, begun.values())) - len(distinct) <= workers * len(PHASES)
    assert len(begun) >= len(PHASES) - 1  # the first may be killed before anything begins


@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGINT, 130, marks=pytest.mark.long), (signal.SIGTERM, 143)],
)
def test_a_driver_that_is_told_to_stop_finishes_what_runs(
    one_edit: Manifest, quiet_one: dict[str, str], tmp_path: Path, number: int, code: int
) -> None:
    out = tmp_path / "out"
    msbd = Path(sys.executable).with_name("msbd")
    command = [str(msbd), "run", str(one_edit.path), "--out", str(out)]
    driver = subprocess.Popen(
        [*command, "--workers", "2"], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    until = time.monotonic() + 120
    while not list(out.glob("*/*/ledger/*-denoise-*.json")) and time.monotonic() < until:
        time.sleep(0.1)
    os.kill(driver.pid, number)
    _, words = driver.communicate(timeout=90)
    assert driver.returncode == code, words
    assert "Traceback" not in words
    assert "the same command continues" in words
    before = {path: path.read_bytes() for path in out.glob("*/*/ledger/*.json")}
    finish = subprocess.run([*command, "--executor", "serial"], capture_output=True, text=True)
    assert finish.returncode == 0, finish.stderr
    assert digests(out) == quiet_one
    assert all(path.read_bytes() == marker for path, marker in before.items())
