"""Every common shape of a record in every file form, read by every command in the same way."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from pastalm.data.apar import mark
from pastalm.data.check import check_file, read_sound
from pastalm.data.examples import read_annotated
from pastalm.data.questions import read_questions
from pastalm.data.records import count_records, read_answers, read_records
from pastalm.files.lines import DataError

PLAIN, MARKED = "So: five words are in it.", "So: <async topic='x'>five words are in it.</async>"
USER, REPLY = {"role": "user", "content": "q"}, {"role": "assistant", "content": PLAIN}
SYSTEM = {"role": "system", "content": "s"}
GPT = [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": PLAIN}]
PARTS = [
    {"role": role, "content": [{"type": "text", "text": text}]} for role, text in (("user", "q"), ("assistant", PLAIN))
]
# A record's fields, and its messages before the answer.
SHAPES: dict[str, tuple[dict[str, Any], list[dict[str, str]]]] = {
    "prompt": ({"prompt": "q", "answer": PLAIN}, [USER]),
    "alpaca": ({"instruction": "q", "input": "x", "output": PLAIN}, [{"role": "user", "content": "q\n\nx"}]),
    "alpaca without input": ({"instruction": "q", "input": "", "output": PLAIN}, [USER]),
    "dolly": ({"instruction": "q", "context": "x", "response": PLAIN}, [{"role": "user", "content": "q\n\nx"}]),
    "orca": ({"system_prompt": "s", "question": "q", "response": PLAIN}, [SYSTEM, USER]),
    "system": ({"system": "s", "prompt": "q", "completion": PLAIN}, [SYSTEM, USER]),
    "input": ({"input": "q", "output": PLAIN}, [USER]),
    "openai": ({"messages": [USER, REPLY]}, [USER]),
    "openai with parts": ({"messages": PARTS}, [USER]),
    "several turns": ({"messages": [SYSTEM, USER, REPLY, USER, REPLY]}, [SYSTEM, USER, REPLY, USER]),
    "answer apart": ({"messages": [SYSTEM, USER], "answer": PLAIN}, [SYSTEM, USER]),
    "sharegpt": ({"conversations": GPT}, [SYSTEM, USER]),
    "sharegpt with a system": ({"conversations": GPT[1:], "system": "s"}, [SYSTEM, USER]),
    "ultrachat": ({"prompt": "q", "prompt_id": "1", "messages": [USER, REPLY]}, [USER]),
    "trl": ({"prompt": [USER], "completion": [REPLY]}, [USER]),
    "history": ({"instruction": "q", "output": PLAIN, "history": [["q", PLAIN]]}, [USER, REPLY, USER]),
    "nulls": ({"messages": None, "prompt": "q", "input": None, "system": None, "answer": PLAIN, "id": None}, [USER]),
    "empty answer": ({"messages": [USER, REPLY], "answer": ""}, [USER]),
    "null texts": ({"messages": [USER, REPLY], "prompt": None, "answer": None, "output": None}, [USER]),
}
FORMS = ["jsonl", "crlf.jsonl", "json", "parquet", "jsonl.gz", "json.gz", "parquet.gz", "folder", "saved"]
every_shape = pytest.mark.parametrize(("fields", "messages"), SHAPES.values(), ids=list(SHAPES))


def write(folder: Path, form: str, rows: list[dict[str, Any]]) -> Path:
    """Rows in a file form."""
    path = folder / f"in.{form}"
    if form == "saved":
        DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(str(path))
        return path
    if form == "folder":
        path.mkdir()
        (path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    if form.startswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        data = path.read_bytes()
    elif form.startswith("json") and "jsonl" not in form:
        data = json.dumps(rows, indent=1).encode()
    else:
        end = "\r\n" if form.startswith("crlf") else "\n"
        data = b"\xef\xbb\xbf" + "".join(json.dumps(row) + end for row in rows).encode()
    path.write_bytes(gzip.compress(data) if form.endswith(".gz") else data)
    return path


@every_shape
@pytest.mark.parametrize("form", FORMS[:7])
def test_the_reader_understands_every_shape_in_every_form(
    tmp_path: Path, form: str, fields: dict[str, Any], messages: list[dict[str, str]]
) -> None:
    path = write(tmp_path, form, [fields, fields | {"extra": 7}])
    one, other = read_records(path)
    assert list(one.messages) == list(other.messages) == messages
    assert one.answer == other.answer == PLAIN and one.annotated is None
    assert count_records(path) in (2, None)


@pytest.mark.parametrize("form", ["folder", "saved"])
@pytest.mark.parametrize("name", ["alpaca", "openai", "nulls"])
def test_folders_of_datasets_are_read(tmp_path: Path, form: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    fields, messages = SHAPES[name]
    (record,) = read_records(write(tmp_path, form, [fields]))
    assert (list(record.messages), record.answer) == (messages, PLAIN)


@every_shape
@pytest.mark.parametrize("form", ["jsonl", "json.gz", "parquet"])
def test_all_commands_read_the_same(
    tmp_path: Path, form: str, fields: dict[str, Any], messages: list[dict[str, str]]
) -> None:
    """annotate and apar, eval and prefer, train, check and audit."""
    path = write(tmp_path, form, [fields | {"annotated": MARKED}])
    prompt = messages[0]["content"] if messages[1:] == [] and messages[0]["role"] == "user" else messages
    (answer,) = read_answers(path)
    assert (answer.prompt, answer.answer, answer.fault) == (prompt, PLAIN, "")
    (marked,) = mark([answer], Counter())
    assert marked["answer"] == PLAIN and marked.get("prompt", marked.get("messages")) == prompt
    (question,) = read_questions(str(path))
    assert (question.prompt, question.answer) == (prompt, PLAIN)
    (example,) = read_annotated(path)
    assert example.prompt == prompt and example.answer.plain == PLAIN and len(list(example.answer.blocks())) == 1
    (checked,) = check_file(path)
    assert checked.findings == () and read_sound(path)[0].record.prompt == prompt


WRONG = [
    ({"text": "q"}, "has no prompt, neither 'prompt' nor 'messages', only 'text'"),
    ({"prompt": 5}, "'prompt' must be a text"),
    ({"prompt": ""}, "has no prompt: it is empty"),
    ({"prompt": "a", "question": "b"}, "has both 'prompt' and 'question', which differ"),
    ({"prompt": "a", "answer": "b", "output": "c"}, "has both 'answer' and 'output', which differ"),
    ({"prompt": "a", "messages": [USER]}, "has both 'messages' and 'prompt', which differ"),
    ({"prompt": "a", "input": 5}, "'input' must be a text"),
    ({"prompt": "a", "system": ["s"]}, "'system' must be a text"),
    ({"prompt": "a", "output": 5}, "'output' must be a text"),
    ({"prompt": "a", "history": [["q"]]}, "'history' must be a list of pairs"),
    ({"prompt": "a", "history": 5}, "'history' must be a list of pairs"),
    ({"prompt": "a", "history": True}, "'history' must be a list of pairs"),
    ({"prompt": "a", "history": {"q": "a"}}, "'history' must be a list of pairs"),
    ({"prompt": "a", "tools": [{"name": "f"}]}, "has tools, which are not read"),
    ({"messages": []}, "'messages' must be a list of objects"),
    ({"messages": "q"}, "'messages' must be a list of objects"),
    ({"messages": [REPLY]}, "an answer without a prompt"),
    ({"messages": [USER, {"role": "narrator", "content": "x"}]}, "message 2 has the role 'narrator'"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "message 1 must be an object"),
    ({"messages": [USER, REPLY], "answer": "other"}, "its messages end with an answer, and 'answer' gives another"),
    ({"messages": [SYSTEM, USER], "system": "other"}, "a system message among its messages and another in 'system'"),
    ({"conversations": [{"from": "human"}]}, "message 1 must be an object with the texts 'from' and 'value'"),
]


@pytest.mark.parametrize(("fields", "says"), WRONG, ids=[str(number) for number in range(len(WRONG))])
def test_what_is_not_understood_is_refused_with_its_place_by_all(
    tmp_path: Path, fields: dict[str, Any], says: str
) -> None:
    good = SHAPES["prompt"][0] | {"annotated": MARKED}
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(map(json.dumps, (good, fields | {"annotated": MARKED}))))
    for read in (read_answers, lambda path: read_questions(str(path)), read_annotated, read_sound):
        with pytest.raises(DataError, match=rf"in\.jsonl, line 2: .*{says}"):
            list(read(path))
    (_, found) = check_file(path)
    assert any(says in finding.message for finding in found.findings)


@pytest.mark.parametrize("form", ["jsonl.gz", "json.gz", "parquet.gz", "parquet"])
def test_damaged_files_are_a_sentence(tmp_path: Path, form: str) -> None:
    path = write(tmp_path, form, [SHAPES["prompt"][0] | {"annotated": MARKED, "n": k} for k in range(500)])
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], data[:60] + b"\0" * 40 + data[100:], b"not a file of this kind"):
        path.write_bytes(damaged)
        for read in (read_answers, lambda path: read_questions(str(path)), read_annotated, read_sound):
            with pytest.raises(DataError, match=rf"in\.{form}"):
                list(read(path))


def test_a_plain_answer_trains_where_tags_are_not_wanted(tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl", [SHAPES["openai"][0]])
    with pytest.raises(DataError, match="line 1: has no 'annotated'"):
        list(read_annotated(path))
    (example,) = read_annotated(path, plain=True)
    assert example.prompt == "q" and example.answer.plain == PLAIN
