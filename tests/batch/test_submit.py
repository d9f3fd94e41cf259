"""Runs as jobs: what is sent, what is refused, and a job's life on a Ray that wants a token."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from quick import FAST, draw_inputs, manifest_of, pixels

from msbd_dist.batch import submit
from msbd_dist.batch.manifest import Manifest, read_manifest
from msbd_dist.batch.submit import CANCELLED, is_job, pack
from msbd_dist.errors import InputError
from msbd_dist.fleet.ray_jobs import Job

MakeManifest = Callable[..., Manifest]
OUT = "s3://bucket/run"


# -- what is sent ----------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_manifest_and_its_pictures_are_sent_and_nothing_else(
    make_manifest: MakeManifest, inputs: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for secret in (".env", ".aws/credentials", "auth_token", "id_rsa", "notes.txt"):
        (inputs / secret).parent.mkdir(exist_ok=True)
        (inputs / secret).write_text("a secret")
    manifest = make_manifest({}, {"mask": [1, 2, 90, 80]})
    manifest.path.write_text("# a secret\n" + manifest.path.read_text())
    sent = tmp_path_factory.mktemp("sent")
    pack(manifest, OUT).write(sent)
    found = contents(sent)
    image, mask = sorted(name for name in found if name != "manifest.yaml")
    if "mask" in image:
        image, mask = mask, image
    assert found[image] == (inputs / "image.png").read_bytes()
    assert found[mask] == (inputs / "mask.png").read_bytes()
    text = found["manifest.yaml"].decode()
    assert "secret" not in text
    assert str(inputs) not in text
    there = read_manifest(sent / "manifest.yaml")
    assert [spec.method for spec in there.edits] == [spec.method for spec in manifest.edits]
    assert [spec.image for spec in there.edits] == [str(sent / image)] * 2
    assert there.edits[0].mask == str(sent / mask)
    assert there.edits[1].mask == manifest.edits[1].mask


def test_shared_paths_and_urls_are_sent_as_names(make_manifest: MakeManifest, inputs: Path) -> None:
    manifest = make_manifest({"output": "done.png"}, {"image": "s3://bucket/i.tif"})
    package = pack(manifest, str(inputs / "run"), shared=True)
    assert not package.files
    assert list(package.manifest.edits) == list(manifest.edits)
    elsewhere = make_manifest({"image": "s3://b/i.tif", "mask": "s3://b/m.png"})
    assert not pack(elsewhere, OUT).files


def test_a_job_is_named_by_its_content(make_manifest: MakeManifest, inputs: Path) -> None:
    first = pack(make_manifest(), OUT)
    assert is_job(first.job)
    assert pack(make_manifest(), f"{OUT}/").job == first.job
    others = {pack(make_manifest(), "/other").job, pack(make_manifest({"seed": 6}), OUT).job}
    draw_inputs(inputs, kind="jpg")
    (inputs / "image.jpg").rename(inputs / "image.png")
    others.add(pack(make_manifest(), OUT).job)
    assert len(others - {first.job}) == 3


def test_a_seed_that_is_left_out_is_the_same_each_time(make_manifest: MakeManifest) -> None:
    manifest = make_manifest({"seed": None}, {"seed": None}, {"seed": 4})
    seeds = [[spec.seed for spec in pack(manifest, out).manifest.edits] for out in (OUT, OUT, "/o")]
    assert seeds[0] == seeds[1]
    assert len({*seeds[0], *seeds[2]}) == 5
    assert seeds[0][2] == 4


REFUSED: dict[str, tuple[dict[str, str], str, str]] = {
    "a picture that is not here": ({"image": "none.png"}, OUT, "none.png: not found, .*--shared"),
    "a hidden file": ({"mask": ".mask.png"}, OUT, r"\.mask.png: is hidden, and is not sent"),
    "a folder": ({"image": "folder.zarr"}, OUT, "folder.zarr: is a folder, and is not sent"),
    "what is no picture": ({"image": "credentials"}, OUT, "credentials"),
    "an output here": ({"output": "done.png"}, OUT, "done.png is a path of this machine"),
    "a password": ({"image": "sftp://me:word@host/i.png"}, OUT, "has a password"),
    "a password of the run": ({}, "sftp://me:word@host/run", "has a password"),
    "a run here": ({}, "runs/first", "runs/first: is a path of this machine"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_cluster_could_not_use_is_refused(
    case: str, make_manifest: MakeManifest, inputs: Path
) -> None:
    (inputs / ".mask.png").write_bytes((inputs / "mask.png").read_bytes())
    (inputs / "folder.zarr").mkdir()
    (inputs / "credentials").write_text("key = word")
    edit, out, said = REFUSED[case]
    with pytest.raises(InputError, match=said) as error:
        pack(make_manifest(edit), out)
    assert "\n" not in str(error.value)
    assert "word" not in str(error.value).replace("password", "")


def test_models_that_are_here_and_large_pictures_are_refused(
    make_manifest: MakeManifest, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inputs / "weights.safetensors").touch()
    with pytest.raises(InputError, match=r"weights.safetensors is on this machine.*--shared"):
        pack(make_manifest(models="weights.safetensors"), OUT)
    monkeypatch.setattr(submit, "PACKED_BYTES", 1000)
    with pytest.raises(InputError, match=r"take .* MB, at most 0 MB are sent"):
        pack(make_manifest(), OUT)


def test_a_job_is_told_what_a_run_is_told() -> None:
    command = submit._command("/a run", workers=2, max_failures=0, deadline=None)
    run = "exec msbd run manifest.yaml --out '/a run' --address auto --allow-anywhere"
    assert command == f"{run} --workers 2 --max-failures 0"


# -- how jobs end ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "wanted", "why"),
    [
        ("SUCCEEDED", 0, 0, None),
        ("FAILED", 1, 1, None),
        ("FAILED", 5, 5, None),
        ("FAILED", CANCELLED, 4, None),
        ("STOPPED", None, 4, None),
        ("FAILED", -9, 137, "signal 9"),
        ("FAILED", 127, 3, "PATH"),
        ("FAILED", None, 3, "its node has died"),
    ],
)
def test_a_jobs_end_is_an_exit_code(
    status: str, code: int | None, wanted: int, why: str | None
) -> None:
    job = Job(
        id="msbd-1",
        status=status,
        exit_code=code,
        message="its node has died\nand more",
        metadata={"out": OUT},
        began=0,
    )
    ended = submit._ended(job)
    assert (ended.exit_code, ended.out) == (wanted, OUT)
    assert why is None or why in str(ended.why)


def test_a_job_of_the_same_content_gets_a_number() -> None:
    assert submit._free_name("msbd-a", {"other"}) == "msbd-a"
    assert submit._free_name("msbd-a", {"msbd-a", "msbd-a-2", "msbd-a-4"}) == "msbd-a-3"


# -- a whole life ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Head:
    """A Ray that was started with `ray start --head` and a token."""

    address: str
    folder: Path  # all that it writes
    environment: dict[str, str]

    def msbd(self, *arguments: str, token: str | None = None) -> subprocess.Popen[str]:
        environment = {**self.environment, **({"RAY_AUTH_TOKEN": token} if token else {})}
        environment["AWS_SECRET_ACCESS_KEY"] = SECRET
        command = [str(BIN / "msbd"), *arguments, "--address", self.address]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=environment, **pipes)


BIN = Path(sys.executable).parent
SECRET = secrets.token_hex(20)


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    token = secrets.token_hex(20)
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    environment = {**kept, **auth, "PATH": f"{BIN}:{os.environ['PATH']}"}
    dashboard, agent, client = free_ports(3)
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # short: it holds sockets
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += ["--port=0", f"--dashboard-port={dashboard}", "--min-worker-port=0"]
        command += [f"--dashboard-agent-listen-port={agent}", "--max-worker-port=0"]
        command += [f"--ray-client-server-port={client}", f"--temp-dir={folder}", "--num-cpus=2"]
        command += ["--include-dashboard=true", "--disable-usage-stats"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, env=environment, **quiet)
        try:
            yield Head(_answering(f"http://127.0.0.1:{dashboard}"), Path(folder), environment)
        finally:
            process.terminate()
            process.wait(60)


def _answering(address: str) -> str:
    """The address, when the dashboard refuses those without a token."""
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=5)
        except urllib.error.HTTPError as refusal:
            refusal.close()
            return address
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(f"no dashboard at {address}")


CANCEL = "import sys; from msbd_dist.cli.jobs import cancel_submitted as c; c(*sys.argv[1:], None)"


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def test_a_job_is_submitted_followed_left_cancelled_and_continued(
    head: Head, inputs: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.mktemp("shared") / "run"
    manifest = manifest_of(inputs, {**FAST, "decoder_optimization": False}).path
    begin = ("submit", str(manifest), "--out", str(out), "--workers", "1")

    code, said, err = ended(head.msbd(*begin, "--detach"))
    assert code == 0, err
    job = said.strip()
    assert is_job(job)
    assert f"msbd attach {job}" in err

    left = head.msbd("attach", job)
    assert left.stderr is not None
    assert left.stderr.readline()
    left.send_signal(signal.SIGINT)
    second = head.msbd(*begin)
    stranger = head.msbd("attach", job, token="b" * 40)
    code, _, err = ended(left)
    assert code == 130
    assert "detached; the job goes on" in err
    code, said, err = ended(second)
    assert (code, said) == (2, "")
    assert err.startswith(f"msbd: this is at work already, as {job}; ")
    code, said, err = ended(stranger)
    assert (code, said, err.count("\n")) == (3, "", 1)
    assert "refuses this process: Authentication failed" in err

    follower = head.msbd("attach", str(out))
    markers = _wait_for_markers(out)
    cancelled = subprocess.run(
        [sys.executable, "-c", CANCEL, job, head.address],
        env=head.environment,
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert (cancelled.returncode, cancelled.stdout) == (0, f"{job}  cancelled  {out}\n")
    code, said, err = ended(follower)
    assert (code, said) == (CANCELLED, f"{job}  cancelled  {out}\n")
    assert "told to stop: 1 edit is not finished" in err

    code, said, err = ended(head.msbd(*begin))
    assert code == 0, err
    assert said == f"{job}-2\n{job}-2  done  {out}\n"
    assert {path: path.stat().st_mtime_ns for path in markers} == markers
    (state,) = json.loads((out / "report.json").read_text())["edits"]
    assert state["state"] == "done"
    before, after = pixels(inputs / "image.png"), pixels(out / "e0/output.png")
    mask = pixels(inputs / "mask.png") >= 128
    assert np.array_equal(before[~mask], after[~mask])
    assert (before[mask] != after[mask]).any()
    _require_nothing_secret(head, inputs)


def _require_nothing_secret(head: Head, inputs: Path) -> None:
    """What reached the cluster is the manifest and the pictures, and no environment."""
    packages = set(head.folder.glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*/"))
    (package,) = {path for path in packages if path.is_dir()}
    pictures = {(inputs / name).read_bytes() for name in ("image.png", "mask.png")}
    found = contents(package)
    assert found.pop("manifest.yaml")
    assert set(found.values()) == pictures
    assert len(found) == 2
    for path in head.folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert SECRET.encode() not in content, path
            assert str(inputs).encode() not in content, path


def _wait_for_markers(out: Path) -> dict[Path, int]:
    """What is done, when something is."""
    for _ in range(600):
        if found := {p: p.stat().st_mtime_ns for p in out.glob("*/*/ledger/[!.]*")}:
            return found
        time.sleep(0.2)
    raise TimeoutError(f"nothing is done in {out}")


COUNTS = "for i in 1 2 3 4 5 6 7 8; do echo line $i; sleep 1; done; exit 1"
FOLLOWS = """
import sys
from pathlib import Path
from msbd_dist.batch.submit import attach
from msbd_dist.fleet.ray_jobs import Jobs

straight, crooked, folder, command = sys.argv[1:]
jobs = Jobs(straight)
job = {"folder": Path(folder), "metadata": {"out": "/o"}, "stop_s": 3}
assert jobs.submit("counts", command, **job)
assert not jobs.submit("counts", command, **job)
print(attach("counts", crooked, lambda text: print(text, end="")).exit_code, flush=True)
"""


@pytest.mark.long
def test_a_log_goes_on_where_its_connection_broke(head: Head, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    there = int(head.address.rsplit(":", 1)[1])
    with breaking_proxy(there, after=4.0) as crooked:
        followed = subprocess.run(
            [sys.executable, "-c", FOLLOWS, head.address, crooked, str(tmp_path), COUNTS],
            env=head.environment,
            text=True,
            capture_output=True,
            timeout=120,
        )
    lines = followed.stdout.splitlines()
    assert [line for line in lines if line.startswith("line")] == [f"line {i}" for i in range(1, 9)]
    assert lines[-1] == "1"
    assert "is lost; trying again" in followed.stderr


@contextmanager
def breaking_proxy(there: int, *, after: float, down: float = 3.0) -> Iterator[str]:
    """The address of a port that leads to another one, and breaks all that lead through it once."""
    listener = socket.create_server(("127.0.0.1", 0))
    used, threads, broken = list[socket.socket](), list[threading.Thread](), threading.Event()

    def in_thread(run: Callable[..., None], *arguments: object) -> None:
        threads.append(threading.Thread(target=run, args=arguments))
        threads[-1].start()

    def end(*sockets: socket.socket) -> None:
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        end(source, sink)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                if not used:
                    in_thread(interrupt)
                server = socket.create_connection(("127.0.0.1", there))
                used.extend((client, server))
                if broken.is_set():
                    end(client)
                in_thread(pump, client, server)
                in_thread(pump, server, client)

    def interrupt() -> None:
        time.sleep(after)
        broken.set()
        end(*used)
        time.sleep(down)
        broken.clear()

    in_thread(accept)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        end(listener, *used)
        for thread in threads:
            thread.join()
        for one in (listener, *used):
            one.close()


def test_a_job_that_is_not_there_is_said_in_one_line(head: Head) -> None:
    code, said, err = ended(head.msbd("attach", "msbd-000000000000"))
    assert (code, said, err.count("\n")) == (2, "", 1)
    assert "is no job" in err
