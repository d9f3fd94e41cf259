"""Measure, and write what was found.

    python -m benchmarks.speed [--only final,denoiser,startup,memory] [-o FILE]

What was not measured this time stays in FILE as it is. Each part names its commit and its machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.full_size import commit
from benchmarks.machine import describe_machine
from benchmarks.speed import denoiser, final, memory, startup
from msbd_dist.batch.record import package_versions
from msbd_dist.core.spec import ModelSpec

RESULTS = Path(__file__).parents[1] / "results" / "speed.json"
PARTS: dict[str, Callable[[Path, ModelSpec], dict[str, Any]]] = {
    "final": final.measure,
    "denoiser": denoiser.measure,
    "startup": startup.measure,
    "memory": memory.measure,
}


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    models = ModelSpec(family=options.models, sr=options.sr, device=options.device)
    found = json.loads(options.output.read_text()) if options.output.exists() else {}
    for name in options.only:
        print(f"{name} ...", flush=True)
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="msbd-speed-") as folder:
            numbers = PARTS[name](Path(folder), models)
        seconds = round(time.perf_counter() - began, 1)
        found[name] = {**numbers, "seconds": seconds, **provenance()}
        print(json.dumps(found[name], indent=1), flush=True)
        options.output.write_text(json.dumps(found, indent=1) + "\n")


def provenance() -> dict[str, Any]:
    """What numbers belong to."""
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    machine = describe_machine() | {"cuda": cuda}
    return {"commit": commit(), "machine": machine, "versions": package_versions()}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    names = ",".join(PARTS)
    parser.add_argument("--only", type=parts, default=list(PARTS), metavar=names)
    parser.add_argument("--models", default="tiny", help="a diffusers folder; default: tiny")
    parser.add_argument("--sr", help="its upscaler's checkpoint")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, metavar="FILE")
    return parser.parse_args()


def parts(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(PARTS)}")
    return names


if __name__ == "__main__":
    main()
