"""All questions, in the order in which they are asked."""

from __future__ import annotations

from benchmarks.claims import (
    decoder,
    decoder_large,
    lowpass,
    objects,
    prompts,
    repaint,
    rerank,
    seams,
    upscaling,
)
from benchmarks.claims.question import Question

QUESTIONS: dict[str, Question] = {
    module.QUESTION.key: module.QUESTION
    for module in (
        *(objects, repaint, rerank, upscaling, lowpass),
        *(decoder, decoder_large, seams, prompts),
    )
}


def with_needed(keys: list[str]) -> list[Question]:
    """The questions of these keys and those whose rows they need, in the suite's order.

    KeyError for a key that is none.
    """
    wanted = {key for asked in keys for key in (asked, *QUESTIONS[asked].needs)}
    return [question for key, question in QUESTIONS.items() if key in wanted]
