"""Edits that are looked at before their turn."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import Any, cast

import pytest

from msbd_dist.batch.ahead import Ahead
from msbd_dist.batch.record import EditResult
from msbd_dist.batch.steps import Edit
from msbd_dist.core.spec import EditSpec, Result


def spec(name: str, image: str | Result = "image.png") -> EditSpec:
    return EditSpec(id=name, image=image, mask="mask.png", prompt="")


class Looked(Edit):
    """What `begin` makes of a spec."""

    def __init__(self, spec: EditSpec) -> None:
        object.__setattr__(self, "spec", spec)

    @property
    def id(self) -> str:
        return cast("Any", self).spec.id


def begin(spec: EditSpec) -> Edit | EditResult:
    if spec.id.startswith("kept"):
        return EditResult(id=spec.id, state="kept", output=f"{spec.id}.png")
    if spec.id.startswith("bad"):
        return EditResult(id=spec.id, state="failed")
    return Looked(spec)


def taken(ahead: Ahead) -> list[str]:
    found = []
    while ahead.more:
        one = ahead.take()
        if one is not None:
            found.append(one.id)
    return found


def test_no_more_than_the_window_is_read_before_the_work_begins() -> None:
    read = []

    def specs() -> Any:
        for number in range(100):
            read.append(number)
            yield spec(f"kept{number}" if number < 20 else f"e{number}")

    with closing(Ahead(specs(), begin, window=7)) as ahead:
        seen = [one.id for one in ahead.look()]
        assert seen == [*(f"kept{n}" for n in range(20)), *(f"e{n}" for n in range(20, 27))]
        assert len(read) == 27
        assert taken(ahead) == [f"e{n}" for n in range(20, 100)]


def test_the_order_is_the_manifest_s_however_long_a_look_takes() -> None:
    def slow(spec: EditSpec) -> Edit | EditResult:
        time.sleep(0.05 if spec.id == "e0" else 0)
        return begin(spec)

    with closing(Ahead([spec(f"e{n}") for n in range(9)], slow)) as ahead:
        assert [one.id for one in ahead.look()] == [f"e{n}" for n in range(9)]


def test_an_edit_waits_for_the_result_that_it_uses() -> None:
    specs = [
        spec("last", Result(edit="middle")),
        spec("middle", Result(edit="first")),
        spec("first"),
        spec("other"),
    ]
    with closing(Ahead(specs, begin)) as ahead:
        assert [one.id for one in ahead.look()] == ["first", "other"]
        assert taken(ahead) == ["first", "other"]
        assert ahead.take() is None
        ahead.ended(EditResult(id="first", state="done", output="first.png"))
        (found,) = ahead.look()
        assert cast("Any", found).spec.image == "first.png"
        ahead.ended(EditResult(id="middle", state="done", output="middle.png"))
        ahead.ended(EditResult(id="middle", state="done", output="middle.png"))
        assert taken(ahead) == ["middle", "last"]


def test_what_uses_a_failed_edit_s_result_fails_with_it_and_so_on() -> None:
    specs = [
        spec("third", Result(edit="second")),
        spec("second", Result(edit="bad")),
        spec("bad"),
        spec("late", Result(edit="bad")),
        spec("fine", Result(edit="kept")),
        spec("kept"),
    ]
    with closing(Ahead(specs, begin)) as ahead:
        found = {one.id: one for one in ahead.look()}
        assert {name: getattr(one, "state", "edit") for name, one in found.items()} == {
            "bad": "failed", "second": "failed", "third": "failed", "late": "failed",
            "kept": "kept", "fine": "edit",
        }  # fmt: skip
        assert "edit second, whose result it uses" in str(cast("Any", found["third"]).error)
        assert taken(ahead) == ["fine"]


def test_looks_go_on_while_others_are_at_work() -> None:
    gate = threading.Event()

    def held(spec: EditSpec) -> Edit | EditResult:
        if spec.id == "e3":
            gate.wait()
        return begin(spec)

    with closing(Ahead([spec(f"e{n}") for n in range(5)], held, window=2)) as ahead:
        assert [one.id for one in ahead.look()] == ["e0", "e1"]
        assert [cast("Edit", ahead.take()).id for _ in range(2)] == ["e0", "e1"]
        while (third := ahead.take()) is None:
            time.sleep(0.01)
        assert third.id == "e2"
        assert ahead.take() is None
        assert ahead.more
        gate.set()
        assert taken(ahead) == ["e3", "e4"]


def test_an_error_of_the_looking_itself_is_not_swallowed() -> None:
    def broken(_: EditSpec) -> Edit | EditResult:
        raise ZeroDivisionError

    with closing(Ahead([spec("e0")], broken)) as ahead, pytest.raises(ZeroDivisionError):
        list(ahead.look())
