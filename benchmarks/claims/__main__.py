"""The papers' ablations and baselines, with numbers, pictures and verdicts.

    python -m benchmarks.claims [--out runs/claims] [--scale 0.1] [--questions q1,q4]
                                [--page docs/claims.md] [--workers 2] [-o results.json]

Everything is made below --out by `msbd_dist.batch.run`: the same command again does what is
missing. -o keeps what the file has of other questions; --page writes the page of all of them and,
beside it, images/claims/. --scale is the share of the scenes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.claims.page import TEXT, claims_of, page, table_of
from benchmarks.claims.pictures import write_grid
from benchmarks.claims.question import Question
from benchmarks.claims.results import entry, results, with_former
from benchmarks.claims.suite import QUESTIONS, with_needed
from benchmarks.claims.work import Asked, Work
from msbd_dist.batch.board import Silent
from msbd_dist.batch.status import Status
from msbd_dist.cli.progress import in_a_line
from msbd_dist.errors import MsbdError

EVERY = 30.0  # seconds between two lines


class Lines(Silent):
    """A line now and then."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def show(self, status: Status) -> None:
        if time.monotonic() - self._last >= EVERY:
            self._last = time.monotonic()
            print(in_a_line(status), flush=True)


def main() -> None:
    options = arguments()
    questions = with_needed(options.questions)
    print(estimate(questions, options.scale, options.workers), flush=True)
    work = Work(out=options.out, scale=options.scale, workers=options.workers, watch=Lines())
    for asked in ask_all(work, questions):
        found = results(asked.values(), scale=options.scale)
        (options.out / "claims.json").write_text(json.dumps(found, indent=1) + "\n")
        if options.output:
            if options.output.exists():
                found = with_former(found, json.loads(options.output.read_text()))
            options.output.write_text(json.dumps(found, indent=1) + "\n")
        if options.page:
            write_grid(list(asked.values())[-1], options.page.parent / "images" / "claims")
            options.page.write_text(page(found, TEXT.read_text()))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/claims"))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the scenes")
    parser.add_argument("--questions", type=keys, default=list(QUESTIONS), help="e.g. q1,q4")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--page", type=Path, help="the page to write, e.g. docs/claims.md")
    parser.add_argument("-o", "--output", type=Path, help="a file of all results")
    return parser.parse_args()


def keys(text: str) -> list[str]:
    """ "q1,q4" -> ["q1", "q4"]."""
    found = text.split(",")
    for key in found:
        if key not in QUESTIONS:
            raise argparse.ArgumentTypeError(f"{key}: wanted some of {', '.join(QUESTIONS)}")
    return found


def estimate(questions: Sequence[Question], scale: float, workers: int) -> str:
    """How long it will take, from what a scene of each question took before."""
    each = {one.key: one.cost * one.scenes(scale) / workers / 60 for one in questions}
    parts = ", ".join(f"{key} {minutes:.0f}" for key, minutes in each.items() if minutes)
    return f"about {sum(each.values()):.0f} minutes with {workers} workers: {parts}"


def ask_all(work: Work, questions: Sequence[Question]) -> Iterator[dict[str, Asked]]:
    """What was asked so far, after each question; its tables and pictures are shown."""
    asked: dict[str, Asked] = {}
    try:
        for question in questions:
            one = asked[question.key] = work.ask(question, asked)
            found = entry(one)
            write_grid(one, work.out / "grids")
            took = f"{one.seconds:.0f} s, of all workers {one.work:.0f} s"
            print(f"\n{question.key}: {question.title} ({len(one.done)} edits, {took})\n")
            print(f"{table_of(question, found)}\n\n{claims_of(question, found)}", flush=True)
            yield asked
    finally:
        work.close()


if __name__ == "__main__":
    try:
        main()
    except MsbdError as error:
        sys.exit(f"benchmarks.claims: {error}")
