"""Runs over several hosts: nodes that are killed or drained, hosts that are cut off."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from campaign import broken_promises, digests
from quick import FASTEST, draw_inputs, manifest_of

from msbd_dist.batch.manifest import Manifest
from msbd_dist.batch.run import run_manifest
from msbd_dist.models.card import bundled_folder

HERE = Path(__file__).parent
pytestmark = pytest.mark.long
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "0123456789" * 4,
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def wait_until(true: Callable[[], object], seconds: float, what: str) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"{what}: not within {seconds:g} s"
        time.sleep(0.2)


# --- several raylets on this machine ---


def test_a_node_that_is_lost_in_the_middle_changes_nothing(
    edits: Manifest, quiet: dict[str, str], tmp_path: Path, start_nodes: Callable[[int], Any]
) -> None:
    out, nodes = str(tmp_path / "out"), start_nodes(3)
    command = [sys.executable, str(HERE / "driver.py"), str(edits.path), out, "3"]
    with subprocess.Popen(
        [*command, nodes.address],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as driver:
        wait_until(lambda: list(Path(out).glob("*/*/ledger/*-denoise-*")), 60, "a first task")
        raylet = psutil.Process(nodes.raylets[-1])
        orphans = [p for p in raylet.children(recursive=True) if "_Actor" in " ".join(p.cmdline())]
        raylet.send_signal(signal.SIGKILL)
        words, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, words
    assert orphans, "the node had no worker"
    wait_until(lambda: not any(p.is_running() for p in orphans), 10, "the end of orphans")
    assert digests(out) == quiet, words
    assert not broken_promises(out)


def test_a_node_that_is_about_to_leave_gets_no_new_work(start_nodes: Callable[[int], Any]) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "drained.py"), start_nodes(3).address],
        text=True,
        capture_output=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["drained"] in found["before"]
    assert found["drained"] not in found["after"]
    assert len(set(found["after"])) == 2


# --- two hosts that share nothing but a wire ---


class Hosts:
    """Two network namespaces, each with an address of its own, and a wire between them."""

    addresses = ("10.77.31.1", "10.77.31.2")

    def __init__(self) -> None:
        self.names = tuple(f"msbd-{os.getpid()}-{side}" for side in "ab")
        self.temp = f"/tmp/ray-{os.getpid()}"  # short: names of sockets are limited
        self.wires = tuple(f"m{os.getpid()}{side}" for side in "ab")

    def __enter__(self) -> Hosts:
        for name in self.names:
            _ip("netns", "add", name)
        one, other = self.wires
        _ip("link", "add", one, "type", "veth", "peer", "name", other)
        for name, wire, address in zip(self.names, self.wires, self.addresses, strict=True):
            _ip("link", "set", wire, "netns", name)
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", wire)
            _ip("-n", name, "link", "set", wire, "up")
            _ip("-n", name, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            pids = _ip("netns", "pids", name).split()
            for pid in map(int, pids):
                os.kill(pid, signal.SIGKILL)
            _ip("netns", "del", name)
        shutil.rmtree(self.temp, ignore_errors=True)

    def cut(self) -> None:
        """Nothing comes through any more, and nobody is told."""
        _ip("-n", self.names[1], "link", "set", self.wires[1], "down")

    def command(self, host: int, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.names[host], *command]


def _ip(*command: str) -> str:
    return subprocess.run(["ip", *command], check=True, text=True, capture_output=True).stdout


def _may_make_namespaces() -> bool:
    if shutil.which("ip") is None:
        return False
    probe = f"msbd-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True).returncode == 0
    if made:
        _ip("netns", "del", probe)
    return made


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if not _may_make_namespaces():
        pytest.skip("this user can't make network namespaces")
    with Hosts() as made:
        yield made


@pytest.fixture
def store(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 server on the first host, and the URL of a run there, as the hosts see it."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{hosts.addresses[0]}:5055",
    }.items():
        monkeypatch.setenv(name, value)
    server = "from moto.server import main; main(['-H', '0.0.0.0', '-p', '5055'])"
    with ExitStack() as stack:
        process = subprocess.Popen(
            hosts.command(0, sys.executable, "-c", server),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        made = "import s3fs; s3fs.S3FileSystem().mkdir('runs')"
        wait_until(lambda: _works(hosts.command(0, sys.executable, "-c", made)), 60, "a server")
        yield "s3://runs/hosts"


def _works(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


@pytest.mark.parametrize("fault", ["none", "cut"])
def test_two_hosts_that_share_no_files_make_the_same_bytes(
    edits: Manifest, quiet: dict[str, str], hosts: Hosts, store: str, tmp_path: Path, fault: str
) -> None:
    address = start_ray(hosts)
    script = [sys.executable, str(HERE / "driver.py"), str(edits.path), store, "2", address]
    log = tmp_path / "driver.log"
    with log.open("w") as file:
        driver = subprocess.Popen(hosts.command(0, *script), stdout=file, stderr=file)
        seen = [sys.executable, str(HERE / "seen.py"), store, str(tmp_path / "seen.json")]
        if fault == "cut":
            going = hosts.command(0, *seen, "wait")
            subprocess.run(going, check=True, capture_output=True, timeout=180)
            hosts.cut()
        driver.wait(timeout=400)
    assert driver.returncode == 0, log.read_text()
    subprocess.run(hosts.command(0, *seen), check=True, capture_output=True, timeout=120)
    found = json.loads((tmp_path / "seen.json").read_text())
    assert found == {"digests": quiet, "wrong": []}


def start_ray(hosts: Hosts, *, first: str = "true", second: str = "true", gpus: int = 0) -> str:
    """A Ray of both hosts, one CPU and ``gpus`` each; its address. Each raylet sees what its shell
    command makes of the files, and nobody else does."""
    ray = str(Path(sys.executable).with_name("ray"))
    here, there = hosts.addresses
    start = f"{ray} start --num-cpus 1 --num-gpus {gpus} --disable-usage-stats"
    head = f"{start} --head --include-dashboard false --port 6399 --temp-dir {hosts.temp}"
    for host, command in (
        (0, f"{first} && {head} --node-ip-address {here}"),
        (1, f"{second} && {start} --address {here}:6399 --node-ip-address {there}"),
    ):
        shell = hosts.command(host, "sh", "-c", command)
        subprocess.run(shell, check=True, capture_output=True, timeout=120)
    return f"{here}:6399"


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """A copy of the bundled family, one of it with another weight, and nothing."""
    for name in ("family", "other"):
        shutil.copytree(bundled_folder(), tmp_path / name)
    file = tmp_path / "other" / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-2] ^= 0x40
    file.write_bytes(data)
    (tmp_path / "empty").mkdir()
    return tmp_path / "family"


@pytest.fixture
def few(family: Path, tmp_path: Path) -> Manifest:
    """Six quick edits with that family."""
    draw_inputs(tmp_path)
    return manifest_of(tmp_path, *(FASTEST for _ in range(6)), models=str(family))


def drive(hosts: Hosts, few: Manifest, address: str) -> tuple[int, str]:
    out = few.path.parent / "out"
    script = [sys.executable, str(HERE / "driver.py"), str(few.path), str(out), "2", address]
    done = subprocess.run(hosts.command(0, *script), capture_output=True, text=True, timeout=900)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ("other", "unet/diffusion_pytorch_model.safetensors differs"),
        ("empty", "has no model_index.json"),
    ],
)
def test_a_host_with_another_model_or_none_is_named_and_left_out(
    few: Manifest, hosts: Hosts, family: Path, tmp_path: Path, there: str, words: str
) -> None:
    hide = f"mount --bind {tmp_path / there} {family}"
    code, said = drive(hosts, few, start_ray(hosts, second=hide))
    assert code == 0, said
    (told,) = (line for line in said.splitlines() if "gets no work" in line)
    assert f"({hosts.addresses[1]}) gets no work" in told
    assert words in told
    assert told.split(" ", 1)[1] in (tmp_path / "out/log.txt").read_text()
    run_manifest(few, tmp_path / "quiet", executor="serial")
    assert digests(tmp_path / "out") == digests(tmp_path / "quiet")


def test_where_no_host_has_the_model_the_run_ends_and_names_both(
    few: Manifest, hosts: Hosts, family: Path, tmp_path: Path
) -> None:
    hide, other = (f"mount --bind {tmp_path / name} {family}" for name in ("empty", "other"))
    code, said = drive(hosts, few, start_ray(hosts, first=hide, second=other))
    assert code == 3, said
    told = said.splitlines()[-1]
    assert all(f"({address}): " in told for address in hosts.addresses)
    assert "has no model_index.json" in told
    assert "unet/diffusion_pytorch_model.safetensors differs" in told


def test_a_host_whose_card_is_dead_is_named_and_left_out(hosts: Hosts) -> None:
    address = start_ray(hosts, gpus=1)
    script = [sys.executable, str(HERE / "dead_card.py"), address]
    done = subprocess.run(hosts.command(0, *script), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["done"], found["errors"]) == (60, [])
    assert f"({hosts.addresses[1]})" in found["trouble"]
    assert hosts.addresses[0] not in found["trouble"]
