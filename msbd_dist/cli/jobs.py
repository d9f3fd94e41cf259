"""Verbs for a cluster that is elsewhere: submit, attach, and how a job is cancelled."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from msbd_dist.cli.common import (
    AllowAnywhere,
    AllowLoss,
    Clip,
    Deadline,
    Device,
    FailFast,
    Grace,
    MaxFailures,
    Models,
    Sr,
    VerifyWhat,
    Workers,
    console,
    load_manifest,
    out_console,
    seconds_of,
)

if TYPE_CHECKING:
    from msbd_dist.batch.submit import Ended

JobsAddress = Annotated[
    str,
    typer.Option(
        "--address",
        envvar="RAY_API_SERVER_ADDRESS",
        metavar="URL",
        help="The dashboard of the cluster's head, http://HEAD:8265.",
    ),
]
HERE = "http://127.0.0.1:8265"


def submit(
    manifest: Annotated[Path, typer.Argument(help="YAML, JSONL, CSV or TSV manifest of edits.")],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Run directory: a URL such as s3://bucket/run, or a path on the cluster.",
        ),
    ],
    address: JobsAddress = HERE,
    detach: Annotated[bool, typer.Option("--detach", help="Do not follow the job.")] = False,
    shared: Annotated[
        bool, typer.Option("--shared", help="Paths here are paths on the cluster too; send none.")
    ] = False,
    models: Models = None,
    workers: Workers = None,
    sr: Sr = None,
    clip: Clip = None,
    device: Device = None,
    fail_fast: FailFast = False,
    max_failures: MaxFailures = None,
    deadline: Deadline = None,
    grace: Grace = 30.0,
    verify: VerifyWhat = "sample",
    allow_loss: AllowLoss = None,
    allow_anywhere: AllowAnywhere = False,
) -> None:
    """Run a manifest on a cluster that is elsewhere; it goes on when this machine leaves.

    Prints the name of the job. Sent are the manifest and, without --shared, the pictures and masks
    that are files here, 50 MB at most; no password, token or environment variable. The same again
    after the end continues; while it is at work, it is refused.

    Exit code: that of `msbd run`; 4 where the job was cancelled.

    Example: msbd submit jobs.yaml --out s3://bucket/run --address http://head:8265 --detach
    """
    from msbd_dist.batch.submit import pack
    from msbd_dist.batch.submit import submit as begin

    loaded = load_manifest(
        manifest, models, allow_loss, anywhere=allow_anywhere, sr=sr, clip=clip, device=device
    )
    package = pack(loaded, out, shared=shared)
    job = begin(
        package,
        address,
        workers=workers,
        grace=grace,
        max_failures=0 if fail_fast else max_failures,
        deadline=None if deadline is None else seconds_of(deadline),
        verify=verify,
    )
    out_console.print(job, markup=False, highlight=False)
    _say(f"submitted; {_how_to_go_on(job, address)}")
    if not detach:
        _follow(job, address)


def attach(
    job: Annotated[str, typer.Argument(metavar="JOB", help="Name of a job, or its run directory.")],
    address: JobsAddress = HERE,
) -> None:
    """Follow a job until it ends; Ctrl-C leaves it at work.

    Its log goes to stderr, how it ended to stdout. Exit code: that of `msbd run`; 4 where the job
    was cancelled, 3 where the cluster ended it or can't be reached.

    Example: msbd attach msbd-1f0c9a52be77 --address http://head:8265
    """
    _follow(job, address)


def cancel_submitted(job: str, address: str, grace: float | None) -> NoReturn:
    """`msbd cancel` of a job: waits for its end, says how it was, exits with 0."""
    from msbd_dist.batch.submit import cancel_job

    _print(cancel_job(job, address, grace))
    sys.exit(0)


def _follow(job: str, address: str) -> NoReturn:
    from msbd_dist.batch.submit import attach as follow

    signal.signal(signal.SIGINT, signal.default_int_handler)  # as `run` does, started by whomever
    try:
        ended = follow(job, address, _log)
    except KeyboardInterrupt:
        _say(f"detached; {_how_to_go_on(job, address)}")
        sys.exit(128 + signal.SIGINT)
    _print(ended)
    sys.exit(ended.exit_code)


def _log(text: str) -> None:
    console.print(text, end="", markup=False, highlight=False)


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False)


def _print(ended: Ended) -> None:
    if ended.why is not None:
        _say(ended.why)
    out_console.print(f"{ended.job}  {ended.state}  {ended.out}", markup=False, highlight=False)


def _how_to_go_on(job: str, address: str) -> str:
    return (
        f"the job goes on by itself; `msbd attach {job} --address {address}` follows it, "
        "`msbd cancel` ends it"
    )
