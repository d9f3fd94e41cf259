"""The latest value is kept, and no other."""

from __future__ import annotations

import pytest

from msbd_dist.batch.latest import Latest


def test_a_value_is_made_when_its_key_was_not_the_last() -> None:
    made: list[str] = []
    latest = Latest[str]()

    def ask(key: str) -> str:
        return latest.get(key, lambda: made.append(key) or key.upper())

    assert [ask(key) for key in "aabba"] == list("AABBA")
    assert made == ["a", "b", "a"]
    latest.forget()
    assert ask("a") == "A"
    assert made == ["a", "b", "a", "a"]


def test_a_value_that_can_t_be_made_leaves_none() -> None:
    latest = Latest[int]()
    latest.get("a", lambda: 1)
    with pytest.raises(ZeroDivisionError):
        latest.get("b", lambda: 1 // 0)
    assert latest.get("b", lambda: 2) == 2
