"""What the command says reaches the terminal as it was written."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer.main

from msbd_dist.cli import app
from msbd_dist.cli.common import console, out_console


def helps(command: Any) -> list[str]:
    own = [command.help or "", *(getattr(one, "help", None) or "" for one in command.params)]
    return own + [text for sub in getattr(command, "commands", {}).values() for text in helps(sub)]


def test_no_help_has_brackets_which_would_be_taken_for_markup() -> None:
    texts = helps(typer.main.get_command(app))
    assert len(texts) > 100
    assert [text for text in texts if re.search(r"\[(?!default)", text)] == []


def test_names_are_not_turned_into_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    for one in (console, out_console):
        one.print("fx:x:/a.png", markup=False)
    said = capsys.readouterr()
    assert "fx:x:/a.png" in said.out + said.err
    assert "\N{CROSS MARK}" not in said.out + said.err
