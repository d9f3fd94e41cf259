"""Whether an edit fits the models that are to make it, as far as files tell without weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from msbd_dist.core.spec import EditSpec, Upscaler
from msbd_dist.errors import ModelError, MsbdError, PromptError
from msbd_dist.models.card import Card
from msbd_dist.models.clip import check_scorer
from msbd_dist.models.factor import check_upscaler
from msbd_dist.models.tokens import tokens_of


def misfits(spec: EditSpec, card: Card, *, stages: int) -> Iterator[tuple[str, MsbdError]]:
    """What would end an edit of so many ``stages`` after work was begun, and the key it is about:
    `PromptError` of a prompt that is too long, `ModelError` of upscaler, scorer and tokenizer."""
    method, looks = spec.method, dict[str, Callable[[], object]]()
    if stages > 1:
        looks["upscaler"] = partial(_check_upscaler, method.upscaler, card)
    if method.rerank and method.samples > 1:
        looks["rerank"] = partial(check_scorer, card.clip)
    for key, look in looks.items():
        try:
            look()
        except ModelError as error:
            yield key, error
    yield from _long_prompts(spec, card)


def _check_upscaler(kind: Upscaler, card: Card) -> None:
    if checkpoint := card.checkpoint(kind):
        check_upscaler(kind, checkpoint, card.family.sr_factor)


def _long_prompts(spec: EditSpec, card: Card) -> Iterator[tuple[str, MsbdError]]:
    try:
        tokens = tokens_of(card)
    except ModelError as error:
        yield "prompt", error
        return
    for key, text in prompts_of(spec):
        if why := tokens.too_long(text):
            yield key, PromptError(f"{key.replace('_', ' ')} {why}")


def prompts_of(spec: EditSpec) -> Iterator[tuple[str, str]]:
    """The texts of an edit that the text encoder reads, and their keys."""
    yield "prompt", spec.prompt
    yield "negative_prompt", spec.negative_prompt
