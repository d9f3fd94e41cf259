"""Which files a model is of: read whole, remembered, and told apart by name."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from msbd_dist.core.spec import ModelSpec
from msbd_dist.errors import ModelError
from msbd_dist.models import fingerprint as module
from msbd_dist.models.card import bundled_folder, resolve
from msbd_dist.models.fingerprint import digests, file_digest, fingerprint

LONG_AGO = time.time_ns() - 10**12


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(bundled_folder(), tmp_path / "model")


def of(folder: Path) -> dict[str, str]:
    return digests(resolve(ModelSpec(family=str(folder))))


def test_a_folder_is_the_same_wherever_it_lies(folder: Path) -> None:
    assert of(folder) == digests(resolve(ModelSpec()))
    assert fingerprint(of(folder)) == fingerprint(digests(resolve(ModelSpec())))


def test_each_file_that_is_loaded_counts_and_no_other(folder: Path) -> None:
    before = of(folder)
    (folder / "README.md").write_text("other words")
    (folder / "unet" / "notes.md").write_text("words")
    assert of(folder) == before
    for name in before:
        path = folder / name
        if not path.is_file():
            continue
        kept = path.read_bytes()
        weights = path.suffix == ".safetensors"  # whose length is in its header
        path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]) if weights else kept + b" ")
        changed = of(folder)
        assert [n for n in before if changed[n] != before[n]] == [name]
        path.write_bytes(kept)
    assert {name.split("/")[0] for name in before} >= {"unet", "vae", "text_encoder", "tokenizer"}


def large(path: Path, at: int | None = None) -> Path:
    """40 MB of zeros, one byte of which may be another; written long ago."""
    with path.open("wb") as file:
        file.truncate(40 << 20)
        if at is not None:
            file.seek(at)
            file.write(b"x")
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    return path


def test_one_byte_of_a_large_file_makes_another_one(tmp_path: Path) -> None:
    plain = file_digest(large(tmp_path / "a"))
    assert file_digest(large(tmp_path / "b")) == plain
    places = (3, (16 << 20) + 5, 20_000_001, (40 << 20) - 1)
    found = {file_digest(large(tmp_path / f"c{at}", at)) for at in places}
    assert len(found | {plain}) == 5


def test_a_large_file_is_read_once_as_long_as_it_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, reads, read = large(tmp_path / "a"), [], module._read
    monkeypatch.setattr(module, "_read", lambda *args: reads.append(args) or read(*args))
    monkeypatch.setattr(module, "_SETTLED", -1)  # the time of change is now
    first = file_digest(path)
    assert file_digest(path) == first
    assert len(reads) == 1
    inode = path.stat().st_ino
    with path.open("r+b") as file:  # in place, and with the times that it had
        file.seek(20_000_001)
        file.write(b"x")
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    assert path.stat().st_ino == inode
    assert file_digest(path) != first


def test_what_was_just_written_is_not_remembered(tmp_path: Path, cache: Path) -> None:
    file_digest(large(tmp_path / "a"))
    assert not cache.exists()


@pytest.mark.parametrize("trouble", ["a file", "nonsense", "nobody"])
def test_a_cache_that_is_of_no_use_costs_nothing_but_time(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setattr(module, "_SETTLED", -1)
    path = large(tmp_path / "a")
    wanted = file_digest(path)
    (kept,) = (cache / "msbd/digests").iterdir()
    if trouble == "a file":
        shutil.rmtree(cache)
        cache.write_text("in its place")
    elif trouble == "nonsense":
        kept.write_bytes(b"\xff\xfe 1 2 3")
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert file_digest(path) == wanted


def test_a_scorer_s_file_counts_by_its_content(folder: Path, tmp_path: Path) -> None:
    card, file = resolve(ModelSpec(family=str(folder))), tmp_path / "clip.safetensors"
    found = []
    for content in (b"one", b"two"):
        file.write_bytes(content)
        found.append(digests(replace(card, clip=f"ViT-B-32:{file}"))["clip ViT-B-32"])
    assert found[0] != found[1]
    assert digests(replace(card, clip="ViT-B-32:openai"))["clip"] == "ViT-B-32:openai"


def test_what_lies_beside_a_single_file_counts(tmp_path: Path) -> None:
    card = replace(resolve(ModelSpec()), file=str(tmp_path / "m.safetensors"))
    (tmp_path / "m.safetensors").write_bytes(b"weights")
    plain = digests(card)
    (tmp_path / "m.yaml").write_text("parameterization: v")
    assert digests(card).keys() - plain.keys() == {"file.yaml"}


def test_a_file_that_can_t_be_read_is_named(tmp_path: Path) -> None:
    card = replace(resolve(ModelSpec()), sr=str(tmp_path))
    with pytest.raises(ModelError, match=f"{tmp_path}: can't be read"):
        digests(card)
