"""Why an edit is made anew: which of what decides its pixels is not what it was, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from msbd_dist.batch.identity import SCHEMA_NAME, different_files
from msbd_dist.batch.record import SCHEMA, EditRecord, load_edit
from msbd_dist.batch.steps import Edit, digest_at
from msbd_dist.canvas.combined import mask_digest
from msbd_dist.core.spec import EditSpec, Method, mask_files
from msbd_dist.errors import ModelError
from msbd_dist.models.card import resolve
from msbd_dist.models.fingerprint import digests, fingerprint


def why_anew(edit: Edit) -> str | None:
    """What is to be said of an edit that begins: why it is made, or written, anew; None where it
    goes on, or was never made."""
    try:
        former = load_edit(edit.files)
    except FileNotFoundError:
        return None
    except ValueError:
        return "is made anew: its record can't be read"
    if former.key != edit.record.key:
        found = list(between(former, edit.record)) or ["something that is not recorded differs"]
        return f"is made anew: {', '.join(found)}"
    done = edit.ledger.get("export")
    if done is None:
        return None
    if not edit.is_written_as(done["how"]) or done["output"] != edit.target:
        return "is written anew: another output"
    is_there = digest_at(edit.target) is not None
    what = "is not what was written" if is_there else "is gone"
    return f"is written anew: {edit.target} {what}"


def between(former: EditRecord, now: EditRecord) -> Iterator[str]:
    """What decides pixels and differs."""
    for name, value in now.inputs.items():
        if former.inputs.get(name) != value:
            yield f"the {name} differs"
    for name in ("prompt", "negative_prompt"):
        if getattr(former.spec, name) != getattr(now.spec, name):
            yield f"the {name} differs"
    if former.seed != now.seed:
        yield f"seed was {former.seed}"
    yield from _options(former.plan.method, now.plan.method)
    if former.plan != now.plan and former.plan.method == now.plan.method:
        yield "the plan differs"
    if former.weights != now.weights:
        yield from _of_models(former, now.files)
    if former.schema != now.schema:
        yield f"{SCHEMA_NAME} was {former.schema}, is {now.schema}"


def _options(then: Method, now: Method) -> Iterator[str]:
    for each in fields(Method):
        was, value = getattr(then, each.name), getattr(now, each.name)
        if was != value:
            yield f"{each.name} was {was}"


def _of_models(former: EditRecord, files: dict[str, str]) -> list[str]:
    """Which files of the models differ, where it was recorded which there were."""
    if not former.files:
        return ["the models' files differ"]
    return [f"the model's {words}" for words in different_files(files, former.files)]


def since(record: EditRecord) -> Iterator[str]:
    """What is not any more what an edit was made of: its image, masks, models or the code."""
    spec = record.spec
    now = {
        "image": (spec.source, digest_at(spec.source)),
        "mask": (", ".join(mask_files(spec.mask)), _mask_now(spec)),
    }
    for name, (place, digest) in now.items():
        if digest != record.inputs[name]:
            change = "is gone" if digest is None else "has changed"
            yield f"the {name} {change} since the edit was made ({place})"
    try:
        files = digests(resolve(record.models))
    except ModelError as error:
        yield f"the model is not there any more ({error})"
        return
    if fingerprint(files) != record.weights:
        yield from (f"{words} since the edit was made" for words in _of_models(record, files))
    if record.schema != SCHEMA:
        yield f"{SCHEMA_NAME} was {record.schema} and is {SCHEMA}"


def _mask_now(spec: EditSpec) -> str | None:
    try:
        return mask_digest(spec.mask)
    except (FileNotFoundError, NotADirectoryError):
        return None
