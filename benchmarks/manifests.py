"""How long a list of edits takes to be read and checked, and in how much memory.

    python -m benchmarks.manifests [--edits 100000] [-o FILE]

Writes a JSONL and a CSV manifest with so many edits; each is read by `read_manifest` and gone
through once more, in a process of its own.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from msbd_dist.batch.manifest import read_manifest
from msbd_dist.batch.record import peak_memory_mb

NAMES = ("list.jsonl", "list.csv")


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options.edits)
        found: dict[str, Any] = {"edits": options.edits}
        for name in NAMES:
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                found[name] = pool.submit(measure, Path(folder) / name).result()
    text = json.dumps({**found, "machine": describe_machine()}, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edits", type=int, default=100_000)
    parser.add_argument("-o", "--output", type=Path)
    return parser.parse_args()


def write(folder: Path, count: int) -> None:
    """The same edits in both forms."""
    with (folder / NAMES[0]).open("w") as lines, (folder / NAMES[1]).open("w") as cells:
        table = csv.DictWriter(cells, edit(0))
        table.writeheader()
        for number in range(count):
            lines.write(json.dumps(edit(number)) + "\n")
            table.writerow(edit(number))


def edit(number: int) -> dict[str, Any]:
    return {
        "id": f"e{number}",
        "image": f"pictures/{number:06d}.png",
        "mask": f"masks/{number:06d}.png",
        "prompt": f"a red star, number {number}",
        "seed": number,
        "steps": 20,
        "output": f"edited/{number:06d}.png",
    }


def measure(path: Path) -> dict[str, float]:
    before = peak_memory_mb()
    clock, processor = time.perf_counter(), time.process_time()
    edits = read_manifest(path).edits
    read = time.perf_counter() - clock, time.process_time() - processor
    processor = time.process_time()
    assert sum(1 for _ in edits) == len(edits)
    return {
        "read_s": round(read[0], 2),
        "read_processor_s": round(read[1], 2),
        "pass_processor_s": round(time.process_time() - processor, 2),
        "memory_before_mb": before,
        "peak_memory_mb": peak_memory_mb(),
    }


if __name__ == "__main__":
    main()
