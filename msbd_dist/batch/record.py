"""What a run remembers: one record for the run, one for each edit, as JSON in the run directory.

OUT/run.json            models, versions, threads, device, manifest
OUT/<edit>/edit.json    spec, drawn seed, plan: all that a worker needs to run the edit's tasks
OUT/<edit>/ledger/      done-markers
OUT/<edit>/canvas.zarr  stored pixels
"""

from __future__ import annotations

import hashlib
import resource
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from msbd_dist.canvas.ledger import write_atomic
from msbd_dist.core.plan import Plan, Stage
from msbd_dist.core.spec import EditSpec, ModelSpec
from msbd_dist.dist.executor import Worker
from msbd_dist.errors import MsbdError, RunError

THREADS = 1  # intra-op threads per worker, equal everywhere: bytes depend on it
PACKAGES = (
    "msbd_dist", "torch", "diffusers", "transformers", "open_clip_torch", "spandrel", "ray",
    "zarr", "numpy", "pillow", "pyvips",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EditRecord:
    """One edit as it is run."""

    spec: EditSpec
    seed: int
    plan: Plan
    dtype: str  # of the picture's samples: uint8 or uint16
    inputs: dict[str, str]  # SHA-256 of the image and mask files
    models: ModelSpec


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run: what decides its bytes, and what ran it."""

    manifest: str
    models: ModelSpec
    plans: dict[str, str]  # edit -> digest of its plan
    seeds: dict[str, int]  # edit -> seed, drawn where none was given
    threads: int  # intra-op threads per worker
    versions: dict[str, str]


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker is made from; small, so that it travels to any host."""

    run: Path
    models: ModelSpec
    threads: int

    def __call__(self) -> Worker:
        from msbd_dist.batch.worker import TaskWorker  # imports torch

        return TaskWorker(self)


@dataclass(frozen=True, kw_only=True)
class EditResult:
    """How one edit ended."""

    id: str
    state: Literal["done", "kept", "failed"]  # kept: was finished before this run
    output: Path | None = None
    error: MsbdError | None = None
    seconds: float = 0.0
    seed: int | None = None


def tuned_path(folder: Path, stage: Stage) -> Path:
    """Where an edit keeps a stage's tuned decoder, from its fit until the stage is composed."""
    return folder / f"tuned-{stage.index}.safetensors"


def peak_memory_mb() -> int:
    """Highest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def versions() -> dict[str, str]:
    """Installed versions of what a result can depend on."""
    return {name: metadata.version(name) for name in PACKAGES}


def sha256(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_edit(folder: Path, record: EditRecord) -> None:
    write_atomic(folder / "edit.json", _EDIT.dump_json(record, indent=1).decode())


def load_edit(folder: Path) -> EditRecord:
    return _EDIT.validate_json((folder / "edit.json").read_text())


def save_run(out: Path, record: RunRecord) -> None:
    write_atomic(out / "run.json", _RUN.dump_json(record, indent=1).decode())


def load_run(out: Path) -> RunRecord | None:
    """The run in a directory, or None where there is none; RunError where it can't be read."""
    path = out / "run.json"
    if not path.exists():
        return None
    try:
        return _RUN.validate_json(path.read_text())
    except ValueError:
        raise RunError(f"{path}: is damaged; remove it to continue the run") from None


_EDIT: TypeAdapter[EditRecord] = TypeAdapter(EditRecord)
_RUN: TypeAdapter[RunRecord] = TypeAdapter(RunRecord)
