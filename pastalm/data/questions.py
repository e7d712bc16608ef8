"""Prompts to answer, for evaluation and for stage 2: files in the common shapes, or generated tasks with a checker."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from pastalm.data.examples import tree_of
from pastalm.data.records import SHAPES, Record, read_records, text_problems
from pastalm.files.lines import DataError
from pastalm.lang.prompt import Message, as_text
from pastalm.tasks import FAMILIES, SPLITS, check, sample

TASKS = "tasks:"
DEFAULT_TASKS = 330
_KEY_LENGTH = 16


@dataclass(frozen=True)
class Question:
    """One prompt, a user's text or chat messages, and what its answers are judged by.

    ``family`` and ``facts`` are a generated task's, for its checker; ``answer`` is the data set's, without tags;
    ``index`` is the place in the set, from 0.
    """

    prompt: str | list[Message]
    dataset: str = ""
    family: str = ""
    facts: dict[str, Any] = field(default_factory=dict, hash=False)
    answer: str | None = None
    index: int = 0

    @property
    def instruction(self) -> str:
        """The prompt as one text."""
        return as_text(self.prompt)

    @property
    def key(self) -> str:
        """The same for the same prompt, on every run."""
        return sha256(json.dumps(self.prompt, sort_keys=True).encode()).hexdigest()[:_KEY_LENGTH]

    def accepts(self, text: str) -> bool | None:
        """The checker's verdict on an answer; None without a checker."""
        return check(self.family, self.facts, text) if self.family else None


def read_questions(source: str, limit: int | None = None) -> list[Question]:
    """The first ``limit`` prompts of a set, all if it is 0 or None.

    ``source``: records (:func:`pastalm.data.records.read_records`), perhaps with a task's ``family`` and ``facts``; or
    ``tasks:SPLIT[:NUMBER[:SEED]]`` for generated ones. Raises ``DataError`` with the place of the first prompt that
    cannot be read, or ``OSError``.
    """
    if source.startswith(TASKS):
        return _generated(source, limit)
    name = Path(source).name.split(".")[0]
    read = enumerate(read_records(source, limit=limit or None))
    found = [_question(record, name, index) for index, record in read]
    if not found:
        raise DataError(f"{source} has no prompts; write objects with {SHAPES}.")
    return found


def _question(record: Record, name: str, index: int) -> Question:
    for problem in text_problems(record):
        raise DataError(f"{record.place}: {problem}")
    family, facts = (record.fields.get(key) for key in ("family", "facts"))
    if family and not _checkable(family, facts):
        raise DataError(f"{record.place}: a task needs a family out of {', '.join(FAMILIES)}, and the 'facts' of one.")
    answer = tree_of(record).plain if record.annotated and record.answer is None else record.answer
    dataset = str(record.fields.get("dataset") or name)
    return Question(record.prompt, dataset, family or "", facts or {}, answer, index)


def _checkable(family: Any, facts: Any) -> bool:
    """Whether the checker of the family can use these facts: it is tried on an answer."""
    try:
        return isinstance(facts, dict) and check(family, facts, "None.") is not None
    except (LookupError, TypeError, ValueError, AttributeError):
        return False


def _generated(source: str, limit: int | None) -> list[Question]:
    split, *rest = source.removeprefix(TASKS).split(":")
    try:
        number, seed = [*map(int, rest), *(DEFAULT_TASKS, 1)[len(rest) :]]
    except ValueError:
        split = ""
    if split not in SPLITS or number < 1:
        raise DataError(f"{source!r} names no tasks; write tasks:SPLIT[:NUMBER[:SEED]], SPLIT {' or '.join(SPLITS)}.")
    tasks = sample(split, seed, min(number, limit or number))
    return [
        Question(task.prompt, f"tasks-{split}", task.family, task.facts, task.answer.plain, index)
        for index, task in enumerate(tasks)
    ]
