"""What tells one model's files from another's: a digest that an edit's work is filed under."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from msbd_dist.models.card import Card

_BLOCK = 1 << 20
_BLOCKS = 16  # of a large file, spread over it


def fingerprint(card: Card) -> str:
    """Of all files that a card names. A hub id or a scorer's name stands for itself.

    Of a file larger than 16 MB sixteen blocks of 1 MB are read: other weights differ everywhere,
    and 5 GB need not be read before every run.
    """
    digest = hashlib.sha256()
    for place in (card.location, card.file, card.sr, card.clip):
        path = Path(place) if place else None
        if path is None or not path.exists():
            digest.update(repr(place).encode())
            continue
        for file in sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]:
            digest.update(f"{file.relative_to(path)} {file.stat().st_size}".encode())
            for block in _blocks(file):
                digest.update(block)
    return digest.hexdigest()[:16]


def _blocks(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _BLOCKS * _BLOCK:
            yield file.read()
            return
        for number in range(_BLOCKS):
            file.seek((size - _BLOCK) * number // (_BLOCKS - 1))
            yield file.read(_BLOCK)
