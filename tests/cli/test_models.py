"""msbd models: what it prints and what it exits with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from msbd_dist import cli

Msbd = Callable[..., tuple[int, str, str]]


@pytest.fixture
def msbd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Msbd:
    """Run the command in this process: (code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["msbd", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


def test_list_names_the_bundled_family(msbd: Msbd) -> None:
    code, out, err = msbd("models", "list")
    assert (code, err) == (0, "")
    assert out.split()[:2] == ["tiny", "model"]
    _, out, _ = msbd("models", "list", "-o", "json")
    content = json.loads(out)
    assert (content["version"], content["kind"]) == (1, "models")
    assert content["models"][0]["name"] == "tiny"


def test_check_prints_digests_as_sha256sum_does(msbd: Msbd) -> None:
    code, out, err = msbd("models", "check", "tiny")
    assert code == 0
    assert len(out.split()[0]) == 64
    assert "sound" in err
    _, out, _ = msbd("models", "check", "tiny", "-o", "json")
    (model,) = json.loads(out)["models"]
    assert model["family"]["native"] == 128
    assert all(len(file["sha256"]) == 64 for file in model["files"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "/nowhere"], ["/nowhere", "hub id"]),
        (["check", "nobody/nothing"], ["msbd models pull nobody/nothing"]),
        (["check", "model.ckpt"], ["is a pickle"]),
        (["list", "--folder", "/nowhere"], ["/nowhere"]),
        (["list", "-o", "xml"], ["xml", "json"]),
        (["check"], ["name", "msbd models check --help"]),
    ],
)
def test_wrong_input_is_one_line(msbd: Msbd, arguments: list[str], words: list[str]) -> None:
    code, out, err = msbd("models", *arguments)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1, err
    assert all(word in err for word in words), err


def test_a_listing_is_quick_to_load() -> None:
    """Verbs that look load neither torch nor ray."""
    code = (
        "import sys; sys.argv = ['msbd', 'models', 'list']; from msbd_dist import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'torch', 'ray', 'diffusers'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
