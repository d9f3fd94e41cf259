"""What decides bytes beside an edit itself, and what differs between two of it, in words.

The driver sends its identity along with the run. A worker whose own is another one refuses, before
its first task: it would paint other pictures, and nobody would know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata

from msbd_dist.core.spec import ModelSpec
from msbd_dist.fleet.retry import Unfit
from msbd_dist.models.card import resolve
from msbd_dist.models.fingerprint import digests

SCHEMA_NAME = "the code's format"
PACKAGES = (
    "msbd_dist", "torch", "torchvision", "diffusers", "transformers", "tokenizers",
    "open_clip_torch", "spandrel", "safetensors", "numpy", "scipy", "pillow", "zarr", "numcodecs",
    "imagecodecs",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Of one machine, for one model."""

    files: Mapping[str, str]  # of the models: `models.fingerprint.digests`
    packages: Mapping[str, str]
    schema: int

    @classmethod
    def here(cls, models: ModelSpec, schema: int) -> Identity:
        """This machine's; `ModelError` where the models are not there."""
        return cls(files=digests(resolve(models)), packages=deciding_packages(), schema=schema)

    def require(self, models: ModelSpec, schema: int) -> None:
        """`Unfit` where this machine's is another one, and what differs."""
        mine = Identity.here(models, schema)
        found = [*different_files(mine.files, self.files), *self._others(mine)]
        if found:
            raise Unfit(
                f"{models.family} is not what it is where the run was started: {few(found)}; "
                "give all hosts the same models and packages"
            )

    def _others(self, mine: Identity) -> Iterator[str]:
        if mine.schema != self.schema:
            yield f"{SCHEMA_NAME} is {mine.schema}, there {self.schema}"
        for name, version in self.packages.items():
            if (own := mine.packages.get(name, "not installed")) != version:
                yield f"{name} is {own}, there {version}"


def deciding_packages() -> dict[str, str]:
    """Versions of installed packages that decide bytes. What follows a plus says for which card it
    was built, and a driver may well have none."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def different_files(now: Mapping[str, str], then: Mapping[str, str]) -> list[str]:
    """What differs between two models, by the names of their files."""
    words = []
    for name in sorted(now.keys() | then.keys()):
        if name not in now:
            words.append(f"{name} is missing")
        elif name not in then:
            words.append(f"{name} is new")
        elif now[name] != then[name]:
            words.append(f"{name} differs")
    return words


def few(words: list[str], most: int = 6) -> str:
    """The first of them, and how many more there are."""
    more = f", and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more
