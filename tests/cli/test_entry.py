"""The command in a checkout that is not installed."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from msbd_dist.cli import look

ROOT = Path(__file__).parents[2]


def test_the_package_is_the_command() -> None:
    command = [sys.executable, "-m", "msbd_dist", "version"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == metadata.version("msbd_dist")


def test_a_checkout_that_is_not_installed_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    look.version()
    assert "".join(capsys.readouterr().out.split()) == f"notinstalled:runfrom{ROOT}"
