"""What became of each edit, from its record and its ledger: the entries of report.json.

{"version": 1, "edits": [entry, ...]}, in the manifest's order, and "error", the words of one that
ended the run, where one did. An entry has "id" and "state", and
"prompt" where a record was kept; a failed one has "error". A finished one has "output", a path or
URL, what `finished` returns, and its "page" and "thumb" in the run directory, null where there are
none. Entries grow; a key that is there keeps its meaning as long as "version" stays.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from msbd_dist.batch.measures import MEASURES
from msbd_dist.batch.record import EditRecord, EditResult, load_edit
from msbd_dist.canvas.files import Files
from msbd_dist.canvas.ledger import Facts, Ledger
from msbd_dist.core.plan import Plan

PAGE, THUMB = "edit.html", "previews/thumb.webp"


def entry(out: Files, result: EditResult) -> dict[str, Any]:
    """One edit of report.json."""
    files = out / result.id
    found: dict[str, Any] = {"id": result.id, "state": result.state}
    if result.error is not None or result.state == "stopped":
        with suppress(FileNotFoundError, ValueError):
            found["prompt"] = load_edit(files).spec.prompt
        return found if result.error is None else found | {"error": str(result.error)}
    record = load_edit(files)
    shown = {"page": PAGE in files.names(), "thumb": "thumb.webp" in files.names("previews")}
    places = {"page": f"{result.id}/{PAGE}", "thumb": f"{result.id}/{THUMB}"}
    ledger = Ledger(files / record.key / "ledger")
    return (
        found
        | {"output": result.output}
        | finished(record, ledger)
        | {name: places[name] if there else None for name, there in shown.items()}
    )


def finished(record: EditRecord, ledger: Ledger) -> dict[str, Any]:
    """What is said of a finished edit.

    "scores" and "chosen" of the candidates, None without; "seconds" (`seconds_of`); "measures";
    "lost", what the output lacks of the image's; "changed_samples"; "compared" and "pixels" of the
    output; "sha256" of its content; "models" that made it.
    """
    base, export = ledger["0-denoise-0"], ledger["export"]
    return {
        "seed": record.seed,
        "plan": record.plan.digest,
        "prompt": record.spec.prompt,
        "scores": base.get("scores"),
        "chosen": base.get("chosen"),
        "measures": measures_of(record, ledger),
        "lost": export.get("lost", []),
        "changed_samples": export["changed_samples"],
        "compared": export["compared"],
        "pixels": export["pixels"],
        "sha256": export["sha256"],
        "models": base["models"],
        "seconds": seconds_of(record.plan, ledger),
    }


def measures_of(record: EditRecord, ledger: Ledger) -> dict[str, float | None]:
    """All of `MEASURES`, and what some were before the edit; None where one was not taken.

    "changed_outside" is what the comparison of the file has found: nothing, or there would be no
    such file; None where it was not compared.
    """
    export, final = ledger["export"], record.plan.final
    taken = ledger.get(f"{final.index}-measure-0") or {}
    return {
        **dict.fromkeys(one.key for one in MEASURES),
        **taken.get("measures", {}),
        "changed_outside": 0 if export["compared"] else None,
        "seam_ratio": export.get("seam_ratio"),
    }


def seconds_of(plan: Plan, ledger: Ledger) -> dict[str, Any]:
    """Seconds of work: of each stage by the kind of task, all workers added up; of the driver's
    chores; and "work", the sum."""
    stages = []
    for stage in plan.stages:
        kinds: dict[str, float] = {}
        for wave in plan.waves("", stage):
            for task in wave:
                facts = ledger.get(task.name) or {}
                spent = facts.get("seconds", 0.0) * facts.get("ranks", 1)
                kinds[task.kind] = round(kinds.get(task.kind, 0.0) + spent, 3)
        stages.append(kinds)
    driver: dict[str, float] = {}
    for name in ("ingest", "export", *(f"{stage.index}-preview" for stage in plan.stages)):
        spent = (ledger.get(name) or {}).get("seconds")
        if spent is not None:
            kind = name.split("-")[-1]
            driver[kind] = round(driver.get(kind, 0.0) + spent, 3)
    work = sum(driver.values()) + sum(sum(kinds.values()) for kinds in stages)
    return {"work": round(work, 3), "stages": stages, "driver": driver}


def candidate_name(facts: Facts, sample: int) -> str:
    """Where a candidate's picture is, in the edit's folder; ``facts`` are the first stage's."""
    score = "" if facts["scores"] is None else f"-{facts['scores'][sample]:.2f}"
    chosen = "-chosen" if sample == facts["chosen"] else ""
    return f"candidates/{sample}{score}{chosen}.png"
