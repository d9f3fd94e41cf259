"""The numbers of a run of the suite as JSON, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from benchmarks.claims.question import Answer, Question, answers, table
from benchmarks.claims.statistics import Estimate
from benchmarks.claims.suite import QUESTIONS
from benchmarks.claims.work import Asked
from benchmarks.full_size import commit
from benchmarks.machine import describe_machine


def results(asked: Iterable[Asked], *, scale: float) -> dict[str, Any]:
    """Everything that the page shows: {"questions": {key: entry}} and what they belong to."""
    made = {"commit": commit()}
    return {
        "scale": scale,
        "machine": describe_machine(),
        "questions": {one.question.key: made | entry(one) for one in asked},
    }


def with_former(found: Mapping[str, Any], former: Mapping[str, Any]) -> dict[str, Any]:
    """Results with those that an earlier run has of other questions, on as many scenes."""
    earlier = former["questions"] if former["scale"] == found["scale"] else {}
    every = {**earlier, **found["questions"]}
    return {**found, "questions": {key: every[key] for key in QUESTIONS if key in every}}


def entry(asked: Asked) -> dict[str, Any]:
    """One question's: means by variant and measure, and what became of each claim."""
    question = asked.question
    return {
        "title": question.title,
        "seconds": round(asked.seconds),
        "work_seconds": round(asked.work),
        "edits": len(asked.done),
        "table": {
            variant: {key: _rounded(found) for key, found in measures.items()}
            for variant, measures in ordered(question, table(question, asked.rows)).items()
        },
        "claims": [_answered(answer) for answer in answers(question, asked.rows)],
    }


def ordered(
    question: Question, found: Mapping[str, dict[str, Estimate]]
) -> dict[str, dict[str, Estimate]]:
    """Rows in the order in which the question names them; without those of no measure."""
    names = [variant.key for variant in question.variants]
    names += [*question.names, "real"]
    return {name: found[name] for name in names if found.get(name)}


def _rounded(found: Estimate) -> dict[str, float]:
    values = asdict(found)
    return {key: values[key] if key == "count" else float(f"{values[key]:.4g}") for key in values}


def _answered(answer: Answer) -> dict[str, Any]:
    claim = answer.claim
    return {
        "claim": claim.words,
        "column": claim.column,
        "how": claim.how,
        "bound": claim.bound,
        "more": claim.more,
        **_rounded(answer.found),
        "verdict": answer.verdict,
    }
