"""The data set that comes with the package: sound, split as its card says, and loadable in every way that it names."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from datasets import load_dataset

from pastalm.data.check import check_file
from pastalm.data.examples import read_annotated
from pastalm.data.questions import read_questions
from pastalm.data.records import read_records
from pastalm.files.lines import DataError

FOLDER = Path(__file__).parents[2] / "pastalm" / "data" / "pasta-instruct"
SIZES = {"instruct": {"train": 1913, "test": 220}, "assistant": {"train": 732, "test": 80}}


@pytest.mark.parametrize("split", ["train", "test"])
def test_its_splits_are_sound_and_fixed(split: str) -> None:
    records = [(one, one.record) for one in check_file(f"pasta-instruct:{split}")]
    assert [one.findings for one, _ in records if one.findings] == []
    assert len(records) == SIZES["instruct"][split] + SIZES["assistant"][split]
    assert len({record.id for _, record in records}) == len(records)
    held_out = [sha256(record.id.encode()).digest()[0] < 26 for _, record in records]
    assert set(held_out) == {split == "test"}


def test_datasets_loads_it(tmp_path: Path) -> None:
    both = load_dataset(str(FOLDER), cache_dir=str(tmp_path))
    assert {name: len(rows) for name, rows in both.items()} == {"train": 2645, "test": 300}
    for config, sizes in SIZES.items():
        for split, size in sizes.items():
            rows = load_dataset(str(FOLDER), config, split=split, cache_dir=str(tmp_path))
            assert len(rows) == size and set(rows.column_names) == {"id", "messages", "annotated"}
    assert [row["id"] for row in both["test"]] == [record.id for record in read_records("pasta-instruct:test")]


def test_commands_name_it() -> None:
    assert len(list(read_annotated("pasta-instruct"))) == 2645
    questions = read_questions("pasta-instruct/assistant/test.jsonl", 3)
    assert len(questions) == 3 and all("<async" not in (one.answer or "") and one.answer for one in questions)
    assert len(list(read_records(f"{FOLDER}:test", limit=5))) == 5
    with pytest.raises(DataError, match=r"no split 'dev'; it has train, test\."):
        list(read_records("pasta-instruct:dev"))
    with pytest.raises(FileNotFoundError):
        list(read_records("pasta-instruct/none.jsonl"))
