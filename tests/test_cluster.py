"""The files in cluster/: each by the schema of what reads it, and by what this package has."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from kuberay import RayCluster, RayClusterSpec, RayJob
from ray.autoscaler._private.util import prepare_config, validate_config

from msbd_dist import cli
from msbd_dist.fleet.ray_metrics import NAMES

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster"
FILES = sorted(file for file in CLUSTER.iterdir() if file.suffix != ".md")
SCRIPTS = [ROOT / ".ci/run", *sorted(CLUSTER.glob("*.sh"))]
LAUNCHED = ["aws.yaml", "gcp.yaml", "onprem.yaml"]
TOOLS = Path(sys.executable).parent


def load(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text())


def pin(name: str) -> str:
    pins = (ROOT / "constraints.txt").read_text()
    return re.findall(rf"^{name}==(.*)$", pins, re.MULTILINE)[0]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_file_opens_with_the_command_that_uses_it(file: Path) -> None:
    head = "\n".join(file.read_text().splitlines()[:4])
    assert re.search(rf"\b(cluster/)?{re.escape(file.name)}\b|compose.yaml --profile metrics", head)
    if file.suffix != ".json":
        assert head.startswith("# ") or head.startswith("#!/usr/bin/env bash\n# ")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_commands_in_it_are_ones_that_there_are(file: Path) -> None:
    """Every ``msbd ...`` is parsed by the command's own parser."""
    command = typer.main.get_command(cli.app)
    for found in re.findall(r"\bmsbd (?:run|models|plan) .*", file.read_text()):
        verb, *rest = shlex.split(found.partition(" --tmux")[0].partition("'")[0].rstrip("&"))[1:]
        context = typer.Context(command)
        command.get_command(context, verb).make_context(verb, rest)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_up_takes_it(name: str) -> None:
    """By Ray's own schema and checks, in the version that is pinned."""
    config = load(name)
    full = prepare_config(config)
    validate_config(full)
    starts = [*full["head_start_ray_commands"], *full["worker_start_ray_commands"]]
    assert sum("RAY_AUTH_MODE=token" in line for line in starts) == 2
    assert "~/.ray/auth_token" in full["file_mounts"]
    for line in (*full["setup_commands"], *starts):
        subprocess.run(["bash", "-n", "-c", line], check=True)


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_all_workers_are_started_at_once_and_may_be_taken_away(name: str) -> None:
    kinds = load(name)["available_node_types"]
    assert kinds["head"]["resources"] == {"CPU": 0}
    assert kinds["gpu"]["min_workers"] == kinds["gpu"]["max_workers"]
    assert "spot" in json.dumps(kinds["gpu"]).lower()
    assert "spot" not in json.dumps(kinds["head"]).lower()


def specs() -> dict[str, RayClusterSpec]:
    return {
        "raycluster.yaml": RayCluster.model_validate(load("raycluster.yaml")).spec,
        "rayjob.yaml": RayJob.model_validate(load("rayjob.yaml")).cluster,
    }


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_kuberay_takes_it(name: str) -> None:
    spec = specs()[name]
    assert spec.rayVersion == pin("ray")
    assert spec.headGroupSpec.rayStartParams["num-cpus"] == "0"
    for group in spec.workerGroupSpecs:
        (worker,) = group.template.spec.containers
        assert worker.resources.limits["nvidia.com/gpu"] == "1"
        assert group.minReplicas == group.maxReplicas  # settled when a run begins
    assert any(group.template.spec.nodeSelector for group in spec.workerGroupSpecs)


def test_a_rayjob_is_tried_again_with_a_run_directory_that_outlives_it() -> None:
    job = RayJob.model_validate(load("rayjob.yaml")).spec
    assert job.backoffLimit > 0
    assert job.shutdownAfterJobFinishes
    assert "--out s3://" in job.entrypoint
    assert "--address auto" in job.entrypoint


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_a_misspelt_field_is_found(name: str) -> None:
    content = load(name)
    spec = content["spec"].get("rayClusterSpec", content["spec"])
    spec["workerGroupSpecs"][0]["minReplica"] = spec["workerGroupSpecs"][0].pop("minReplicas")
    with pytest.raises(ValueError, match="minReplica"):
        {"RayJob": RayJob, "RayCluster": RayCluster}[content["kind"]].model_validate(content)


SERVICE = {
    *("image", "user", "init", "shm_size", "volumes", "deploy", "profiles", "entrypoint"),
    *("command", "environment", "configs", "ports", "stop_grace_period"),
}  # of the Compose specification, what is used


def test_compose_takes_it() -> None:
    content = load("compose.yaml")
    assert set(content) <= {"services", "configs", "x-msbd"}
    used = set()
    for name, service in content["services"].items():
        assert set(service) <= SERVICE, name
        assert service["profiles"], name
        for config in service.get("configs", ()):
            used.add(config["source"])
            yaml.safe_load(content["configs"][config["source"]]["content"])
        for volume in service.get("volumes", ()):
            source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")[0]
            assert source in ("$PWD", "$PWD/models") or (CLUSTER / source).is_file(), volume
    assert used == set(content["configs"])
    (target,) = yaml.safe_load(content["configs"]["prometheus"]["content"])["scrape_configs"][0][
        "static_configs"
    ][0]["targets"]
    host, port = target.split(":")
    assert f"--metrics-export-port={port}" in content["services"][host]["command"]


def test_images_are_pinned_and_of_this_version() -> None:
    version = re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    for file in FILES:
        for image in re.findall(r"^\s*(?:- )?image: (\S+)", file.read_text(), re.MULTILINE):
            name, _, tag = image.rpartition(":")
            assert tag == version[0] if name.endswith("msbd_dist") else re.match(r"v?\d+\.", tag)


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    dashboard = json.loads((CLUSTER / "grafana-dashboard.json").read_text())
    asked = json.dumps(dashboard)
    names = set(re.findall(r"\bray_(msbd_\w+)", asked))
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in names} == NAMES
    assert not re.findall(r"\bray_(?!msbd_)\w+", asked)
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert all(
            target["expr"].count("(") == target["expr"].count(")") for target in panel["targets"]
        )
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]+)\}?", asked)) <= variables


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_sound_and_may_be_run(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK)
    subprocess.run([TOOLS / "shellcheck", script], check=True)


def test_no_file_has_a_secret() -> None:
    for file in FILES:
        assert not re.search(r"AKIA|BEGIN [A-Z ]*PRIVATE|[0-9a-f]{40}", file.read_text()), file
