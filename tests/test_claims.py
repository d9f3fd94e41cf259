"""The claims suite: its statistics, its scenes, its page, and one question asked of the product."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks.claims import rerank, scenes, seams
from benchmarks.claims.page import TEXT, anchor, page, sections
from benchmarks.claims.pictures import write_grid
from benchmarks.claims.question import Claim, Column, Question, Row, answers, paired, table
from benchmarks.claims.repaint import QUESTION as REPAINT
from benchmarks.claims.results import entry, results, with_former
from benchmarks.claims.statistics import Estimate, difference, estimate, mean, ratio, verdict
from benchmarks.claims.suite import QUESTIONS, with_needed
from benchmarks.claims.work import Asked, Work, edits_of
from msbd_dist.core.geometry import Size
from msbd_dist.tiny.evaluate import cases as evaluated

ROOT = Path(__file__).parents[1]


def test_an_interval_holds_the_mean_and_narrows_with_more_scenes() -> None:
    rng = np.random.default_rng(1)
    few, many = (estimate(rng.normal(2, 1, (n, 1)), mean("plain")) for n in (10, 1000))
    for found in (few, many):
        assert found.low < found.value < found.high
    assert many.high - many.low < 0.3 * (few.high - few.low)
    assert many.low < 2 < many.high


def test_an_interval_has_its_level() -> None:
    """Of 95 % intervals about as many hold the true mean."""
    rng = np.random.default_rng(2)
    found = [estimate(rng.normal(0, 1, (40, 1)), mean("plain")) for _ in range(200)]
    assert 0.88 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.99


def test_differences_and_ratios_are_of_pairs() -> None:
    base = np.random.default_rng(3).lognormal(0, 2, 40)
    pairs = np.stack([2 * base, base], axis=1)
    twice = estimate(pairs, ratio)
    assert (twice.value, twice.low, twice.high) == pytest.approx((2, 2, 2))
    one_more = estimate(np.stack([base + 1, base], axis=1), difference)
    assert (one_more.low, one_more.high) == pytest.approx((1, 1))


def test_nothing_is_said_of_no_scenes() -> None:
    with pytest.raises(ValueError, match="no scenes"):
        estimate(np.zeros((0, 1)), mean("plain"))


@pytest.mark.parametrize(
    ("low", "high", "more", "wanted"),
    [
        (0.1, 0.2, True, "holds"),
        (-0.2, -0.1, True, "contradicted"),
        (-0.1, 0.2, True, "not shown"),
        (0.0, 0.0, True, "not shown"),
        (-0.2, -0.1, False, "holds"),
        (0.1, 0.2, False, "contradicted"),
    ],
)
def test_a_verdict_is_where_the_interval_lies(
    low: float, high: float, more: bool, wanted: str
) -> None:
    assert verdict(Estimate((low + high) / 2, low, high, 9), 0.0, more=more) == wanted


def made_up(**of_variant: list[float]) -> list[Row]:
    return [
        Row(f"s{number}", variant, {"shown": value})
        for variant, values in of_variant.items()
        for number, value in enumerate(values)
    ]


ASKED = Question(
    key="q0",
    title="Made up",
    names={"new": "the new way", "old": "the old way"},
    columns=(Column(key="shown", label="how far it shows", form="times"),),
    claims=(
        Claim(
            words="the new way shows less",
            column="shown",
            variant="new",
            against="old",
            how="ratio",
            more=False,
            bound=1.0,
        ),
    ),
)


def test_a_claim_is_answered_on_the_scenes_that_both_variants_have() -> None:
    rows = made_up(new=[1.0, 2.0], old=[2.0, 4.0, 1000.0])
    (answer,) = answers(ASKED, rows)
    assert (answer.verdict, answer.found.value, answer.found.count) == ("holds", 0.5, 2)


def test_edits_of_one_scene_count_as_one() -> None:
    rows = [*made_up(new=[1.0, 1.0]), Row("s0", "new", {"shown": 3.0})]
    assert table(ASKED, rows)["new"]["shown"].count == 2
    assert paired({"new": {"s0": 2.0, "s1": 1.0}}, ["new"]).tolist() == [[2.0], [1.0]]


def test_a_claim_without_numbers_has_no_answer() -> None:
    assert answers(ASKED, made_up(new=[1.0])) == []


def test_the_best_of_b_is_what_drawing_sets_gives() -> None:
    assert rerank.chances(16, 1) == pytest.approx(np.full(16, 1 / 16))
    assert rerank.chances(16, 16).tolist() == [1.0] + [0.0] * 15
    rng = np.random.default_rng(4)
    drawn = [min(rng.choice(16, 4, replace=False)) for _ in range(4000)]
    found = np.bincount(drawn, minlength=16) / 4000
    assert rerank.chances(16, 4) == pytest.approx(found, abs=0.03)
    assert rerank.chances(16, 4).sum() == pytest.approx(1)


def test_what_returns_at_the_stride_is_repetition() -> None:
    rng = np.random.default_rng(5)
    mask = np.ones((96, 400), np.bool_)
    noise = rng.random((3, 96, 400), np.float32)
    again = np.tile(rng.random((3, 96, 80), np.float32), (1, 1, 5))
    assert seams.repetition(again, mask, 80) > 0.9
    assert abs(seams.repetition(noise, mask, 80)) < 0.1
    assert abs(seams.repetition(again, mask, 70)) < 0.5


def test_cases_do_not_depend_on_their_number() -> None:
    some: dict[str, Any] = {"size": Size(128, 128), "cells": (6, 9), "inset": 2}
    few = scenes.cases(2, 3, grounds=scenes.plain, **some)
    assert scenes.cases(2, 5, grounds=scenes.plain, **some)[:3] == few
    assert [case.round for case in few] == [False, True, False]


@pytest.mark.parametrize("key", [key for key, q in QUESTIONS.items() if q.variants])
def test_every_question_asks_at_least_forty_held_out_scenes(key: str) -> None:
    question = QUESTIONS[key]
    assert question.scenes(1.0) >= 40
    for case in question.cases(4):
        assert case.placed.scene.seed > evaluated.FIRST
        assert case.mask.any()
        assert not case.mask[0].any()
        assert case.mask.shape == case.before().shape[:2]
    planned = edits_of(question, question.cases(4))
    assert len({name for name, *_ in planned}) == len(planned)
    by_scene = {
        case.id: {seed for _, c, _, seed in planned if c == case} for _, case, *_ in planned
    }
    assert len(set.union(*by_scene.values())) == sum(map(len, by_scene.values()))


def test_a_derived_question_brings_those_it_needs() -> None:
    assert [one.key for one in with_needed(["q7"])] == ["q1", "q3", "q7"]
    with pytest.raises(KeyError):
        with_needed(["q9"])


def test_every_question_has_its_words() -> None:
    words = sections(TEXT.read_text())
    wanted = {f"{key} {part}" for key in QUESTIONS for part in ("claim", "why")}
    assert set(words) == wanted | {""}
    assert all(words[f"{key} claim"] for key in QUESTIONS)


def test_the_page_shows_numbers_and_verdicts() -> None:
    claim = REPAINT.claims[0]
    rows = [
        Row(f"s{number}", variant, {claim.column: value})
        for number in range(3)
        for variant, value in (("r5", 1.5), ("r0", 3.0))
    ]
    asked = Asked(question=REPAINT, rows=rows, done=(), seconds=60.0, work=120.0)
    found = results([asked], scale=1.0)
    text = page(json.loads(json.dumps(found)), TEXT.read_text())
    assert f"[Q2](#{anchor('q2')}) | {claim.words} | holds |" in text
    assert "| R = 5 | 1.50 x (1.50 x to 1.50 x) | 3 |" in text
    assert "0.500 x (0.500 x to 0.500 x) | < 1.000 x | 3 | **holds** |" in text
    assert "r20: {repaint: 20}  # R = 20" in text


def test_docs_have_what_was_measured_of_all_questions() -> None:
    found = json.loads((ROOT / "benchmarks/results/claims.json").read_text())
    assert list(found["questions"]) == list(QUESTIONS)
    assert found["scale"] == 1
    assert (ROOT / "docs/claims.md").read_text() == page(found, TEXT.read_text())
    for key, question in QUESTIONS.items():
        assert question.tiles is None or (ROOT / f"docs/images/claims/{key}.png").is_file()


def test_results_keep_what_another_run_has_of_other_questions() -> None:
    def found(scale: float, **questions: int) -> dict[str, Any]:
        return {"scale": scale, "questions": questions}

    new = found(1.0, q4=2, q1=2)
    assert with_former(new, found(1.0, q7=1, q4=1, q9=1)) == found(1.0, q1=2, q4=2, q7=1)
    assert list(with_former(new, found(1.0, q7=1))["questions"]) == ["q1", "q4", "q7"]
    assert with_former(new, found(0.1, q7=1)) == new


def test_a_question_is_asked_of_the_product_and_once_more_for_nothing(tmp_path: Path) -> None:
    quick = replace(
        REPAINT,
        shared={**REPAINT.shared, "steps": 2},
        variants=tuple(replace(v, seeds=1) for v in REPAINT.variants[:2]),
        heads=("mask", "R = 0", "R = 1"),
    )
    work = Work(out=tmp_path, scale=0.01, executor="serial")
    asked = work.ask(quick, {})
    assert [(row.case, row.variant) for row in asked.rows] == [
        *(("s00", "r0"), ("s00", "r1"), ("s01", "r0"), ("s01", "r1")),
        *(("s00", "real"), ("s01", "real")),
    ]
    assert set(entry(asked)["table"]) == {"r0", "r1", "real"}
    manifest = yaml.safe_load((tmp_path / "q2/manifest.yaml").read_text())
    assert [edit["repaint"] for edit in manifest["edits"]] == [0, 1, 0, 1]
    write_grid(asked, tmp_path / "grids")
    with Image.open(tmp_path / "grids/q2.png") as grid:
        assert grid.width > 3 * REPAINT.side
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("output.png")}
    again = work.ask(quick, {})
    assert again.rows == asked.rows
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("output.png")} == made
