"""docs/performance.md and its charts, from what was measured.

    python -m benchmarks.speed.page

Every number of the page is read from benchmarks/results; sentences are here.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.speed.charts import bars, curves, stacked

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
CHARTS = "images/performance"  # below docs
GOAL = 0.05  # of a task's time outside model calls
FASTER = 5  # times, by which decoder optimization is to be
MODELS = {
    "enlarge": "super-resolution",
    "encode": "VAE encoder",
    "denoise": "UNet",
    "decode": "VAE decoder",
    "text": "text encoder",
}
Found = dict[str, Any]

HEAD = """
Written by `python -m benchmarks.speed.page` from `benchmarks/results/speed.json`, which `python -m
benchmarks.speed` measures. Ways of doing the same are measured in turns within one run, so that
ratios hold where seconds don't; a number is the median of its rounds, and a range is the least and
the most. The models are the bundled family unless a section says otherwise, on one thread, as a
worker has it on a CPU.
"""

CUDA = """
Nothing here was measured on CUDA. What is in place for it: bf16 (or fp16) for UNet and text
encoder, the UNet's convolutions with their channels last, PyTorch's own attention (SDPA, diffusers'
default), a task's segments as one batch through UNet and super-resolution, TF32 in the VAE's
convolutions (PyTorch's default), noise copied without waiting for the device, and reading and
writing beside it. Deterministic kernels are chosen wherever there are any, which costs some speed.
`torch.compile` and CUDA graphs are variants of this benchmark (`--only denoiser`), not of the
program. [On a GPU](gpu.md) is what a card shows of all that.
"""

DECODER = """
The paper tunes the decoder in 100 steps, each over all segments, and calls it its slowest part.
Here that is `decoder_batch: full`; the default, `sample`, looks at a twentieth of them in each
step, or one, chosen by how much of it is outside the mask, at a learning rate that falls, with
products in bfloat16 where the processor or the card has instructions for it. Below are {segments}
segments, as many as Stable Diffusion has for 3000 x 2000 pixels, at half the width of the bundled
family's, so that it takes minutes. The loss is that of all of them in float32, looked at every 25
steps; *faster* is the way to what the plain one ends with, {wanted:.3g}. Seconds are the
processor's, of one thread, without those looks.
"""

WAYS = """
The last block alone is not in the program for what its line shows. What the optimization does to a
picture is measured by `python -m benchmarks.claims --questions q5`.
"""

COMMAND = """
```
python -m benchmarks.speed --only final,denoiser --models FOLDER --sr FILE -o cuda.json
```
"""


def write() -> None:
    """Write the page and its charts, of what has been measured."""
    for name, text in files(load()).items():
        path = PAGE.parent / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def load() -> Found:
    """What was measured, by part."""
    found: Found = json.loads((RESULTS / "speed.json").read_text())
    return found | {"full_size": json.loads((RESULTS / "full_size.json").read_text())}


def files(found: Found) -> dict[str, str]:
    """The page and its charts: text by path below docs."""
    parts = [(name, part) for name, part in PARTS.items() if name in found]
    texts = [part(found[name]) for name, part in parts]
    made = {f"{CHARTS}/{name}.svg": svg for _, charts in texts for name, svg in charts.items()}
    page = [
        joined("# Performance", HEAD),
        *(text for text, _ in texts),
        joined("## CUDA", CUDA, COMMAND),
    ]
    return {"performance.md": "\n\n".join(page) + "\n", **made}


Part = Callable[[Found], tuple[str, dict[str, str]]]  # numbers -> text, and charts by name


# -- words and tables ------------------------------------------------------------------------------


def where(part: Found) -> str:
    """On what a part was measured."""
    machine = part["machine"]
    return (
        f"*Measured on {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"at commit `{(part['commit'] or 'unknown')[:12]}`.*"
    )


def picture(name: str, what: str) -> str:
    return f"![{what}]({CHARTS}/{name}.svg)"


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [list(head), ["---"] * len(list(head)), *([str(c) for c in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def ranged(spread: Mapping[str, float], show: Callable[[float], str] = number) -> str:
    return f"{show(spread['median'])} ({show(spread['min'])} to {show(spread['max'])})"


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def holds(condition: bool) -> str:
    return "holds" if condition else "does not hold"


def joined(*parts: str) -> str:
    """Paragraphs, each in lines of a readable length."""
    return "\n\n".join(_filled(part.strip()) for part in parts if part)


def _filled(text: str) -> str:
    if text.startswith(("|", "!", "#", "```")):
        return text
    return textwrap.fill(text, 130, break_long_words=False, break_on_hyphens=False)


# -- parts -----------------------------------------------------------------------------------------


def final(part: Found) -> tuple[str, dict[str, str]]:
    usual = part["batches"].get("one by one") or part["batches"]["together"]
    best = min(usual, key=lambda size: usual[size]["outside"]["median"])
    share = usual[best]["outside"]["median"]
    bars_of = {
        _row(way, size): _parts(one)
        for way, sizes in part["batches"].items()
        for size, one in sizes.items()
    }
    rows = [
        [_row(way, size), ranged(one["seconds"]), ranged(one["outside"], percent)]
        for way, sizes in part["batches"].items()
        for size, one in sizes.items()
    ]
    text = joined(
        "## The final stage",
        f"A task of the final stage takes segments of {part['segment_px']} pixels from the stored "
        f"stage before to stored pixels: super-resolution, low-pass, encoding, "
        f"{part['denoiser_calls']} calls of the UNet, decoding, without decoder optimization. "
        "Below, the seconds of one segment, by the number of segments in the task.",
        picture("final", "Seconds of a segment, by part and by segments of a task"),
        table(["segments of a task", "seconds of one", "outside model calls"], rows),
        f"**Outside of model calls** are {percent(share)} of the time with {best} segments of a "
        f"task; that it is at most {percent(GOAL)} {holds(share <= GOAL)}. What is read for a "
        "segment is read while the one before is with the models, and what is done is stored "
        "while the next one is (`batch/beside.py`); a task of one segment has nothing to overlap.",
        _together(part["batches"]),
        where(part),
    )
    return text, {"final": stacked(bars_of, unit="seconds of a segment")}


def _row(way: str, size: str) -> str:
    return f"{size}, {way}"


def _parts(one: Found) -> dict[str, float]:
    models = {MODELS[name]: one["models"][name] for name in MODELS if name in one["models"]}
    return models | {"outside": one["seconds"]["median"] * one["outside"]["median"]}


def _together(batches: Found) -> str:
    """What one batch would gain on a CPU."""
    if "one by one" not in batches:
        return ""
    size = max(batches["together"], key=int)
    alone, batch = (batches[way][size] for way in ("one by one", "together"))
    whole = batch["seconds"]["median"] / alone["seconds"]["median"]
    unet = batch["models"]["denoise"] / alone["models"]["denoise"]
    return (
        "**One by one.** On a CPU a worker gives segments to the models one at a time, because "
        "the last bits of a result change with the batch, and bytes must not depend on how a "
        f"task was cut. As one batch of {size} the UNet takes {percent(unet)} of that time, and "
        f"the whole task {percent(whole)}: that is the price of equal bytes."
    )


def plain(part: Found) -> tuple[str, dict[str, str]]:
    compared = part["against_plain"]
    ours, enlarging = compared["ours"], compared["enlarging"]
    others = {name: one for name, one in compared.items() if "same_work" in one}
    rows = {
        "this program, without enlarging": compared["without_enlarging"],
        **{f"diffusers, {name}": other["seconds"] for name, other in others.items()},
        "this program, all of it": ours,
    }
    text = joined(
        "## Against a plain diffusers loop",
        "The same segments, weights, steps, guidance and eta through diffusers' own pipelines, a "
        "call for each segment, from tensors to tensors. They are given what is enlarged already. "
        "The first ratio compares them with this program without the time of its "
        "super-resolution; the second adds that time to theirs. This program also reads and "
        "stores everything, holds the background, and checks what it stored.",
        picture("plain", "Seconds of a segment: this program and diffusers' pipelines"),
        table(
            ["pipeline", "seconds of a segment", "times ours, the same work", "all of it"],
            [
                [name, ranged(one["seconds"]), ranged(one["same_work"]), ranged(one["whole"])]
                for name, one in others.items()
            ],
        ),
        f"Ours: {ranged(ours)} seconds of a segment, of which enlarging {ranged(enlarging)}. "
        "A ratio above 1 means that ours is faster. On a CPU both wait for the same convolutions, "
        "so little can be gained there; `inpaint` encodes each picture once more for its mask.",
        where(part),
    )
    return text, {"plain": bars(rows, unit="seconds of a segment")}


def denoiser(part: Found) -> tuple[str, dict[str, str]]:
    names = list(next(iter(part["batches"].values())))
    rows = [
        [batch, *(f"{1000 * ways[n]['seconds']['median']:.1f}" for n in names)]
        for batch, ways in part["batches"].items()
    ]
    shares = {n: max(ways[n]["of_products"] for ways in part["batches"].values()) for n in names}
    text = joined(
        "## One call of the UNet",
        f"Milliseconds of a segment, by batch, on {part['device']}. A call for one segment is "
        f"{number(part['call_gflop'])} GFLOP; large matrix products in {part['dtype']} run at "
        f"{number(1000 * part['products_tflops'])} GFLOP/s there.",
        table(["batch", *names], rows),
        "At best a call reaches "
        + ", ".join(f"{percent(share)} of that rate ({name})" for name, share in shares.items())
        + ". Convolutions have kernels of their own, which may be the faster ones.",
        where(part),
    )
    return text, {}


def startup(part: Found) -> tuple[str, dict[str, str]]:
    steps = {name: one["median"] for name, one in part["steps"].items()}
    waits = part["first_task"]
    rows = [
        [f"{pause} s", *(ranged(ways[way]) for way in ("at its first task", "before"))]
        for pause, ways in waits.items()
    ]
    text = joined(
        "## A worker's start",
        f"A worker starts in {number(part['total']['median'])} seconds when it loads everything, "
        "most of them imports, which no worker can do without:",
        picture("startup", "Seconds of a worker's start, by step"),
        "So a worker imports while no task has come: while Ray starts the others, and the driver "
        "takes in the first picture. What a first task then takes, in seconds, from when it is "
        "there to its end, by how long after its worker:",
        table(["after", "imports at the first task", "imports before"], rows),
        "Weights are read when a task first needs them, once per worker: a worker that only "
        "decodes reads the VAE alone, and CLIP is read by those that choose candidates. "
        "Embeddings of the last 64 prompts are kept.",
        where(part),
    )
    return text, {"startup": stacked({"start": steps}, unit="seconds")}


def memory(part: Found) -> tuple[str, dict[str, str]]:
    enlarged = part["enlarge"]
    tasks = {f"stage {row['stage'] + 1}: {row['kind']}": row for row in part["tasks"]}
    peaks = {name: row["peak_mb"] / 1024 for name, row in tasks.items()}
    peaks[f"enlarging {enlarged['px']} px"] = enlarged["peak_mb"] / 1024
    text = joined(
        "## Memory",
        "Peaks of each kind of task with the configuration of Stable Diffusion 1.4 and random "
        "weights, in float32 on a CPU, each in a process of its own with all that it loads. The "
        "first stage is 512 pixels, the second one segment of 768. Decoder optimization (fit) "
        "holds what its gradients need of one segment at a time, here in bfloat16, because this "
        "CPU has instructions for it; below, in float32, it is half as much again or more. "
        "Enlarging is one picture through a network of Real-ESRGAN's size.",
        picture("memory", "Peak memory of each kind of task"),
        where(part),
    )
    spreads = {name: dict.fromkeys(("median", "min", "max"), v) for name, v in peaks.items()}
    return text, {"memory": bars(spreads, unit="GB, highest resident")}


def full_size(part: Found) -> tuple[str, dict[str, str]]:
    rows = [
        [one["step"], f"{one['peak_mb']} MB", number(one["seconds"])]
        for one in part["steps"]
        if not one["left_out"]
    ]
    text = joined(
        "## Steps at full size",
        "The same model's steps alone, with only what each of them needs, by "
        f"`python -m benchmarks.full_size` on {part['threads']} threads "
        "(`benchmarks/results/full_size.json`):",
        table(["step", "peak", "seconds"], rows),
        where(part),
    )
    return text, {}


def decoder(part: Found) -> tuple[str, dict[str, str]]:
    """The way to the loss of the paper's descent."""
    ways, plain = part["ways"], part["ways"]["plain"]["reached"]
    rows, lines = [], {}
    for name, way in ways.items():
        points, reached = way["points"], way["reached"]
        lines[name] = [(point["seconds"], point["loss"]) for point in points]
        if reached is None:
            end = points[-1]
            rows.append([name, f"not in {end['steps']:.0f}", "", "", f"{end['loss']:.3g}", ""])
        else:
            rows.append(
                [
                    name,
                    f"{reached['steps']:.0f}",
                    f"{reached['passes']:.0f}",
                    number(reached["seconds"]),
                    f"{reached['loss']:.3g}",
                    f"{plain['seconds'] / reached['seconds']:.1f}x",
                ]
            )
    ours = ways["sample"]["reached"]
    times = plain["seconds"] / ours["seconds"] if ours else 0.0
    holds = "holds" if times >= FASTER else "does not hold"
    text = joined(
        "## Decoder optimization",
        DECODER.format(segments=part["segments"], wanted=part["wanted"]),
        picture("decoder", "The loss over seconds, of each way"),
        table(["way", "steps", "segments passed", "seconds", "loss there", "faster"], rows),
        f"That `sample` gets there at least {FASTER} times faster {holds}. {WAYS.strip()}",
        where(part),
    )
    chart = curves(lines, part["wanted"], x="seconds", y="loss")
    return text, {"decoder": chart}


def _both(part: Found) -> tuple[str, dict[str, str]]:
    (text, charts), (more, others) = final(part), plain(part)
    return f"{text}\n\n{more}", charts | others


PARTS: dict[str, Part] = {
    "final": _both,
    "denoiser": denoiser,
    "decoder": decoder,
    "startup": startup,
    "memory": memory,
    "full_size": full_size,
}


if __name__ == "__main__":
    write()
