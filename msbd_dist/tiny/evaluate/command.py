"""Measure a family of models: by default the one that comes with the package.

    python -m msbd_dist.tiny.evaluate [FOLDER] [-o results.json] [--against FOLDER2]
                                      [--grids DIR] [--card README.md] [--scale S] [--processes N]

The same arguments give the same numbers, but for those of speed.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from msbd_dist.errors import ModelError
from msbd_dist.models.bundle import choose_device
from msbd_dist.models.card import bundled_folder
from msbd_dist.tiny.evaluate.rows import table

_NEEDS_CV2 = "evaluating needs OpenCV: pip install opencv-python-headless\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 2 where something that it needs is missing, which is then said in one line."""
    args = _parser().parse_args(arguments)
    if find_spec("cv2") is None:
        sys.stderr.write(_NEEDS_CV2)
        return 2
    _log_to_stderr()
    try:
        _measure(args)
    except ModelError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _measure(args: argparse.Namespace) -> None:
    from msbd_dist.tiny.evaluate.card import card
    from msbd_dist.tiny.evaluate.grids import write_grids
    from msbd_dist.tiny.evaluate.run import evaluate

    processes = args.processes or (2 if choose_device(args.device).device.type == "cpu" else 1)
    ours, *other = (
        evaluate(folder, scale=args.scale, device=args.device, processes=processes)
        for folder in (args.folder, args.against)
        if folder is not None
    )
    results = ours.written()
    if other:
        results["against"] = other[0].written()
    if args.output is not None:
        _write(args.output, json.dumps(results, indent=2) + "\n")
    if args.grids is not None:
        write_grids(ours.outcomes, args.grids)
    if args.card is not None:
        _write(args.card, card(results))
    sys.stdout.write(table(ours.rows, other[0].rows if other else None))


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    lines = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(prog="python -m msbd_dist.tiny.evaluate", description=lines[0])
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=bundled_folder(),
        metavar="FOLDER",
        help="the family's folder (default: the bundled one)",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="JSON with all numbers")
    parser.add_argument("--against", type=Path, metavar="FOLDER2", help="a family to compare with")
    parser.add_argument("--grids", type=Path, metavar="DIR", help="where contact sheets go")
    parser.add_argument("--card", type=Path, metavar="FILE", help="model card in Markdown")
    parser.add_argument(
        "--scale",
        type=_positive,
        default=1.0,
        metavar="S",
        help="of the numbers of cases (default: 1)",
    )
    parser.add_argument("--processes", type=int, metavar="N", help="default: 2 on a CPU")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("msbd_dist").setLevel(logging.INFO)
