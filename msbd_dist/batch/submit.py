"""A run as a job of a cluster that is elsewhere: packed, submitted, followed, cancelled.

What is sent is a manifest with nothing left to decide, and the pictures and masks that it names
where they are here and small. Places on the cluster are sent as names: URLs, and paths that are
said to be shared. No environment variable, token or other file goes along; the cluster has its own.

The job is `msbd run` on the head. Nothing is kept here: a job is found again by its name, or by its
run directory, from any machine. Its name is that of its content, so that one run is not submitted
twice; a job that has ended may be followed by another of the same content, which continues.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, get_args
from urllib.parse import urlsplit

from msbd_dist.batch.manifest import Manifest, manifest_text
from msbd_dist.canvas.combined import make_mask
from msbd_dist.canvas.digests import content_digest
from msbd_dist.canvas.images import Picture
from msbd_dist.canvas.outlines import is_outlines
from msbd_dist.canvas.places import is_url
from msbd_dist.core.spec import EditSpec, ModelSpec, Verify, mask_files, with_files
from msbd_dist.errors import ClusterError, InputError, RunError

if TYPE_CHECKING:
    from msbd_dist.fleet.ray_jobs import Job, Jobs

PACKED_BYTES = 50_000_000  # of pictures and masks together that are sent with a job
MARGIN_S = 30.0  # beyond a run's grace, before it is killed: for what is being written
CANCELLED = 4  # exit code
_HERE = ("file://", "local://")  # URLs that are paths
_NAME = re.compile(r"msbd-[0-9a-f]{12}(-\d+)?")


@dataclass(frozen=True, kw_only=True)
class Package:
    """What a job is given."""

    manifest: Manifest  # places as they are on the cluster, or in the package
    out: str
    files: Mapping[str, Path]  # name in the package -> what it is here

    @property
    def text(self) -> str:
        return manifest_text(self.manifest)

    @property
    def job(self) -> str:
        """Names the content: manifest, run directory, version; packed files by their digests."""
        content = repr((version("msbd_dist"), self.out, self.text))
        return f"msbd-{hashlib.sha256(content.encode()).hexdigest()[:12]}"

    def write(self, folder: Path) -> None:
        """The manifest and the files, and nothing else, into an empty folder."""
        (folder / "manifest.yaml").write_text(self.text)
        for name, path in self.files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / name)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a job ended."""

    job: str
    out: str
    exit_code: int  # as `msbd run` has them; 4 where it was cancelled, 3 where Ray ended it
    why: str | None = None  # where its log does not say

    @property
    def state(self) -> str:
        words = {0: "done", 1: "failed", CANCELLED: "cancelled", 5: "stopped"}
        return words.get(self.exit_code, "failed")


def pack(manifest: Manifest, out: str, *, shared: bool = False) -> Package:
    """What to send for a run into ``out``, a URL or an absolute path on the cluster.

    ``shared``: paths here are paths there too. Otherwise pictures and masks that are files here are
    packed, 50 MB of them at most. InputError for what the cluster could not find, for what is no
    picture, and for a password in a URL.

    A seed that is left out is drawn from the run directory and the edit's name, so that another
    submission continues the same edit.
    """
    out = _run_place(out, shared=shared)
    for name, place in _places(manifest):
        if is_url(place) and urlsplit(place).password:
            raise InputError(
                f"{name}: has a password in its URL; give the cluster's own environment the "
                "credentials and leave them out"
            )
    names: dict[Path, str] = {}
    if not shared:
        _require_elsewhere(manifest)
        names = _chosen(manifest)

    def sent(place: str) -> str:
        path = _path(place)
        return place if shared or path is None else names[path]

    def settled(spec: EditSpec) -> EditSpec:
        mask = with_files(spec.mask, sent)
        seed = _seed(out, spec.id) if spec.seed is None else spec.seed
        image = sent(spec.image) if isinstance(spec.image, str) else spec.image
        return replace(spec, image=image, mask=mask, seed=seed)

    return Package(
        manifest=replace(manifest, edits=tuple(settled(spec) for spec in manifest.edits)),
        out=out,
        files={name: path for path, name in names.items()},
    )


def submit(
    package: Package,
    address: str,
    *,
    grace: float = 30.0,
    workers: int | None = None,
    max_failures: int | None = None,
    deadline: float | None = None,
    verify: str = "sample",
) -> str:
    """Begin a run on the cluster of ``address``, with options as `run_manifest` has them.

    Returns the job's name. RunError where a job works on the same run directory, ClusterError where
    there is no such cluster. ``grace`` and ``deadline`` are seconds.
    """
    from msbd_dist.fleet.ray_jobs import Jobs

    if verify not in get_args(Verify):
        raise InputError(f"verify: got {verify!r}, wanted sample, full or off")
    command = _command(
        package.out,
        grace=f"{grace:g}",
        workers=workers,
        max_failures=max_failures,
        deadline=None if deadline is None else f"{deadline:.0f}s",
        verify=verify,
    )
    jobs = Jobs(address)
    there = jobs.all()
    for job in there:
        if not job.ended and job.metadata.get("out") == package.out:
            raise _at_work(job.id, package, jobs)
    name = _free_name(package.job, {job.id for job in there})
    with tempfile.TemporaryDirectory(prefix="msbd-") as folder:
        package.write(Path(folder))
        begun = jobs.submit(
            name,
            command,
            folder=Path(folder),
            metadata={"out": package.out, "grace": f"{grace:g}", "version": version("msbd_dist")},
            stop_s=grace + MARGIN_S,
        )
    if not begun:
        raise _at_work(name, package, jobs)
    return name


def attach(job: str, address: str, say: Callable[[str], None]) -> Ended:
    """Hand on what a job has written and writes until it ends.

    ``job`` is its name, or the run directory of the newest job there. InputError where there is
    none, ClusterError where the cluster is not, or has been without connection for ten minutes.
    """
    from msbd_dist.fleet.ray_jobs import Jobs

    jobs = Jobs(address)
    return _ended(jobs.follow(_find(jobs, job).id, say))


def cancel_job(job: str, address: str, grace: float | None = None) -> Ended:
    """Tell a job to end, and wait until it has; what is under way gets the run's grace.

    ``job`` is its name, or the run directory of the newest job there. Ray can only say "end", so
    ``grace``, in seconds, is None or what the job was submitted with. InputError where it is not,
    or there is no such job; ClusterError where the cluster is not there or the job does not end.
    """
    from msbd_dist.fleet.ray_jobs import Jobs

    jobs = Jobs(address)
    found = _find(jobs, job)
    own = float(found.metadata.get("grace", 0))
    if not found.ended:
        if grace is not None and grace != own:
            raise InputError(
                f"--grace {grace:g}: {found.id} was submitted with {own:g} s, and a job's grace "
                "can't be changed; leave --grace out, or cancel its run directory"
            )
        jobs.stop(found.id)
        found = jobs.wait(found.id, own + 2 * MARGIN_S)
    if not found.ended:
        raise ClusterError(f"{found.id} does not end; look at {jobs.address} for its host")
    return _ended(found)


def is_job(text: str) -> bool:
    """Whether a text is a job's name, as `submit` gives them."""
    return _NAME.fullmatch(text) is not None


# -- below: packing --------------------------------------------------------------------------------


def _run_place(out: str, *, shared: bool) -> str:
    if is_url(out):
        if urlsplit(out).password:
            raise InputError("--out: has a password in its URL; leave it out")
        return out.rstrip("/")
    if not shared and not out.startswith("/"):
        raise InputError(
            f"--out {out}: is a path of this machine; give a URL, an absolute path on the cluster, "
            "or say --shared if paths here are paths there too"
        )
    return str(Path(out).resolve() if shared else Path(out))


def _places(manifest: Manifest) -> Iterable[tuple[str, str]]:
    """All places that a manifest names, each with where it does."""
    for spec in manifest.edits:
        images = [spec.image] if isinstance(spec.image, str) else []
        outputs = [] if spec.output is None else [spec.output]
        for key, places in (
            ("image", images),
            ("mask", mask_files(spec.mask)),
            ("output", outputs),
        ):
            for place in places:
                yield f"{manifest.path}: {spec.id}: {key}", place
    for part in fields(ModelSpec):
        place = getattr(manifest.models, part.name)
        if isinstance(place, str):
            yield f"models: {part.name}", place


def _path(place: str) -> Path | None:
    """The path that a place is; None where it is a URL of elsewhere."""
    for prefix in _HERE:
        place = place.removeprefix(prefix)
    return None if is_url(place) else Path(place)


def _require_elsewhere(manifest: Manifest) -> None:
    """InputError for outputs and models that are paths of this machine."""
    for spec in manifest.edits:
        if spec.output is not None and _path(spec.output) is not None:
            raise InputError(
                f"{manifest.path}: {spec.id}: output: {spec.output} is a path of this machine; "
                "leave it out (the picture is then in the run directory), give a URL, or say "
                "--shared if paths here are paths on the cluster too"
            )
    for part in fields(ModelSpec):
        place = getattr(manifest.models, part.name)
        if part.name != "device" and place and place.startswith("/") and Path(place).exists():
            raise InputError(
                f"models: {place} is on this machine and is not sent; give a hub id, or say "
                "--shared if it is at the same path on the cluster"
            )


def _chosen(manifest: Manifest) -> dict[Path, str]:
    """The pictures and masks to be packed, and their names in the package."""
    paths: dict[Path, str] = {}  # -> where it is named
    for spec in manifest.settled():
        for key, places in (("image", [spec.source]), ("mask", mask_files(spec.mask))):
            for path in filter(None, map(_path, places)):
                paths.setdefault(path, f"{manifest.path}: {spec.id}: {key}")
    for path, named in paths.items():
        if not path.is_file() or path.name.startswith("."):
            kind = "is a folder" if path.is_dir() else "is hidden" if path.exists() else "not found"
            raise InputError(
                f"{named}: {path}: {kind}, and is not sent; give a URL, or say --shared if it is "
                "at the same path on the cluster"
            )
        if not is_outlines(path.name):
            Picture.open(path)  # nothing but pictures and outlines is sent
    for spec in manifest.settled():
        if any(map(is_outlines, mask_files(spec.mask))):
            make_mask(spec.mask, Picture.open(spec.source))
    size = sum(path.stat().st_size for path in paths)
    if size > PACKED_BYTES:
        raise InputError(
            f"{manifest.path}: its pictures and masks take {size / 1e6:,.0f} MB, at most "
            f"{PACKED_BYTES / 1e6:.0f} MB are sent; put them where the cluster reads them, and "
            "give URLs, or say --shared if paths here are paths there too"
        )
    return {path: f"inputs/{content_digest(str(path))[:12]}-{path.name}" for path in paths}


def _seed(out: str, edit: str) -> int:
    digest = hashlib.sha256(f"{out}\n{edit}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


# -- below: jobs -----------------------------------------------------------------------------------


def _command(out: str, **options: str | int | None) -> str:
    """What the job's shell runs in the package's folder: it becomes `msbd run`."""
    words = ["exec", "msbd", "run", "manifest.yaml", "--out", out, "--address", "auto"]
    words += ["--allow-anywhere"]  # where it may write was looked at when it was submitted
    for key, value in options.items():
        words += [] if value is None else [f"--{key.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _free_name(base: str, taken: set[str]) -> str:
    """Ray never forgets a name, so that a further job of the same content has a number."""
    names = (base if number == 1 else f"{base}-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


def _at_work(job: str, package: Package, jobs: Jobs) -> RunError:
    same = job.startswith(package.job)
    what = "this is at work already," if same else f"{package.out}: is worked on by"
    return RunError(
        f"{what} {'as ' if same else ''}{job}; `msbd attach {job} --address {jobs.address}` "
        "follows it, `msbd cancel` ends it"
    )


def _find(jobs: Jobs, job: str) -> Job:
    wanted = {job, job.rstrip("/"), job if is_url(job) else str(Path(job).resolve())}
    found = [one for one in jobs.all() if one.id == job or one.metadata.get("out") in wanted]
    if not found:
        raise InputError(
            f"{job}: is no job, and no run directory of a job, at {jobs.address}; "
            "`msbd submit` prints the name of the job that it begins"
        )
    return max(found, key=lambda one: one.began)


def _ended(job: Job) -> Ended:
    """What the end of a job means, in the exit codes of `msbd run`."""
    out = job.metadata.get("out", "")
    if job.status == "STOPPED":
        return Ended(job=job.id, out=out, exit_code=CANCELLED)
    if job.exit_code is None:
        line = next(iter(job.message.strip().splitlines()), "nothing said why")
        code, why = (0, None) if job.status == "SUCCEEDED" else (ClusterError.exit_code, line)
        return Ended(job=job.id, out=out, exit_code=code, why=why)
    if job.exit_code in (126, 127):  # the shell's
        why = "msbd can't be started on the cluster: have it on the PATH that Ray is started with"
        return Ended(job=job.id, out=out, exit_code=ClusterError.exit_code, why=why)
    if job.exit_code < 0:
        why = f"its process was ended by signal {-job.exit_code}; submit it again, it continues"
        return Ended(job=job.id, out=out, exit_code=128 - job.exit_code, why=why)
    return Ended(job=job.id, out=out, exit_code=job.exit_code)
