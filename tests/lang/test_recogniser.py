"""The reader of tokens: agrees with the parser of text, never lets a constrained thread go wrong, never fails."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pastalm.lang.answer import Answer, Block, Node, Sync, merge_text
from pastalm.lang.parse import parse
from pastalm.lang.positions import position_policy
from pastalm.lang.recogniser import (
    Begun,
    Closed,
    Ended,
    Legal,
    Mark,
    PlainReader,
    Promised,
    Recogniser,
    Synced,
    Words,
    same_topic,
    text_of,
)
from pastalm.lang.render import render
from pastalm.lang.script import compile_script
from pastalm.lang.vocabulary import Vocabulary
from tests.strategies import answers


def reader(vocabulary: Vocabulary, *, main: bool = True, promise: bool = True, constrained: bool = False) -> Recogniser:
    return Recogniser(vocabulary, main=main, may_promise=promise, constrained=constrained)


def read(reader: Recogniser, tokens: list[int]) -> list[Mark]:
    return [mark for token in tokens for mark in reader.read(token)]


def expected_marks(nodes: tuple[Node, ...]) -> list[Mark]:
    """What a thread with this content promises and syncs, in order."""
    marks: list[Mark] = []
    for node in nodes:
        marks += [Promised(node.topic, node.tokens or 0)] if isinstance(node, Block) else []
        marks += [Synced()] if isinstance(node, Sync) else []
    return marks


@given(answers(3))
def test_agrees_with_the_parser(vocabulary: Vocabulary, answer: Answer) -> None:
    answer = parse(render(answer), max_depth=3)
    script = compile_script(answer, vocabulary, position_policy("pred10"))
    bodies = [answer.nodes, *(block.body for block in answer.blocks())]
    for index, body in enumerate(bodies):
        tokens = script.of(index)[index > 0 :]  # the runtime writes <async>
        marks = read(reader(vocabulary, main=index == 0), tokens)
        words = [token for mark in marks if isinstance(mark, Words) for token in mark.tokens]
        assert [mark for mark in marks if not isinstance(mark, Words)] == [
            *expected_marks(body),
            Closed() if index else Ended(),
        ]
        assert vocabulary.decode(words) == "".join(node for node in body if isinstance(node, str))


def pick(reader: Recogniser, rng: Random, ordinary: list[int]) -> int:
    """Any legal token, tags more often than not."""
    legal, v = reader.legal(), reader.vocabulary
    if legal.only:
        return rng.choice(legal.ids)
    tags = [token for token in (*v.tags, *v.eos) if token not in legal.ids]
    return rng.choice(tags) if tags and rng.random() < 0.3 else rng.choice(ordinary)


def write_thread(
    vocabulary: Vocabulary, rng: Random, room: int, *, main: bool, ordinary: list[int]
) -> tuple[Node, ...]:
    """The nodes that a constrained thread writes with random choices, with all its children's."""
    thread = reader(vocabulary, main=main, promise=room > 0, constrained=True)
    nodes: list[Node] = []
    for _ in range(200):
        for mark in thread.read(pick(thread, rng, ordinary)):
            if isinstance(mark, Words):
                assert not mark.problem
                nodes.append(vocabulary.decode(mark.tokens))
            elif isinstance(mark, Promised):
                body = write_thread(vocabulary, rng, room - 1, main=False, ordinary=ordinary)
                nodes.append(Block(mark.topic, body, mark.tokens))
            elif isinstance(mark, Synced):
                nodes.append(Sync())
            else:
                return merge_text(nodes)
    return merge_text(nodes)


@given(st.integers(0, 1 << 32), st.integers(1, 2))
def test_any_legal_choices_make_an_answer_that_parses(vocabulary: Vocabulary, seed: int, depth: int) -> None:
    ordinary = [i for i, piece in enumerate(vocabulary.pieces) if piece and b"<" not in piece]  # no spelt-out tags
    answer = Answer(write_thread(vocabulary, Random(seed), depth, main=True, ordinary=ordinary))
    assert parse(render(answer), max_depth=depth) == answer


def topics_of(thread: Recogniser, rng: Random, few: list[int], steps: int = 400) -> list[str]:
    """The topics that a constrained thread promises with random choices among few tokens, so that they meet."""
    topics, v = [], thread.vocabulary
    for _ in range(steps):
        legal = thread.legal()
        wanted = [token for token in (*few, v.promise_topic, v.promise_tokens, v.promise_end) if _may(legal, token)]
        for mark in thread.read(rng.choice(wanted or list(legal.ids))):
            topics += [mark.topic] if isinstance(mark, Promised) else []
    return topics


def _may(legal: Legal, token: int) -> bool:
    return (token in legal.ids) == legal.only


@given(st.integers(0, 1 << 32))
def test_no_topic_is_promised_twice(vocabulary: Vocabulary, seed: int) -> None:
    few = [*vocabulary.encode("xyX "), *vocabulary.encode("1")]
    taken = frozenset({"x", "y x"})
    thread = Recogniser(vocabulary, main=True, may_promise=True, constrained=True, used=taken)
    topics = topics_of(thread, Random(seed), few)
    found = [same_topic(topic) for topic in topics]
    assert len(set(found)) == len(found) and not taken & set(found)
    assert thread.used == taken | set(found) and all(1 <= len(topic.split()) <= 3 for topic in topics)
    again = topics_of(reader(vocabulary, constrained=True), Random(seed), few)
    assert reader(vocabulary).used is None and len(again) >= len(set(again)) > 0


def test_a_topic_of_three_words_ends_where_a_fourth_would_begin(vocabulary: Vocabulary) -> None:
    v, ends = vocabulary, Legal(("tokens",), (vocabulary.promise_tokens,), only=True)
    thread = Recogniser(v, main=True, may_promise=True, constrained=True, used=frozenset({"x y zz"}))
    thread.read(v.promise_topic)
    for token, instead in zip(v.encode("x y zzz"), [None, None, None, None, ends, None, ends], strict=True):
        thread.read(token)
        assert thread.legal().instead == instead, token  # "x y zz" is used: it cannot end there
    space = v.encode(" ")[0]
    assert space not in thread.legal().ids and v.encode("z")[0] in thread.legal().ids


def test_a_topic_is_used_whatever_its_case_and_spaces(vocabulary: Vocabulary) -> None:
    thread = Recogniser(vocabulary, main=True, may_promise=True, constrained=True, used=frozenset({"x y"}))
    for token in [vocabulary.promise_topic, *vocabulary.encode("X  y")]:
        thread.read(token)
    assert vocabulary.promise_tokens not in thread.legal().ids  # it cannot end here
    thread.read(vocabulary.encode("z")[0])
    assert vocabulary.promise_tokens in thread.legal().ids


@given(st.data(), st.booleans(), st.booleans())
def test_any_tokens_are_read_and_none_is_lost(
    vocabulary: Vocabulary, data: st.DataObject, main: bool, promise: bool
) -> None:
    tags, digits = list(vocabulary.tags), vocabulary.encode("7")
    token = st.sampled_from([*tags, *vocabulary.eos, *digits]) | st.integers(0, len(vocabulary.tokenizer) - 1)
    tokens = data.draw(st.lists(token, max_size=40))
    thread = reader(vocabulary, main=main, promise=promise)
    marks = []
    for token in tokens:
        marks += thread.read(token)
        if marks and isinstance(marks[-1], Ended | Closed):
            break
    text = [token for mark in marks if isinstance(mark, Words) for token in mark.tokens]
    signs = sum(not isinstance(mark, Words | Promised) for mark in marks)
    for mark in marks:
        if isinstance(mark, Words):
            assert bool(mark.problem) == bool(set(mark.tokens) & set(tags))
    if not any(isinstance(mark, Promised) for mark in marks):
        read_so_far = tokens[: len(text) + signs + len(thread.pending)]
        marked = [t for t in read_so_far if t not in (*vocabulary.eos, vocabulary.sync, vocabulary.async_end)]
        assert marked == [t for t in (*text, *thread.pending) if t not in (vocabulary.sync, vocabulary.async_end)]


def malformed(vocabulary: Vocabulary, *parts: int | str) -> list[Mark]:
    tokens = [i for part in parts for i in (vocabulary.encode(part) if isinstance(part, str) else [part])]
    return read(reader(vocabulary), tokens)


def test_a_broken_topic_stays_text(vocabulary: Vocabulary) -> None:
    v = vocabulary
    marks = malformed(v, v.promise_topic, "x", v.sync)
    assert marks == [Words((v.promise_topic, *v.encode("x")), "the topic of a promise is not well formed"), Synced()]
    assert text_of(marks[0], v.text, v.tags) == '<promise topic="x'


def test_an_empty_topic_is_broken(vocabulary: Vocabulary) -> None:
    v = vocabulary
    first, second = malformed(v, v.promise_topic, v.promise_tokens)
    assert first == Words((v.promise_topic,), "the topic of a promise is not well formed")
    assert second == Words((v.promise_tokens,), '" tokens= has no meaning here')


@pytest.mark.parametrize("count", ["", "0", "x", "99999"])
def test_a_broken_length_stays_text(vocabulary: Vocabulary, count: str) -> None:
    v = vocabulary
    marks = malformed(v, v.promise_topic, "x", v.promise_tokens, count, v.promise_end)
    assert "the length of a promise is not a whole number of at least 1" in [getattr(m, "problem", "") for m in marks]
    text = "".join(text_of(mark, v.text, v.tags) for mark in marks if isinstance(mark, Words))
    assert text == f'<promise topic="x" tokens={count} />'


def test_the_end_of_answer_ends_a_chunk_with_a_problem(vocabulary: Vocabulary) -> None:
    (mark,) = reader(vocabulary, main=False).read(vocabulary.tokenizer.eos_token_id)
    assert isinstance(mark, Closed) and "end of answer" in mark.problem


def test_who_may_write_which_tag(vocabulary: Vocabulary) -> None:
    v = vocabulary
    never = {v.promise_tokens, v.promise_end, v.async_start}
    rules = {(True, True): {v.async_end}, (False, True): set(v.eos), (False, False): {*v.eos, v.promise_topic, v.sync}}
    for (main, promise), more in rules.items():
        legal = reader(v, main=main, promise=promise, constrained=True).legal()
        assert not legal.only and set(legal.ids) == never | more
    assert set(reader(v).legal().ids) == set()


def test_a_length_ends_by_itself_after_three_digits(vocabulary: Vocabulary) -> None:
    v = vocabulary
    thread = reader(v, constrained=True)
    read(thread, [v.promise_topic, *v.encode("x"), v.promise_tokens, *v.encode("7"), *v.encode("7")])
    assert thread.legal().forced is None
    read(thread, v.encode("7"))
    assert thread.legal().forced == v.promise_end


def test_sequential_reading_knows_no_tags(vocabulary: Vocabulary) -> None:
    plain = PlainReader(vocabulary.eos, vocabulary)
    assert plain.read(vocabulary.sync) == [Words((vocabulary.sync,))]
    assert plain.read(vocabulary.tokenizer.eos_token_id) == [Ended()]
    assert set(plain.legal().ids) == set(vocabulary.tags)


def test_plain_text_begins_a_chunk_where_the_model_would_promise_one(vocabulary: Vocabulary) -> None:
    v, plain = vocabulary, PlainReader(vocabulary.eos, vocabulary)
    read(plain, v.encode("1."))
    legal = plain.legal()
    begin = legal.in_place_of[v.promise_topic]
    assert set(legal.ids) == set(v.tags) and legal.instead is None and len(legal.in_place_of) == 1
    assert begin.forced == v.async_start
    assert plain.read(v.async_start) == [Begun()]
    first, (line_break,) = plain.legal(), v.encode("\n")
    assert set(first.ids) == {*v.tags, *v.eos, line_break} and not (first.instead or first.in_place_of or first.only)
    assert plain.read(v.encode("a")[0]) == [Words((v.encode("a")[0],))]
    assert PlainReader(v.eos).legal() == Legal(("any",), ())  # a model without tags is as it is


def test_a_chunk_in_plain_text_does_not_end_the_answer_until_its_line_ends(vocabulary: Vocabulary) -> None:
    v, plain = vocabulary, PlainReader(vocabulary.eos, vocabulary)
    before = plain.legal()
    read(plain, [v.async_start, *v.encode("ab")])
    inside = plain.legal()
    assert set(inside.ids) == set(v.tags) and inside.instead is not None and v.promise_topic in inside.in_place_of
    assert set(inside.instead.ids) == {*v.tags, *v.eos}
    assert len({before.key, inside.key, inside.instead.key}) == 3, "equal keys would share a mask"
    read(plain, v.encode("c\n"))
    assert plain.legal() == before
    assert plain.read(v.tokenizer.eos_token_id) == [Ended()]
