"""The tokenizer: CLIP's byte-pair encoding over the few words of the world.

Each known word is one token; any other falls apart into letters, digits and signs. Every merge of
the encoding ends a word, so that none can take place inside an unknown one.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import CLIPTokenizer

from msbd_dist.tiny.scenes import COLOURS, PATTERNS, PLAINS, SHAPES

LENGTH = 24  # tokens of a caption, start and end included
SIZES = ("small", "big")
PLACES = ("left", "right", "above", "below")
OTHERS = ("a", "an", "and", "on", "of", "the", "in", "photo", "picture")
WORDS = (*OTHERS, *SIZES, *PLACES, *COLOURS, *SHAPES, *PLAINS, *PATTERNS)

_SIGNS = string.ascii_lowercase + string.digits + ".,!?'-:;()\"&/"
_START, _END = "<|startoftext|>", "<|endoftext|>"


def tokenizer() -> CLIPTokenizer:
    """The family's tokenizer, new each time."""
    with TemporaryDirectory() as folder:
        _write_vocabulary(Path(folder))
        return CLIPTokenizer.from_pretrained(folder, model_max_length=LENGTH)


@cache
def _tokenizer() -> CLIPTokenizer:
    return tokenizer()


def tokens(texts: Iterable[str]) -> list[list[int]]:
    """The numbers of each text's tokens, `LENGTH` of them."""
    padded = _tokenizer()(list(texts), padding="max_length", truncation=True, max_length=LENGTH)
    return list(padded.input_ids)


def write_tokenizer(folder: Path) -> None:
    """Writes every form that transformers and others read: tokenizer.json, vocab and merges."""
    tokenizer().save_pretrained(folder)
    _write_vocabulary(folder)


def _write_vocabulary(folder: Path) -> None:
    merges = list(dict.fromkeys(merge for word in sorted(WORDS) for merge in _merges(word)))
    tokens = [*_SIGNS, *(sign + "</w>" for sign in _SIGNS), *("".join(pair) for pair in merges)]
    numbered = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    for special in (_START, _END):  # the end has the highest number: CLIP pools there
        numbered[special] = len(numbered)
    (folder / "vocab.json").write_text(json.dumps(numbered))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")


def _merges(word: str) -> Iterator[tuple[str, str]]:
    """The pairs that build a word from its end: ("e", "d</w>"), ("r", "ed</w>")."""
    tail = word[-1] + "</w>"
    for letter in reversed(word[:-1]):
        yield letter, tail
        tail = letter + tail
