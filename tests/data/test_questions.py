"""Prompt sets in every shape, and the place of what cannot be read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from pastalm.data.questions import read_questions
from pastalm.files.lines import DataError
from pastalm.tasks import sample, to_json

ROWS = [
    {"instruction": "One?", "output": "1", "dataset": "d"},
    {"prompt": "Two?"},
    {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Three?"}]},
]


def test_every_shape(tmp_path: Path):
    texts = {
        "set.json": json.dumps(ROWS, indent=1),
        "set.jsonl": "\n\n".join(map(json.dumps, ROWS)) + "\n",
    }
    found = []
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        found += [read_questions(str(tmp_path / name)), read_questions(str(tmp_path / f"{name}.gz"))]
    assert all(one == found[0] for one in found)
    assert [one.instruction for one in found[0]] == ["One?", "Two?", "system: Be brief.\n\nuser: Three?"]
    assert [one.dataset for one in found[0]] == ["d", "set", "set"]
    assert len({one.key for one in found[0]}) == 3 and [one.key for one in found[0]] == [one.key for one in found[1]]
    assert len(read_questions(str(tmp_path / "set.json"), 2)) == 2
    assert all(one.accepts("x") is None for one in found[0])


def test_generated_tasks_and_files_of_them_have_their_checker(tmp_path: Path):
    tasks = sample("held-out", 7, 4)
    drawn = read_questions("tasks:held-out:4:7")
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(to_json, tasks)))
    read = read_questions(str(tmp_path / "tasks.jsonl"))
    for task, one, other in zip(tasks, drawn, read, strict=True):
        assert one.prompt == other.prompt == task.prompt and one.key == other.key
        assert one.accepts(task.answer.plain) and other.accepts(task.answer.plain)
        assert not one.accepts("nonsense") and not other.accepts("nonsense")
        assert one.answer == other.answer == task.answer.plain and one.index == other.index
    assert [one.index for one in read] == [0, 1, 2, 3]
    assert len(read_questions("tasks:held-out", 3)) == 3
    assert len(read_questions("tasks:train:5")) == 5


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "has no prompts"),
        ('{"prompt": "x"}\n{"prompt": ', "line 2: not JSON"),
        ('[{"prompt": "x"}', "not JSON"),
        ('{"prompt": "x"}\n"y"', "line 2: not an object"),
        ('[{"prompt": "x"}, {"answer": "y"}]', "item 2: has no prompt"),
        ('{"prompt": "  "}', "line 1: 'prompt' must be a text that is not empty"),
        ('{"messages": [{"role": "user"}]}', "line 1: message 1 must"),
        ('{"prompt": "x", "annotated": "<async>"}', "line 1, in 'annotated': "),
        ('{"prompt": "x", "annotated": 5}', "line 1: 'annotated' must be a text"),
        ('{"prompt": "x", "family": "profiles", "facts": {"x": 1}}', "line 1: a task needs"),
        ('{"prompt": "x", "family": "unknown", "facts": {}}', "line 1: a task needs"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(tmp_path: Path, text: str, says: str):
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(DataError, match=says):
        read_questions(str(tmp_path / "bad.jsonl"))


def test_other_files_are_refused(tmp_path: Path):
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "é"}'.encode("latin-1"))
    (tmp_path / "not.json.gz").write_text("[]")
    for name, says in (("latin.jsonl", "line 1: not UTF-8"), ("not.json.gz", "not what its name says")):
        with pytest.raises(DataError, match=says):
            read_questions(str(tmp_path / name))
    with pytest.raises(FileNotFoundError):
        read_questions(str(tmp_path / "none.json"))


@pytest.mark.parametrize("source", ["tasks:", "tasks:other", "tasks:train:x", "tasks:train:0", "tasks:train:1:2:3"])
def test_tasks_are_named_right(source: str):
    with pytest.raises(DataError, match="tasks:SPLIT"):
        read_questions(source)
