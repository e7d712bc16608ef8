"""A file of JSON lines that only grows, each line with a key: work that is written is never done again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pastalm.data.examples import DataError
from pastalm.files.lock import lock

Key = tuple[int, ...]


class Journal:
    """Records by key, on disk; only keys and places are held in memory. Use it as a context manager.

    ``fields`` name the whole numbers that make a record's key. Process 0 writes ``path`` itself, process n a file with
    the suffix ``.rank<n>.jsonl`` beside it; each reads all. A line torn by a kill is cut off on opening. Raises
    ``DataError`` for a file that is none of these. That no two runs write one file is the caller's care, see
    :func:`held`.
    """

    def __init__(self, path: Path, fields: tuple[str, ...], rank: int = 0) -> None:
        self.path, self.fields = path, fields
        self.own = path if rank == 0 else path.with_suffix(f".rank{rank}.jsonl")
        self.places: dict[Key, tuple[Path, int]] = {}
        self.read_to: dict[Path, int] = {}
        self.file = open(self.own, "a+b")  # noqa: SIM115 -- open for as long as the journal
        try:
            self.refresh()
            self.file.truncate(self.read_to[self.own])
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def __contains__(self, key: Key) -> bool:
        return key in self.places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        path, place = self.places[key]
        with open(path, "rb") as file:
            file.seek(place)
            return json.loads(file.readline())

    def keys(self) -> list[Key]:
        """All keys, in ascending order."""
        return sorted(self.places)

    def records(self) -> Iterator[dict[str, Any]]:
        """All records, in the order of their keys."""
        return map(self.__getitem__, self.keys())

    def append(self, record: dict[str, Any]) -> None:
        """Write a record; after that a kill cannot lose it."""
        place = self.read_to[self.own]
        line = json.dumps(record).encode() + b"\n"
        self.file.write(line)
        self.file.flush()
        self.places[tuple(record[name] for name in self.fields)] = (self.own, place)
        self.read_to[self.own] = place + len(line)

    def refresh(self) -> None:
        """Take in what other processes have written since."""
        for path in sorted({self.own, *self._others()}):
            self._read(path)

    def _others(self) -> list[Path]:
        ranks = self.path.parent.glob(f"{self.path.stem}.rank*.jsonl")
        return [path for path in (self.path, *ranks) if path.exists()]

    def _read(self, path: Path) -> None:
        place = self.read_to.setdefault(path, 0)
        with open(path, "rb") as file:
            file.seek(place)
            for line in file:
                if not line.endswith(b"\n"):  # torn, or still being written
                    self._require_ours(line, path)
                    break
                self.places[self._key(line, path)] = (path, place)
                place += len(line)
        self.read_to[path] = place

    def _key(self, line: bytes, path: Path) -> Key:
        try:
            record = json.loads(line)
            return tuple(int(record[name]) for name in self.fields)
        except (ValueError, LookupError, TypeError):
            raise _foreign(path) from None

    def _require_ours(self, torn: bytes, path: Path) -> None:
        """Only the beginning of a line of ours may be cut off."""
        start = f'{{"{self.fields[0]}": '.encode()
        if not torn.startswith(start[: len(torn)]):
            raise _foreign(path)


def _foreign(path: Path) -> DataError:
    return DataError(f"{path} was not written by this command; choose another --out.")


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a lock file. The system lets go when this process ends, however it ends. Raises ``DataError`` if another run
    holds it."""
    with open(path, "ab") as file:
        lock(file, f"{path.parent} is in use by another run; wait for it, or choose another --out.")
        yield
