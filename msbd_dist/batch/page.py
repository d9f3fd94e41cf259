"""A run as pages that a browser opens from the disk: an index of all edits, and a page for each.

OUT/report.html        the index; it loads report.js again and again while the run goes on
OUT/report.js          its rows
OUT/<edit>/edit.html   an edit: before and after, candidates, stages, charts, how to do it again
OUT/<edit>/tiles/      what is looked at there (`msbd_dist.batch.tiles`)
OUT/<edit>/previews/thumb.webp

Links are relative and nothing is loaded from elsewhere: a run's folder can be moved, or served by
anything. Scripts and styles are in the pages, named by their digests in the content policy; what
users wrote travels as JSON and is shown as text.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import shlex
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import numpy as np

from msbd_dist.batch.keys import mask_words
from msbd_dist.batch.measures import most_visible, table
from msbd_dist.batch.record import EditResult, RunRecord, load_run
from msbd_dist.batch.results import PAGE, THUMB, candidate_name, entry, finished
from msbd_dist.batch.status import EditState
from msbd_dist.batch.steps import Edit
from msbd_dist.batch.tiles import View, around, cut, outlined, seams_of, thumbnail
from msbd_dist.canvas.export import Edited
from msbd_dist.canvas.files import Files, open_files
from msbd_dist.canvas.ledger import Facts
from msbd_dist.canvas.places import is_url
from msbd_dist.core.spec import Drawn, EditSpec, Method, ModelSpec

log = logging.getLogger(__name__)

EDGE = 240  # longest edge of a thumbnail


@dataclass(frozen=True, kw_only=True)
class Row:
    """One edit on the index."""

    id: str
    state: EditState
    prompt: str | None = None
    share: float | None = None  # of a running edit: how much is done, 0 to 1
    score: float | None = None  # of the chosen candidate
    borders: float | None = None  # how far they show: the most of seams and the mask's edge
    seconds: float | None = None  # of work, on workers and in the driver, added up
    error: str | None = None
    thumb: str | None = None  # relative to the run directory
    link: str | None = None  # to its page, likewise


def row_of(out: Files, result: EditResult, spec: EditSpec | None = None) -> Row:
    """An edit's row once it has ended; its records are read."""
    return row_from(entry(out, result), spec)


def row_from(found: dict[str, Any], spec: EditSpec | None = None) -> Row:
    """An edit's row from its entry in report.json; ``spec`` knows its prompt if no record does."""
    scores = found.get("scores")
    return Row(
        id=found["id"],
        state=found["state"],
        prompt=spec.prompt if spec else found.get("prompt"),
        score=scores[found["chosen"]] if scores else None,
        borders=most_visible(found.get("measures", {})),
        seconds=found["seconds"]["work"] if "seconds" in found else None,
        error=found.get("error"),
        thumb=found.get("thumb"),
        link=found.get("page"),
    )


def write_page(out: Files, rows: Sequence[Row]) -> None:
    """Write the index. While a row waits or runs, a page that is open looks for news.

    A thousand rows take some tens of milliseconds. A page that can't be written costs a warning.
    """
    report = {
        "title": out.url.rstrip("/").rsplit("/", 1)[-1],
        "written": round(time.time(), 3),
        "active": any(row.state in ("waiting", "running") for row in rows),
        "rows": [asdict(row) for row in rows],
    }
    try:
        out.write("report.js", f"msbdReport({as_json(report)});\n".encode())
        out.write("report.html", composed("index.html", ("common.js", "index.js")))
    except OSError as error:
        log.warning("report.html is not written: %s", error)


def show(edit: Edit, edited: Edited) -> Facts:
    """Cut what an edit's page shows of a finished picture: tiles, outline, seams, thumbnail.

    Returns facts: the "seam_ratio" of the whole edit.
    """
    plan = edit.record.plan
    canvas = edit.canvas(plan.final)
    view = View(
        box=around(plan.bbox, plan.source_box),
        edited=plan.bbox,
        before=canvas.source_integers,
        after=edited.seen,
        mask=canvas.mask,
        icc=edit.picture.metadata.icc,
    )
    tiles, whole = cut(edit.files, view)
    seams = seams_of(view, plan.final.grid, plan.final.region, cell=plan.family.vae_factor)
    shown = {"tiles": tiles, "outline": outlined(view), "seams": seams}
    edit.files.write(THUMB, thumbnail(whole, EDGE))
    edit.files.write("tiles/index.json", as_json(shown).encode())
    return {"seam_ratio": seams["overall"]}


def write_edit(edit: Edit) -> None:
    """Write the page of a finished edit. One that can't be written costs a warning."""
    try:
        run = load_run(open_files(edit.files.url.rsplit("/", 1)[0]))
        data = as_json(page_data(edit, run))
        scripts = ("common.js", "viewer.js", "edit.js")
        edit.files.write(PAGE, composed("edit.html", scripts, data))
    except OSError as error:
        log.warning("edit %s has no page: %s", edit.id, error)


def has_page(edit: Edit) -> bool:
    """Whether a finished edit's page is there."""
    return PAGE in edit.files.names()


def page_data(edit: Edit, run: RunRecord | None) -> dict[str, Any]:
    """All that the page of a finished edit shows, as JSON has it."""
    record, plan, ledger = edit.record, edit.record.plan, edit.ledger
    found, base = finished(record, ledger), ledger["0-denoise-0"]
    stages = []
    for stage in plan.stages:
        fit = ledger.get(f"{stage.index}-fit-0") or {}
        stages.append(
            {
                "index": stage.index,
                "size": stage.size.shape,
                "segments": len(stage.segments),
                "preview": f"previews/stage-{stage.index}.png",
                "losses": fit.get("losses"),
            }
        )
    box = plan.bbox
    shown = _shown(edit)
    return found | {
        "id": edit.id,
        "size": plan.image.shape,
        "candidates": [candidate_name(base, i) for i in range(plan.candidates)],
        "stages": stages,
        "view": shown and shown | {"edited": [box.y0, box.x0, box.y1, box.x1]},
        "measured": table(found["measures"]),
        "method": asdict(plan.method),
        "commands": [shlex.join(words) for words in commands(edit, run)] if run else [],
        "record": list(_record(edit, run, found)),
    }


def _shown(edit: Edit) -> dict[str, Any] | None:
    try:
        shown: dict[str, Any] = json.loads(edit.files.read("tiles/index.json"))
    except (FileNotFoundError, ValueError):  # of an earlier version, or removed
        return None
    return shown


def _record(edit: Edit, run: RunRecord | None, found: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """Names and values of what the result depends on, for people."""
    record = edit.record
    yield "image", f"{record.spec.source} ({edit.picture.format})"
    if not isinstance(record.spec.mask, Drawn):
        yield "mask", mask_words(record.spec.mask)
    if record.spec.negative_prompt:
        yield "negative prompt", record.spec.negative_prompt
    yield "output", edit.target
    yield "output's SHA-256", found["sha256"]
    yield "compared", f"{found['compared']:,} of {found['pixels']:,} pixels with the image"
    if found["lost"]:
        yield "the output", "; ".join(found["lost"])
    yield "seed", str(record.seed)
    yield "plan", record.plan.digest
    yield "models", found["models"]
    yield "weights", record.weights
    if run:
        yield "threads per worker", str(run.threads)
        yield "versions", ", ".join(f"{name} {value}" for name, value in run.versions.items())


def commands(edit: Edit, run: RunRecord) -> Iterable[list[str]]:
    """What to say to make the edit again, and to check that what is there is what was made."""
    spec, models = edit.record.spec, run.models
    names = {"family": "--models", "sr": "--sr", "clip": "--clip", "device": "--device"}
    chosen = [
        word
        for name, option in names.items()
        if getattr(models, name) != getattr(ModelSpec(), name)
        for word in (option, str(getattr(models, name)))
    ]
    out = edit.files.url.rsplit("/", 1)[0]
    if run.manifest == spec.output:  # `msbd edit`, which has no manifest
        mask = mask_words(spec.mask)
        words = ["msbd", "edit", spec.source, mask, spec.prompt, "-o", spec.output]
        words += ["--seed", str(edit.record.seed)]
        if spec.negative_prompt:
            words += ["--negative-prompt", spec.negative_prompt]
        if spec.allow_loss:
            words.append(f"--allow-loss={loss_names(spec.allow_loss)}")
        for option in fields(Method):
            value = getattr(spec.method, option.name)
            if value != option.default:
                words += ["--set", f"{option.name}={json.dumps(value)}"]
        yield words + chosen
    else:
        manifest = Path(run.manifest)
        place = run.manifest if is_url(run.manifest) else str(manifest.absolute())
        yield ["msbd", "run", place, "--out", f"{out}-again", *chosen]
    yield ["msbd", "verify", out, edit.id]


def loss_names(allowed: bool | tuple[str, ...]) -> str:
    """What `--allow-loss` takes."""
    return ",".join(allowed) if isinstance(allowed, tuple) else "on"


# ---------------------------------------------------------------- pages


def as_json(value: Any) -> str:
    """JSON that can stand in a script and in HTML: ASCII, without < > and &."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, default=_plain)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no JSON")


@cache
def _asset(name: str) -> str:
    return (resources("msbd_dist.batch") / "html" / name).read_text(encoding="utf-8")


def composed(template: str, scripts: tuple[str, ...], data: str = "") -> bytes:
    """A page with its style, its scripts as one, and its data in it.

    The policy allows this style and this script by their digests, further scripts only where this
    one asks for them, pictures from beside the page, and nothing else.
    """
    script, style = "\n".join(_asset(name) for name in scripts), _asset("page.css")
    policy = (
        f"default-src 'none'; script-src 'strict-dynamic' '{_digest(script)}'; "
        f"style-src '{_digest(style)}'; img-src 'self' file:; base-uri 'none'; form-action 'none'"
    )
    page = _asset(template)
    for name, text in (
        ("policy", policy),
        ("style", style),
        ("script", script),
        ("data", data),  # last: nothing in it is a place for something else
    ):
        page = page.replace("{{" + name + "}}", text)
    return page.encode()


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
