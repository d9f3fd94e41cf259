"""Every quality gate under every fault.

    python -m benchmarks.gates [-o FILE] [--page FILE] [--picture FILE]

Makes each case of `benchmarks.gates.edits` intact, and under each fault of a part that it has, on
one thread, and measures all gates. Prints which gates catch which fault; an intact edit that a gate
does not pass, a fault that no gate catches and a gate that catches no fault make the exit code 1.
``-o`` writes the numbers as JSON, ``--page`` the tables at the end of a page, ``--picture`` an
overview.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.full_size import commit
from benchmarks.gates.faults import FAULTS
from benchmarks.gates.gates import GATES
from benchmarks.gates.matrix import Gatehouse, Values, caught
from benchmarks.gates.pages import Pictures, sheet, whole, write_tables
from benchmarks.machine import describe_machine


def main() -> int:
    options = arguments()
    torch.set_num_threads(1)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        intact, faults, pictures = measured(Gatehouse(Path(folder)))
    found = {
        "commit": commit(),
        "machine": describe_machine(),
        "seconds": round(time.perf_counter() - started),
        "passes": {g.name: whole({"low": g.low, "high": g.high}) for g in GATES.values()},
        "intact": intact,
        "faults": faults,
    }
    if options.output:
        options.output.write_text(json.dumps(found, indent=1) + "\n")
    if options.page:
        write_tables(options.page, found)
    if options.picture:
        sheet(pictures).save(options.picture, quality=85)
    return verdict(intact, faults)


def measured(house: Gatehouse) -> tuple[Values, dict[str, Values], Pictures]:
    """The intact values, those under each fault, and pictures by case and fault."""
    intact = whole(house.values(None))
    shown = {fault.cases[0] for fault in FAULTS.values()}
    pictures = {(case, None): house.picture(case, None) for case in shown}
    faults = {}
    for name, fault in FAULTS.items():
        faults[name] = whole(house.values(name))
        pictures[fault.cases[0], name] = house.picture(fault.cases[0], name)
        house.forget(name)
        print(f"{name}: {', '.join(caught(faults[name])) or 'NOT CAUGHT'}", flush=True)
    return intact, faults, pictures


def verdict(intact: Values, faults: dict[str, Values]) -> int:
    """Say what is not as it should be; 1 if anything is."""
    found = {name: caught(values) for name, values in faults.items()}
    idle = set(GATES) - {gate for gates in found.values() for gate in gates}
    lines = [f"intact edits do not pass: {', '.join(caught(intact))}"] if caught(intact) else []
    lines += [f"no gate catches {name}" for name, gates in found.items() if not gates]
    lines += [f"{name} catches no fault" for name in sorted(idle)]
    print("\n".join(lines) or f"{len(found)} faults, {len(GATES)} gates: all as they should be")
    return 1 if lines else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gates", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for flags in (("-o", "--output"), ("--page",), ("--picture",)):
        parser.add_argument(*flags, type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
