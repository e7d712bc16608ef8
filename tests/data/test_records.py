"""Answers to annotate, in the shapes that are common."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pastalm.data.records import count_records, read_answers
from pastalm.files.lines import DataError

USER, REPLY = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    "row, messages",
    [
        ({"messages": [USER, REPLY]}, [USER]),
        ({"messages": [USER, REPLY, USER, REPLY]}, [USER, REPLY, USER]),
        ({"messages": [USER, REPLY, USER], "id": 7}, [USER]),
        ({"messages": [USER], "answer": "a"}, [USER]),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, [USER]),
        ({"prompt": "q", "answer": "a"}, [USER]),
        ({"prompt": [USER], "completion": "a"}, [USER]),
        ({"instruction": "q", "input": "", "output": "a"}, [USER]),
        ({"instruction": "q", "input": "x", "output": "a"}, [{"role": "user", "content": "q\n\nx"}]),
        ({"system_prompt": "s", "question": "q", "response": "a"}, [{"role": "system", "content": "s"}, USER]),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_common_shapes(tmp_path: Path, row: dict[str, Any], messages: list[Any], suffix: str):
    path = tmp_path / f"in{suffix}"
    if suffix == ".jsonl":
        path.write_text(json.dumps(row) + "\n\n")
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist([row]), path)
    (item,) = read_answers(str(path))
    assert (list(item.messages), item.answer, item.fault) == (messages, "a", "")
    assert item.id == ("7" if "id" in row else item.id) and count_records(path) == 1


def test_an_annotated_answer_is_the_answer(tmp_path: Path):
    """Also in a conversation, whose earlier turns are not."""
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "early"}]
    path = tmp_path / "in.jsonl"
    rows = [{"messages": [*turns[:1]]}, {"messages": [*turns, {"role": "user", "content": "more"}]}]
    path.write_text(
        "".join(json.dumps(row | {"annotated": "a<async topic='x'> b</async><sync/> c"}) + "\n" for row in rows)
    )
    assert [(one.answer, len(one.messages)) for one in read_answers(str(path))] == [("a b c", 1), ("a b c", 3)]


def test_ids_are_stable_and_apart(tmp_path: Path):
    path = tmp_path / "in.jsonl"
    rows = [{"prompt": "q", "answer": text} for text in "aba"]
    rows += [{"id": "x", **row} for row in rows]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    first = [item.id for item in read_answers(str(path))]
    assert first == [item.id for item in read_answers(str(path))]
    assert first[0] == first[2] != first[1] and first[3] == first[5] == "x" and first[4].startswith("x-")
    assert [item.id for item in read_answers(str(path), limit=2)] == first[:2] and count_records(path, 2) == 2


@pytest.mark.parametrize("text, said", [("{", "line 1: not JSON"), ('{"a": 1}', "known are"), ("[]", "not an object")])
def test_unreadable_sources(tmp_path: Path, text: str, said: str):
    path = tmp_path / "in.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        list(read_answers(str(path)))


def test_a_name_that_is_neither_file_nor_data_set():
    with pytest.raises(DataError, match="no such file"):
        list(read_answers("nowhere"))


def test_a_data_set_of_the_hub_is_streamed(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def load_dataset(name: str, split: str, streaming: bool) -> Iterator[dict[str, Any]]:
        asked.append((name, split, streaming))
        return iter([{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}] * 3)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    (item,) = read_answers("Open-Orca/SlimOrca", split="test", limit=1)
    assert item.answer == "a" and asked == [("Open-Orca/SlimOrca", "test", True)]
