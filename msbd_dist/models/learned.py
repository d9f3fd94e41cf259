"""Words that a model learned by textual inversion. No torch.

One of several vectors is stored as several tokens: ``<toy>``, ``<toy>_1``, ``<toy>_2``. Whoever
writes ``<toy>`` means all of them, as in diffusers.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import count, takewhile


def in_full(text: str, added: Collection[str]) -> str:
    """``text`` with every vector of each learned word; ``added``: the tokenizer's own tokens."""
    if not any(f"{word}_1" in added for word in added):
        return text
    words = sorted(added, key=len, reverse=True)
    found = re.compile("|".join(map(re.escape, words)))

    def whole(match: re.Match[str]) -> str:
        rest = _rest(match[0], added)
        told = text[match.end() :].lstrip().startswith(tuple(rest[:1]))
        return match[0] if told else " ".join([match[0], *rest])

    return found.sub(whole, text)


def _rest(word: str, added: Collection[str]) -> list[str]:
    return list(takewhile(added.__contains__, (f"{word}_{number}" for number in count(1))))
