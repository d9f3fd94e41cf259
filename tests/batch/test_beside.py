"""Reading ahead and writing behind: order, bounds, errors, and the bytes of a run without them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from quick import FAST, pixels

from msbd_dist.batch import worker
from msbd_dist.batch.beside import Beside, ReadAhead
from msbd_dist.batch.manifest import Manifest
from msbd_dist.batch.run import run_manifest
from msbd_dist.errors import StoreError


def test_the_next_is_read_while_one_is_at_work() -> None:
    asked: list[int] = []
    begun = {key: threading.Event() for key in (4, 7, 9)}

    def read(key: int) -> int:
        asked.append(key)
        begun[key].set()
        return key * key

    with Beside() as beside:
        take = ReadAhead(beside.reader, read, (4, 7, 9))
        assert asked == []
        assert take(4) == 16
        assert begun[7].wait(10)
        assert not begun[9].is_set()
        assert [take(7), take(9)] == [49, 81]
    assert asked == [4, 7, 9]


def test_what_was_taken_is_read_again() -> None:
    """A task may go over a slot once more, in another precision."""
    asked: list[int] = []

    def read(key: int) -> int:
        asked.append(key)
        return key

    with Beside() as beside:
        take = ReadAhead(beside.reader, read, (1, 2))
        assert [take(1), take(1), take(2), take(2)] == [1, 1, 2, 2]
    assert asked == [1, 2, 1, 2]


def test_an_error_comes_to_who_asks() -> None:
    def read(key: int) -> int:
        raise StoreError(f"no slot {key}")

    with Beside() as beside:
        take = ReadAhead(beside.reader, read, (1, 2))
        for key in (1, 2):
            with pytest.raises(StoreError, match=f"no slot {key}"):
                take(key)


def test_writes_are_done_in_order_and_two_wait_at_most() -> None:
    done: list[int] = []
    go = threading.Event()

    def write(number: int) -> None:
        assert go.wait(10)
        done.append(number)

    with Beside() as beside:
        beside.later(partial(write, 0))
        beside.later(partial(write, 1))
        third = threading.Thread(target=beside.later, args=(partial(write, 2),))
        third.start()
        third.join(0.1)
        assert third.is_alive()
        go.set()
        third.join()
        beside.flush()
        assert done == [0, 1, 2]


def test_a_failed_write_ends_the_task() -> None:
    def fail() -> None:
        raise OSError("disk full")

    with Beside() as beside:
        beside.later(fail)
        with pytest.raises(OSError, match="disk full"):
            beside.flush()


def test_nothing_is_under_way_after_an_error() -> None:
    done: list[int] = []

    def write(number: int) -> None:
        time.sleep(0.05)
        done.append(number)

    def task() -> None:
        with Beside() as beside:
            beside.later(partial(write, 1))
            beside.later(partial(write, 2))
            raise ValueError("of the task")

    with pytest.raises(ValueError, match="of the task"):
        task()
    before = list(done)
    time.sleep(0.1)
    assert done == before


class _Plain(ReadAhead[int, worker.Given]):
    """Nothing is read before it is asked for."""

    def __call__(self, key: int) -> worker.Given:
        return self._read(key)


def _at_once(self: Beside, write: Callable[[], None]) -> None:
    write()


def test_the_same_bytes_as_without(
    make_manifest: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_manifest({**FAST, "steps": 1, "repaint": 0, "samples": 1, "upscale_steps": 5})
    out = manifest.path.parent
    beside = run_manifest(manifest, out / "beside", executor="serial")
    monkeypatch.setattr(worker, "ReadAhead", _Plain)
    monkeypatch.setattr(Beside, "later", _at_once)
    plain = run_manifest(manifest, out / "plain", executor="serial")
    assert (beside.exit_code, plain.exit_code) == (0, 0)
    one, other = (str(run.edits[0].output) for run in (beside, plain))
    assert np.array_equal(pixels(one), pixels(other))
