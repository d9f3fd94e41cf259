"""List or gather the wheels that a machine without a network lacks for `python -m benchmarks.gpu`.

    python -m benchmarks.gpu.wheels --have have.json --list
    python -m benchmarks.gpu.wheels --have have.json -d wheels

``have.json`` is what ``python -m pip list --format=json`` prints on that machine. Without it,
torch, torchvision and what they need are taken to be there, in the versions installed here.

pip resolves the project's dependencies. Whatever is there takes part as an empty wheel of the same
version: pip takes it as it is and never downloads it. The rest is as ``constraints.txt`` pins it.
Sizes are those of the files, so that ``--list`` downloads them too, and keeps none.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import count, takewhile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "constraints.txt"
GIVEN = ("torch", "torchvision")  # are never gathered
WITHOUT_WHEEL = ("pyvips",)  # published as source alone, and pure Python
GLIBC = range(17, 40)  # minor versions of glibc 2; pip takes a platform's tag literally
SITE = "/tmp/msbd-wheels"  # where the printed commands install
MB = 1_000_000

Versions = Mapping[str, str]  # by canonical names


class WheelsError(Exception):
    """The wheels can't be gathered: one line that says why."""


@dataclass(frozen=True)
class Target:
    """The machine that the wheels are for; it runs Linux."""

    python: str = "3.12"
    machine: str = "x86_64"

    @property
    def options(self) -> list[str]:
        """pip's, to choose wheels for that machine."""
        platforms = [f"manylinux_2_{minor}_{self.machine}" for minor in GLIBC]
        platforms += [f"manylinux2014_{self.machine}", f"manylinux1_{self.machine}"]
        named = [word for platform in platforms for word in ("--platform", platform)]
        return [*named, "--python-version", self.python, "--implementation", "cp"]

    @property
    def environment(self) -> dict[str, str]:
        """What the markers of requirements are about; pip itself evaluates them for this Python."""
        return {
            "implementation_name": "cpython",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": self.python,
            "python_version": ".".join(self.python.split(".")[:2]),
            "sys_platform": "linux",
        }


@dataclass(frozen=True)
class Wheel:
    """A file, and what it says of itself."""

    file: Path
    name: str
    version: str
    requires: tuple[str, ...]
    size: int  # bytes

    @classmethod
    def of(cls, file: Path) -> Wheel:
        (found,) = metadata.distributions(path=[str(file)])
        name, requires = canonical(found.name), tuple(found.requires or ())
        return cls(file, name, found.version, requires, file.stat().st_size)


def main(words: Sequence[str] | None = None) -> None:
    options = arguments(words)
    try:
        run(options)
    except WheelsError as error:
        print(f"benchmarks.gpu.wheels: {error}", file=sys.stderr)
        sys.exit(2)


def run(options: argparse.Namespace) -> None:
    target = Target(options.python, options.machine)
    have = read_have(options.have) if options.have else assumed(target)
    if options.folder and options.folder.exists() and any(options.folder.iterdir()):
        raise WheelsError(f"{options.folder}: is not empty; name a new folder")
    with tempfile.TemporaryDirectory(prefix="msbd-wheels-") as name:
        wheels = gathered(project_requirements(ray=options.ray), have, target, Path(name))
        groups = bundles(wheels, options.most) if options.folder else []
        print(table(wheels))
        if options.folder:
            print(f"\n{commands(placed(groups, options.folder))}")


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.wheels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true", help="only say which wheels are lacking")
    what.add_argument("-d", dest="folder", type=Path, metavar="DIR", help="gather them here")
    parser.add_argument("--have", type=Path, metavar="FILE", help="packages of that machine")
    parser.add_argument(
        "--python",
        type=python_version,
        default=Target.python,
        metavar="VERSION",
        help=f"its Python ({Target.python})",
    )
    parser.add_argument(
        "--machine", default=Target.machine, help=f"its processor ({Target.machine}), or aarch64"
    )
    parser.add_argument("--ray", action="store_true", help="with Ray, which is optional")
    parser.add_argument(
        "--most",
        type=float,
        default=60,
        metavar="MB",
        help="what can be carried at once (60); more is gathered in DIR/1, DIR/2 ...",
    )
    return parser.parse_args(words)


def python_version(text: str) -> str:
    if not re.fullmatch(r"3\.\d+(\.\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no version such as 3.12")
    return text


# -- what is needed, and what is there -------------------------------------------------------------


def project_requirements(*, ray: bool) -> list[Requirement]:
    """The project's dependencies."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = [Requirement(line) for line in project["dependencies"]]
    return [one for one in found if ray or one.name != "ray"]


def read_have(file: Path) -> Versions:
    """The packages in a file of ``pip list --format=json``."""
    try:
        found = {str(one["name"]): str(one["version"]) for one in json.loads(file.read_bytes())}
    except OSError as error:
        raise WheelsError(f"{file}: can't be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError):
        raise WheelsError(
            f"{file}: is not what `python -m pip list --format=json` prints"
        ) from None
    have = {canonical(name): version for name, version in found.items()}
    if lacking := [name for name in GIVEN if name not in have]:
        raise WheelsError(f"{file}: has no {' and no '.join(lacking)}, which must be there already")
    return have


def assumed(target: Target) -> Versions:
    """torch, torchvision and what they need, as installed here."""
    here = {canonical(one.name): one for one in metadata.distributions()}
    if lacking := [name for name in GIVEN if name not in here]:
        raise WheelsError(f"{' and '.join(lacking)}: not installed here; give --have")
    requires = {name: tuple(one.requires or ()) for name, one in here.items()}
    names = closure(map(Requirement, GIVEN), requires, target)
    return {name: here[name].version for name in names if name in here}


def canonical(name: str) -> str:
    return canonicalize_name(name)


def closure(
    roots: Iterable[Requirement], requires: Mapping[str, Sequence[str]], target: Target
) -> dict[str, Requirement]:
    """What the roots need on a machine, by name, each with a requirement that asks for it.

    ``requires`` has the requirements of packages; what it lacks is taken to need nothing.
    """
    found: dict[str, Requirement] = {}
    seen: set[tuple[str, str]] = set()
    queue = [(root, "") for root in roots]
    while queue:
        one, extra = queue.pop()
        if one.marker and not one.marker.evaluate({**target.environment, "extra": extra}):
            continue
        name = canonical(one.name)
        found.setdefault(name, one)
        for asked in {(name, extra) for extra in ("", *one.extras)} - seen:
            seen.add(asked)
            queue += [(Requirement(line), asked[1]) for line in requires.get(name, ())]
    return found


# -- pip -------------------------------------------------------------------------------------------


def gathered(
    roots: Sequence[Requirement],
    have: Versions,
    target: Target,
    folder: Path,
    constraints: Path = CONSTRAINTS,
) -> list[Wheel]:
    """Download the wheels that are lacking into a folder; the largest comes first.

    pip chooses by the markers for this Python. What another Python needs beside that is asked for
    in further rounds, and what it does not need is left out.
    """
    require_fitting(roots, have)
    pins = pinned(have, constraints, folder / "there")
    sources = [root for root in roots if root.name in WITHOUT_WHEEL and root.name not in have]
    for source in sources:
        build(source, constraints, folder / "built")
    asked = [plain(one) for one in closure(roots, {}, target).values()]
    for turn in count(1):
        found = downloaded(asked, pins, target, folder / f"{turn}", folder / "built")
        needed = closure(roots, {name: one.requires for name, one in found.items()}, target)
        lacking = [plain(one) for name, one in needed.items() if name not in {*have, *found}]
        if not lacking:
            break
        asked += lacking
    wheels = [found[name] for name in needed if name not in have]
    return sorted(wheels, key=lambda one: (-one.size, one.name))


def require_fitting(roots: Iterable[Requirement], have: Versions) -> None:
    """What is there must be new enough for the project itself; pip looks at the rest."""
    for root in roots:
        version = have.get(canonical(root.name))
        if version is not None and not root.specifier.contains(version, prereleases=True):
            raise WheelsError(f"{root.name} {version} is there, the project needs {root}")


def plain(requirement: Requirement) -> str:
    """Without its marker."""
    return str(requirement).partition(";")[0].strip()


def pinned(have: Versions, constraints: Path, folder: Path) -> Path:
    """Constraints for pip: an empty wheel for what is there, and the project's for the rest."""
    folder.mkdir(parents=True)
    lines = []
    for name, version in have.items():
        lines += [f"{name}=={version}", f"{name} @ {empty_wheel(name, version, folder).as_uri()}"]
    for line in constraints.read_text().splitlines():
        if canonical(line.partition("==")[0]) not in have:
            lines.append(line)
    file = folder / "constraints.txt"
    file.write_text("\n".join(lines) + "\n")
    return file


def empty_wheel(name: str, version: str, folder: Path, requires: Iterable[str] = ()) -> Path:
    """A wheel that holds nothing but its name, its version and what it requires."""
    stem = f"{name.replace('-', '_')}-{version}"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {one}" for one in requires]
    file = folder.absolute() / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{stem}.dist-info/METADATA", "\n".join(lines) + "\n")
        archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "")
    return file


def build(source: Requirement, constraints: Path, folder: Path) -> None:
    """Make the wheel of a package that is published as source."""
    pip("wheel", "--no-deps", "-w", str(folder), "-c", str(constraints), str(source))
    for file in folder.iterdir():
        if not file.name.endswith("-none-any.whl"):
            raise WheelsError(
                f"{file.name}: was built for this machine alone, since it found libraries to build "
                "against; gather the wheels where there are none"
            )


def downloaded(
    asked: Iterable[str], pins: Path, target: Target, folder: Path, built: Path
) -> dict[str, Wheel]:
    """All wheels that pip chooses, by name; those of what is there are empty."""
    built.mkdir(exist_ok=True)
    places = ("-d", str(folder), "-c", str(pins), "--find-links", str(built))
    pip("download", "--only-binary=:all:", *target.options, *places, *asked)
    wheels = [Wheel.of(file) for file in folder.glob("*.whl")]
    return {wheel.name: wheel for wheel in wheels}


def pip(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise WheelsError(reason(done.stdout))


def reason(said: str) -> str:
    """Why pip gave up, in one line, out of all that it said."""
    lines = said.strip().splitlines() or ["pip failed, and said nothing"]
    if "The conflict is caused by:" in lines:
        causes = lines[lines.index("The conflict is caused by:") + 1 :]
        words = "; ".join(line.strip() for line in takewhile(str.strip, causes))
        words = re.sub(r" \(from \S+\)", "", words)
        words = words.replace("The user requested (constraint) ", "there or pinned is ")
        return words.replace("The user requested ", "the project needs ")
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    lacking = [line.partition(" (from versions")[0] for line in errors if "(from versions" in line]
    return (lacking or errors or lines)[-1]


# -- what is shown and kept ------------------------------------------------------------------------


def table(wheels: Sequence[Wheel]) -> str:
    """Name, version and megabytes of each."""
    width = max((len(f"{one.name} {one.version}") for one in wheels), default=0)
    rows = [(f"{one.name} {one.version}", one.size) for one in wheels]
    total = sum(one.size for one in wheels)
    lines = [f"{what:{width}} {size / MB:8.2f} MB" for what, size in rows]
    return "\n".join([*lines, f"{f'{len(wheels)} wheels':{width}} {total / MB:8.2f} MB"])


def bundles(wheels: Sequence[Wheel], most: float) -> list[list[Wheel]]:
    """Wheels in groups of at most so many megabytes: the first that has room takes the next."""
    groups: list[list[Wheel]] = []
    for wheel in sorted(wheels, key=lambda one: -one.size):
        if wheel.size > most * MB:
            raise WheelsError(
                f"{wheel.file.name}: has {wheel.size / MB:.1f} MB, more than --most {most:g}"
            )
        room = (g for g in groups if sum(one.size for one in [*g, wheel]) <= most * MB)
        group = next(room, None)
        if group is None:
            groups.append([wheel])
        else:
            group.append(wheel)
    return groups


def placed(groups: Sequence[Sequence[Wheel]], folder: Path) -> list[Path]:
    """Move wheels to where they stay: one group into the folder itself, several into 1, 2 ..."""
    several = len(groups) > 1
    folders = [folder / f"{number}" if several else folder for number, _ in enumerate(groups, 1)]
    for place, group in zip(folders, groups, strict=True):
        place.mkdir(parents=True, exist_ok=True)
        for wheel in group:
            shutil.move(wheel.file, place)
    return folders


def commands(folders: Sequence[Path]) -> str:
    """What installs the wheels on that machine, each group for itself."""
    if not folders:
        return "Nothing is lacking."
    sites = [SITE] if len(folders) == 1 else [f"{SITE}/{place.name}" for place in folders]
    install = "python -m pip install --no-index --no-deps --target"
    lines = [f"{install} {site} {place}/*.whl" for site, place in zip(sites, folders, strict=True)]
    path = f"export PYTHONPATH={':'.join(['$PWD', *sites])}"
    return "\n".join(["There, in the project's folder:", *lines, path])


if __name__ == "__main__":
    main()
