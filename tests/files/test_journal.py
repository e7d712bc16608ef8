"""Journals: every object once, by key, whatever ends a run; several processes; foreign files left alone."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from pastalm.files.journal import Journal, ranks, read_journal
from pastalm.files.lines import DataError
from pastalm.files.lock import held

PAIR = {"prompt": int, "sample": int}


def test_what_is_written_is_there_again_and_its_key_stands_first(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    with Journal(path) as journal:
        journal.append({"text": "é", "id": "b"})
        journal.append({"id": "a", "text": "\ud800"})
        assert len(journal) == 2 and "a" in journal and "c" not in journal
    assert path.read_bytes().startswith('{"id": "b", "text": "é"}\n'.encode())
    with Journal(path) as again:
        assert list(again) == ["a", "b"] and again["b"]["text"] == "é" and again["a"]["text"] == "\ud800"
        assert [one["id"] for one in again.values()] == ["a", "b"]
    assert [one["id"] for one in read_journal(path)] == ["b", "a"]


@pytest.mark.parametrize("size", [1, 4, 20])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, size: int):
    path = tmp_path / "a.jsonl"
    with Journal(path, PAIR) as journal:
        journal.append({"prompt": 0, "sample": 0})
    kept = path.read_bytes()
    path.write_bytes(kept + b'{"prompt": 1, "sample": 3'[:size])
    assert len(read_journal(path)) == 1
    with Journal(path, PAIR) as journal:
        assert list(journal) == [(0, 0)]
        journal.append({"prompt": 1, "sample": 0})
    assert path.read_bytes() == kept + b'{"prompt": 1, "sample": 0}\n'


@pytest.mark.parametrize(
    "text, line",
    [
        ("notes", 1), ("notes\n", 1), ("\n", 1), ('{"id": 3}\n', 1), ('{"id": "a"}\n{"x": 1}\n', 2), ("[1]\n", 1),
        ('{"id": "a"}\nnotes', 2), ("[" * 100_000 + "\n", 1),
    ],
)  # fmt: skip
def test_a_foreign_file_is_left_alone(tmp_path: Path, text: str, line: int):
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"a\.jsonl, line {line}: not written by this command"):
        Journal(path)
    assert path.read_text() == text


@pytest.mark.parametrize("value", ['"a"', "true", "1.0", "null"])
def test_a_key_of_another_type_is_foreign(tmp_path: Path, value: str):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"prompt": {value}, "sample": 0}}\n')
    with pytest.raises(DataError, match="not written by this command"):
        Journal(path, PAIR)


def test_a_second_run_is_kept_away(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    with Journal(path), pytest.raises(DataError, match="being written by another run"):
        Journal(path)
    Journal(path).close()
    with held(tmp_path / "lock"), pytest.raises(DataError, match="in use by another run"), held(tmp_path / "lock"):
        pass


def test_processes_write_files_of_their_own_and_read_all(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    with Journal(path, PAIR) as first, Journal(path, PAIR, rank=1) as second:
        first.append({"prompt": 0, "sample": 0})
        second.append({"prompt": 0, "sample": 1})
        assert list(first) == [(0, 0)]
        first.refresh()
        assert list(first) == [(0, 0), (0, 1)] and first[0, 1]["sample"] == 1
        with open(tmp_path / "a.rank1.jsonl", "ab") as file:
            file.write(b'{"prompt": 5')  # the other is writing it just now
        first.refresh()
        assert len(first) == 2
    assert ranks(path) == [path, tmp_path / "a.rank1.jsonl"]
    assert (tmp_path / "a.rank1.jsonl").read_bytes().endswith(b'{"prompt": 5'), "only its own process cuts a file"


def test_a_name_that_only_begins_as_a_processs_file_is_none(tmp_path: Path):
    (tmp_path / "a[b].ranked.jsonl").write_text('{"id": "x"}\n')
    (tmp_path / "ab.rank1.jsonl").write_text('{"id": "y"}\n')
    with Journal(tmp_path / "a[b].jsonl") as journal, Journal(tmp_path / "a[b].jsonl", rank=1) as other:
        other.append({"id": "z"})
        journal.refresh()
        assert list(journal) == ["z"]


class FullDisk:
    """A file on a disk that takes some bytes more and then none."""

    def __init__(self, file, room: int) -> None:
        self.file, self.room = file, room

    def write(self, line: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = self.file.write(line[: self.room])
        self.room -= taken
        return taken

    def __getattr__(self, name: str):
        return getattr(self.file, name)


def test_a_full_disk_leaves_whole_lines(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    with Journal(path) as journal:
        journal.append({"id": "a"})
        whole = path.read_bytes()
        journal._file, real = FullDisk(journal._file, 7), journal._file
        with pytest.raises(OSError, match=r"No space left on device: .*a\.jsonl"):
            journal.append({"id": "b", "text": "longer"})
        assert path.read_bytes() == whole and "b" not in journal
        journal._file = real
        journal.append({"id": "c"})
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["a", "c"]
