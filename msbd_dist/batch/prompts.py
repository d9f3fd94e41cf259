"""Words of prompts that mean something to other programs, and are read literally here.

Programs for pictures give some words a meaning of their own: weights, LoRAs, wildcards, names of
embeddings. Here a prompt is a text and nothing else, so that such words are painted, if anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator

_SHOWN = 6  # words that one warning names
_LONGEST = 40  # characters of one of them
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_NAMES = (  # embeddings that many prompts name
    r"\w*[a-z]_v\d[\w.]*|(?:easy|fast|very|deep)_?negative\w*|ng_\w+|negative_?hand\w*|"
    r"bad-?hands?-?v?\d\w*|bad[-_]?artist(?:-anime)?|(?:very)?bad_?(?:image|prompt)\w*|"
    r"(?:bad|unrealistic)dream|epicnegative\w*"
)
_LITERAL = (  # what is no ordinary text, by what it means elsewhere
    rf"\((?:[^()\[\]]*(?:[^\d()\[\]\s]|\d{{3}}))\s*:\s*{_NUMBER}\s*\)",  # (word:1.3), no (10:30)
    r"\(\(+[^()]*\)+",  # ((word))
    rf"\([^()]+\)(?:\++|-+|{_NUMBER})(?=[\s,.;]|$)",  # (word)++, (word)1.3
    r"(?<![A-Za-z])[A-Za-z]{2,}\+\+(?=[\s,.;]|$)",  # word++
    r"\[(?!\s*(?:\.{3}|…|sic|\d+)\s*\])[^\[\]]+\]",  # [word], [from:to:0.5], [a|b]
    r"\\[(\[][^()\[\]\\]*\\[)\]]",  # \(word\), brackets that are to be no weights
    r"<[A-Za-z]+:[^<>]*>",  # <lora:name:0.8>
    r"(?<!\w)__(?=[^_])[\w./*-]{1,80}?__(?!\w)",  # __wildcard__
    r"\{[^{}]*[^{}\s][^{}]*\}",  # {a|b}, {word}
    r"\bembedding:[\w./-]+",
    r"(?<![\w-])[\w-]{1,100}\.(?:safetensors|ckpt|pth?|bin)\b",
    r"(?<=\w)::-?[\d.]*",  # one::2 other
    r"(?<!\S)--(?:ar|aspect|v|version|s|stylize|q|quality|c|chaos|no|seed|style|iw|niji|tile|weird)\b"
    r"(?:\s+[\d.:]+)?",  # --ar 3:2
    rf"(?i:(?<![\w-])(?:{_NAMES})(?![\w-]))",
)
_PATTERN = re.compile("|".join(_LITERAL))
_HINT = re.compile(  # without any of these there is nothing of the above, nor of the below
    r"[(\[{<\\_]|\+\+|::|--|embedding:|\.(?:safe|ck|pt|bin)|AND|BREAK|(?i:negative|bad|dream)"
)
_EMBEDDING = re.compile(r"<[\w.-]+>")
_WORD = re.compile(r"[\w.-]*\w")
_KEYWORD = re.compile(r"(?<=[\s,.;])(?:BREAK|AND)(?=[\s,.;])")
_CAPITALS_BEFORE = re.compile(r"(?<![\w.])[A-Z][A-Z.&'-]*\W*$")
_CAPITALS_AFTER = re.compile(r"\W*[A-Z][A-Z.&'-]*(?![\w.])")


def told(found: list[str]) -> str:
    """What is said of words that `literal` has found; ``found`` is not empty."""
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    shown = ", ".join(f"{word:.{_LONGEST}}" for word in found[:_SHOWN]) + more
    return (
        f"has {shown}: read as plain text; weights, LoRAs, wildcards, alternatives and embeddings "
        f"of other programs mean nothing here"
    )


def literal(
    text: str, knows: Callable[[str], bool] = lambda _: False, names: Collection[str] = ()
) -> list[str]:
    """The parts of a prompt that mean something elsewhere and are read as they stand, in order.

    ``<word>`` is none of them where the model ``knows`` it; ``names`` of embeddings, in lower case,
    are among them.
    """
    found = _hinted(text, knows) if _HINT.search(text) else {}
    if names:
        words = _WORD.finditer(text)
        found |= {word.start(): word[0] for word in words if word[0].lower() in names}
    return list(dict.fromkeys(" ".join(found[at].split()) for at in sorted(found)))


def _hinted(text: str, knows: Callable[[str], bool]) -> dict[int, str]:
    """The same of a text that may well have some, by where they begin."""
    found = {match.start(): match[0] for match in _PATTERN.finditer(text)}
    for match in _EMBEDDING.finditer(text):
        if not knows(match[0]):
            found[match.start()] = match[0]
    return found | {match.start(): match[0] for match in _keywords(text)}


def _keywords(text: str) -> Iterator[re.Match[str]]:
    """BREAK and AND by themselves among other words; none in a sign or a title."""
    for match in _KEYWORD.finditer(text):
        before, after = text[: match.start()], text[match.end() :]
        title = _CAPITALS_BEFORE.search(before[-40:]) or _CAPITALS_AFTER.match(after)
        if not title and before.count('"') % 2 == 0:
            yield match
