"""Training examples: prompts and annotated answers, encoded and packed into rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from pastalm.data.records import Record, annotation_problems, read_records
from pastalm.files.lines import DataError
from pastalm.lang.answer import Answer
from pastalm.lang.parse import AnnotationError, parse
from pastalm.lang.positions import PositionPolicy
from pastalm.lang.prompt import Message
from pastalm.lang.script import Script, compile_script
from pastalm.lang.vocabulary import Vocabulary
from pastalm.layout import positions
from pastalm.views import view_layout


@dataclass(frozen=True)
class AnnotatedAnswer:
    """A prompt and the answer to it as a tree."""

    prompt: str | list[Message]
    answer: Answer


@dataclass(frozen=True)
class Example:
    """An annotated answer as token ids: the prompt's, and the answer's script. ``in_views``: it is laid out as the
    views that a plain completion server is sent (:mod:`pastalm.views`), which hold some tokens more than once."""

    prompt: Sequence[int]
    script: Script
    in_views: bool = False

    def __len__(self) -> int:
        return self._views[0] if self.in_views else len(self.prompt) + len(self.script.tokens)

    def last_position(self, policy: PositionPolicy) -> int:
        """The largest position of a token; those in views are no matter of ``policy``."""
        if self.in_views:
            return self._views[1]
        return max([len(self.prompt) - 1, *positions(len(self.prompt), self.script, policy)])

    @cached_property
    def _views(self) -> tuple[int, int]:
        """Of an example in views: how many tokens, and the largest position."""
        laid = view_layout(self.prompt, self.script)
        return len(laid.tokens), int(laid.positions.max())


def read_annotated(source: str | Path, *, max_depth: int = 1, plain: bool = False) -> Iterator[AnnotatedAnswer]:
    """The annotated answers of a source (:func:`pastalm.data.records.read_records`).

    ``plain`` takes a record's plain answer where it has no ``annotated``, for training without tags. Raises
    :class:`DataError` with the place of the first record that cannot be used.
    """
    for record in read_records(source):
        if plain and record.annotated is None and record.answer:
            yield AnnotatedAnswer(record.prompt, Answer((record.answer,)))
            continue
        for problem in annotation_problems(record):
            raise DataError(f"{record.place}: {problem}")
        yield AnnotatedAnswer(record.prompt, tree_of(record, max_depth))


def tree_of(record: Record, max_depth: int = 1) -> Answer:
    """The annotated answer of a record as a tree. Raises :class:`DataError` with its place."""
    try:
        return parse(record.annotated or "", max_depth=max_depth)
    except AnnotationError as error:
        raise DataError(f"{record.place}, in 'annotated': {error}") from error


def encode_answers(
    answers: Iterable[AnnotatedAnswer],
    vocabulary: Vocabulary,
    policy: PositionPolicy,
    *,
    plain: float,
    seed: int,
    in_views: bool = False,
) -> Iterator[Example]:
    """Encode annotated answers. A share ``plain`` of them, drawn with ``seed``, loses its tags: 1.0 is Baseline-SFT."""
    rng = Random(seed)
    for one in answers:
        answer = Answer((one.answer.plain,)) if rng.random() < plain else one.answer
        yield Example(vocabulary.prompts.encode(one.prompt), compile_script(answer, vocabulary, policy), in_views)


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
