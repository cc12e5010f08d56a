"""Judged tables of others: whatever their columns are called, and what is said of those that are none."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from gateway.routing.tables import Judged, judged_table

READ = {
    "our own names, in another order": (
        "strong_correct,more,prompt,task,weak_correct\n1,x,one,sum,0\nFalse,y,two,,true\n",
        ("weak_correct", "strong_correct", 0, [Judged("one", 0, 1, "sum"), Judged("two", 1, 0)]),
    ),
    "names of models, the better one first, with answers and an index": (
        ",prompt,big,small,big_response\n0,one,True,False,yes\n1,two,True,True,no\n17,three,False,False,\n",
        ("small", "big", 0, [Judged("one", 0, 1), Judged("two", 1, 1), Judged("three", 0, 0)]),
    ),
    "marks from 1 to 10": (
        "question_id,prompt,a,b\n81,one,2,9.5\n82,two,10,7\n83,three,1,10\n",
        ("a", "b", 0, [Judged("one", 0.2, 0.95), Judged("two", 1, 0.7), Judged("three", 0.1, 1)]),
    ),
    "a mark at the beginning, lines that end otherwise": (
        "\ufeffprompt, weak_correct ,strong_correct\r\none,0,1\r\n",
        ("weak_correct", "strong_correct", 0, [Judged("one", 0, 1)]),
    ),
    "objects of JSON": (
        '{"prompt": "one\\ntwo", "big": true, "small": 0.0, "more": [1]}\n\n{"prompt": "b", "big": 1, "small": null}\n'
        '{"small": "1", "prompt": "three", "big": 1, "id": 77}\n',
        ("small", "big", 1, [Judged("one\ntwo", 0, 1), Judged("three", 1, 1)]),
    ),
    "few rows, which are numbered": (
        "Unnamed: 0,prompt,small,big\n0,one,1,1\n1,two,0,1\n2,three,0,1\n",
        ("small", "big", 0, [Judged("one", 1, 1), Judged("two", 0, 1), Judged("three", 0, 1)]),
    ),
    "two columns without a name": (
        ",prompt,weak_correct,strong_correct,\n0,one,0,1,\n",
        ("weak_correct", "strong_correct", 0, [Judged("one", 0, 1)]),
    ),
    "rows that nobody judged": (
        "prompt,weak_correct,strong_correct\none,,1\ntwo,NaN,1\n,0,1\nshort\nfive,0,1\n",
        ("weak_correct", "strong_correct", 4, [Judged("five", 0, 1)]),
    ),
}


@pytest.mark.parametrize(("text", "expected"), READ.values(), ids=READ.keys())
def test_a_table_is_read_whatever_its_columns_are_called(
    tmp_path: Path, text: str, expected: tuple[str, str, int, list[Judged]]
) -> None:
    (tmp_path / "table.csv").write_text(text, newline="")

    table = judged_table(tmp_path / "table.csv")

    assert (table.weak, table.strong, table.left_out, list(table.rows)) == expected


def test_prompts_may_be_long_and_have_lines_and_commas(tmp_path: Path) -> None:
    long = 'one, "two"\nthree ' * 20_000
    with (tmp_path / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("prompt", "weak_correct", "strong_correct"), (long, 0, 1)])

    (row,) = judged_table(tmp_path / "table.csv").rows

    assert row == Judged(long, 0, 1)


NONE = {
    "nothing": ("", "no column prompt; there are none"),
    "no prompt": ("question,a\nx,1\n", "no column prompt; there are question, a"),
    "one column": ("prompt,weak_correct\nx,1\n", "no column strong_correct"),
    "no judgement": ("prompt,answer\nx,because\n", "no column holds judgements; call the two that count weak_correct"),
    "one judgement": ("prompt,a,b\nx,1,maybe\n", r"1 columns hold judgements \(a\)"),
    "three judgements": ("prompt,a,b,c\nx,1,0,1\n", r"3 columns hold judgements \(a, b, c\)"),
    "a word": ("prompt,weak_correct,strong_correct\nx,1,maybe\n", "csv:2: .*'maybe'.*is judged true or false"),
    "too much": ("prompt,weak_correct,strong_correct\nx,1,11\n", "csv:2: 11 is out of range"),
    "grades and marks": ("prompt,weak_correct,strong_correct\nx,0,2\n", "2 is out of range where others are below 1"),
    "a word under the name of a model": (
        "prompt,small,big\n" + "x,0,1\n" * 3 + "y,maybe,1\n",
        "csv:5: .*'maybe'.*is judged true or false",
    ),
    "a mark under the name of a model": ("prompt,small,big\nx,1,9\ny,2,9\nz,3,11\n", "csv:4: 11 is out of range"),
    "a quotation without end": (
        'prompt,weak_correct,strong_correct\na,0,1\n"b,0,1\nc,0,1\n',
        "the row that begins in line 3: unexpected end",
    ),
    "half an object": ('{"prompt": "x", "a": 0, "b": 1}\n{"prompt": "y", "a"', "csv:2: is no object of JSON"),
    "another value of JSON": ('{"prompt": "x", "a": 0, "b": 1}\n[1]\n', "csv:2: is no object of JSON"),
    "half a character": ('{"prompt": "\\ud800", "a": 0, "b": 1}\n', "csv:1: is no object of JSON"),
    "no rows": ("prompt,weak_correct,strong_correct\n", "no row with a prompt and both judgements"),
    "too many fields": ("prompt,weak_correct,strong_correct\nx,1,0,1\n", "begins in line 2: it has more fields"),
    "twice": ("prompt,a,a\nx,1,0\n", "two columns of one name"),
}


@pytest.mark.parametrize(("text", "words"), NONE.values(), ids=NONE.keys())
def test_of_what_is_no_table_it_is_said_why(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "table.csv").write_text(text)

    with pytest.raises(ValueError, match=words) as refused:
        judged_table(tmp_path / "table.csv")

    assert str(tmp_path / "table.csv") in str(refused.value)


def test_a_directory_and_bytes_that_are_no_text_are_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(b"prompt,\xff\xfe\n")

    with pytest.raises(ValueError, match="is a directory; name the tables in it"):
        judged_table(tmp_path)
    with pytest.raises(ValueError, match="no text in UTF-8"):
        judged_table(tmp_path / "table.csv")
