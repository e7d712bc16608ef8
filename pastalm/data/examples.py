"""Training examples: JSON lines of prompts and annotated answers, encoded and packed into rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from pastalm.files.lines import DataError, read_objects
from pastalm.lang.answer import Answer
from pastalm.lang.parse import AnnotationError, parse
from pastalm.lang.positions import PositionPolicy
from pastalm.lang.script import Script, compile_script
from pastalm.lang.tags import is_whole
from pastalm.lang.vocabulary import Vocabulary

TEXTS = ("prompt", "messages", "annotated", "answer")  # the fields that are read


@dataclass(frozen=True)
class Record:
    """One line of a data file: a prompt (one string, or chat messages) and its annotated answer."""

    prompt: str | list[dict[str, str]]
    answer: Answer


@dataclass(frozen=True)
class Example:
    """A record as token ids: the prompt's, and the answer's script."""

    prompt: Sequence[int]
    script: Script

    def __len__(self) -> int:
        return len(self.prompt) + len(self.script.tokens)


def read_records(path: str | Path, *, max_depth: int = 1) -> Iterator[Record]:
    """Read JSON lines with ``prompt`` (a string: the user's message) or ``messages``, and ``annotated``.

    Raises :class:`DataError` with file and line for the first line that cannot be read.
    """
    for place, fields in read_objects(path):
        for problem in field_problems(fields):
            raise DataError(f"{place}: {problem}")
        yield Record(
            fields["messages"] if "messages" in fields else fields["prompt"], read_annotated(fields, place, max_depth)
        )


def read_annotated(fields: dict[str, Any], place: str, max_depth: int = 1) -> Answer:
    """The answer of a record as a tree. Raises :class:`DataError` with its place."""
    try:
        return parse(fields["annotated"], max_depth=max_depth)
    except AnnotationError as error:
        raise DataError(f"{place}, in 'annotated': {error}") from error


def field_problems(fields: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the fields of a record, a sentence each; what is annotated is not looked into."""
    if "prompt" not in fields and "messages" not in fields:
        yield "has neither 'prompt' nor 'messages'; give one of them."
    if "prompt" in fields and "messages" in fields:
        yield "has both 'prompt' and 'messages'; give one of them."
    if not is_whole(json.dumps([fields.get(name) for name in TEXTS], ensure_ascii=False)):
        yield "a text in it holds half of a surrogate pair, which is no character; write it anew."
    if "prompt" in fields and not _is_text(fields["prompt"]):
        yield "'prompt' must be a text that is not empty."
    if "messages" in fields:
        yield from message_problems(fields["messages"])
    if "annotated" not in fields:
        yield "has no 'annotated'; give the answer with its tags there."
    elif not _is_text(fields["annotated"]):
        yield "'annotated' must be a text that is not empty."
    if not isinstance(fields.get("answer", ""), str):
        yield "'answer' must be a text, or left out."


def message_problems(messages: Any) -> Iterator[str]:
    """What is wrong with the messages of a prompt, a sentence each."""
    if not isinstance(messages, list) or not messages:
        yield '\'messages\' must be a list of {"role": .., "content": ..}, and not empty.'
        return
    for index, message in enumerate(messages, 1):
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            yield f"message {index} must be an object with the texts 'role' and 'content'."


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def encode_records(
    records: Iterable[Record], vocabulary: Vocabulary, policy: PositionPolicy, *, plain: float, seed: int
) -> Iterator[Example]:
    """Encode records. A share ``plain`` of the answers, drawn with ``seed``, loses its tags: 1.0 is Baseline-SFT."""
    rng = Random(seed)
    for record in records:
        answer = Answer((record.answer.plain,)) if rng.random() < plain else record.answer
        yield Example(vocabulary.prompts.encode(record.prompt), compile_script(answer, vocabulary, policy))


def pack(
    lengths: Sequence[int], row: int, seed: int, on_drop: Callable[[int], Any] = lambda index: None
) -> list[list[int]]:
    """Put examples into rows of at most ``row`` tokens, first fit over a shuffled order; returns their indices.

    An example longer than a row is dropped and told to ``on_drop``.
    """
    order = list(range(len(lengths)))
    Random(seed).shuffle(order)
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # (row's index, tokens left), the last few only: packing stays linear
    for index in order:
        if lengths[index] > row:
            on_drop(index)
            continue
        place = next((k for k, (_, left) in enumerate(open_rows) if left >= lengths[index]), None)
        if place is None:
            rows.append([])
            open_rows.append((len(rows) - 1, row))
            open_rows, place = open_rows[-32:], min(len(open_rows), 32) - 1
        target, left = open_rows[place]
        rows[target].append(index)
        open_rows[place] = (target, left - lengths[index])
    return rows
