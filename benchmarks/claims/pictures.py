"""A grid of pictures for each question: its first scenes, whatever came of them."""

from __future__ import annotations

from pathlib import Path

from benchmarks.claims.done import Done
from benchmarks.claims.work import Asked
from msbd_dist.tiny.evaluate.grids import Sheet, drawn, small_png
from msbd_dist.tiny.evaluate.measure import Outcome


def write_grid(asked: Asked, folder: Path) -> None:
    """FOLDER/<question>.png, where the question has a grid; of scenes that have all variants."""
    question = asked.question
    if question.tiles is None:
        return
    scenes: dict[str, dict[str, Done]] = {}
    for done in asked.done:
        scenes.setdefault(done.case.id, {}).setdefault(done.variant, done)
    outcomes = []
    whole = [dones for dones in scenes.values() if len(dones) == len(question.variants)]
    for dones in whole[: question.shown]:
        case = next(iter(dones.values())).case
        outcomes.append(Outcome({}, question.tiles(case, dones), f"{case.id}: {case.prompt}"))
    sheet = Sheet(
        name=question.key,
        measures=(),
        title=f"{question.key.upper()}: {question.title}",
        cases=question.shown,
        columns=1,
        side=question.side,
        heads=question.heads,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{question.key}.png").write_bytes(small_png(drawn(sheet, outcomes)))
