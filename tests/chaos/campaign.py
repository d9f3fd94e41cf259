"""Faults against real runs: processes killed and frozen, markers torn; then the bytes are compared.

    python tests/chaos/campaign.py --faults 50 [--seed N] [--out DIR]

A quiet run of the same manifest says what every run must come to. Each run of the campaign is begun
anew and struck by faults at random moments until it has finished; a driver that died is started
again, as its user would. Afterwards every stored array and picture must equal the quiet run's, and
no task may have been committed twice or not at all. The seed is printed; with it a failure replays
as far as processes do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import yaml

from msbd_dist.batch.manifest import read_manifest
from msbd_dist.batch.record import StoredEdits, load_edit
from msbd_dist.batch.run import run_manifest
from msbd_dist.canvas.files import open_files
from msbd_dist.canvas.ledger import Ledger

sys.path.insert(0, str(Path(__file__).parent.parent / "batch"))
from quick import FAST, draw_inputs

WORKERS = 3
GIVE_UP = 900.0  # seconds after which a run counts as stuck
EDITS = {
    "star": {"prompt": "a red star", "seed": 1, "decoder_steps": 25},
    "ring": {"prompt": "a blue ring", "seed": 2},
    "gone": {"prompt": "", "seed": 3, "decoder_optimization": False},
}


def write_manifest(folder: Path, edits: dict[str, dict[str, Any]] | None = None) -> Path:
    """Three small edits, unless others are given: one with a longer decoder optimization, one
    without."""
    edits = edits or EDITS
    draw_inputs(folder)
    common = {**FAST, "image": "image.png", "mask": "mask.png", "upscaler": "bicubic"}
    rows = [{"id": name, **common, **options} for name, options in edits.items()]
    path = folder / "manifest.yaml"
    path.write_text(yaml.safe_dump({"edits": rows}))
    return path


# --- what a run has come to ---


def edits_of(out: str | Path) -> list[str]:
    """Which edits a run has."""
    return [spec.id for spec in StoredEdits(open_files(out))]


def digests(out: str | Path) -> dict[str, str]:
    """Of all that counts: chunks by task, as the markers have them, and each edit's output."""
    found = {}
    for name in edits_of(out):
        files = open_files(out) / name
        record = load_edit(files)
        ledger = Ledger(files / record.key / "ledger")
        for task in record.plan.tasks(name):
            facts = ledger[task.name]
            for chunk, digest in facts["stored"].items():
                array, where = chunk.rsplit(" ", 1)
                found[f"{name} {task.name} {array.rsplit('/', 1)[0]} {where}"] = digest
        found[f"{name} output"] = ledger["export"]["sha256"]
    return found


def broken_promises(out: str | Path) -> list[str]:
    """What is wrong with a finished run's ledger and stored arrays."""
    import numpy as np
    import zarr

    from msbd_dist.batch.steps import digest_at
    from msbd_dist.canvas.store import _digest

    wrong = []
    for name in edits_of(out):
        files = open_files(out) / name
        record = load_edit(files)
        work = files / record.key
        ledger = Ledger(work / "ledger")
        planned = [task.name for task in record.plan.tasks(name)]
        markers = Counter(path.removesuffix(".json") for path in work.names("ledger"))
        wrong += [f"{name}: {task} was lost" for task in planned if task not in markers]
        group = zarr.open_group(work.zarr("canvas.zarr"), mode="r")
        for task in planned:
            for chunk, digest in ledger[task]["stored"].items():
                array, where = chunk.rsplit(" ", 1)
                block = group[array].blocks[tuple(int(i) for i in where.split("."))]
                if _digest(np.asarray(block)) != digest:
                    wrong.append(f"{name}: {task} has a changed chunk {chunk}")
        if digest_at(f"{files.url}/output.png") != ledger["export"]["sha256"]:
            wrong.append(f"{name}: the output is not what was exported")
    return wrong


# --- faults ---


class Driver:
    """The command in a process, started again whenever it dies."""

    def __init__(self, manifest: Path, out: Path, log: Path) -> None:
        self._command = [sys.executable, str(Path(__file__).parent / "driver.py")]
        self._command += [str(manifest), str(out), str(WORKERS)]
        self.out, self.log = out, log
        self.frozen: list[psutil.Process] = []
        self.starts = 0
        self.start()

    def start(self) -> None:
        self.starts += 1
        with self.log.open("a") as file:
            self.process = subprocess.Popen(self._command, stdout=file, stderr=file)

    def of_it(self, name: str) -> list[psutil.Process]:
        """Its processes whose command line says ``name``."""
        found = []
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if name in " ".join(process.cmdline()) and process not in self.frozen:
                        found.append(process)
        return found

    def workers(self) -> list[psutil.Process]:
        return self.of_it("ray::_Actor")

    def thaw(self) -> None:
        """Let what was frozen go on: by now it is a zombie that nobody counts on."""
        for process in self.frozen:
            with contextlib.suppress(psutil.Error):
                process.resume()
        self.frozen.clear()

    def stop(self) -> None:
        self.thaw()
        for process in [*self.of_it(""), self.process]:
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                process.kill()
        self.process.wait()


def kill_worker(driver: Driver, rng: random.Random) -> bool:
    workers = driver.workers()
    if workers:
        rng.choice(workers).send_signal(signal.SIGKILL)
    return bool(workers)


def freeze_worker(driver: Driver, rng: random.Random) -> bool:
    workers = driver.workers()
    if workers:
        chosen = rng.choice(workers)
        chosen.suspend()
        driver.frozen.append(chosen)
    return bool(workers)


def kill_raylet(driver: Driver, rng: random.Random) -> bool:
    raylets = driver.of_it("raylet/raylet")
    for process in raylets[:1]:
        process.kill()
    return bool(raylets)


def kill_driver(driver: Driver, rng: random.Random) -> bool:
    if driver.process.poll() is not None:
        return False
    driver.process.kill()
    return True


def freeze_driver(driver: Driver, rng: random.Random) -> bool:
    """Another driver takes the run over while this one sleeps, which then wakes up."""
    if driver.process.poll() is not None or not driver.workers():
        return False
    sleeper = psutil.Process(driver.process.pid)
    sleeper.suspend()
    driver.start()
    time.sleep(rng.uniform(8, 14))
    sleeper.resume()
    return True


def tear_marker(driver: Driver, rng: random.Random) -> bool:
    """A marker that holds half of its text: what a store without renames might leave."""
    if driver.process.poll() is None:
        driver.process.kill()
        driver.process.wait()
    markers = sorted(driver.out.glob("*/*/ledger/*-*.json"))
    if markers:
        chosen = rng.choice(markers)
        chosen.write_text(chosen.read_text()[: rng.randrange(40)])
    return bool(markers)


FAULTS: dict[str, tuple[int, Callable[[Driver, random.Random], bool]]] = {
    "worker killed": (10, kill_worker),
    "worker frozen": (4, freeze_worker),
    "raylet killed": (2, kill_raylet),
    "driver killed": (4, kill_driver),
    "driver frozen": (1, freeze_driver),
    "marker torn": (1, tear_marker),
}


# --- the campaign ---


@dataclass
class Report:
    runs: int = 0
    starts: int = 0
    differing: int = 0
    wrong: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    back: list[float] = field(default_factory=list)  # seconds from a worker's death
    formed: list[float] = field(default_factory=list)  # seconds from a gang's end

    @property
    def good(self) -> bool:
        return not self.differing and not self.wrong

    def read(self, log: Path) -> None:
        text = log.read_text()
        self.back += map(float, re.findall(r"is back after ([\d.]+) s", text))
        self.formed += map(float, re.findall(r"goes on after ([\d.]+) s", text))

    def lines(self) -> Iterator[str]:
        struck = ", ".join(f"{count} {name}" for name, count in self.faults.most_common())
        yield f"{sum(self.faults.values())} faults in {self.runs} runs: {struck}"
        yield f"{self.starts} starts of the driver"
        yield f"{self.differing} differing arrays and pictures, {len(self.wrong)} broken promises"
        yield from self.wrong
        for what, seconds in (
            ("worker death to next work", self.back),
            ("gang lost to gang formed", self.formed),
        ):
            if seconds:
                median, most = statistics.median(seconds), max(seconds)
                yield f"{what}: median {median:.1f} s, at most {most:.1f} s, of {len(seconds)}"


def campaign(
    manifest: Path,
    expected: dict[str, str],
    folder: Path,
    *,
    faults: int,
    seed: int,
    between: tuple[float, float] = (3, 12),
) -> Report:
    """Strike runs in ``folder`` until so many faults have hit; each run to its end.

    ``expected``: the digests of a quiet run.
    """
    rng, report = random.Random(seed), Report()
    while sum(report.faults.values()) < faults:
        out = folder / f"run-{report.runs}"
        driver = Driver(manifest, out, folder / f"run-{report.runs}.log")
        try:
            _strike(driver, rng, report, faults, between)
        finally:
            driver.stop()
        report.runs += 1
        report.starts += driver.starts
        report.read(driver.log)
        found = digests(out)
        report.differing += sum(expected.get(k) != found.get(k) for k in expected | found)
        report.wrong += broken_promises(out)
    return report


def quiet_run(manifest: Path, out: Path) -> dict[str, str]:
    """What a run that nothing disturbs has stored."""
    quiet = run_manifest(read_manifest(manifest), out, executor="serial")
    assert quiet.exit_code == 0, quiet.edits
    return digests(quiet.out)


def _strike(
    driver: Driver,
    rng: random.Random,
    report: Report,
    faults: int,
    between: tuple[float, float],
) -> None:
    """One run, from its first start to exit code 0."""
    names, weights = list(FAULTS), [weight for weight, _ in FAULTS.values()]
    until, due = time.monotonic() + GIVE_UP, time.monotonic() + rng.uniform(*between) + 5
    struck = 0  # markers that there were at the last fault
    while True:
        if time.monotonic() > until:
            raise TimeoutError(f"the run is stuck; see {driver.log}")
        code = driver.process.poll()
        if code == 0:
            return
        if code == 1 and (driver.out / "report.json").exists():  # not ended by a dying Ray
            raise AssertionError(f"an edit failed; see {driver.log}")
        if code is not None:
            driver.start()
        more = sum(report.faults.values()) < faults and _markers(driver.out) > struck
        if more and time.monotonic() >= due:
            name = rng.choices(names, weights)[0]
            if FAULTS[name][1](driver, rng):
                report.faults[name] += 1
                due, struck = time.monotonic() + rng.uniform(*between), _markers(driver.out)
            if len(driver.frozen) >= WORKERS - 1:
                driver.thaw()
        time.sleep(0.2)


def _markers(out: Path) -> int:
    """How much is done: a fault strikes work, not only starts."""
    return len(list(out.glob("*/*/ledger/*.json")))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--out", type=Path, help="keep the runs here; an empty folder")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)  # noqa: T201
    with contextlib.ExitStack() as stack:
        folder = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        manifest = write_manifest(folder)
        expected = quiet_run(manifest, folder / "quiet")
        report = campaign(manifest, expected, folder, faults=options.faults, seed=options.seed)
    print("\n".join(report.lines()))  # noqa: T201
    if options.json:
        numbers = {"seed": options.seed, "faults": dict(report.faults), "runs": report.runs}
        numbers |= {"differing": report.differing, "wrong": report.wrong}
        numbers |= {"worker_back_s": report.back, "gang_formed_s": report.formed}
        options.json.write_text(json.dumps(numbers, indent=1) + "\n")
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
