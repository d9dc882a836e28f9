from pathlib import Path

import pytest

from training.data.json_lines import json_lines

PATH = Path("corpora/own.jsonl")


def test_each_value_comes_with_the_number_of_its_line() -> None:
    lines = ['{"a": 1}\n', b'"\xc3\xa9"\n', "7"]
    assert list(json_lines(lines, PATH, "reader 'jsonl'")) == [
        (1, {"a": 1}),
        (2, "é"),
        (3, 7),
    ]


def test_blank_lines_hold_no_value_but_are_counted() -> None:
    assert list(json_lines(["\n", " \t\n", "1\n", ""], PATH, "x")) == [(3, 1)]


def test_a_line_that_is_not_json_is_named() -> None:
    with pytest.raises(ValueError, match=r"^corpora/own\.jsonl:2: not in the format of reader 're3d': "):
        list(json_lines(["1\n", "{]\n"], PATH, "reader 're3d'"))
