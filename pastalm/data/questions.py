"""Prompts to answer, for evaluation and for stage 2: files in the common shapes, or generated tasks with a checker."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from pastalm.annotation.prompts import Message
from pastalm.annotation.verdict import as_text
from pastalm.data.examples import message_problems, read_annotated
from pastalm.files.lines import DataError, decoded, objects
from pastalm.tasks import FAMILIES, SPLITS, check, sample

SHAPES = "'instruction', 'prompt' or 'messages' (role, content)"
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

    ``source``: a JSON list or JSON lines, plain or ``.gz``, of objects with ``instruction`` (AlpacaEval's form),
    ``prompt`` or ``messages``, perhaps ``answer`` or ``annotated``, perhaps a task's ``family`` and ``facts``; or
    ``tasks:SPLIT[:NUMBER[:SEED]]`` for generated ones. Raises ``DataError`` with the place of the first prompt that
    cannot be read, or ``OSError``.
    """
    if source.startswith(TASKS):
        return _generated(source, limit)
    name = Path(source).name.split(".")[0]
    read = enumerate(islice(rows(Path(source)), limit or None))
    found = [_question(row, place, name, index) for index, (place, row) in read]
    if not found:
        raise DataError(f"{source} has no prompts; write objects with {SHAPES}.")
    return found


def rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON list or of JSON lines, each with its place."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            lines = list(decoded(file, path))
    except (gzip.BadGzipFile, EOFError) as error:
        raise DataError(
            f"{path} is not what its name says ({error}); give JSON or JSON lines, plain or gzipped."
        ) from error
    if lines and lines[0][1].lstrip().startswith("["):
        yield from _list("\n".join(line for _, line in lines), path)
        return
    yield from objects(lines, path)


def _list(text: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON ({error.msg}); write a list of objects, or one object a line.") from error
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            raise DataError(f"{path}, item {number}: not an object; write {SHAPES}.")
        yield f"{path}, item {number}", item


def _question(row: dict[str, Any], place: str, name: str, index: int) -> Question:
    prompt = next((row[key] for key in ("messages", "prompt", "instruction") if row.get(key)), None)
    if isinstance(prompt, list):
        for problem in message_problems(prompt):
            raise DataError(f"{place}: {problem}")
    elif not isinstance(prompt, str) or not prompt.strip():
        raise DataError(f"{place}: has no prompt; write {SHAPES}.")
    family, facts = row.get("family") or "", row.get("facts") or {}
    if family and not _checkable(family, facts):
        raise DataError(f"{place}: a task needs a family out of {', '.join(FAMILIES)}, and the 'facts' of one.")
    return Question(prompt, str(row.get("dataset") or name), family, facts, _answer(row, place), index)


def _checkable(family: Any, facts: Any) -> bool:
    """Whether the checker of the family can use these facts: it is tried on an answer."""
    try:
        return isinstance(facts, dict) and check(family, facts, "None.") is not None
    except (LookupError, TypeError, ValueError, AttributeError):
        return False


def _answer(row: dict[str, Any], place: str) -> str | None:
    answer, annotated = row.get("answer"), row.get("annotated")
    if not isinstance(answer or "", str) or not isinstance(annotated or "", str):
        raise DataError(f"{place}: 'answer' and 'annotated' must be texts, or left out.")
    return read_annotated(row, place).plain if annotated and answer is None else answer


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
