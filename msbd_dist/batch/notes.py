"""What an edit's words do not do: said before any work, so that nobody waits for it in vain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from msbd_dist.core.plan import Plan
from msbd_dist.core.spec import EditSpec, Family, Method

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


def notes_of(spec: EditSpec, family: Family, plan: Plan | None = None) -> Iterator[Note]:
    """Prompts that have no effect; ``plan`` None: it is not known whether there are segments.

    A guidance of 0 that the family itself recommends is meant, and is told of only where it makes
    nothing of a negative prompt.
    """
    for key, scale, chosen in _scales(spec.method, family, plan):
        stages = "in segmented stages" if key == "segment_guidance" else "on what is painted first"
        cause = f"has no effect {stages}, {key} is {scale:g}"
        if scale == 0 and chosen and spec.prompt.strip():
            yield Note("prompt", f"{cause}: {_DISTILLED.format(key=key)}")
        if scale in (0, 1) and spec.negative_prompt.strip():
            yield Note("negative_prompt", f"{cause}: take one above 1, or leave it out")


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
