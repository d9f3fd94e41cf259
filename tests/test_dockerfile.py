"""The Dockerfile: linted, and its steps run as a plain script in a clean virtual environment.

What needs root or a CUDA machine is left out, and named below. Heavy dependencies are not
installed again: the environment sees those of the tests, and their pins are checked by name.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LEFT_OUT = ("apt-get ", "DEBIAN_FRONTEND", "rm -rf /var/lib/apt", "useradd ", "chmod ", "ln -s ")


def instructions() -> list[tuple[str, str]]:
    """(instruction, its arguments), continued lines joined."""
    lines = [line for line in TEXT.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(" ", 1)) for line in joined.splitlines() if line]  # type: ignore[misc]


def all_of(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def in_json(text: str) -> list[str]:
    found: list[str] = json.loads(text[text.index("[") :])
    return found


def test_hadolint_has_nothing_to_say() -> None:
    subprocess.run([Path(sys.executable).parent / "hadolint", ROOT / "Dockerfile"], check=True)


def test_it_is_pinned_and_not_root() -> None:
    (base,) = all_of("FROM")
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-base-ubuntu24\.04", base)
    assert int(all_of("USER")[-1]) >= 1000
    assert not all_of("ADD")
    assert in_json(all_of("ENTRYPOINT")[0]) == ["msbd"]
    assert in_json(all_of("HEALTHCHECK")[0]) == ["msbd", "version"]
    for command in re.findall(r"pip install [^&]*", TEXT):
        assert "-c constraints.txt" in command or "--no-deps" in command


def test_what_it_copies_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    for line in all_of("COPY"):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in ignored


@pytest.mark.parametrize("extra", ["", "s3", "dev"])
def test_every_dependency_has_a_pin_that_it_allows(extra: str) -> None:
    rows = (line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    pins = {canonicalize_name(name): pin for name, pin in rows}
    wanted = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    for requirement in map(Requirement, wanted):
        pin = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin, prereleases=True), requirement


def steps(home: Path) -> Iterator[str]:
    """The build as lines of a script, its root moved to ``home``."""
    for name, rest in instructions():
        if name == "WORKDIR":
            yield f"mkdir -p {home}{rest} && cd {home}{rest}"
        elif name == "COPY":
            *sources, to = rest.split()
            for source in sources:  # of a folder, what is in it
                inside = "/." if (ROOT / source).is_dir() else ""
                yield f"cp -r {home}/context/{source}{inside} {to}"
        elif name == "RUN":
            for command in rest.split(" && "):
                if not command.strip().startswith(LEFT_OUT):
                    yield command.strip().replace("/opt/", f"{home}/opt/")


def test_its_steps_build_a_command_that_works(tmp_path: Path) -> None:
    context = tmp_path / "context"
    skipped = shutil.ignore_patterns("__pycache__")
    for source in (source for line in all_of("COPY") for source in line.split()[:-1]):
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, context / source, ignore=skipped)
        else:
            context.mkdir(exist_ok=True)
            shutil.copy(ROOT / source, context)
    script = list(steps(tmp_path))
    ran = " ".join(script)
    assert "pip install --no-deps ." in ran
    assert "pip install -c constraints.txt '.[s3]'" in ran
    # the tests' own packages are there, but not how this one is installed for them
    seen = " ".join(path for path in sys.path if path.endswith("site-packages"))
    made = next(i for i, line in enumerate(script) if "-m venv" in line)
    script[made] = script[made].replace("python3", sys.executable)
    script[made + 1 : made + 1] = [
        "pip uninstall -qy setuptools",  # where venv brings one, it is too old
        f"printf '%s\\n' {seen} > {tmp_path}/seen.pth",
        f"cp {tmp_path}/seen.pth {tmp_path}/opt/msbd/lib/python3*/site-packages",
    ]
    environment = {
        "PATH": f"{tmp_path}/opt/msbd/bin:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PIP_NO_INDEX": "1",  # nothing is to be missing
        "PIP_NO_BUILD_ISOLATION": "0",  # pip's way to say: with the setuptools that is here
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    subprocess.run(
        ["bash", "-euc", "\n".join(script)], env=environment, cwd=tmp_path, check=True, timeout=300
    )

    entry, check = in_json(all_of("ENTRYPOINT")[0]), in_json(all_of("HEALTHCHECK")[0])
    arguments = in_json(all_of("CMD")[0])

    def run(command: list[str]) -> str:
        done = subprocess.run(
            command, env=environment, cwd=tmp_path / "data", text=True, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run(check).strip() == PROJECT["version"] == version("msbd_dist")
    assert "models" in run([*entry, *arguments])
    where = run(["python", "-c", "import msbd_dist; print(msbd_dist.__file__)"])
    assert where.startswith(str(tmp_path / "opt"))
    assert "unet/diffusion_pytorch_model.safetensors" in run([*entry, "models", "check", "tiny"])
