"""What a run says of itself while it goes on, and what is reckoned from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from msbd_dist.batch.board import Board, Silent
from msbd_dist.batch.estimate import Profile, hours_of, load_profile, save_profile
from msbd_dist.batch.record import EditResult
from msbd_dist.batch.status import Row, as_json, load_status
from msbd_dist.batch.steps import Edit
from msbd_dist.canvas.files import open_files
from msbd_dist.cli.progress import duration, in_a_line, picture
from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.plan import Plan, make_plan
from msbd_dist.core.spec import EditSpec, Method, ModelSpec
from msbd_dist.errors import InputError, MsbdError
from msbd_dist.models.card import resolve


def a_plan() -> Plan:
    return make_plan(
        Size(2000, 2000),
        Box(100, 100, 1400, 1500),
        lambda _: True,
        family=resolve(ModelSpec()).family,
        method=Method(steps=4, repaint=0, samples=2),
    )


class Planned(Edit):
    """An edit of which nothing but the plan is there."""

    def __init__(self, name: str, plan: Plan) -> None:
        spec = EditSpec(id=name, image="", mask="", prompt=f"a {name}")
        found = cast("Any", type("Record", (), {"plan": plan, "spec": spec}))
        object.__setattr__(self, "record", found)
        object.__setattr__(self, "ledger", {})
        object.__setattr__(self, "name", name)

    @property
    def id(self) -> str:
        return cast("Any", self).name


def advance(board: Board, edit: str, plan: Plan, seconds: float) -> None:
    """All tasks of an edit, at so many seconds for a unit of cost."""
    for stage in plan.stages:
        for wave in plan.waves(edit, stage):
            board.wave(edit, plan, wave)
            for task in wave:
                cost = plan.cost(task)
                board.advance(edit, task, cost, {"seconds": seconds * cost})


def test_what_is_left_is_reckoned_from_what_was_measured(tmp_path: Path) -> None:
    plan, board = a_plan(), Board(open_files(tmp_path), Silent(), 4)
    cost = sum(plan.cost(task) for task in plan.tasks(""))
    for name in ("a", "b"):
        board.expect(Planned(name, plan))
    assert board.status().counts == {"waiting": 4}
    board.begin(workers=2)
    assert board.status().seconds_left is None
    board.enter(Planned("a", plan))
    *_, composing, _ = plan.waves("a", plan.final)
    board.wave("a", plan, composing)
    (doing,) = board.status().doing
    chunks = len(plan.written_chunks(plan.final))
    assert (doing.what, doing.done, doing.of) == ("stage 3 compose", 0, chunks)
    advance(board, "a", plan, seconds=0.5)
    (doing,) = board.status().doing
    assert (doing.what, doing.share) == ("stage 3 measure", 1.0)
    assert doing.done == doing.of == 1
    board.finish(EditResult(id="a", state="done", output="a.png"))
    status = board.status()
    assert status.counts == {"done": 1, "waiting": 3}  # of two of them no plan is known yet
    assert status.seconds_left == pytest.approx(3 * cost * 0.5 / 2)
    assert status.share == pytest.approx(1 / 4)
    assert board.profile().of(plan) == pytest.approx(0.5 * cost)


def test_what_was_done_before_counts_in_what_is_done(tmp_path: Path) -> None:
    plan, board = a_plan(), Board(open_files(tmp_path), Silent(), 3)
    tasks = list(plan.tasks("b"))
    cost, half = sum(map(plan.cost, tasks)), sum(map(plan.cost, tasks[: len(tasks) // 2]))
    board.finish(EditResult(id="a", state="kept", output="a.png", cost=cost))
    begun = Planned("b", plan)
    begun.ledger.update({task.name: {} for task in tasks[: len(tasks) // 2]})  # type: ignore[attr-defined]
    board.expect(begun)
    board.expect(Planned("c", plan))
    board.begin(workers=1)
    board.enter(begun)
    assert board.status().share == pytest.approx((cost + half) / (3 * cost))
    (doing,) = board.status().doing
    assert doing.share == pytest.approx(half / cost)


def test_finished_edits_count_where_another_one_is_tried_again(tmp_path: Path) -> None:
    plan, board = a_plan(), Board(open_files(tmp_path), Silent(), 4)
    board.rows = {name: Row(id=name, state="done") for name in "abc"}
    board.kept = 3
    board.expect(Planned("d", plan))
    board.begin(workers=1)
    assert board.status().share == pytest.approx(3 / 4)


def test_what_an_error_ended_is_stopped_and_says_why(tmp_path: Path) -> None:
    plan, board = a_plan(), Board(open_files(tmp_path), Silent(), 3)
    board.expect(Planned("b", plan))
    board.begin(workers=1)
    board.finish(EditResult(id="c", state="done", output="c.png"))
    board.enter(Planned("b", plan))
    board.break_off("the disk is full", "abc")
    status = load_status(open_files(tmp_path))
    assert (status.state, status.error, status.doing) == ("ended", "the disk is full", ())
    assert [(row.state, row.error) for row in status.edits] == [
        ("stopped", None), ("stopped", "the disk is full"), ("done", None),
    ]  # fmt: skip
    assert status.counts == {"done": 1, "stopped": 2}
    assert in_a_line(status).endswith("the disk is full")


def test_the_edits_of_a_driver_that_is_gone_are_not_running(tmp_path: Path) -> None:
    plan, board = a_plan(), Board(open_files(tmp_path), Silent(), 2)
    board.expect(Planned("a", plan))
    board.begin(workers=1)
    board.enter(Planned("a", plan))
    board.write()
    status = load_status(open_files(tmp_path))
    assert (status.state, status.doing) == ("interrupted", ())
    assert [row.state for row in status.edits] == ["stopped"]
    assert status.counts == {"stopped": 1, "waiting": 1}
    assert json.loads(as_json(status))["counts"] == status.counts


def test_a_task_that_failed_and_may_says_nothing_of_its_pace(tmp_path: Path) -> None:
    plan, board = a_plan(), Board(open_files(tmp_path), Silent(), 1)
    board.expect(Planned("a", plan))
    board.begin(workers=1)
    board.enter(Planned("a", plan))
    *_, last = plan.tasks("a")
    assert last.kind == "measure"
    board.advance("a", last, plan.cost(last), {})
    assert board.profile().seconds == {}
    (doing,) = board.status().doing
    assert doing.share == pytest.approx(plan.cost(last) / sum(map(plan.cost, plan.tasks("a"))))


def test_the_file_has_the_row_of_each_edit_in_the_manifest_s_order(tmp_path: Path) -> None:
    plan, board = a_plan(), Board(open_files(tmp_path), Silent(), 3)
    board.write()
    assert not list(tmp_path.iterdir())  # it is not a run's directory yet
    error = MsbdError("no such file")
    late = EditResult(id="c", state="failed", error=error)
    board.finish(late)
    board.begin(workers=1)
    board.enter(Planned("a", plan))
    board.chore("a", "taking in", 0.25)
    assert load_status(open_files(tmp_path)).state == "interrupted"  # nobody has the lease
    assert "taking in 25 %" in in_a_line(board.status())
    done = EditResult(id="a", state="done", output="a.png")
    board.finish(done)
    board.end([done, EditResult(id="b", state="stopped"), late], "cancelled", "abc")
    board.write()
    status = load_status(open_files(tmp_path))
    assert [(row.id, row.state) for row in status.edits] == [
        ("a", "done"), ("b", "stopped"), ("c", "failed"),
    ]  # fmt: skip
    assert status.edits[2].error == "no such file"
    assert status.stopped == "cancelled"


def test_bars_and_lines_say_the_same(tmp_path: Path) -> None:
    plan, board = a_plan(), Board(open_files(tmp_path), Silent(), 2)
    assert in_a_line(board.status()) == "looked at 0 of 2 edits"
    for name in ("a", "b"):
        board.expect(Planned(name, plan))
    board.begin(workers=1)
    board.enter(Planned("a", plan))
    board.wave("a", plan, next(plan.waves("a", plan.final)))
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(picture(board.status()))
    text = console.export_text()
    console.file.close()
    words = f"stage 3 denoise 0/{len(plan.final.segments)}"
    assert words in text
    assert words in in_a_line(board.status())
    assert "0 of 2 edits" in text


def test_hours_are_no_less_than_what_one_worker_must_do_alone(tmp_path: Path) -> None:
    plan = a_plan()
    profile = Profile(seconds={"denoise": 0.1, "fit": 0.2, "decode": 0.1, "compose": 0.1})
    total, one = hours_of(profile, [plan, plan], workers=1)
    assert one == total == pytest.approx(2 * profile.of(plan) / 3600)
    assert hours_of(profile, [plan, plan], workers=2)[1] == pytest.approx(total / 2)
    many = hours_of(profile, [plan, plan], workers=10**6)[1]
    assert many == pytest.approx(profile.alone(plan) / 3600)
    save_profile(open_files(tmp_path), profile)
    assert load_profile(str(tmp_path)) == load_profile(str(tmp_path / "profile.json")) == profile


@pytest.mark.parametrize("text", ["", "[]", '{"seconds": {}}', json.dumps({"seconds": {"fit": 0}})])
def test_what_is_no_profile_is_said_to_be_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "profile.json").write_text(text)
    with pytest.raises(InputError, match="is not a profile"):
        load_profile(str(tmp_path))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (89, "89 s"), (100, "2 min"), (12_000, "3 h 20 min"), (190_800, "2 days 5 h")],
)
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
