"""docs/gpu.md, from what was measured.

    python -m benchmarks.gpu.page

Numbers are read from benchmarks/results/gpu.json; where there are none the page says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "gpu.json"
PAGE = ROOT / "docs" / "gpu.md"
UNMEASURED = "unmeasured"

Found = dict[str, Any]

NOTHING = "Nothing has been run on a GPU yet."
HEAD = """
What one command has found on one card: whether edits are right there, how fast, how much fits, and
whether training goes through. Written by `python -m benchmarks.gpu` into
`benchmarks/results/gpu.json` and this page.
"""
HOW = """
    make gpu                                        # tests marked gpu, then the benchmark
    python -m benchmarks.gpu                        # all parts, at most 9 minutes
    python -m benchmarks.gpu --only right           # some of them
    python -m benchmarks.gpu --dry-run              # without a card: shows that all parts run

It needs Python 3.11 or later, torch 2.11 or later with CUDA, and the project's light dependencies;
neither Ray nor an installation. For a machine without a network, `python -m benchmarks.gpu.wheels`
lists the wheels that it lacks, and gathers them. Each part is written as soon as it is done and
names its commit; what is not run again stays. A part that hangs or loses the card is ended, and the
next one begins in a new process.

Networks are at full size with random weights (Stable Diffusion 1.x, Real-ESRGAN with 23 blocks,
CLIP L/14), made on the spot; whole edits are the bundled family's.
"""
DRY = """
**A dry run**: tiny networks on a CPU that stands in for a card. It shows that every part runs; its
numbers say nothing of any card.
"""


def main() -> None:
    PAGE.write_text(text(load()), encoding="utf-8")


def load() -> Found:
    """What was measured; nothing where no card was at hand."""
    if not RESULTS.exists():
        return {"dry_run": False, "card": {}, "parts": {}}
    found: Found = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


def text(results: Found) -> str:
    """The page."""
    parts = results["parts"]
    sections = [
        f"# On a GPU\n\n**{headline(results)}**",
        HEAD.strip(),
        DRY.strip() if results["dry_run"] else "",
        targets(results),
        f"## Running it\n\n```\n{_code(HOW)}\n```\n\n{_prose(HOW)}",
        *(section(parts) for section in (right, fast, scales, trains)),
        where(results),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def headline(results: Found) -> str:
    """What has been run on which card, in a line."""
    if results["dry_run"] or not results["parts"]:
        return NOTHING
    card, rows = results["card"], checks(results["parts"])
    good = sum(row["ok"] for row in rows)
    commits = sorted({str(part["commit"])[:12] for part in results["parts"].values()})
    return (
        f"Run on one {card['name']} (driver {card.get('driver', '?')}, CUDA {card.get('cuda')}) "
        f"at {', '.join(commits)}: {good} of {len(rows)} checks hold."
    )


def checks(parts: Found) -> list[Found]:
    """All rows of all parts; a part that failed is a check that does not hold."""
    rows: list[Found] = []
    for name, part in parts.items():
        failed = {"what": name, "ok": False, "found": part.get("error")}
        rows += part.get("checks", [failed])
    return rows


# -- targets ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """What is wanted, and how it is read from the parts; KeyError where it was not measured."""

    name: str
    wanted: str
    found: Callable[[Found], float]
    holds: Callable[[float], bool]
    show: Callable[[float], str]


def times(value: float) -> str:
    return f"{value:.2f} times"


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _checked(parts: Found) -> float:
    rows = checks({name: part for name, part in parts.items() if name.startswith("right.")})
    if not rows:
        raise KeyError("right")
    return sum(row["ok"] for row in rows) / len(rows)


def _against(kind: str) -> Callable[[Found], float]:
    return lambda parts: parts["fast.final"]["against_plain"][kind]["same_work"]["median"]


def _best_batch(parts: Found) -> float:
    """The loop's seconds over ours, enlarging left out, at the batch that is best for ours."""
    final = parts["fast.final"]
    ours = min(
        one["seconds"]["median"] - one["models"].get("enlarge", 0.0)
        for one in final["batches"]["together"].values()
    )
    return float(final["against_plain"]["img2img"]["seconds"]["median"] / ours)


def _share(parts: Found) -> float:
    rows = parts["fast.calls"]["rows"]
    middle = sorted({row["px"] for row in rows if row["network"] == "UNet"})
    px = middle[len(middle) // 2]
    return max(r["of_rate"] for r in rows if r["network"] == "UNet" and r["px"] == px)


TARGETS = (
    Target("checks that hold", "all", _checked, lambda v: v == 1, percent),
    Target(
        "the final stage beside diffusers' img2img loop, as it is set",
        "2.5 times as fast",
        _against("img2img"),
        lambda v: v >= 2.5,
        times,
    ),
    Target(
        "the same at its best batch", "2.5 times as fast", _best_batch, lambda v: v >= 2.5, times
    ),
    Target(
        "the same beside diffusers' inpaint loop",
        "2.5 times as fast",
        _against("inpaint"),
        lambda v: v >= 2.5,
        times,
    ),
    Target(
        "share of the card's bf16 rate in the UNet, 768 px, best batch",
        "at least 45 %",
        _share,
        lambda v: v >= 0.45,
        percent,
    ),
    Target(
        "decoder optimization of 3000 x 2000 pixels, to the loss of the paper's 100 steps",
        "at most 6 s",
        lambda parts: parts["fast.decoder"]["seconds_to_paper"],
        lambda v: v <= 6,
        lambda v: f"{v:.1f} s",
    ),
    Target(
        "idle share of the card in a task of the final stage",
        "at most 5 %",
        lambda parts: parts["fast.profiled"]["default"]["idle"],
        lambda v: v <= 0.05,
        percent,
    ),
    Target(
        "training the bundled family, larger networks",
        "at most 25 minutes",
        lambda parts: parts["trains.minute"]["settings"]["larger"]["minutes"],
        lambda v: v <= 25,
        lambda v: f"{v:.0f} minutes",
    ),
)


def targets(results: Found) -> str:
    parts, rows = results["parts"], []
    for target in TARGETS:
        try:
            value = target.found(parts)
        except KeyError:
            rows.append([target.name, target.wanted, UNMEASURED, ""])
            continue
        verdict = "holds" if target.holds(value) else "does not hold"
        verdict = "a dry run" if results["dry_run"] else verdict
        rows.append([target.name, target.wanted, target.show(value), verdict])
    return "## Targets\n\n" + table(["what", "wanted", "found", ""], rows)


# -- sections --------------------------------------------------------------------------------------


def right(parts: Found) -> str:
    rows: list[list[object]] = []
    for name, part in parts.items():
        for row in checks({name: part}) if name.startswith("right.") else []:
            found = row.get("found")
            said = "" if found is None else found
            rows.append([name, row["what"], "yes" if row["ok"] else "**no**", said])
    return _section("Is it right", table(["part", "what", "holds", "found"], rows), rows)


def fast(parts: Found) -> str:
    shown = [_rates(parts), _calls(parts), _final(parts), _profiled(parts), _decoder(parts)]
    return _section("Is it fast", "\n\n".join(filter(None, shown)), any(shown))


def _rates(parts: Found) -> str:
    part = _measured(parts, "fast.rates")
    if not part:
        return ""
    rows = [[words, part[name]] for name, words in _RATES.items()]
    return "What the card does at most:\n\n" + table(["what", "rate"], rows)


_RATES = {
    "bfloat16_tflops": "bfloat16 products, TFLOP/s",
    "float16_tflops": "float16 products, TFLOP/s",
    "float32_tflops": "float32 products, TFLOP/s",
    "copy_gb_per_second": "copies, GB/s read and written",
}


def _calls(parts: Found) -> str:
    part = _measured(parts, "fast.calls")
    if not part:
        return ""
    rows = [
        [r["network"], r["px"], r["batch"], r["per_second"], percent(r["of_rate"])]
        for r in part["rows"]
    ]
    head = ["network", "px", "batch", "rows a second", f"of {part['rate_tflops']:.0f} TFLOP/s"]
    return "One call of each network:\n\n" + table(head, rows)


def _final(parts: Found) -> str:
    part = _measured(parts, "fast.final")
    if not part:
        return ""
    head = ["batch", "segments a second", "outside models", "seconds of a segment by network"]
    rows = [
        [
            batch,
            f"{1 / one['seconds']['median']:.3g}",
            percent(one["outside"]["median"]),
            ", ".join(f"{name} {seconds:.3g}" for name, seconds in one["models"].items()),
        ]
        for batch, one in part["batches"]["together"].items()
    ]
    loops = [
        [name, f"{one['seconds']['median']:.3g}", times(one["same_work"]["median"])]
        for name, one in part["against_plain"].items()
        if "same_work" in one
    ]
    return (
        f"The final stage, segments of {part['segment_px']} px, {part['denoiser_calls']} calls of "
        f"the UNet with guidance {part['guidance']}:\n\n{table(head, rows)}\n\n"
        f"diffusers' own pipelines over the same segments, in {part['dtype']}, one by one:\n\n"
        + table(["loop", "seconds of a segment", "over ours without enlarging"], loops)
    )


def _profiled(parts: Found) -> str:
    part = _measured(parts, "fast.profiled")
    if not part:
        return ""
    shown = []
    for name in ("default", "largest"):
        one = part[name]
        shown.append(
            f"A task of {one['segments']} segments: {one['seconds']} s, of which kernels run "
            f"{one['busy_seconds']} s; {one['launches']} launches, idle {percent(one['idle'])}."
        )
        rows = [[f"`{k['name']}`", k["launches"], percent(k["share"])] for k in one["kernels"]]
        if rows:
            shown.append(table(["kernel", "launches", "of its time"], rows))
    return "\n\n".join(shown)


def _decoder(parts: Found) -> str:
    part = _measured(parts, "fast.decoder")
    if not part:
        return ""
    return (
        f"Decoder optimization of {part['segments']} segments of {part['px']} px: "
        f"{part['turns']} steps in {part['seconds_to_end']} s; {part['turns_to_paper']} of them, "
        f"to the loss of the paper's 100, in {part['seconds_to_paper']} s. The paper's 100 would "
        f"take {part['seconds_of_paper']} s ({part['paper_turns_timed']} were timed). A pass takes "
        f"{part['pass_peak_mb']} MB, a frugal one {part['frugal_pass_peak_mb']} MB."
    )


def scales(parts: Found) -> str:
    shown = []
    batches, single = _measured(parts, "scales.batches"), _measured(parts, "scales.single")
    if batches:
        tried = list(map(str, batches["tried"]))
        rows = [
            [row["work"], row["px"], *(row["peak_mb"].get(size, "-") for size in tried)]
            for row in batches["rows"]
        ]
        shown.append(f"Peak memory in MB by batch, of {batches['card_mb']} MB:")
        shown.append(table(["work", "px", *tried], rows))
        shown += [f"{row['work']}: {row['why']}." for row in batches["rows"] if row["why"]]
    if single:
        sizes = list(dict.fromkeys(px for row in single["rows"] for px in row["peak_mb"]))
        rows = [
            [row["work"], *(row["peak_mb"].get(px, "-") for px in sizes)] for row in single["rows"]
        ]
        shown += ["What is done one by one:", table(["work", *(f"{px} px" for px in sizes)], rows)]
    return _section("How much fits", "\n\n".join(shown), shown)


def trains(parts: Found) -> str:
    part = _measured(parts, "trains.minute")
    shown = []
    for name, found in part.get("settings", {}).items():
        rows = [
            [
                part_name,
                row["parameters"],
                row["batch"],
                row["steps"],
                row["steps_per_second"],
                row["pictures"],
                row["pictures_per_second"],
            ]
            for part_name, row in found["parts"].items()
        ]
        head = [
            "part",
            "parameters",
            "batch",
            "steps",
            "a second",
            "pictures",
            "a second by one process",
        ]
        shown += [
            f"{name.capitalize()} settings, {found['minutes']} minutes in all where "
            f"{part['drawing']} processes draw the pictures:"
        ]
        shown.append(table(head, rows))
    return _section("Can it train", "\n\n".join(shown), shown)


def where(results: Found) -> str:
    """What the numbers belong to."""
    parts = results["parts"]
    if not parts:
        return ""
    card = ", ".join(f"{name} {value}" for name, value in results["card"].items())
    last = next(reversed(parts.values()))
    versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
    total = sum(part["seconds"] for part in parts.values())
    return f"*{card}. {versions}. {total:.0f} seconds in all, at {str(last['commit'])[:12]}.*"


# -- helpers ---------------------------------------------------------------------------------------


def table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    names = list(map(str, head))
    lines = [names, ["---"] * len(names), *([str(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _section(title: str, body: str, found: object) -> str:
    return f"## {title}\n\n{body if found else UNMEASURED.capitalize() + '.'}"


def _measured(parts: Found, name: str) -> Found:
    part: Found = parts.get(name, {})
    return {} if "error" in part else part


def _code(how: str) -> str:
    return "\n".join(line.strip() for line in how.splitlines() if line.startswith("    "))


def _prose(how: str) -> str:
    return "\n".join(line for line in how.splitlines() if not line.startswith("    ")).strip()


if __name__ == "__main__":
    main()
