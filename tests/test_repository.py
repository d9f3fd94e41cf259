"""What the repository says of itself is true: the README's tree, examples, links."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from msbd_dist.canvas.export import How
from msbd_dist.core.spec import EditSpec, Method

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_readme_lists_every_module_and_no_other() -> None:
    tree = README.split("## Dive into the code")[1].split("## Measured")[0]
    listed = set(re.findall(r"\b([a-z_]+\.py)\b", tree))
    modules = {p.name for p in (ROOT / "msbd_dist").rglob("[!_]*.py")}
    assert listed == modules


def test_the_readme_lists_every_option() -> None:
    table = README.split("### Options of an edit")[1].split("### Pictures, masks")[0]
    listed = set(re.findall(r"^\| (.*?) \|", table, re.MULTILINE))
    named = set(re.findall(r"`([a-z_]+)`", " ".join(listed)))
    assert named == {f for f in Method.__dataclass_fields__}


def test_the_readme_lists_how_pictures_are_written() -> None:
    table = README.split("### Pictures, masks")[1].split("## What a run leaves")[0]
    named = set(re.findall(r"^\| `([a-z_]+)`", table, re.MULTILINE))
    assert named == {*How.__dataclass_fields__, "in_place"}
    assert named <= {*EditSpec.__dataclass_fields__}


def verbs() -> dict[str, Any]:
    import typer.main

    from msbd_dist.cli import app

    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_every_verb_is_in_the_manual_and_has_an_example() -> None:
    table = (ROOT / "docs/commands.md").read_text().split("## Exit codes")[0]
    listed = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert set(re.findall(r"`([a-z]+)`", " ".join(listed))) == set(verbs())
    for name, verb in verbs().items():
        if name not in ("version", "models"):
            assert f"Example: msbd {name}" in verb.help, name


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]
PAGES += [ROOT / "cluster/README.md", *ROOT.glob("docs/images/*/README.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_pins_are_names_and_versions_only() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+", line), line
