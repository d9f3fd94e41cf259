"""What is known of one edit: its record, and how far each of its waves is."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from msbd_dist.batch.keys import mask_value
from msbd_dist.batch.record import EditRecord, load_edit, load_run
from msbd_dist.batch.status import load_status
from msbd_dist.canvas.files import Files
from msbd_dist.canvas.ledger import Ledger
from msbd_dist.core.plan import Stage
from msbd_dist.errors import RunError


def describe(out: Files, edit: str) -> dict[str, Any]:
    """An edit as JSON. RunError where there is none of that name."""
    rows = {row.id: row for row in load_status(out).edits}
    row = rows.get(edit)
    record = record_of(out, edit, missing_ok=row is not None)
    found: dict[str, Any] = {"version": 1, "kind": "edit", "id": edit}
    if row is not None:
        found |= {"state": row.state, "error": row.error, "output": row.output}
    if record is None:
        return found
    ledger = Ledger(out / edit / record.key / "ledger")
    exported, base = ledger.get("export") or {}, ledger.get("0-denoise-0") or {}
    method = record.plan.method
    return found | {
        "image": record.spec.image,
        "size": [record.plan.image.width, record.plan.image.height],
        "mask": mask_value(record.spec.mask),
        "prompt": record.spec.prompt,
        "negative_prompt": record.spec.negative_prompt,
        "seed": record.seed,
        "models": asdict(record.models),
        "weights": record.weights,
        "files": record.files,
        "inputs": record.inputs,
        "key": record.key,
        "plan": record.plan.digest,
        "method": asdict(method),
        "scores": base.get("scores"),
        "chosen": base.get("chosen"),
        "stages": [_stage(record, stage, ledger) for stage in record.plan.stages],
        "lost": exported.get("lost", []),
        "changed_samples": exported.get("changed_samples"),
        "compared": exported.get("compared"),
        "pixels": exported.get("pixels"),
        "sha256": exported.get("sha256"),
        "stored_bytes": (out / edit).size(record.key),
    }


def record_of(out: Files, edit: str, *, missing_ok: bool = False) -> EditRecord | None:
    """An edit's record. RunError where there is none, or where it can't be read."""
    try:
        return load_edit(out / edit)
    except FileNotFoundError:
        if missing_ok:
            return None
        if load_run(out) is None:
            raise RunError(f"{out.url}: holds no run; give the --out of `msbd run`") from None
        text = f"has no edit {edit!r} that has begun; see `msbd status {out.url}`"
        raise RunError(f"{out.url}: {text}") from None
    except ValueError:
        raise RunError(f"{out.url}/{edit}/edit.json: is damaged; run the edit again") from None


def _stage(record: EditRecord, stage: Stage, ledger: Ledger) -> dict[str, Any]:
    waves = {}
    for wave in record.plan.waves(record.spec.id, stage):
        done = [ledger[task.name] for task in wave if task.name in ledger]
        seconds = sum(facts["seconds"] for facts in done)
        waves[wave[0].kind] = {"done": len(done), "of": len(wave), "seconds": round(seconds, 1)}
    return {
        "index": stage.index,
        "kind": stage.kind,
        "size": [stage.size.width, stage.size.height],
        "segments": len(stage.segments),
        "grid": len(stage.grid),
        "tasks": waves,
    }
