"""Words that other programs give a meaning are told, and ordinary ones are not."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from msbd_dist.batch.notes import MOST, Saying, notes_of
from msbd_dist.batch.prompts import literal
from msbd_dist.batch.validate import validate
from msbd_dist.core.spec import EditSpec, ModelSpec
from msbd_dist.models.card import Card, resolve

LITERAL = {
    "a (red:1.3) star": ["(red:1.3)"],
    "a ( red hair : .8 ) star": ["( red hair : .8 )"],
    "(masterpiece, best quality:1.2), (1girl:1.2)": [
        "(masterpiece, best quality:1.2)",
        "(1girl:1.2)",
    ],
    "(from 1920:1.2)": ["(from 1920:1.2)"],
    "((red)) (((blue))) star": ["((red))", "(((blue)))"],
    "[red] star, [cat:dog:0.5], [cat|dog]": ["[red]", "[cat:dog:0.5]", "[cat|dog]"],
    "<lora:add_detail:0.8> <lyco:x:1> <hypernet:y>": [
        *("<lora:add_detail:0.8>", "<lyco:x:1>", "<hypernet:y>"),
    ],
    "a __color__ cat, __art/styles__": ["__color__", "__art/styles__"],
    "{cat|dog} {2$$a|b|c} {prompt}": ["{cat|dog}", "{2$$a|b|c}", "{prompt}"],
    "a lion BREAK grass": ["BREAK"],
    "a lion\nBREAK\na cat AND a dog": ["BREAK", "AND"],
    "a <missing> on grass": ["<missing>"],
    "embedding:some_thing, x": ["embedding:some_thing"],
    "EasyNegative, badhandv4, bad-hands-5": ["EasyNegative", "badhandv4", "bad-hands-5"],
    "ng_deepnegative_v1_75t, verybadimagenegative_v1.3": [
        *("ng_deepnegative_v1_75t", "verybadimagenegative_v1.3"),
    ],
    r"saber \(fate\)": [r"\(fate\)"],
    "apple++ (pear)1.3 (plum)-": ["apple++", "(pear)1.3", "(plum)-"],
    "a cat::2 dog --ar 16:9": ["::2", "--ar 16:9"],
    "style.safetensors": ["style.safetensors"],
}
ORDINARY = """
a house (in ruins)
a clock (10:30), a bus at 10:30
a screen (ratio 16:9), a map (scale 1:2.5), Psalm (23:4)
Statue of Roman Emperor, Canon 5D Mark 3, 35mm, flickr
a C++ book, an A+ grade, Disney+
A BREAK IN THE CLOUDS
a sign that says "BREAK", a box "SALT AND PEPPER"
a B AND B hotel, Tom AND JERRY
a portrait of Anna (1.70 m tall), a house (built in 1920: brick)
a man - an old one -- in a hat
it's the dog's ball; a cat's [sic] tail [...]
f/1.8, ISO 100, 1/200 s, 50% off, #1, <3, R&B, :) and (:
negative space, a bad hand of cards, a deep negative
(a) lion, (b) tiger; under_score_d names
black-and-white photo of a V-2, model T
""".strip().splitlines()


@pytest.mark.parametrize("text", LITERAL)
def test_words_with_a_meaning_elsewhere_are_found(text: str) -> None:
    assert literal(text) == LITERAL[text]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_words_are_none(text: str) -> None:
    assert literal(text) == []


@given(st.text(alphabet="ab AND<>()[]{}|:_.+-\\1", max_size=60))
def test_what_is_found_stands_in_the_text(text: str) -> None:
    plain = " ".join(text.split())
    assert all(word in plain for word in literal(text))


def test_a_word_that_the_model_has_learned_is_none() -> None:
    assert literal("a <toy> and a <cat>", lambda word: word == "<toy>") == ["<cat>"]


def test_names_of_files_beside_the_model_are_found() -> None:
    assert literal("a photo, MyStyle, else", names={"mystyle"}) == ["MyStyle"]


def spec(**keys: str) -> EditSpec:
    return EditSpec(id="e", image="a.png", mask="m.png", **{"prompt": "a star", **keys})


@pytest.fixture
def card() -> Card:
    return resolve(ModelSpec())


def test_a_note_names_the_words_and_the_key(card: Card) -> None:
    (note,) = notes_of(spec(prompt="a [red] (blue:1.2) star"), card)
    assert str(note).startswith("prompt has [red], (blue:1.2): read as plain text; weights, LoRAs")
    notes = list(notes_of(spec(negative_prompt="EasyNegative " + "{a|b} (c:1.1)" * 9), card))
    assert str(notes[0]).startswith("negative_prompt has EasyNegative, {a|b}, (c:1.1): read")


def test_a_run_says_no_more_than_is_read(caplog: pytest.LogCaptureFixture) -> None:
    say = Saying()
    with caplog.at_level(logging.WARNING):
        for number in range(1000):
            say(f"e{number}", ["has [red]"])
    assert len(caplog.messages) == MOST + 1
    assert caplog.messages[0] == "edit e0: has [red]"
    assert "validate" in caplog.messages[-1]


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    """A list of 300 edits of which each has another word, and the last one a long prompt."""
    Image.new("RGB", (80, 60)).save(tmp_path / "a.png")
    mask = [10, 10, 30, 30]
    with (tmp_path / "jobs.jsonl").open("w") as file:
        for number in range(300):
            prompt = f"a [red{number}] star" if number < 299 else "star " * 40
            row = {"id": f"e{number}", "image": "a.png", "mask": mask, "prompt": prompt}
            file.write(json.dumps(row) + "\n")
    return tmp_path / "jobs.jsonl"


def test_a_long_list_is_told_of_in_few_lines(jobs: Path) -> None:
    checked = validate(jobs)  # which does not say what for
    assert checked.problems == []
    told = [warning.message for warning in checked.warnings]
    assert len(told) == 102
    assert "has 42 tokens with start and end, this text encoder holds 24" in told[100]
    assert told[100].endswith("give --models as for the run")
    assert told[101].endswith("199 more warnings of this kind")


def test_a_prompt_that_is_too_long_is_a_problem_where_the_model_is_said(jobs: Path) -> None:
    edits = [json.loads(line) for line in jobs.read_text().splitlines()]
    listed = jobs.with_suffix(".yaml")
    listed.write_text(json.dumps({"models": "tiny", "edits": edits[-2:]}, indent=1))
    (problem,) = validate(listed).problems
    assert (problem.key, problem.edit) == ("edits[1].prompt", "e299")
    assert "prompt: has 42 tokens with start and end, this text encoder holds 24" in problem.message
