"""Q7: whether the prompt is obeyed, in the edits of the first and the third question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.claims.question import REAL, Claim, Column, Question, Row

_TAKEN = {  # question and variant of the rows that are looked at
    "whole": ("q1", "stages"),
    "whole real": ("q1", REAL),
    "one": ("q3", "b1"),
    "five": ("q3", "b5"),
    "first real": ("q3", REAL),
}


def _derive(rows: Mapping[str, Sequence[Row]]) -> list[Row]:
    return [
        Row(f"{question}-{row.case}", name, row.values)
        for name, (question, variant) in _TAKEN.items()
        for row in rows[question]
        if row.variant == variant
    ]


QUESTION = Question(
    key="q7",
    title="The prompt obeyed",
    needs=("q1", "q3"),
    derive=_derive,
    names={
        "whole": "three stages to 512 px, one sample",
        "whole real": "real scenes of 512 px",
        "one": "the first stage, one sample",
        "five": "the first stage, the best of 5",
        "first real": "real scenes of 128 px",
    },
    columns=(
        Column(key="clip colour", label="colour, by CLIP", form="share"),
        Column(key="clip shape", label="shape, by CLIP", form="share"),
        Column(key="probe colour", label="colour, by the probe", form="share"),
        Column(key="probe shape", label="shape, by the probe", form="share"),
    ),
    claims=(
        Claim(
            words="the colour is obeyed in at least 9 of 10 large edits, by CLIP",
            column="clip colour",
            variant="whole",
            how="mean",
            bound=0.9,
        ),
        Claim(
            words="the shape is obeyed in at least 8 of 10 large edits, by CLIP",
            column="clip shape",
            variant="whole",
            how="mean",
            bound=0.8,
        ),
        Claim(
            words="the shape is obeyed in at least 8 of 10 first stages of 5 samples, by CLIP",
            column="clip shape",
            variant="five",
            how="mean",
            bound=0.8,
        ),
    ),
)
