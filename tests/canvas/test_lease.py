"""One driver at a time, and the next one when it is gone."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from msbd_dist.canvas import lease
from msbd_dist.canvas.files import Files, open_files
from msbd_dist.canvas.lease import Lease, LeaseLost
from msbd_dist.errors import RunError

BEAT, STALE = 0.05, 1.0


def take(files: Files, **options: Any) -> Lease:
    return Lease.take(files, beat=BEAT, stale=STALE, **options)


def test_a_living_holder_keeps_others_out(files: Files) -> None:
    with (
        closing(take(files)) as held,
        pytest.raises(RunError, match=f"process {os.getpid()}.*choose another"),
    ):
        take(files)
    assert held.epoch == 1


def test_a_run_that_was_let_go_is_taken_at_once(files: Files) -> None:
    take(files).close()
    began = time.monotonic()
    with closing(take(files)) as second:
        assert second.epoch == 2
        assert time.monotonic() - began < STALE


def hold(url: str, taken: Any) -> None:
    take(open_files(url))
    taken.set()
    time.sleep(60)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Any:
    """A run that another process holds."""
    spawn = multiprocessing.get_context("spawn")
    taken = spawn.Event()
    process = spawn.Process(target=hold, args=(str(tmp_path), taken))
    process.start()
    assert taken.wait(60)
    yield process
    process.kill()
    process.join()


def test_a_killed_holder_is_replaced_without_waiting(elsewhere: Any, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"process {elsewhere.pid}"):
        take(open_files(tmp_path))
    elsewhere.kill()
    elsewhere.join()
    with closing(take(open_files(tmp_path), waiting=pytest.fail)) as taken:
        assert taken.epoch == 2


def test_a_frozen_holder_is_replaced_after_a_while(elsewhere: Any, tmp_path: Path) -> None:
    os.kill(elsewhere.pid, signal.SIGSTOP)
    waited: list[Any] = []
    with closing(take(open_files(tmp_path), waiting=waited.append)) as taken:
        assert taken.epoch == 2
        assert [holder.pid for holder in waited] == [elsewhere.pid]


def test_a_silent_holder_on_another_host_is_replaced(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = take(files)
    held._left.set()  # it stops beating, and says nothing
    monkeypatch.setattr(lease, "_host", lambda: "another")
    with closing(take(files)) as taken:
        assert taken.epoch == 2


def test_who_was_replaced_is_told_before_it_commits(files: Files) -> None:
    held = take(files)
    held._left.set()
    held._beating.join()
    held.check()
    (files / "lease").write("00000002.json", (files / "lease").read("00000001.json"))
    time.sleep(2.5 * BEAT)
    with pytest.raises(LeaseLost, match="taken this run over"):
        held.check()
    held.close()
    assert not json.loads((files / "lease").read("00000002.json"))["released"]


def test_the_clock_may_jump(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(take(files)) as held:
        monkeypatch.setattr(time, "time", lambda: 0.0)
        time.sleep(3 * BEAT)
        held.check()


def test_a_damaged_lease_is_nobodys(files: Files) -> None:
    (files / "lease").write("00000007.json", b"{")
    with closing(take(files)) as taken:
        assert taken.epoch == 8
