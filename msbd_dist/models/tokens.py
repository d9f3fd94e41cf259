"""A model's own tokenizer, from its files alone: how long a prompt is, what does not fit. No torch.

What counts tokens while a model runs is transformers' class; it is made of the same files.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from msbd_dist.errors import ModelError
from msbd_dist.models.card import Card
from msbd_dist.models.learned import in_full
from msbd_dist.models.sources import read_json, reason, source

_START, _END = "<|startoftext|>", "<|endoftext|>"
_WORDS = (  # how CLIP takes a text apart
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_EMBEDDINGS = (".safetensors", ".pt", ".bin")
_SHOWN = 60  # characters of what does not fit


@dataclass(frozen=True)
class Tokens:
    """A text encoder's tokens, of which it holds ``most``, start and end among them."""

    tokenizer: Tokenizer
    most: int

    def too_long(self, text: str) -> str | None:
        """Why a text does not fit, in a few words; None where it does."""
        text = in_full(text, self._added)
        found = self.tokenizer.encode(text)
        if len(found.ids) <= self.most:
            return None
        return too_long(len(found.ids), self.most, text[found.offsets[self.most - 1][0] :])

    @cached_property
    def _added(self) -> frozenset[str]:
        return frozenset(
            token.content for token in self.tokenizer.get_added_tokens_decoder().values()
        )

    def knows(self, word: str) -> bool:
        """Whether a word is one token by itself, such as a learned one."""
        return self.tokenizer.token_to_id(word) is not None


@lru_cache(maxsize=4)
def tokens_of(card: Card) -> Tokens:
    """The tokens of a model; `ModelError` where its tokenizer can't be had or read."""
    folder = source(card.location).fetch("tokenizer") / "tokenizer"
    return Tokens(_read(folder), card.family.max_tokens)


@lru_cache(maxsize=4)
def embeddings_beside(card: Card) -> frozenset[str]:
    """Names, in lower case, of the embeddings that lie where other programs look for them."""
    place = Path(card.file or card.location)
    folders = (
        place.parent / "embeddings",
        place / "embeddings",
        place.parent.parent / "embeddings",
    )
    files = (file for folder in folders if folder.is_dir() for file in folder.iterdir())
    return frozenset(file.stem.lower() for file in files if file.suffix in _EMBEDDINGS)


def too_long(count: int, most: int, beyond: str) -> str:
    """How a text of ``count`` tokens is told; ``beyond`` is the part of it that does not fit."""
    beyond = beyond.strip()
    end = f"{beyond[:_SHOWN]}…" if len(beyond) > _SHOWN else beyond
    return (
        f"has {count} tokens with start and end, this text encoder holds {most}: shorten it; "
        f"{end!r} does not fit"
    )


def _read(folder: Path) -> Tokenizer:
    try:
        file = folder / "tokenizer.json"
        found = Tokenizer.from_file(str(file)) if file.is_file() else _made(folder)
        found.no_truncation()
        found.no_padding()
        found.encode("a red star")
    except ModelError:
        raise
    except Exception as error:  # the library has no other class for files that it can't read
        raise ModelError(f"{folder}: can't be read ({reason(error)}): restore its files") from error
    return found


def _made(folder: Path) -> Tokenizer:
    """CLIP's tokenizer of a vocabulary and merges, and of tokens that were added to them."""
    model = BPE.from_file(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        unk_token=_END,
        end_of_word_suffix="</w>",
    )
    found = Tokenizer(model)
    found.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    found.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    found.add_special_tokens([_START, _END])
    found.add_tokens(_added(folder))
    end, start = ((word, found.token_to_id(word) or 0) for word in (_END, _START))
    found.post_processor = processors.RobertaProcessing(
        end, start, trim_offsets=False, add_prefix_space=False
    )
    return found


def _added(folder: Path) -> list[AddedToken]:
    """Tokens beside the vocabulary, such as those of textual inversion."""
    config, old = (
        read_json(folder / name) if (folder / name).is_file() else {}
        for name in ("tokenizer_config.json", "added_tokens.json")
    )
    kept: dict[str, Any] = config.get("added_tokens_decoder") or {}
    told: dict[str, dict[str, bool]] = {word: {} for word in old}
    told |= {one["content"]: {k: one[k] for k in _FLAGS if k in one} for one in kept.values()}
    return [AddedToken(word, **flags) for word, flags in told.items()]
