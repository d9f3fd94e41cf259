"""Ten minutes with a GPU, on one card.

    python -m benchmarks.gpu [--only right,fast.final] [--minutes 9] [-o FILE] [--page FILE]
    python -m benchmarks.gpu --dry-run

Each part is written to FILE as soon as it is done; parts that are not named stay as they are. The
exit code is 1 where something is not right or a part failed, 2 where there is no card. A dry run
does all of it at tiny sizes on a CPU that stands in for a card: its numbers say nothing.

It needs Python 3.11 or later, torch 2.11 or later with CUDA, and what `benchmarks.gpu.wheels`
lists; neither an installation of this project nor Ray.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.full_size import commit
from benchmarks.gpu import page
from benchmarks.gpu.bench import Bench, Found
from benchmarks.gpu.card import read_card
from benchmarks.gpu.parts import LONGEST, PARTS, Runner, chosen
from benchmarks.machine import describe_machine
from msbd_dist.batch.record import package_versions
from msbd_dist.errors import ModelError
from msbd_dist.models.bundle import choose_device

FORMAT = 1  # of the JSON
DRY = Path("runs/gpu-dry-run")
MINUTES = 9.0
LEAST = 5.0  # seconds that must be left for a part to begin


class BenchmarkError(Exception):
    """It can't begin, and the line says why."""


def main() -> int:
    options = arguments()
    try:
        return run(options)
    except BenchmarkError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    dry, output, shown = options.dry_run, *places(options)
    card = {"name": "no card: a dry run"} if dry else present()
    results = begun(output, card, dry=dry)
    until = time.monotonic() + 60 * options.minutes
    bad = 0
    scratch = tempfile.TemporaryDirectory(prefix="msbd-gpu-", ignore_cleanup_errors=True)
    with scratch as folder, Runner(Bench(Path(folder), dry), PARTS) as runner:
        for name in options.only:
            left = until - time.monotonic()
            if left < LEAST:
                print(f"{name}: left out, {options.minutes:g} minutes are over", flush=True)
                bad += 1
                continue
            found = runner.run(name, min(LONGEST, left))
            results["parts"][name] = found | provenance()
            write(output, shown, results)
            bad += said(name, found)
    print(f"{output}, {shown}")
    return 1 if bad else 0


def places(options: argparse.Namespace) -> tuple[Path, Path]:
    """Where numbers and page go: those of a dry run not where a card's are."""
    if options.dry_run:
        return options.output or DRY / "gpu.json", options.page or DRY / "gpu.md"
    return options.output or page.RESULTS, options.page or page.PAGE


def present() -> Found:
    """The card, as the driver and torch name it."""
    try:
        choice = choose_device("cuda")
    except ModelError as error:
        raise BenchmarkError(f"{error}; --dry-run needs no card") from None
    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    return {
        **read_card(),
        "name": choice.reason,
        "capability": capability,
        "dtype": str(choice.dtype).removeprefix("torch."),
        "cards": torch.cuda.device_count(),
        "cuda": torch.version.cuda,
    }


def begun(output: Path, card: Found, *, dry: bool) -> Found:
    """What the file holds, where it is of the same card; a dry run begins anew."""
    results = {"format": FORMAT, "dry_run": dry, "card": card, "parts": {}}
    if not output.exists():
        return results
    try:
        found: Found = json.loads(output.read_text(encoding="utf-8"))
        form, name, parts = found["format"], found["card"]["name"], found["parts"]
    except (ValueError, KeyError, TypeError):
        raise BenchmarkError(f"{output} is none of its results: give another -o") from None
    if form != FORMAT:
        raise BenchmarkError(f"{output} is of another form of this benchmark: give another -o")
    if name != card["name"]:
        raise BenchmarkError(f"{output} holds numbers of {name}: give another -o")
    return results if dry else results | {"parts": parts}


def provenance() -> dict[str, Any]:
    """What a part's numbers belong to."""
    return {"commit": commit(), "machine": describe_machine(), "versions": package_versions()}


def write(output: Path, shown: Path, results: Found) -> None:
    """Numbers first: they are safe before anything is made of them."""
    numbers = json.dumps(results, indent=1) + "\n"
    for path in (output, shown):
        path.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(numbers, encoding="utf-8")
    shown.write_text(page.text(json.loads(numbers)), encoding="utf-8")


def said(name: str, found: Found) -> int:
    """Tell what a part found; how much of that is not right."""
    if "error" in found:
        print(f"{name}: FAILED: {found['error']} ({found['seconds']} s)", flush=True)
        return 1
    bad = [row for row in found["checks"] if not row["ok"]]
    checked = f", {len(found['checks'])} checks" if found["checks"] else ""
    print(f"{name}: {found['seconds']} s{checked}", flush=True)
    for row in bad:
        print(f"  NOT RIGHT: {row['what']}: {row.get('found', '')}", flush=True)
    return len(bad)


def arguments() -> argparse.Namespace:
    description = (__doc__ or "").strip()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=description)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", type=names, default=list(PARTS), metavar="PARTS")
    parser.add_argument("--dry-run", action="store_true", help="at tiny sizes, without a card")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="at most (default: 9)")
    for flags, default in ((("-o", "--output"), page.RESULTS), (("--page",), page.PAGE)):
        shown = f"default: {default.relative_to(page.ROOT)}, in {DRY} for a dry run"
        parser.add_argument(*flags, type=Path, metavar="FILE", help=shown)
    return parser.parse_args()


def names(text: str) -> list[str]:
    try:
        return chosen(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
