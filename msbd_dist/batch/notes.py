"""What an edit's words do not do: said before any work, so that nobody waits for it in vain."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from functools import partial
from threading import Lock
from typing import NamedTuple

from msbd_dist.batch.fits import prompts_of
from msbd_dist.batch.prompts import literal, told
from msbd_dist.core.plan import Plan
from msbd_dist.core.spec import EditSpec, Family, Method
from msbd_dist.core.timesteps import Spacing, timesteps
from msbd_dist.errors import ModelError
from msbd_dist.models.card import Card
from msbd_dist.models.tokens import embeddings_beside, tokens_of

log = logging.getLogger(__name__)

_NOISY = 100  # training steps above which there is something to paint
MOST = 20  # lines of warnings that a run says

_DISTILLED = (
    "where the card of a distilled model (Turbo, LCM, Lightning, Hyper) says guidance 0 it means "
    "the prompt alone, which is {key}: 1 here"
)


class Note(NamedTuple):
    """Something that may be meant otherwise, and the key of the edit that it is about."""

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key} {self.text}"


class Saying:
    """Says notes of edits as warnings: as many as are read, and then that there are more."""

    def __init__(self, most: int = MOST) -> None:
        self._left, self._lock = most, Lock()

    def __call__(self, edit: str, notes: Iterable[object]) -> None:
        for note in notes:
            with self._lock:
                self._left -= 1
                left = self._left
            if left >= 0:
                log.warning("edit %s: %s", edit, note)
            elif left == -1:
                log.warning("more edits have warnings: `msbd validate` and `msbd plan` tell them")


def notes_of(spec: EditSpec, card: Card, plan: Plan | None = None) -> Iterator[Note]:
    """Words that are read literally, steps that are too few, and prompts that have no effect.

    ``plan`` None: it is not known whether there are segments.

    A guidance of 0 that the family itself recommends is meant, and is told of only where it makes
    nothing of a negative prompt.
    """
    yield from _literal(spec, card)
    yield from _too_few_steps(spec.method, card.spacing)
    for key, scale, chosen in _scales(spec.method, card.family, plan):
        stages = "in segmented stages" if key == "segment_guidance" else "on what is painted first"
        cause = f"has no effect {stages}, {key} is {scale:g}"
        if scale == 0 and chosen and spec.prompt.strip():
            yield Note("prompt", f"{cause}: {_DISTILLED.format(key=key)}")
        if scale in (0, 1) and spec.negative_prompt.strip():
            yield Note("negative_prompt", f"{cause}: take one above 1, or leave it out")


def _literal(spec: EditSpec, card: Card) -> Iterator[Note]:
    """Words that mean something to other programs."""
    for key, text in prompts_of(spec):
        if found := literal(text, partial(_is_learned, card), embeddings_beside(card)):
            yield Note(key, told(found))


def _is_learned(card: Card, word: str) -> bool:
    """Whether the model has a token of its own for a word; what is wrong with them `fits` tells."""
    try:
        return tokens_of(card).knows(word)
    except ModelError:
        return False


def _too_few_steps(method: Method, spacing: Spacing) -> Iterator[Note]:
    """Schedules that begin where next to no noise is left to remove."""
    for key, steps in (("steps", method.steps), ("upscale_steps", method.upscale_steps)):
        first = timesteps(steps, spacing=spacing)[0]
        if first < _NOISY:
            yield Note(
                key,
                f"of {steps} begins at t = {first} of 1000, where next to nothing can change: this "
                f"model's timestep_spacing is {spacing.kind}; take more (distilled models have "
                f"'trailing' in scheduler_config.json)",
            )


def _scales(
    method: Method, family: Family, plan: Plan | None
) -> Iterator[tuple[str, float | None, bool]]:
    """Each guidance that is used, and whether the user chose it."""
    settled = method.settled(family)
    yield "guidance", settled.guidance, method.guidance is not None
    segmented = plan is None or any(stage.kind == "segmented" for stage in plan.stages[1:])
    own = method.segment_guidance is not None
    differs = settled.segment_guidance != settled.guidance
    if segmented and differs and method.upscale_diffusion == "conditional":
        yield "segment_guidance", settled.segment_guidance, own
