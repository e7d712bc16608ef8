"""Writing answers: the canonical form, the annotator's, measured lengths; reading undoes writing."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pastalm.lang.answer import Answer, Block, Node, Sync
from pastalm.lang.parse import parse
from pastalm.lang.positions import position_policy
from pastalm.lang.render import measure, render, render_annotator
from pastalm.lang.script import compile_script
from pastalm.lang.vocabulary import Vocabulary
from tests.strategies import answers, texts

CANONICAL_TAG = re.compile(r'<promise topic="[^"]*" tokens=[0-9]+ />|</?async>|<sync/>')


def test_writes_the_table_of_the_language() -> None:
    answer = Answer(("So ", Block("length formula", ("a b",), 2), Sync(), "c"))
    assert render(answer) == 'So <promise topic="length formula" tokens=2 /><async>a b</async><sync/>c'


def test_writes_the_annotators_form() -> None:
    answer = Answer((Block("length formula", ("a",), 2), Block("boys' names", ("b",)), Sync()))
    assert render_annotator(answer) == (
        "<async topic='length formula'>a</async><async topic=\"boys' names\">b</async><sync/>"
    )


def test_refuses_the_full_form_of_a_block_without_length() -> None:
    with pytest.raises(ValueError, match="'it' has no length yet"):
        render(Answer((Block("it", ()),)))


@given(answers(3))
def test_parse_undoes_render(answer: Answer) -> None:
    assert parse(render(answer), max_depth=3) == answer


@given(answers(3, measured=False))
def test_parse_undoes_render_annotator(answer: Answer) -> None:
    assert parse(render_annotator(answer), max_depth=3) == answer


@given(st.lists(st.tuples(texts, st.sampled_from(["text", "block", "sync", "nested"])), max_size=8))
def test_removing_the_tags_gives_the_text_byte_for_byte(pieces: list[tuple[str, str]]) -> None:
    text = "".join(piece for piece, _ in pieces)
    nodes: list[Node] = []
    for piece, kind in pieces:
        inner = (Block("in", (piece,), 1),) if kind == "nested" else (piece,)
        nodes.append(piece if kind in ("text", "sync") else Block("out", inner, 3))
        nodes += [Sync()] if kind == "sync" else []
    annotated = render(Answer(tuple(nodes)))
    assert CANONICAL_TAG.sub("", annotated) == text
    assert parse(annotated, max_depth=2).plain == text


def test_measures_with_the_tags_of_nested_blocks() -> None:
    # Inner: 3 letters, (3 + 2) / 10 -> 1. Outer: 2 letters, five tags, topic 'in', digit '1', inner 3 letters, sync 1:
    # 2 + 5 + 2 + 1 + 3 + 1 = 14, (14 + 2) / 10 -> 2.
    answer = Answer((Block("out", ("ab", Block("in", ("cde",)), Sync())),))
    expected = Answer((Block("out", ("ab", Block("in", ("cde",), 1), Sync()), 2),))
    assert measure(answer, len, position_policy("pred10")) == expected


@given(answers(2, measured=False), st.sampled_from(["pred10", "pred1"]))
def test_measured_lengths_are_those_of_the_tokens(vocabulary: Vocabulary, answer: Answer, name: str) -> None:
    policy = position_policy(name)
    measured = measure(answer, lambda text: len(vocabulary.encode(text)), policy)
    script = compile_script(answer, vocabulary, policy)
    assert [block.tokens for block in measured.blocks()] == [block.promised for block in script.blocks[1:]]
