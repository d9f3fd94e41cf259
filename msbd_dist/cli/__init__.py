"""The `msbd` command. The only place that prints: results to stdout, words for people to stderr.

    work.py       edit, run, resume, retry       look.py      plan, status, logs, describe ...
    upkeep.py     cancel, export, verify, gc     models.py    models list, check, pull
    manifests.py  init, validate, schema         jobs.py      submit, attach
    progress.py   bars and lines                 common.py    what the verbs share

Imports are made inside the verbs, so that those which only look load neither torch nor ray.
"""

from __future__ import annotations

import io
import logging
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from msbd_dist.cli import jobs, look, manifests, models, upkeep, work
from msbd_dist.cli.common import fail, spelled_out
from msbd_dist.errors import MsbdError

app = typer.Typer(
    name="msbd",
    help="Text-guided edits of very large images, in parallel, exact outside their masks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    if version:
        look.version()
        raise typer.Exit


for verb in (
    *(work.edit, work.run, work.resume, work.retry),
    *(jobs.submit, jobs.attach),
    *(look.plan, look.status, look.logs, look.describe, look.report, look.measure),
    *(upkeep.cancel, upkeep.export, upkeep.verify, upkeep.gc),
    *(manifests.init, manifests.validate, manifests.schema),
    *(look.doctor, look.version),
):
    app.command()(verb)
app.add_typer(models.app)


def main() -> NoReturn:
    """Entry point: every foreseen error ends in one line and its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    for stream in (sys.stdout, sys.stderr):  # names of files may be no text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.getLogger("pyvips").setLevel(logging.ERROR)  # what it warns of, we raise
    try:
        code = app(spelled_out(sys.argv[1:]), prog_name="msbd", standalone_mode=False) or 0
        if code == signal.SIGINT + 128:  # before there was anything to stop
            fail("interrupted; the same command continues", code)
        sys.exit(code)
    except MsbdError as error:
        fail(str(error), error.exit_code)
    except OSError as error:  # of the run directory: an edit's own ends that edit
        fail(f"{error}; the same command continues", 1)
    except (typer.Abort, KeyboardInterrupt):
        fail("interrupted; the same command continues", signal.SIGINT + 128)
    except Exception as error:  # typer's own usage errors carry their words and code
        show = getattr(error, "format_message", None)
        if show is None:
            raise
        context = getattr(error, "ctx", None)
        words = (show() or "").rstrip(".")
        joint = " " if words.endswith("?") else "; "
        hint = f"{joint}see `{context.command_path} --help`" if context else ""
        if not show():  # no verb was given: the help is printed already
            sys.exit(2)
        fail(f"{words}{_of_dashes()}{hint}", 2)


def _of_dashes() -> str:
    """What to do about a file whose name was taken for an option."""
    dashed = (word for word in sys.argv[1:] if word.startswith("-") and Path(word).exists())
    return next((f"; the file is ./{word}" for word in dashed), "")
