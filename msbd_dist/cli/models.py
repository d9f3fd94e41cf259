"""Verbs about models: msbd models list, check, pull."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msbd_dist.cli.common import As, console, emit, out_console, wants_json
from msbd_dist.errors import ModelError

if TYPE_CHECKING:
    from msbd_dist.models.audit import Checked

app = typer.Typer(
    name="models", help="Which models are at hand, whether they are sound.", no_args_is_help=True
)

AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Also a .pth upscaler, if it holds tensors alone.")
]


@app.command(name="list")
def list_models(
    folder: Annotated[
        Path | None, typer.Option("--folder", help="A folder that holds models, e.g. /models.")
    ] = None,
    output: As = "text",
) -> None:
    """List the bundled family, the models in the hub's cache, and those in a folder.

    Example: msbd models list --folder /models
    """
    from msbd_dist.models.library import at_hand

    as_json = wants_json(output)
    entries = at_hand(folder)
    if as_json:
        emit("models", {"models": [asdict(entry) for entry in entries]})
        return
    widest = max(len(entry.name) for entry in entries)
    for entry in entries:
        line = f"{entry.name:<{widest}}  {entry.kind:<5}  {entry.bytes / 1e6:8,.0f} MB"
        line += f"  can't be used: {entry.why}" if entry.why else ""
        out_console.print(line, markup=False, highlight=False)


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="'tiny', a folder, a file, or a hub id.")],
    allow_pickle: AllowPickle = False,
    output: As = "text",
) -> None:
    """Check a model without loading it: configuration, whole files, shards, shapes, digests.

    Example: msbd models check /models/stable-diffusion-v1-4
    """
    from msbd_dist.models import audit

    as_json = wants_json(output)
    try:
        found = audit.check(name, allow_pickle=allow_pickle)
    except ModelError as error:
        if as_json:
            emit("models", {"models": [{"name": name, "error": str(error)}]})
        raise
    if as_json:
        emit("models", {"models": [asdict(found)]})
    else:
        _print_checked(found)


@app.command()
def pull(
    id: Annotated[str, typer.Argument(metavar="ID", help="A hub id, e.g. org/name.")],
    to: Annotated[Path, typer.Option("--to", help="The model's own folder; made if missing.")],
    revision: Annotated[
        str | None, typer.Option("--revision", help="A commit, tag or branch of it.")
    ] = None,
    allow_pickle: AllowPickle = False,
) -> None:
    """Fetch a model from the hub: its configuration and safetensors files, with their digests.

    Example: msbd models pull CompVis/stable-diffusion-v1-4 --to /models/stable-diffusion-v1-4
    """
    from huggingface_hub.utils.tqdm import disable_progress_bars

    from msbd_dist.models import library

    if not console.is_terminal:
        disable_progress_bars()
    _print_checked(library.pull(id, to, revision=revision, allow_pickle=allow_pickle))


def _print_checked(found: Checked) -> None:
    for file in found.files:
        line = f"{file.sha256}  {file.path}{'' if file.listed else '  (in no list of digests)'}"
        out_console.print(line, markup=False, highlight=False)
    for name in found.ignored:
        console.print(f"{name}: a pickle, never loaded", markup=False, highlight=False)
    count = f"{len(found.files)} files are" if len(found.files) != 1 else "the file is"
    text = f"{found.place}: {found.what}; {count} sound"
    console.print(text, markup=False, highlight=False)
