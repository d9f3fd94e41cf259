"""What a run remembers: one record for the run, one for each edit, as JSON in the run directory.

OUT/run.json                   models, versions, threads, manifest, how it was started
OUT/edits.jsonl                the edits, each on a line
OUT/lease/                     who drives the run
OUT/<edit>/edit.json           spec, drawn seed, plan: all that a worker needs
OUT/<edit>/output.png          the result, unless the edit names another place
OUT/<edit>/<key>/ledger/       done-markers    of all that has this key: equal inputs, options,
OUT/<edit>/<key>/canvas.zarr   stored pixels   models and code have the same
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeVar

import psutil
from pydantic import TypeAdapter

from msbd_dist.batch.manifest import Manifest
from msbd_dist.batch.status import EditState
from msbd_dist.canvas.files import Files, open_files
from msbd_dist.canvas.ledger import Ledger, Version, Versions
from msbd_dist.core.naming import digest_of
from msbd_dist.core.plan import Plan, Stage, Task
from msbd_dist.core.spec import EditSpec, ModelSpec, Verify
from msbd_dist.errors import MsbdError, RunError

ExecutorKind = Literal["ray", "serial"]
EDITS = "edits.jsonl"
QUARANTINE = "quarantine.json"  # beside an edit's record: it kills workers, and is not tried again
SCHEMA = 6  # goes up when the code makes other bytes, or stores them otherwise, for equal records
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
    inputs: dict[str, str]  # digests of the image's and the mask's content
    models: ModelSpec
    weights: str  # fingerprint of the models' files
    files: dict[str, str] = field(default_factory=dict)  # of the models, and their digests
    bands: int = 3  # colours of the image: 1 or 3
    direct: bool = False  # workers read the image where it is; else it is taken into the canvas
    schema: int = SCHEMA
    former_key: str | None = None  # where its work is, if that was stored under a name of old form

    @property
    def key(self) -> str:
        """Names what decides the pixels, and nothing else: where the edit's work is stored."""
        named = {
            "prompt": self.spec.prompt,
            "negative_prompt": self.spec.negative_prompt,
            "seed": self.seed,
            "plan": self.plan,
            "dtype": self.dtype,
            "inputs": self.inputs,
            "weights": self.weights,
            "schema": self.schema,
        }
        return self.former_key or digest_of(named)


@dataclass(frozen=True, kw_only=True)
class Launch:
    """On what a run is run; no bytes depend on it."""

    workers: int | None = None
    executor: ExecutorKind = "ray"
    address: str | None = None
    verify: Verify = "sample"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run: what decides its bytes, and what ran it."""

    manifest: str
    models: ModelSpec
    threads: int  # intra-op threads per worker
    versions: dict[str, str]
    launch: Launch

    @classmethod
    def of(cls, manifest: Manifest, launch: Launch) -> RunRecord:
        return cls(
            manifest=str(manifest.path),
            models=manifest.models,
            threads=THREADS,
            versions=package_versions(),
            launch=launch,
        )


@dataclass(frozen=True)
class Order:
    """A task as a worker gets it: where its edit's work is stored, and whose results it reads."""

    task: Task
    work: str
    versions: Versions = field(compare=False)


@dataclass(frozen=True, kw_only=True)
class EditResult:
    """How one edit ended."""

    id: str
    state: EditState  # kept: was finished before this run
    output: str | None = None  # a path or URL
    error: MsbdError | None = None
    seconds: float = 0.0
    seed: int | None = None
    compared: int = 0  # pixels of the output, with what they are to be
    pixels: int = 0
    cost: float = 0.0  # in the units of `Plan.cost`, of what was done before this run


def versions_of(ledger: Ledger, plan: Plan, stage: Stage) -> Versions:
    """The attempts that count for whoever works at a stage: of this one and the one before."""
    found = {"ingest": Version(ledger["ingest"]["attempt"])}
    for near in plan.stages[max(stage.index - 1, 0) : stage.index + 1]:
        for wave in plan.waves("", near):
            attempts = dict(_attempts(ledger, wave))
            if attempts:
                usual = Counter(attempts.values()).most_common(1)[0][0]
                others = {slot: one for slot, one in attempts.items() if one != usual}
                found[f"{near.index}-{wave[0].kind}"] = Version(usual, others)
    return found


def _attempts(ledger: Ledger, wave: Iterable[Task]) -> Iterable[tuple[int, str]]:
    for task in wave:
        if task.name in ledger:
            for slot in task.slots:
                yield slot, ledger[task.name]["attempt"]


def tuned_name(stage: Stage, attempt: str) -> str:
    """Where an edit keeps a stage's tuned decoder, from its fit until the stage is decoded."""
    return f"tuned-{stage.index}-{attempt}.safetensors"


def peak_memory_mb() -> int:
    """Highest resident memory of this process so far, in MB."""
    with suppress(OSError):  # getrusage counts what the process was forked from
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024
    held = psutil.Process().memory_info()  # elsewhere than on Linux there may be no peak
    return int(getattr(held, "peak_wset", held.rss)) >> 20


def package_versions() -> dict[str, str]:
    """Versions of what a result can depend on; packages that are not installed are left out."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def save_edit(files: Files, record: EditRecord) -> None:
    files.write("edit.json", _dumped(_EDIT, record, indent=1))


def load_edit(files: Files) -> EditRecord:
    """FileNotFoundError where there is none, ValueError where it can't be understood."""
    stored = json.loads(files.read("edit.json"))
    record = _EDIT.validate_python(stored)
    return record if "former_key" in stored else replace(record, former_key=_key_before(stored))


def _key_before(stored: Any) -> str:
    """The key of a record that was written when all options were part of it, off or not."""
    plan = hashlib.sha256(json.dumps(stored["plan"], sort_keys=True).encode()).hexdigest()[:16]
    spec = stored["spec"]
    parts = (
        *(spec["prompt"], spec["negative_prompt"], stored["seed"], plan, stored["dtype"]),
        *(sorted(stored["inputs"].items()), stored["weights"], stored["schema"]),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def save_run(out: Files, record: RunRecord) -> None:
    out.write("run.json", _dumped(_RUN, record, indent=1))


def save_edits(out: Files, edits: Iterable[EditSpec]) -> None:
    """Write down what a run is to do, so that it can be resumed without its manifest."""
    lines = [_dumped(_SPEC, edit, exclude_defaults=True) for edit in edits]
    out.write(EDITS, b"\n".join(lines))


class StoredEdits:
    """The edits of a run as they were written down; read one at a time."""

    def __init__(self, out: Files) -> None:
        try:
            self._lines = out.read(EDITS).splitlines()
        except FileNotFoundError:
            raise RunError(f"{out.url}: holds no run; give the --out of `msbd run`") from None

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[EditSpec]:
        return (_loaded(_SPEC, line) for line in self._lines)


def load_run(out: Files | Path) -> RunRecord | None:
    """The run in a directory, or None where there is none; RunError where it can't be read."""
    files = open_files(out) if isinstance(out, Path) else out
    try:
        return _loaded(_RUN, files.read("run.json"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise RunError(f"{files.url}/run.json: is damaged; remove it to continue the run") from None


T = TypeVar("T")


def _dumped(
    kind: TypeAdapter[T], value: T, *, indent: int | None = None, exclude_defaults: bool = False
) -> bytes:
    """JSON in ASCII: pydantic's own has no place for a file's name that is not UTF-8."""
    plain = kind.dump_python(value, mode="json", exclude_defaults=exclude_defaults)
    return json.dumps(plain, indent=indent).encode()


def _loaded(kind: TypeAdapter[T], data: bytes) -> T:
    """The inverse. ValueError where it is not what was dumped."""
    return kind.validate_python(json.loads(data))


_SPEC: TypeAdapter[EditSpec] = TypeAdapter(EditSpec)
_EDIT: TypeAdapter[EditRecord] = TypeAdapter(EditRecord)
_RUN: TypeAdapter[RunRecord] = TypeAdapter(RunRecord)
