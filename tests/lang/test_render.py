"""Writing answers: the canonical form, the annotator's, measured lengths; reading undoes writing."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pastalm.lang.answer import Answer, Block, Node, Sync, merge_text
from pastalm.lang.parse import parse
from pastalm.lang.positions import position_policy
from pastalm.lang.render import measure, render, render_annotator
from pastalm.lang.script import compile_script
from pastalm.lang.tags import TAGS
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


LIKE_TAGS = "< / x &lt; &amp; &amp;lt; sync/> async <promise </sync <syncs> <async-x>"
TRICKY = [*TAGS, " ", *LIKE_TAGS.split(" ")]
tricky = st.lists(st.sampled_from(TRICKY) | st.text(max_size=2), max_size=6).map("".join)


@given(tricky, tricky, tricky, st.booleans())
def test_text_that_spells_tags_is_read_back(before: str, body: str, after: str, synced: bool) -> None:
    nodes: list[Node] = [before, Block("x", merge_text([body]), 3), *([Sync()] if synced else []), after]
    answer = Answer(merge_text(nodes))
    assert parse(render(answer)) == answer
    unmeasured = Answer(merge_text([replace(one, tokens=None) if isinstance(one, Block) else one for one in nodes]))
    assert parse(render_annotator(answer)) == unmeasured


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | tricky, st.integers(-2, 20_000))
def test_any_block_is_read_back_or_refused(topic: str, tokens: int) -> None:
    answer = Answer((Block(topic, ("foo",), tokens),))
    try:
        text = render(answer)
    except ValueError as error:
        assert "could not be read back" in str(error) or "a promise is from 1 to 9999" in str(error)
    else:
        assert parse(text) == answer


def test_only_what_would_be_a_tag_is_escaped() -> None:
    plain = "a < b, &lt;b&gt; <br/> <syncopate> &amp; <async-io> 1 <sync"
    assert render(Answer((plain,))) == plain[:-5] + "&lt;sync"
    assert parse("&lt;b> &lt;sync/> &amp;lt;sync/>").plain == "&lt;b> <sync/> &lt;sync/>"
