"""PASTA-LANG itself, in the full form and in the annotator's, with what a topic may hold."""

from __future__ import annotations

from collections.abc import Callable

from pastalm.lang.answer import Answer
from pastalm.lang.dialects.abilities import DEEPEST, Abilities, ConversionError, JoinStyle, short
from pastalm.lang.dialects.dialect import Dialect
from pastalm.lang.parse import AnnotationError, parse
from pastalm.lang.render import render, render_annotator
from pastalm.lang.tags import MAX_TOPIC_WORDS, normal_topic

LONGEST = 9999  # of a promise, in tens
NOT_IN_TOPICS = '"<>\n'


def _read(text: str) -> Answer:
    try:
        return parse(text, max_depth=DEEPEST)
    except AnnotationError as error:
        raise ConversionError(str(error)) from error


def _writer(write: Callable[[Answer], str]) -> Callable[[Answer], str]:
    def checked(answer: Answer) -> str:
        for block in answer.blocks():
            _require_topic(block.topic)
        return write(answer)

    return checked


def _require_topic(topic: str) -> None:
    cut = "shorten it, or let --shorten-topics cut it"
    if not topic.strip():
        raise ConversionError(f"PASTA needs a topic for each chunk, and one has none: {cut}.")
    words = len(topic.split())
    if words > MAX_TOPIC_WORDS:
        raise ConversionError(
            f"PASTA's topics have at most {MAX_TOPIC_WORDS} words, {short(topic)} has {words}: {cut}."
        )
    if set(topic) & set(NOT_IN_TOPICS):
        raise ConversionError(
            f"PASTA's topics hold no quotes, angle brackets or line breaks, {short(topic)} does: {cut}."
        )
    if topic != normal_topic(topic):
        raise ConversionError(f"PASTA's topics are words with one space between them, {short(topic)} is not: {cut}.")


def _abilities(lengths: int) -> Abilities:
    return Abilities(JoinStyle.WRITTEN, between=True, unjoined=True, last_sync=True, depth=DEEPEST, lengths=lengths)


PASTA = Dialect("pasta", "PASTA", _abilities(LONGEST), _read, _writer(render))
ANNOTATOR = Dialect("pasta-annotator", "PASTA's annotator form", _abilities(0), _read, _writer(render_annotator))
