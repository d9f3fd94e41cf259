"""How a run ends that an error ends: what is said of that, for whoever looks at the run later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from msbd_dist.batch.board import Board
from msbd_dist.batch.journal import RUN, Journal
from msbd_dist.batch.record import StoredEdits
from msbd_dist.batch.report import write_report
from msbd_dist.batch.resume import results_of
from msbd_dist.canvas.lease import LeaseLost
from msbd_dist.errors import MsbdError, in_one_line, said_late


@contextmanager
def stored_errors(board: Board, journal: Journal) -> Iterator[None]:
    """Whatever ends the block goes on, and is stored in status, logs and report; not where another
    driver has the run by now, and not before anything was begun."""
    try:
        yield
    except LeaseLost as error:
        said_late(error)
        raise
    except BaseException as error:
        if board.worked:
            said_late(error)
        if board.state != "looking":
            with suppress(OSError, MsbdError):  # of a full disk, or a store that is gone
                _store(board, journal, error)
        raise


def _store(board: Board, journal: Journal, error: BaseException) -> None:
    why = in_one_line(error)
    for edit in board.working:
        journal.say(edit, f"stopped: an error ended the run: {why}")
    journal.fail(RUN, error)
    edits = StoredEdits(board.out)
    board.break_off(why, (spec.id for spec in edits))
    journal.write(now=True)
    write_report(board.out, results_of(board.out), edits)
