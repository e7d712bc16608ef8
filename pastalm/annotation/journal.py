"""Files of JSON lines that only grow: what is written is never asked again, whatever ends a run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pastalm.annotation.tally import Tally
from pastalm.files.lines import DataError
from pastalm.files.lock import lock


class Lines:
    """A file of JSON lines that only grows, by whole lines; one that was torn by a kill is cut off on opening."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = open(path, "a+b")  # noqa: SIM115 -- open for as long as the journal
        try:
            lock(self.file, f"{path} is being written by another run; wait for it, or choose another file.")
            self.records = self._read()
        except BaseException:
            self.file.close()
            raise

    def _read(self) -> list[dict[str, Any]]:
        self.file.seek(0)
        *lines, torn = self.file.read().split(b"\n")
        records = [self._record(line, number) for number, line in enumerate(lines, 1)]
        if torn:  # a run was killed while it wrote; the beginning shows that the line is one of ours
            start = b'{"id": '
            if not torn.startswith(start[: len(torn)]):
                raise self._foreign(len(lines) + 1)
            self.file.truncate(self.file.tell() - len(torn))
        return records

    def _record(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except ValueError:
            raise self._foreign(number) from None
        if not isinstance(record, dict) or not isinstance(record.get("id"), str):
            raise self._foreign(number)
        return record

    def _foreign(self, number: int) -> DataError:
        return DataError(f"{self.path}, line {number}: not written by this command; choose another file to write.")

    def append(self, record: dict[str, Any]) -> None:
        try:
            line = json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # half a surrogate pair, which UTF-8 cannot hold and JSON can
            line = json.dumps(record).encode()
        self.file.write(line + b"\n")
        self.file.flush()


class Journal:
    """The annotated answers and, beside them, the rejects; both are read on start. Use it as a context manager."""

    def __init__(self, out: Path) -> None:
        self.accepted = Lines(out)
        try:
            self.rejected = Lines(rejects_path(out))
        except BaseException:
            self.accepted.file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: Any) -> None:
        self.accepted.file.close()
        self.rejected.file.close()

    def sync(self) -> None:
        """Wait until all lines are on the disk; a kill needs no such care, a power cut does."""
        os.fsync(self.accepted.file.fileno())
        os.fsync(self.rejected.file.fileno())

    def recall(self, tally: Tally) -> set[str]:
        """The ids that are finished; what they came to is counted in."""
        accepted, rejected = self.accepted.records, self.rejected.records
        tally.accepted += len(accepted)
        tally.rejected.update(record.get("reason", "unknown") for record in rejected)
        for record in accepted + rejected:
            tally.usage.add(record.get("usage"))
        self.accepted.records, self.rejected.records = [], []
        return {record["id"] for record in accepted + rejected}


def rejects_path(out: Path) -> Path:
    """Where the rejects of ``out`` are written."""
    return out.with_suffix(".rejects.jsonl")
