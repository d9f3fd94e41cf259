"""Verbs about manifests: validate, init, schema. They load neither torch nor ray."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from msbd_dist.cli.common import (
    AllowAnywhere,
    AllowLoss,
    Clip,
    Models,
    OutToBe,
    Sr,
    console,
    out_console,
    overridden,
    percent,
)
from msbd_dist.errors import InputError

SHOWN = 50  # masks whose share is printed


def validate(
    manifest: Annotated[Path, typer.Argument(help="YAML, JSONL, CSV or TSV manifest of edits.")],
    output: Annotated[str, typer.Option("--output", "-o", help="text or json.")] = "text",
    out: OutToBe = None,
    models: Models = None,
    sr: Sr = None,
    clip: Clip = None,
    allow_loss: AllowLoss = None,
    allow_anywhere: AllowAnywhere = False,
) -> None:
    """Check a manifest as `run` would: every key, files, masks, outputs, sizes, room. Runs nothing.

    Prints a line for each problem, and to stderr what may be meant otherwise and how much masks
    cover. Exit code: 0 all is right, 2 something is wrong.

    Example: msbd validate jobs/demo.yaml
    """
    from msbd_dist.batch.validate import validate as look_at

    if output not in ("text", "json"):
        raise InputError(f"--output: got {output!r}, wanted text or json")
    checked = look_at(
        manifest,
        anywhere=allow_anywhere,
        out=out,
        change=lambda read: overridden(read, models, allow_loss, sr=sr, clip=clip),
    )
    if output == "json":
        sys.stdout.write(json.dumps(checked.to_json(), indent=1) + "\n")
    for problem in checked.problems if output == "text" else ():
        out_console.print(problem.message, markup=False, highlight=False)
    for warning in checked.warnings if output == "text" else ():
        console.print(f"warning: {warning.message}", style="yellow", markup=False, highlight=False)
    for covered in islice(checked.masks.values(), SHOWN) if output == "text" else ():
        others = covered.edits - 1
        more = f" (also of {others:,} more edit{'s' * (others > 1)})" if others else ""
        text = f"{covered.edit}: the mask{more} covers {percent(covered.percent)} of the picture"
        console.print(text, markup=False, highlight=False)
    if len(checked.masks) > SHOWN and output == "text":
        more = f"and {len(checked.masks) - SHOWN:,} more masks; -o json has all"
        console.print(more, markup=False, highlight=False)
    count = len(checked.problems)
    end = "nothing is wrong" if not count else f"{count} problem{'s' * (count != 1)}"
    warned = len(checked.warnings)
    end += f", {warned} warning{'s' * (warned != 1)}" if warned else ""
    text = f"{manifest}: {checked.edits} edit{'s' * (checked.edits != 1)}, {end}"
    console.print(text, style="red" if count else "green", markup=False, highlight=False)
    raise typer.Exit(2 if count else 0)


def init(
    folder: Annotated[Path, typer.Argument(help="Folder with pictures, and masks if there are.")],
    name: Annotated[str, typer.Option("--name", help="The manifest's file name.")] = "jobs.yaml",
) -> None:
    """Write a commented manifest for a folder of pictures, to change and run.

    Example: msbd init photos
    """
    from msbd_dist.batch.starter import starter

    target = folder / name
    if Path(name).name != name:
        raise InputError(f"--name: got {name!r}, wanted a file name without folders")
    text = starter(folder, name)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"{target}: is there already; give another --name") from None
    except OSError as error:
        raise InputError(f"{target}: can't be written ({error.strerror or error})") from None
    out_console.print(str(target), markup=False, highlight=False)
    console.print(f"next: msbd validate {target}", markup=False, highlight=False)


def schema(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Tables for people instead of JSON for editors.")
    ] = False,
) -> None:
    """Print the JSON Schema of manifests, which editors use to complete and check.

    Example: msbd schema > manifest.schema.json
    """
    from msbd_dist.batch.reference import schema as of_manifests
    from msbd_dist.batch.reference import tables

    sys.stdout.write(tables() if markdown else json.dumps(of_manifests(), indent=1) + "\n")
