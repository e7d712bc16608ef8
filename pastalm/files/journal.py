"""Journals: files of JSON lines that only grow. What is written is never done again, whatever ends a run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pastalm.files.lines import DataError
from pastalm.files.lock import lock

Key = Any  # the value of the key's field, or the tuple of the values if it has several
ID: Mapping[str, type] = {"id": str}


class Journal(Mapping[Key, dict[str, Any]]):
    """Objects by key, on disk; only keys and places are held in memory. Use it as a context manager, or close it.

    It is a mapping in the order of its keys, and its values are read when they are asked for.

    ``fields`` are the names and types (``str`` or ``int``) of the fields that make a key. Process 0 writes ``path``
    itself, process ``rank`` a file with the suffix ``.rank<n>.jsonl`` beside it; each reads all. The own file is
    locked, and a line in it that a kill has torn is cut off. Raises ``DataError`` for a file that another run writes,
    or that was not written by a journal of such keys, and ``OSError``.
    """

    def __init__(self, path: str | Path, fields: Mapping[str, type] = ID, rank: int = 0) -> None:
        self.path, self.fields = Path(path), dict(fields)
        self.own = self.path if rank == 0 else self.path.with_suffix(f".rank{rank}.jsonl")
        self.places: dict[Key, tuple[Path, int]] = {}
        self._read_to: dict[Path, tuple[int, int]] = {}  # bytes and lines
        self._file = open(self.own, "a+b", buffering=0)  # noqa: SIM115 -- open for as long as the journal
        try:
            lock(self._file, f"{self.own} is being written by another run; wait for it, or choose another file.")
            self.refresh()
            self._file.truncate(self._read_to[self.own][0])
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Wait until all is on the disk, and close the file."""
        if not self._file.closed:
            self.sync()
            self._file.close()

    def sync(self) -> None:
        """Wait until all is on the disk; a kill needs no such care, a power cut does."""
        os.fsync(self._file.fileno())

    def __contains__(self, key: object) -> bool:
        return key in self.places

    def __iter__(self) -> Iterator[Key]:
        return iter(sorted(self.places))

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        path, place = self.places[key]
        with open(path, "rb") as file:
            file.seek(place)
            return json.loads(file.readline())

    def append(self, value: dict[str, Any]) -> None:
        """Write an object; after that a kill cannot lose it. Raises ``OSError``, for instance on a full disk: then
        nothing of it is written."""
        key = {name: value[name] for name in self.fields}
        line = _line(key | value)
        place, number = self._read_to[self.own]
        try:
            _write(self._file, line)
        except OSError as error:
            self._file.truncate(place)
            raise type(error)(error.errno, error.strerror, str(self.own)) from error
        self.places[self._of(key)] = (self.own, place)
        self._read_to[self.own] = (place + len(line), number + 1)

    def refresh(self) -> None:
        """Take in what other processes have written since."""
        for path in sorted({self.own, *ranks(self.path)}):
            self._read(path)

    def _read(self, path: Path) -> None:
        place, number = self._read_to.get(path, (0, 0))
        with open(path, "rb") as file:
            file.seek(place)
            for line in file:
                if not line.endswith(b"\n"):  # torn, or still being written
                    self._require_ours(line, path, number + 1)
                    break
                self.places[self._key(line, path, number + 1)] = (path, place)
                place, number = place + len(line), number + 1
        self._read_to[path] = (place, number)

    def _key(self, line: bytes, path: Path, number: int) -> Key:
        try:
            value = json.loads(line)
            key = {name: value[name] for name in self.fields}
        except (ValueError, LookupError, TypeError, RecursionError):
            raise _foreign(path, number) from None
        if any(type(key[name]) is not kind for name, kind in self.fields.items()):
            raise _foreign(path, number)
        return self._of(key)

    def _of(self, key: dict[str, Any]) -> Key:
        return tuple(key.values()) if len(key) > 1 else next(iter(key.values()))

    def _require_ours(self, torn: bytes, path: Path, number: int) -> None:
        """Only the beginning of a line of ours may be cut off."""
        start = f'{{"{next(iter(self.fields))}": '.encode()
        if not torn.startswith(start[: len(torn)]):
            raise _foreign(path, number)


def ranks(path: Path) -> list[Path]:
    """The files of the journal ``path`` that are there, one for each process that has written."""
    rank = re.compile(re.escape(path.stem) + r"\.rank\d+\.jsonl")
    others = sorted(one for one in path.parent.glob("*.jsonl") if rank.fullmatch(one.name))
    return [one for one in (path, *others) if one.exists()]


def read_journal(path: Path) -> list[dict[str, Any]]:
    """What a journal holds, in the order of its lines, also while a run writes it; a torn last line is left out.

    Raises ``OSError``, or ``DataError`` with the place of a line that is no object.
    """
    return [_object(line, path, number) for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1)]


def _object(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise DataError(f"{path}, line {number}: no JSON object, so no program has written it; remove that line.")
    return value


def _line(value: dict[str, Any]) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair, which UTF-8 cannot hold and JSON can
        return json.dumps(value).encode() + b"\n"


def _write(file: Any, line: bytes) -> None:
    while line:
        line = line[file.write(line) :]


def _foreign(path: Path, number: int) -> DataError:
    return DataError(f"{path}, line {number}: not written by this command; choose another file to write.")
