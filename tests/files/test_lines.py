"""Files of JSON lines: what is wrong with one is said in one wording, with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from pastalm.data.examples import read_annotated
from pastalm.files.lines import DataError
from pastalm.files.rows import objects


def test_lines_keep_their_numbers(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": 2}')
    assert list(objects(path)) == [(f"{path}, line 1", {"a": 1}), (f"{path}, line 4", {"a": 2})]


@pytest.mark.parametrize(
    "line, says",
    [
        (b'{"a": }', r"line 2: not JSON \(Expecting value, column 7\); write one object a line"),
        (b"[1]", "line 2: not an object"),
        (b'{"a": "\xff"}', "line 2: not UTF-8 text"),
        (b"[" * 100_000, "line 2: nested too deeply"),
        (b'{"a": ' + b"7" * 5000 + b"}", "line 2: a number in it has too many digits"),
    ],
)
def test_a_bad_line(tmp_path: Path, line: bytes, says: str):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b"\n")
    with pytest.raises(DataError, match=says):
        list(objects(path))


@pytest.mark.parametrize(
    "line, says",
    [
        ('{"prompt": 5, "annotated": "x"}', "line 1: 'prompt' must be a text"),
        ('{"prompt": "p", "annotated": 5}', "line 1: 'annotated' must be a text"),
        ('{"prompt": "p", "annotated": null}', "line 1: 'annotated' must be a text"),
        ('{"messages": [{"role": "user"}], "annotated": "x"}', "line 1: message 1 must be an object"),
        ('{"prompt": "p", "annotated": "<async>"}', "line 1, in 'annotated': line 1"),
    ],
)
def test_training_says_what_the_validator_says(tmp_path: Path, line: str, says: str):
    path = tmp_path / "a.jsonl"
    path.write_text(line)
    with pytest.raises(DataError, match=says):
        list(read_annotated(path))
