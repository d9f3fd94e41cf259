"""Tokens are counted without torch exactly as transformers' tokenizer counts them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from folders import edit_json, write_json
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from msbd_dist.core.spec import ModelSpec
from msbd_dist.errors import ModelError
from msbd_dist.models.card import bundled_folder, resolve
from msbd_dist.models.tokens import Tokens, tokens_of

TEXTS = (
    *("", "a red star", "A Photo of CAFÉ naïve", "一只红色的石狮子", "a 🦁 lion 🏞️", "   spaces   "),
    *("line one\nline two\ttab", "a (red:1.3) star", "<lora:add_detail:0.8> a lion", "x" * 400),
    *("a lion <|endoftext|> and a cat", "it's the dog's ball", "ﬁligree &amp; co", "word " * 76),
    *("a <one> on grass", "a <toy> <toy>_1 <TOY> on grass", "İstanbul ǅ ß", "1234 5,6"),
)
KINDS = ("one file", "vocabulary", "added by name", "added by number")


def folder_of(kind: str, root: Path) -> Path:
    """The bundled family's folder with its tokenizer as one of the ways in which it is written."""
    folder = root / kind
    shutil.copytree(bundled_folder(), folder, ignore=shutil.ignore_patterns("clip", "upscaler"))
    write_json(folder / "msbd.json", {})
    tokenizer, words = folder / "tokenizer", ["<one>", "<toy>", "<toy>_1"]
    size = len(json.loads((tokenizer / "vocab.json").read_text()))
    if kind != "one file":
        (tokenizer / "tokenizer.json").unlink()
    if kind == "added by name":
        write_json(tokenizer / "added_tokens.json", {w: size + n for n, w in enumerate(words)})
    if kind == "added by number":
        flags = {"lstrip": False, "rstrip": False, "single_word": False}
        added = {
            str(size + n): {"content": w, "normalized": False, "special": False, **flags}
            for n, w in enumerate(words)
        }
        edit_json(tokenizer / "tokenizer_config.json", added_tokens_decoder=added)
    return folder


def tokens_in(folder: Path) -> Tokens:
    return tokens_of(resolve(ModelSpec(family=str(folder))))


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_those_of_the_models_own_class(kind: str, tmp_path: Path) -> None:
    folder = folder_of(kind, tmp_path)
    ours = tokens_in(folder)
    theirs = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    for text in TEXTS:
        assert len(ours.tokenizer.encode(text).ids) == len(theirs(text, verbose=False).input_ids)
    assert ours.knows("<toy>") == kind.startswith("added")


@given(st.text(max_size=40))
def test_any_text_has_as_many(text: str) -> None:
    ours, theirs = tokens_of(resolve(ModelSpec())), _theirs()
    assert len(ours.tokenizer.encode(text).ids) == len(theirs(text, verbose=False).input_ids)


@cache
def _theirs() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(bundled_folder() / "tokenizer", local_files_only=True)


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    tokens = tokens_of(resolve(ModelSpec()))
    assert tokens.too_long("star " * 22) is None
    why = tokens.too_long("star " * 22 + "on green GRASS")
    assert why == (
        "has 27 tokens with start and end, this text encoder holds 24: shorten it; "
        "'on green GRASS' does not fit"
    )
    assert "…' does not fit" in str(tokens.too_long("star " * 100))


def test_a_tokenizer_that_cant_be_read_is_named(tmp_path: Path) -> None:
    folder = folder_of("one file", tmp_path)
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer: can't be read \(.*restore its files"):
        tokens_in(folder)


def test_counting_loads_no_torch() -> None:
    code = (
        "import sys; from msbd_dist.core.spec import ModelSpec\n"
        "from msbd_dist.models.card import resolve\n"
        "from msbd_dist.models.tokens import tokens_of\n"
        "assert tokens_of(resolve(ModelSpec())).too_long('a star ' * 30)\n"
        "sys.exit(bool({'torch', 'transformers', 'ray'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
