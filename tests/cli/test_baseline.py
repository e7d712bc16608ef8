"""`pasta baseline apar`: files in, files out, and nothing half done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pastalm.cli import app
from pastalm.data.examples import read_annotated

runner = CliRunner()
LIST = "1. Oslo: a town by the sea.\n2. Lima: a town of millions.\n3. Kyoto: a town of gardens."


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    rows = [{"prompt": "Name a town.", "answer": f"Oslo {k}."} for k in range(4)]
    rows += [{"prompt": "Tags do not matter.", "answer": LIST, "annotated": f"<async topic='all of it'>{LIST}</async>"}]
    rows += [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": " "}]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def apar(*arguments: object) -> Result:
    return runner.invoke(app, ["baseline", "apar", *map(str, arguments)])


def test_half_of_the_answers_fork(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    done = apar(source, out)
    assert done.exit_code == 0 and done.stdout == ""
    assert done.stderr == (
        "1 of 5 answers fork (1 by lists, 0 by paragraphs); 8 lines written. Left out: no answer 1.\n"
    )
    answers = [record.answer for record in read_annotated(out)]
    assert sum(answer.depth == 1 for answer in answers) == 4 == len(answers) / 2
    assert {answer.plain for answer in answers} == {LIST, *(f"Oslo {k}." for k in range(4))}
    assert not list(tmp_path.glob("*.part"))


def test_as_it_is_keeps_number_and_order(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert apar(source, out, "--as-is").exit_code == 0
    depths = [record.answer.depth for record in read_annotated(out)]
    assert depths == [0, 0, 0, 0, 1]
    assert apar(source, out, "--as-is", "--limit", 3).exit_code == 0
    assert len(list(read_annotated(out))) == 3


def test_a_broken_input_changes_nothing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("kept")
    with source.open("a") as file:
        file.write("{broken\n")
    done = apar(source, out)
    assert done.exit_code == 2 and "line 7: not JSON" in done.stderr and done.stderr.count("\n") == 1
    assert out.read_text() == "kept" and not list(tmp_path.glob("*.part"))


def test_refusals_are_one_sentence(source: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"prompt": "hi", "answer": " "}\n')
    for arguments, said in (
        ((source, source), "would be read and written at once"),
        ((tmp_path / "none.jsonl", tmp_path / "out.jsonl"), "No such file"),
        ((empty, tmp_path / "out.jsonl"), "has no answer that can be used: no answer 1."),
        ((source, tmp_path / "nowhere" / "out.jsonl"), "There is no directory"),
    ):
        done = apar(*arguments)
        assert done.exit_code == 2 and said in done.stderr and done.stderr.count("\n") == 1
