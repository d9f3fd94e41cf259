"""What all verbs share: the two consoles, the options, and how one ends.

Results go to stdout, words for people to stderr.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, get_args

import typer
from rich.console import Console

from msbd_dist.errors import InputError

if TYPE_CHECKING:
    from msbd_dist.batch.manifest import Manifest
    from msbd_dist.core.spec import LossName, ModelSpec

WIDE = 200  # columns where nobody looks: in a pipe

out_console = Console(soft_wrap=True, emoji=False, width=None if sys.stdout.isatty() else WIDE)
console = Console(stderr=True, soft_wrap=True, emoji=False)

Models = Annotated[
    str | None,
    typer.Option(
        "--models",
        help="'tiny' (bundled), a diffusers folder, a hub id (ID@REVISION), or a .safetensors.",
        show_default=False,
    ),
]
Sr = Annotated[
    str | None,
    typer.Option("--sr", help="Super-resolution checkpoint, e.g. RealESRGAN_x4plus.pth."),
]
Clip = Annotated[
    str | None,
    typer.Option("--clip", help="open_clip model, NAME:TAG, NAME:/FILE or a folder."),
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", "-w", min=1, help="Workers. Default: one per GPU, or per CPU core."),
]
ExecutorName = Annotated[
    str, typer.Option("--executor", help="ray, or serial: one worker in this process.")
]
Address = Annotated[
    str | None,
    typer.Option("--address", help="A running Ray, e.g. auto or HOST:6379; default: start one."),
]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="End when an edit fails.")]
MaxFailures = Annotated[
    int | None,
    typer.Option("--max-failures", min=0, help="End when more edits than this have failed."),
]
Deadline = Annotated[
    str | None,
    typer.Option(
        "--deadline", metavar="TIME", help="End after so long: seconds, or 90m, 8h30m ..."
    ),
]
Grace = Annotated[
    float, typer.Option("--grace", min=0, help="Seconds for running tasks when told to stop.")
]
VerifyWhat = Annotated[
    str,
    typer.Option("--verify", help="Compare what is written with what it is of: sample, full, off."),
]
AllowLoss = Annotated[
    str | None,
    typer.Option(
        "--allow-loss",
        metavar="[NAMES]",
        help="Write formats that can't hold all that an image has; or only without what is named, "
        "e.g. iptc,comment.",
    ),
]
ExecutorChoice = Annotated[
    str | None, typer.Option("--executor", help="ray or serial; default: as it was started.")
]
Every = Annotated[
    float,
    typer.Option("--every", min=0.1, help="Seconds between two lines in a pipe."),
]
Out = Annotated[str, typer.Argument(metavar="OUT", help="Run directory, a path or a URL.")]
As = Annotated[
    str, typer.Option("--output", "-o", metavar="text|json", help="How to say it on stdout.")
]
OutToBe = Annotated[
    str | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="The run directory that is meant, looked at too. Default: beside the manifest.",
    ),
]
AllowAnywhere = Annotated[
    bool,
    typer.Option(
        "--allow-anywhere", help="Write outside of the manifest's folder where it says so."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any option of the method, e.g. steps=25."),
]


def fail(message: str, code: int) -> NoReturn:
    console.print(f"msbd: {message}", style="red", markup=False, highlight=False)
    sys.exit(code)


def wants_json(output: str) -> bool:
    """What --output says. InputError where it is neither."""
    if output not in ("text", "json"):
        raise InputError(f"--output: got {output!r}, wanted text or json")
    return output == "json"


def percent(value: float) -> str:
    """A share as people read it."""
    return "less than 0.1 %" if 0 <= value < 0.05 else f"{value:.1f} %"


def emit(kind: str, values: dict[str, Any]) -> None:
    """A document on stdout. Its ``version`` goes up when a key goes or changes its meaning."""
    text = json.dumps({"version": 1, "kind": kind, **values}, indent=1)
    out_console.out(text, highlight=False)


def load_manifest(
    path: Path,
    models: str | None,
    allow_loss: str | None,
    *,
    anywhere: bool = False,
    **overrides: str | None,
) -> Manifest:
    from msbd_dist.batch.manifest import read_manifest

    loaded = read_manifest(path, anywhere=anywhere)
    return overridden(loaded, models, allow_loss, **overrides)


def overridden(
    manifest: Manifest, models: str | None, allow_loss: str | None, **overrides: str | None
) -> Manifest:
    """The same with what the command line says otherwise."""
    from dataclasses import replace

    from msbd_dist.batch.manifest import located_models

    given = {k: v for k, v in {"family": models, **overrides}.items() if v is not None}
    spec = located_models(replace(manifest.models, **given), Path.cwd()) if given else None
    changes = {"allow_loss": allowed(allow_loss)} if allow_loss else None
    return manifest.with_(models=spec, changes=changes)


def allowed(text: str | None) -> bool | tuple[LossName, ...]:
    """What --allow-loss says. ManifestError for a name that nobody knows."""
    from msbd_dist.batch.documents import Place
    from msbd_dist.batch.keys import LineKeys, given

    values = {"allow_loss": text or "off"}
    found: bool | tuple[LossName, ...] = given(values, LineKeys, Place(None, {}))["allow_loss"]
    return found


def spelled_out(arguments: list[str]) -> list[str]:
    """``--allow-loss`` may stand alone, and then allows everything."""
    found = []
    for word, after in zip(arguments, [*arguments[1:], ""], strict=True):
        alone = word == "--allow-loss" and not _names_losses(after)
        found.append("--allow-loss=on" if alone else word)
    return found


def _names_losses(word: str) -> bool:
    from msbd_dist.core.spec import LossName

    first = word.split(",")[0].strip().lower()
    return first in ("on", "off", *get_args(LossName)) or ("," in word and "." not in word)


def model_spec(family: str | None, **parts: str | None) -> ModelSpec:
    from msbd_dist.batch.manifest import located_models
    from msbd_dist.core.spec import ModelSpec

    given = {k: v for k, v in {"family": family, **parts}.items() if v is not None}
    return located_models(ModelSpec(**given), Path.cwd())


def seconds_of(text: str) -> float:
    """``90m``, ``8h30m``, ``45s`` or plain seconds, of `--deadline`."""
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text.strip())
    if not text.strip() or found is None:
        raise InputError(f"--deadline: got {text!r}, wanted a time such as 45s, 90m or 8h30m")
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return hours * 3600.0 + minutes * 60 + seconds
