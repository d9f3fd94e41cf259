"""Commands as jobs of a Ray that is elsewhere, through its Jobs API: HTTP to the head's dashboard.

A job is a shell command on the head, begun in a folder of its own; it lives as long as the cluster,
whoever asks for it. The only import of ray's job submission.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from msbd_dist.errors import ClusterError, InputError

log = logging.getLogger(__name__)

PORT = 8265  # of the dashboard, where Ray is not told otherwise
REACH_S = 10.0  # to reach the head's host
SILENT_S = 60.0  # without a word, after which a connection is made anew: it may be a dead one
LOST_S = 600.0  # without a connection, after which following a job is given up
PAUSE_S = 2.0  # between attempts to connect
TRIES = 3  # to read the log of a job that has ended: its host may have left

_CHATTY = (
    "dashboard.modules.dashboard_sdk",
    "dashboard.modules.job.sdk",
    "_private.runtime_env.packaging",
    "_private.authentication.authentication_token_setup",
)
_OVERRIDES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # Ray takes them before any argument


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as its cluster knows it."""

    id: str
    status: str  # PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED
    exit_code: int | None  # of its command, where that has ended by itself
    message: str  # Ray's own, of many lines
    metadata: dict[str, str]
    began: float  # milliseconds since 1970, by the clock of the head

    @property
    def ended(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")


class Jobs:
    """The jobs of one cluster. Every call may raise ClusterError, in one line."""

    def __init__(self, address: str) -> None:
        """Reach the dashboard at ``http://HEAD:8265``. InputError where that is no such address.

        The token, where the cluster wants one, is Ray's own: RAY_AUTH_TOKEN or ~/.ray/auth_token.
        """
        for name in _CHATTY:
            logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)
        self.address = dashboard_url(address)
        with self._errors(), _set_aside(_OVERRIDES):
            self._knock()
            maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
            self._client = JobSubmissionClient(self.address)

    def submit(
        self, job: str, command: str, *, folder: Path, metadata: dict[str, str], stop_s: float
    ) -> bool:
        """Begin a command in a copy of ``folder``; False, and nothing done, where the name is used.

        Told to stop, it gets SIGTERM, and SIGKILL after ``stop_s`` seconds. No environment variable
        of this process is sent.
        """
        environment = {
            "working_dir": str(folder),
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(round(stop_s))},
        }
        try:
            with self._errors():
                self._client.submit_job(
                    entrypoint=command,
                    submission_id=job,
                    runtime_env=environment,
                    metadata=metadata,
                )
        except ClusterError:
            if self.find(job) is not None:  # somebody else was first
                return False
            raise
        return True

    def all(self) -> list[Job]:
        """Those that were submitted, and not begun by a program of its own."""
        with self._errors():
            found = self._client.list_jobs()
        return [_job(details) for details in found if details.submission_id]

    def find(self, job: str) -> Job | None:
        """The job of that name; None where there is none."""
        return next((one for one in self.all() if one.id == job), None)

    def stop(self, job: str) -> None:
        """Tell a job to end; it has ended some time after that."""
        with self._errors():
            self._client.stop_job(job)

    def wait(self, job: str, seconds: float) -> Job:
        """The job when it has ended, or as it is after so many seconds."""
        until = time.monotonic() + seconds
        while True:
            found = self._still(job)
            if found.ended or time.monotonic() >= until:
                return found
            time.sleep(0.5)

    def follow(self, job: str, say: Callable[[str], None]) -> Job:
        """Hand on all that a job has written and writes, until it has ended; then the job.

        A connection that is lost is made anew, and what was handed on is not repeated.
        """
        told, lost, without = _Told(say), 0.0, 0
        while True:
            try:
                asyncio.run(self._tail(job, told))
            except Exception as error:  # of any library; what counts is whether the job is there
                log.debug("the log of %s: %r", job, error)
            try:
                found = self._still(job)
            except Unreachable:
                if not lost:
                    log.warning("the connection to %s is lost; trying again", self.address)
                lost = lost or time.monotonic()
                if time.monotonic() - lost > LOST_S:
                    raise
            else:
                lost, without = 0.0, without + found.ended
                if found.ended and (told.whole or without == TRIES):
                    return found
            time.sleep(PAUSE_S)

    async def _tail(self, job: str, told: _Told) -> None:
        """Follow the log from its beginning on one connection."""
        told.begin()
        stream = aiter(self._client.tail_job_logs(job))
        while True:
            try:
                told.hear(await asyncio.wait_for(anext(stream), SILENT_S))
            except StopAsyncIteration:
                told.whole = True
                return

    def _still(self, job: str) -> Job:
        found = self.find(job)
        if found is None:
            raise ClusterError(
                f"the Ray at {self.address} does not know {job} any more; "
                "submit it again, it goes on from where it was"
            )
        return found

    def _knock(self) -> None:
        """OSError where nobody answers: Ray by itself would wait for minutes."""
        parts = urlsplit(self.address)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), timeout=REACH_S).close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What Ray and its HTTP library raise comes out as ClusterError, in one line."""
        try:
            yield
        except AuthenticationError as error:
            raise ClusterError(
                f"the Ray at {self.address} refuses this process: {_first_line(error)}; give the "
                "token of its head, in ~/.ray/auth_token or RAY_AUTH_TOKEN, and leave "
                "RAY_AUTH_MODE out or say RAY_AUTH_MODE=token"
            ) from error
        except OSError as error:  # requests' own errors too
            why = error.strerror or _first_line(error)
            raise Unreachable(
                f"no Ray dashboard at {self.address}: {why}; give --address http://HEAD:{PORT} of "
                "a Ray that was started with `ray start --head`"
            ) from error
        except Exception as error:
            raise ClusterError(
                f"the Ray at {self.address} does not take jobs: {_first_line(error)}; it must have "
                f"ray[default], best {ray.__version__} as here, and --address its dashboard's port"
            ) from error


class Unreachable(ClusterError):
    """Nobody answers at the address, for now."""


class _Told:
    """What has been handed on of a log that is read from its beginning with each connection."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._handed_on = 0  # characters
        self._heard = 0  # on this connection
        self.whole = False

    def begin(self) -> None:
        self._heard = 0

    def hear(self, text: str) -> None:
        known = max(self._handed_on - self._heard, 0)
        self._heard += len(text)
        if text[known:]:
            self._say(text[known:])
            self._handed_on = self._heard


def dashboard_url(address: str) -> str:
    """``http://HEAD:8265`` of an address with or without scheme and port; InputError otherwise."""
    text = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or address == "auto":
        raise InputError(
            f"--address: got {address!r}, wanted that of the head's dashboard, http://HEAD:{PORT}"
        )
    bare = port is None and parts.scheme == "http" and not parts.path.strip("/")
    return text.rstrip("/") + (f":{PORT}" if bare else "")


def _job(details: JobDetails) -> Job:
    return Job(
        id=str(details.submission_id),
        status=str(details.status),
        exit_code=details.driver_exit_code,
        message=details.message or "",
        metadata=dict(details.metadata or {}),
        began=details.start_time or 0,
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


@contextmanager
def _set_aside(names: tuple[str, ...]) -> Iterator[None]:
    """Without some environment variables."""
    kept: dict[str, Any] = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ |= kept
