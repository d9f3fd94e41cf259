"""Done-markers: the first who comes, and nobody after."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from msbd_dist.canvas.files import Files
from msbd_dist.canvas.ledger import Ledger


def test_a_marker_is_found_again(files: Files) -> None:
    Ledger(files).commit("0-denoise-0", {"attempt": "1.0"})
    again = Ledger(files)
    assert "0-denoise-0" in again
    assert again["0-denoise-0"] == {"attempt": "1.0"}
    assert again.get("0-fit-0") is None
    with pytest.raises(KeyError):
        again["0-fit-0"]


def test_whoever_comes_second_gets_the_facts_of_the_first(files: Files) -> None:
    first, second = Ledger(files), Ledger(files)
    assert first.commit("task", {"attempt": "1.0"}) == {"attempt": "1.0"}
    assert second.commit("task", {"attempt": "2.0"}) == {"attempt": "1.0"}
    assert second["task"] == Ledger(files)["task"] == {"attempt": "1.0"}


def test_all_agree_who_was_first(files: Files) -> None:
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda n: Ledger.mark(files, "task", {"attempt": n}), range(8)))
    assert len({facts["attempt"] for facts in told}) == 1


def test_a_damaged_marker_is_none(files: Files) -> None:
    for name, text in (("a", b""), ("b", b'{"attempt": '), ("c", b"[]")):
        files.write(f"{name}.json", text)
    ledger = Ledger(files)
    assert not any(name in ledger for name in "abc")
    assert ledger.commit("a", {"attempt": "2.0"}) == {"attempt": "2.0"}
