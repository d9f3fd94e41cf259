"""Every error a user can meet. One line each: what was got, what was wanted, what to do.

Exit code 2 is for where nothing was done: an input error that comes after a task exits with 1.

    MsbdError
    ├── InputError           the user's input is wrong; exit code 2
    │   ├── ManifestError    a manifest: unknown key, duplicate id, wrong type
    │   ├── ImageError       a picture: missing, unreadable, a format that can't be kept exact
    │   ├── MaskError        a mask: empty, of another aspect
    │   ├── PromptError      a prompt that the text encoder can't hold
    │   └── ModelError       a model folder or checkpoint: missing, incomplete, of the wrong kind
    │       └── HubError     the model hub gives no answer now
    ├── RunError             a run directory that belongs to something else or can't be written
    │   └── FullError        one that has no room left: every edit's trouble
    ├── StoreError           a run directory that lost or changed what was written
    ├── NonFiniteError       the model produced NaN or infinity
    ├── WorkerError          a worker died more often than the retry policy allows
    └── ClusterError         no Ray there, or too small; exit code 3

Each class takes one message, so that each crosses process borders by pickle unchanged.
"""

from __future__ import annotations


class MsbdError(Exception):
    """Base of all errors that are shown to the user as one line, without a traceback."""

    exit_code = 1


def said_late(error: BaseException) -> None:
    """Mark an error that comes after work was done: its exit code is not that of wrong input."""
    if isinstance(error, InputError):
        error.exit_code = MsbdError.exit_code


def in_one_line(error: BaseException) -> str:
    """What an error says; of one that is not ours also what it is called."""
    if isinstance(error, MsbdError):
        return str(error)
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


class InputError(MsbdError):
    """The input is wrong; nothing was started."""

    exit_code = 2


class ManifestError(InputError):
    """A manifest can't be used: file, line, key and remedy are in the message, the first three also
    here where they are known."""

    file: str | None = None
    line: int | None = None
    key: str | None = None


class ImageError(InputError):
    """A picture is missing, unreadable or of a kind that can't be kept exact."""


class MaskError(InputError):
    """A mask is empty or does not fit its image."""


class PromptError(InputError):
    """A prompt is longer than the text encoder's context."""


class ModelError(InputError):
    """A model folder, hub id or checkpoint can't be loaded."""


class HubError(ModelError):
    """The model hub can't be reached, or has no time: whether it has the model is not known."""


class RunError(InputError):
    """A run directory is not writable or holds another run."""


class FullError(RunError):
    """A run directory has no room left, or may only be read."""


class StoreError(MsbdError):
    """A run directory does not hold what was written to it."""


class NonFiniteError(MsbdError):
    """The model produced NaN or infinity."""


class WorkerError(MsbdError):
    """A worker was lost more often than the retry policy allows."""


class ClusterError(MsbdError):
    """Ray can't be reached or has fewer resources than were asked for."""

    exit_code = 3
