"""Which wheels a machine lacks: by real pip, from a folder of empty wheels, without a network."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from benchmarks.gpu import wheels
from benchmarks.gpu.wheels import Target, Wheel, WheelsError, bundles, closure

LATER = Target(python="3.99")
OTHERS = {  # what packages require
    "app": ("Base_Lib[fast]>=2", "torch>=2.6", 'later; python_version >= "3.99"'),
    "base-lib": ('former; python_version < "3.99"', 'speed; extra == "fast"', 'x; extra == "x"'),
    "later": ("torch",),
    "torch": ("cuda",),
}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of all that pip can find."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("app", "base-lib", "later", "torch", "former", "speed", "x", "cuda"):
        wheels.empty_wheel(name, "2.0", folder, OTHERS.get(name, ()))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def gathered(folder: Path, have: wheels.Versions, pins: str = "") -> dict[str, str]:
    constraints = folder / "pins.txt"
    constraints.write_text(pins)
    found = wheels.gathered([Requirement("app")], have, LATER, folder / "work", constraints)
    return {wheel.name: wheel.version for wheel in found}


def test_what_is_there_is_left_out_with_all_that_it_needs(index: Path, tmp_path: Path) -> None:
    found = gathered(tmp_path, {"torch": "2.11.0+cu130", "speed": "1.0"})
    assert found == {"app": "2.0", "base-lib": "2.0", "later": "2.0"}  # no cuda, and no former


def test_the_rest_is_as_the_project_pins_it(index: Path, tmp_path: Path) -> None:
    wheels.empty_wheel("base-lib", "3.0", index)
    there = {"torch": "2.11.0", "speed": "1.0"}
    assert gathered(tmp_path, there, "Base.Lib==2.0\nspeed==2.0")["base-lib"] == "2.0"


def test_a_version_that_does_not_fit_is_one_line(index: Path, tmp_path: Path) -> None:
    wheels.empty_wheel("app", "2.1", index, ["torch>=3"])
    with pytest.raises(WheelsError) as refused:
        gathered(tmp_path, {"torch": "2.11.0"}, "app==2.1")
    assert str(refused.value).startswith("app 2.1 depends on torch>=3; there or pinned is torch")
    assert "\n" not in str(refused.value)


def test_a_version_that_is_too_old_for_the_project_is_told_before_pip_is_asked() -> None:
    with pytest.raises(WheelsError, match=r"^App 1\.5 is there, the project needs App>=2$"):
        wheels.require_fitting([Requirement("App>=2")], {"app": "1.5"})
    wheels.require_fitting([Requirement("App>=2"), Requirement("x")], {"app": "2.11.0a1+cu130"})


def test_a_package_that_nobody_has_is_one_line(index: Path, tmp_path: Path) -> None:
    (index / "speed-2.0-py3-none-any.whl").unlink()
    with pytest.raises(WheelsError, match=r"satisfies the requirement speed$"):
        gathered(tmp_path, {"torch": "2.11.0"})


def test_markers_and_extras_are_those_of_the_target() -> None:
    now = closure([Requirement("app")], OTHERS, Target(python="3.12.3"))
    assert set(now) == {"app", "base-lib", "speed", "former", "torch", "cuda"}
    later = closure([Requirement("APP")], OTHERS, LATER)
    assert set(later) == {"app", "base-lib", "speed", "later", "torch", "cuda"}
    assert str(later["base-lib"]) == "Base_Lib[fast]>=2"


def test_pip_is_asked_for_every_glibc_by_name() -> None:
    options = Target(machine="aarch64").options
    asked = {options[at + 1] for at, word in enumerate(options) if word == "--platform"}
    assert {f"manylinux_2_{minor}_aarch64" for minor in range(17, 40)} < asked
    assert asked >= {"manylinux2014_aarch64", "manylinux1_aarch64"}


def test_the_project_needs_ray_only_where_it_is_asked_for() -> None:
    without = {one.name for one in wheels.project_requirements(ray=False)}
    assert {one.name for one in wheels.project_requirements(ray=True)} == without | {"ray"}
    assert without >= {*wheels.GIVEN, *wheels.WITHOUT_WHEEL}


def test_without_a_list_torch_and_what_it_needs_are_there() -> None:
    there = wheels.assumed(Target())
    assert {"torch", "torchvision", "numpy", "typing-extensions"} <= set(there)
    assert "diffusers" not in there


# -- the list of what is there ---------------------------------------------------------------------


def have(folder: Path, found: object) -> wheels.Versions:
    file = folder / "have.json"
    file.write_text(json.dumps(found))
    return wheels.read_have(file)


def test_names_are_compared_as_pip_does(tmp_path: Path) -> None:
    names = ("torch", "TorchVision", "Hugging_Face.Hub")
    found = have(tmp_path, [{"name": name, "version": "2.0"} for name in names])
    assert found == {"torch": "2.0", "torchvision": "2.0", "hugging-face-hub": "2.0"}


def test_a_machine_without_torch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WheelsError, match="has no torchvision"):
        have(tmp_path, [{"name": "torch", "version": "2.11.0"}])


@pytest.mark.parametrize("found", [{"torch": "2.0"}, ["torch"], [{"name": "torch"}], 1])
def test_another_list_is_refused(tmp_path: Path, found: object) -> None:
    with pytest.raises(WheelsError, match="pip list --format=json"):
        have(tmp_path, found)


def test_a_fault_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        wheels.main(["--list", "--have", str(tmp_path / "none.json")])
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        f"benchmarks.gpu.wheels: {tmp_path}/none.json: can't be read (No such file or directory)"
    ]
    (tmp_path / "full").write_text("")
    with pytest.raises(SystemExit):
        wheels.main(["-d", str(tmp_path)])
    assert "is not empty" in capsys.readouterr().err


# -- what can be carried at once -------------------------------------------------------------------


def of_sizes(*sizes: int) -> list[Wheel]:
    """Wheels of so many megabytes."""
    return [Wheel(Path(f"{n}.whl"), f"{n}", "1", (), n * wheels.MB) for n in sizes]


def sizes(groups: Sequence[Sequence[Wheel]]) -> list[list[int]]:
    return [[wheel.size // wheels.MB for wheel in group] for group in groups]


def test_wheels_go_where_there_is_room() -> None:
    assert sizes(bundles(of_sizes(1, 30, 20, 10), 61)) == [[30, 20, 10, 1]]
    assert sizes(bundles(of_sizes(5, 10, 40, 30, 20), 60)) == [[40, 20], [30, 10, 5]]
    assert bundles([], 60) == []


def test_a_wheel_that_is_too_large_is_named() -> None:
    with pytest.raises(WheelsError, match=r"70\.whl: has 70\.0 MB, more than --most 60"):
        bundles(of_sizes(1, 70), 60)


def test_sizes_are_listed_with_their_sum() -> None:
    lines = wheels.table(of_sizes(30, 2)).splitlines()
    assert [line.split() for line in lines] == [
        ["30", "1", "30.00", "MB"],
        ["2", "1", "2.00", "MB"],
        ["2", "wheels", "32.00", "MB"],
    ]


def test_each_group_has_its_folder_and_its_command(tmp_path: Path) -> None:
    files = [wheels.empty_wheel(name, "1", tmp_path) for name in ("a", "b")]
    groups = [[Wheel.of(file)] for file in files]
    folders = wheels.placed(groups, tmp_path / "out")
    assert [[found.name for found in place.iterdir()] for place in folders] == [
        [file.name] for file in files
    ]
    said = wheels.commands(folders)
    assert f"--no-index --no-deps --target {wheels.SITE}/2 {tmp_path}/out/2/*.whl" in said
    assert said.endswith(f"export PYTHONPATH=$PWD:{wheels.SITE}/1:{wheels.SITE}/2")


def test_one_group_lies_in_the_folder_itself(tmp_path: Path) -> None:
    file = wheels.empty_wheel("a", "1", tmp_path)
    folders = wheels.placed([[Wheel.of(file)]], tmp_path / "out")
    assert folders == [tmp_path / "out"]
    assert wheels.commands(folders).endswith(f"export PYTHONPATH=$PWD:{wheels.SITE}")
    assert wheels.commands([]) == "Nothing is lacking."
