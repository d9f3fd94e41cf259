"""What the repository says of itself is true: the README's tree, scripts, the container's files."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

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


def test_the_readmes_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("script", [ROOT / ".ci/run", *sorted((ROOT / "cluster").glob("*.sh"))])
def test_scripts_parse_and_may_be_run(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert script.stat().st_mode & 0o100


def test_the_container_copies_what_exists() -> None:
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY "):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source


def test_pins_are_names_and_versions_only() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+", line), line
