"""Tables as spreadsheets write them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from msbd_dist.batch.manifest import read_manifest
from msbd_dist.core.spec import EditSpec
from msbd_dist.errors import ManifestError

HEADER = "id,image,mask,prompt"
ROW = "a,i.png,m.png,x"


def read(folder: Path, text: str, name: str = "jobs.csv", encoding: str = "utf-8") -> EditSpec:
    """The only edit of a table."""
    path = folder / name
    path.write_bytes(text.encode(encoding))
    (edit,) = read_manifest(path).edits
    return edit


TABLES = {
    "trailing columns": f"{HEADER},,\n{ROW},,\n",
    "trailing cells": f"{HEADER}\n{ROW},,\n",
    "an empty column between": "id,,image,mask,prompt\na,,i.png,m.png,x\n",
    "rows of nothing": f"{HEADER}\n,,,\n{ROW}\n,,,\n",
    "semicolons": f"{HEADER}\n{ROW}\n".replace(",", ";"),
    "sep": f"sep=,\n{HEADER}\n{ROW}\n",
    "sep of semicolons": "SEP=;\r\n" + f"{HEADER}\r\n{ROW}\r\n".replace(",", ";"),
    "sep of something else": "sep=|\n" + f"{HEADER}\n{ROW}\n".replace(",", "|"),
    "a quoted sep": f'"sep=,"\n{HEADER}\n{ROW}\n',
    "capitals": f"ID,Image,MASK,Prompt\n{ROW}\n",
    "spaces": f" id , image,mask,prompt\n{ROW}\n",
    "carriage returns": f"{HEADER}\r\n{ROW}\r\n",
    "old line ends": f"{HEADER}\r{ROW}\r",
    "quotes": '"id","image","mask","prompt"\n"a","i.png","m.png","x"\n',
    "a mark": f"\ufeff{HEADER}\n{ROW}\n",
    "lines before": f"\n\n{HEADER}\n{ROW}\n",
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_may_be_as_spreadsheets_write_it(case: str, tmp_path: Path) -> None:
    edit = read(tmp_path, TABLES[case])
    places = (Path(str(edit.image)).name, Path(str(edit.mask)).name)
    assert (edit.id, *places, edit.prompt) == ("a", "i.png", "m.png", "x")


def test_a_table_of_tabs_and_one_of_wide_characters(tmp_path: Path) -> None:
    tabs = f"{HEADER}\n{ROW}\n".replace(",", "\t").replace("x", "ein Stern, groß")
    assert read(tmp_path, tabs, "jobs.tsv").prompt == "ein Stern, groß"
    assert read(tmp_path, tabs, "jobs.csv").prompt == "ein Stern, groß"
    assert read(tmp_path, tabs, "wide.csv", "utf-16").prompt == "ein Stern, groß"
    assert read(tmp_path, "\ufeff" + tabs, "big.csv", "utf-16-be").prompt == "ein Stern, groß"


@pytest.mark.parametrize(
    ("cell", "meant"),
    [*((word, True) for word in ("TRUE", "True", "true", "on")), ("FALSE", False), ("off", False)],
)
def test_truths_are_read_however_they_are_written(cell: str, meant: bool, tmp_path: Path) -> None:
    assert read(tmp_path, f"{HEADER},rerank\n{ROW},{cell}\n").method.rerank is meant


def test_a_truth_is_text_where_text_is_wanted(tmp_path: Path) -> None:
    assert read(tmp_path, f"{HEADER}\na,i.png,m.png,TRUE\n").prompt == "TRUE"


def test_a_comma_is_in_numbers_where_it_separates_no_cells(tmp_path: Path) -> None:
    text = f"{HEADER};Margin;decoder-lr;Steps\n{ROW};1,5;1E-04;20\n"
    method = read(tmp_path, text.replace(",", ";", 3).replace("a,i.png,m.png,x", "a;i.png;m.png;x"))
    assert (method.method.margin, method.method.decoder_lr, method.method.steps) == (1.5, 1e-4, 20)
    with pytest.raises(ManifestError, match=r":2: margin: got '1,5'; wanted a number"):
        read(tmp_path, f'{HEADER},margin\n{ROW},"1,5"\n')


WRONG = {
    "a cell in no column": (f"{HEADER}\n{ROW},y\n", ":2: has 5 cells and the header 4"),
    "a cell in an unnamed column": (
        f"{HEADER},,\n{ROW},,note\n",
        ":2: has 'note' in a column without a name; name the column or empty it",
    ),
    "another word": (f"{HEADER},promt\n{ROW},x\n", ":1: promt: is not a known key; did you mean"),
    "one column twice": (f"{HEADER},Prompt\n{ROW},x\n", ":1: prompt: is given twice"),
    "no quote": (f'sep=,\n\n{HEADER}\n{ROW}\nb,"i"j.png,m.png,x\n', ":5: not valid CSV"),
    "later lines": (f"sep=,\n{HEADER}\n\n{ROW}\nb,i.png,m.png\n", ":5: has no `prompt`"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_table_is_said_with_its_line(case: str, tmp_path: Path) -> None:
    text, said = WRONG[case]
    with pytest.raises(ManifestError) as error:
        read(tmp_path, text)
    assert said in str(error.value)


def test_what_is_no_text_says_how_to_save_it(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="is not UTF-8 text; save it as such"):
        read(tmp_path, f"{HEADER}\na,i.png,m.png,größer\n", encoding="cp1252")
    for start in (b"PK\3\4", b"\xd0\xcf\x11\xe0"):
        (tmp_path / "jobs.xlsx").write_bytes(start + bytes(range(256)))
        with pytest.raises(ManifestError, match=r"(workbook|archive); save its sheet"):
            read_manifest(tmp_path / "jobs.xlsx")


@example(prompt="a\rb", delimiter=",", line_end="\n", quoting=csv.QUOTE_MINIMAL)
@given(
    prompt=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
    delimiter=st.sampled_from(",;\t"),
    line_end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_any_prompt_comes_through_any_table(
    prompt: str,
    delimiter: str,
    line_end: str,
    quoting: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if "\r" in prompt:  # not all versions of csv quote it by themselves, and bare it ends a line
        quoting = csv.QUOTE_ALL
    table = io.StringIO(newline="")
    writer = csv.writer(table, delimiter=delimiter, lineterminator=line_end, quoting=quoting)
    writer.writerows([HEADER.split(","), ["a", "i.png", "[1, 2, 3, 4]", prompt]])
    assert read(tmp_path_factory.getbasetemp(), table.getvalue()).prompt == prompt
