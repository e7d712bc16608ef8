"""What annotating has come to on disk: the annotated answers and, beside them, the rejects."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pastalm.annotation.tally import Tally
from pastalm.files.journal import Journal


class AnnotationResults:
    """Two journals, both of which are read on start. Use it as a context manager."""

    def __init__(self, out: Path) -> None:
        with ExitStack() as stack:
            self.accepted = stack.enter_context(Journal(out))
            self.rejected = stack.enter_context(Journal(rejects_path(out)))
            self._stack = stack.pop_all()

    def __enter__(self) -> AnnotationResults:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        self.accepted.sync()
        self.rejected.sync()

    def recall(self, tally: Tally) -> set[str]:
        """The ids that are finished; what they came to is counted in."""
        tally.accepted += len(self.accepted)
        tally.rejected.update(line.get("reason", "unknown") for line in self.rejected.values())
        for line in (*self.accepted.values(), *self.rejected.values()):
            tally.usage.add(line.get("usage"))
        return {*self.accepted, *self.rejected}


def rejects_path(out: Path) -> Path:
    """Where the rejects of ``out`` are written."""
    return out.with_suffix(".rejects.jsonl")
