"""What the repository says of itself is true: lists in the manual, examples, links."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from msbd_dist.canvas.export import How
from msbd_dist.core.spec import EditSpec, Method

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_readme_can_be_read_in_one_go() -> None:
    assert len(README.split()) <= 1000
    assert (
        max(map(len, re.sub(r"```.*?```|\|.*?\n", "", README, flags=re.DOTALL).split("\n"))) <= 100
    )


def test_the_readme_names_every_folder_of_the_package() -> None:
    folders = {path.parent.name for path in (ROOT / "msbd_dist").glob("*/__init__.py")}
    assert set(re.findall(r"^\| `msbd_dist/([a-z]+)` \|", README, re.MULTILINE)) == folders


def test_the_manual_lists_every_option() -> None:
    table = (ROOT / "docs/parameters.md").read_text().split("## All options")[1]
    listed = set(re.findall(r"^\| (.*?) \|", table, re.MULTILINE))
    named = set(re.findall(r"`([a-z_]+)`", " ".join(listed)))
    assert named == {f for f in Method.__dataclass_fields__}


def test_the_manual_lists_how_pictures_are_written() -> None:
    table = (ROOT / "docs/pictures.md").read_text()
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


# --- folders that tools skip by their names, such as dist and build ---


def is_collected(file: Path, root: Path, config: pytest.Config) -> bool:
    """Whether pytest, as this project has it, finds a file of tests below ``root``."""
    ignores = config.hook.pytest_ignore_collect
    ways = [path for path in (file, *file.parents) if path.is_relative_to(root) and path != root]
    named = any(file.match(pattern) for pattern in config.getini("python_files"))
    return named and not any(ignores(collection_path=path, config=config) for path in ways)


def linted(root: Path) -> set[Path]:
    """The files that ruff looks at, as this project has it."""
    ruff = Path(sys.executable).with_name("ruff")
    settings = ROOT / "pyproject.toml"
    command = [ruff, "check", "--show-files", "--no-respect-gitignore", "--config", settings, "."]
    found = subprocess.run(command, cwd=root, text=True, capture_output=True, check=True)
    return {Path(line).resolve() for line in found.stdout.splitlines()}


def test_every_file_of_tests_is_collected(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.getini("testpaths") == ["tests"]
    files = [*ROOT.glob("tests/**/test_*.py"), *ROOT.glob("msbd_dist/**/test_*.py")]
    assert len(files) > 40
    assert [file for file in files if not is_collected(file, ROOT, pytestconfig)] == []


def test_no_two_files_of_tests_have_one_name() -> None:
    """pytest imports them by their names alone."""
    names = Counter(file.name for file in ROOT.glob("tests/**/*.py"))
    assert [name for name, count in names.items() if count > 1 and name != "conftest.py"] == []


def test_every_file_of_the_project_is_linted() -> None:
    files = {
        file.resolve()
        for folder in ("msbd_dist", "tests", "benchmarks")
        for file in (ROOT / folder).rglob("*.py")
    }
    assert files - linted(ROOT) == set()


@pytest.mark.parametrize("name", ["dist", "build"])
def test_a_folder_that_tools_skip_would_be_noticed(
    name: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    for folder in (name, "fleet"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "test_one.py").write_text("")
    skipped, found = tmp_path / name / "test_one.py", tmp_path / "fleet" / "test_one.py"
    assert is_collected(found, tmp_path, pytestconfig)
    assert not is_collected(skipped, tmp_path, pytestconfig)
    if name == "dist":
        assert linted(tmp_path) == {found.resolve()}
