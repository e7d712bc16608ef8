"""The validator: every problem with its place."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest

from pastalm.data.check import Finding, check_file
from pastalm.files.lines import DataError
from pastalm.tasks import sample, to_json

GOOD = (
    "Oh.\n<async topic='one two'>five words they are here</async> and <async topic='b'>five more words here too</async>"
)


def of_line(line: str, number: int, max_depth: int = 1) -> list[Finding]:
    """What is wrong with a line that stands behind empty ones in a file of its own."""
    with NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write("\n" * (number - 1) + line)
        file.flush()
        (record,) = check_file(file.name, max_depth=max_depth)
    return list(record.findings)


def findings(annotated: str, max_depth: int = 1, **fields: object) -> list[Finding]:
    line = json.dumps({"prompt": "hello", "annotated": annotated, **fields})
    return of_line(line, 7, max_depth)


def raw(line: str) -> str:
    return " ".join(finding.message for finding in of_line(line, 1))


def test_good_records_have_no_findings():
    assert findings(GOOD) == []
    assert (
        findings(GOOD + "<sync/> done", answer="Oh.\nfive words they are here and five more words here too done") == []
    )
    assert raw(json.dumps({"messages": [{"role": "user", "content": "x"}], "annotated": GOOD})) == ""


def test_a_full_form_is_read_too():
    full = '<promise topic="a" tokens=1 /><async>one two three four five</async>'
    assert findings(full) == []


def test_parse_problems_keep_their_place():
    (found,) = findings("ab\ncd <async topic='a'>one two three four five")
    assert found.within == (2, 4) and "never closed" in found.message and found.line == 7


@pytest.mark.parametrize(
    "annotated, within, said",
    [
        ("x\n<async topic='a b c d'>one two three four five</async>", (2, 1), "4 words"),
        ('ab <promise topic="a b c d" tokens=2 /><async>one two three four five</async>', (1, 4), "4 words"),
        ("x <async topic='a'>one two three four</async>", (1, 3), "4 words"),
        ("x <async topic='a'>one</async>", (1, 3), "1 word;"),
        (GOOD + "<sync/>\n\n<sync/>", (4, 1), "no chunk to wait for"),
        ("text\n <sync/>", (2, 2), "no chunk to wait for"),
    ],
)
def test_the_annotators_rules(annotated: str, within: tuple[int, int], said: str):
    (found,) = findings(annotated)
    assert found.within == within and said in found.message


def test_nested_syncs_count_their_own_thread():
    inner = "<async topic='in'>one two three four five</async>"
    nested = f"<async topic='out'>one two three four five {inner}<sync/> end</async>"
    assert findings(nested, max_depth=2) == []
    assert "cannot nest" in findings(nested)[0].message
    (found,) = findings(f"<async topic='out'>one two three four five <sync/>{inner}</async>", max_depth=2)
    assert found.within == (1, 44)


def test_changed_text_is_shown_where_it_changes():
    annotated = "Say\n<async topic='a'>one two three four five</async> end"
    (found,) = findings(annotated, answer="Say\none two thrEe four five end")
    assert found.within == (2, 29) and "'ee four five end'" in found.message and "'Ee four five end'" in found.message
    (found,) = findings(annotated, answer="Say\none two three four five end.")
    assert found.within == (2, 53) and "nothing here" in found.message
    (found,) = findings(annotated + " ", answer="Say\none two three four five end")
    assert "nothing there" in found.message


def test_wrong_types_and_missing_fields():
    assert "not JSON" in raw("{oops") and "column 2" in raw("{oops")
    assert "not an object" in raw("[1]")
    assert "neither 'prompt' nor 'messages'" in raw('{"annotated": "x"}')
    assert "no 'annotated'" in raw('{"prompt": "x"}')
    assert "both" in raw('{"prompt": "y", "messages": [{"role": "user", "content": "x"}], "annotated": "x"}')
    assert "'prompt' must be" in raw('{"prompt": 3, "annotated": "x"}')
    assert "'annotated' must be" in raw('{"prompt": "x", "annotated": ["x"]}')
    assert "'answer' must be" in raw('{"prompt": "x", "annotated": "x", "answer": 1}')
    assert "must be a list" in raw('{"messages": "x", "annotated": "x"}')
    assert "message 2" in raw('{"messages": [{"role": "user", "content": "x"}, {"role": "user"}], "annotated": "x"}')


def test_all_problems_of_a_line_are_found():
    line = json.dumps({"annotated": "<async topic='a b c d'>one</async><sync/><sync/>"})
    assert len(of_line(line, 1)) == 4


def test_files(tmp_path: Path):
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(map(to_json, sample("train", 0, 22))) + "\n\n[]\n")
    records = list(check_file(file))
    assert len(records) == 23
    assert [record.number for record in records if record.findings] == [24]
    assert records[-1].findings[0].place(file) == f"{file}, line 24"


def test_a_line_that_is_not_text_is_a_finding(tmp_path: Path):
    file, good = tmp_path / "data.jsonl", json.dumps({"prompt": "hello", "annotated": GOOD}).encode()
    file.write_bytes(good + b'\n{"prompt": "\xff"}\n' + good + b"\n")
    records = list(check_file(file))
    assert [record.number for record in records] == [1, 2, 3]
    assert [record.findings for record in records] == [(), (Finding(2, "not UTF-8 text; save the file as UTF-8."),), ()]


def test_unreadable_files(tmp_path: Path):
    file = tmp_path / "data.jsonl"
    file.write_text("\n \n")
    with pytest.raises(DataError, match="empty"):
        list(check_file(file))
    file.write_bytes(b'{"prompt": "\xff"}')
    with pytest.raises(DataError, match="UTF-8"):
        list(check_file(file))
    with pytest.raises(FileNotFoundError):
        list(check_file(tmp_path / "none"))
