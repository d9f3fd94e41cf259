"""What is gone of an edit's stored pixels is made again: zarr would read it as black."""

from __future__ import annotations

from collections.abc import Iterator

from msbd_dist.batch.steps import Edit
from msbd_dist.canvas.store import StoredChunks


def forget_lost(edit: Edit) -> str | None:
    """Declare not done whose stored pixels are gone; returns what is to be said of that.

    An array is listed once; only where it has fewer chunks than it should are they looked for.
    """
    if not edit.ledger.facts():
        return None
    if "canvas.zarr" not in edit.work.folders():  # by gc, or by somebody
        edit.work.remove("ledger")
        return "is made anew: its stored pixels are gone"
    lost = list(_lost(edit))
    for name in lost:
        edit.ledger.forget(name)
    return f"done again, for what it stored is gone: {', '.join(lost)}" if lost else None


def _lost(edit: Edit) -> Iterator[str]:
    chunks, ledger = StoredChunks(edit.work), edit.ledger
    if "ingest" in ledger:
        taken_in = ("mask",) if edit.record.direct else ("mask", "source")
        if any(chunks.lost(f"{name}/{ledger['ingest']['attempt']}") for name in taken_in):
            yield "ingest"
    stored = {
        task.name: (ledger.get(task.name) or {}).get("stored", {})
        for task in edit.record.plan.tasks(edit.id)
    }
    gone = chunks.gone(name for names in stored.values() for name in names)
    yield from (task for task, names in stored.items() if not gone.isdisjoint(names))
