"""Metrics on answers small enough to count by hand.

With the test tokenizer each of x, y, z and each digit is one token, so the promise P of a one-letter topic takes five:
``<promise topic="``, topic, ``" tokens=``, digit, `` />``.
"""

from __future__ import annotations

import math

import pytest

from pastalm.lang.clock import critical_path
from pastalm.lang.metrics import (
    answer_metrics,
    block_redundancy,
    circles,
    content_tokens,
    ends_in_a_loop,
    geometric,
    redundancy,
    repetition,
)
from pastalm.lang.parse import parse
from pastalm.lang.positions import position_policy
from pastalm.lang.script import Script, compile_script
from pastalm.lang.vocabulary import Vocabulary


def chunk(text: str, tokens: int = 1) -> str:
    return f'<promise topic="x" tokens={tokens} /><async>{text}</async>'


def script_of(text: str, vocabulary: Vocabulary) -> Script:
    return compile_script(parse(text, max_depth=3), vocabulary, position_policy("pred10"))


CRITICAL_PATHS = {
    # No blocks: as many steps as tokens; the end of answer is not counted.
    "xyzxyz": 6,
    "": 0,
    # P ends at step 5. The child writes 3 letters and </async>: 5 + 4 = 9. Main: 5 + 1 = 6.
    chunk("xyz") + "y": 9,
    # The same with a long main thread: 5 + 7 = 12 > 9.
    chunk("xyz") + "y" * 7: 12,
    # Children at 5 + 3 = 8 and 10 + 2 = 12; main stands at 10.
    chunk("xy") + chunk("z"): 12,
    # Main writes the sync as its step 6 but waits for the child, 5 + 4 = 9; then two letters: 11.
    chunk("xyz") + "<sync/>yy": 11,
    # The child is done at 5 + 2 = 7 before the sync at 5 + 4 + 1 = 10: no wait; then one letter.
    chunk("x") + "yyyy<sync/>y": 11,
    # Two children 5 + 2 = 7 and 10 + 6 = 16; sync at 11 waits till 16. Third promise 16 + 5 = 21, its child 21 + 2.
    chunk("x") + chunk("xyzxy") + "<sync/>" + chunk("x"): 23,
    # Nested: outer starts at 5, its own promise ends at 10, inner 10 + 3 + 1 = 14; outer then </async> at 11.
    # Main syncs: it waits for the inner block too, 14; one letter: 15.
    chunk(chunk("xyz")) + "<sync/>y": 15,
    # The outer block syncs itself: written at 11, waits till 14, one letter 15, </async> 16.
    chunk(chunk("xyz") + "<sync/>y"): 16,
}


@pytest.mark.parametrize("text", CRITICAL_PATHS)
def test_critical_path(text: str, vocabulary: Vocabulary) -> None:
    assert critical_path(script_of(text, vocabulary), vocabulary) == CRITICAL_PATHS[text]


def test_content_leaves_out_tags_topics_and_lengths(vocabulary: Vocabulary) -> None:
    script = script_of("x" + chunk("yy" + chunk("z")) + "<sync/>z", vocabulary)
    assert vocabulary.decode(content_tokens(script, vocabulary)) == "xyyzz"


def test_a_malformed_promise_is_text_and_one_that_a_limit_cut_is_not(vocabulary: Vocabulary) -> None:
    v, (x, y, one) = vocabulary, vocabulary.encode("xy1")
    begun = [v.promise_topic, x]
    complete = [*begun, v.promise_tokens, one, v.promise_end]

    def content(*tokens: int) -> str:
        return v.decode(content_tokens(Script([*tokens], [0] * len(tokens)), v))

    assert content(*begun, v.sync, y, y) == "xyy"  # no topic ends so
    assert content(*begun, v.promise_topic, y, v.promise_end, y) == "xyy"  # nor does a promise without a length
    assert content(y, *begun) == content(y, *complete[:-1]) == "y"
    assert content_tokens(script_of("x" + chunk(chunk("y") + "z") + "y", v), v) == v.encode("xyzy")


def test_all_metrics_of_one_answer(vocabulary: Vocabulary) -> None:
    # Main: P 5, y 1, P 5, sync 1, zz 2 = 14. Children: 9 + 1 and 4 + 1 with </async>. Together 29.
    # Path: the first child ends at 5 + 10 = 15; the second at 11 + 5 = 16; sync at 12 waits till 16; then 2: 18.
    # Content: 1 + 2 + 9 + 4 = 16. Lengths: 9 needs ceil(11 / 10) = 2, 4 needs ceil(6 / 10) = 1.
    text = chunk("xyzxyzxyz", 1) + "y" + chunk("xxxx", 3) + "<sync/>zz"
    metrics = answer_metrics(script_of(text, vocabulary), vocabulary, position_policy("pred10"))
    assert (metrics.tokens, metrics.content, metrics.blocks, metrics.critical_path) == (29, 16, 2, 18)
    assert metrics.parallelism == pytest.approx(16 / 18)
    assert metrics.length_errors == (1 - 2, 3 - 1)


def test_an_empty_answer_has_parallelism_one(vocabulary: Vocabulary) -> None:
    assert answer_metrics(script_of("", vocabulary), vocabulary, position_policy("pred10")).parallelism == 1.0


REDUNDANCIES = {
    "xyzx": 0.0,
    chunk("xyzxyz"): 0.0,  # no sibling
    # xyzx, yzxy of the first; xyzx, yzxx of the second: one of two stands in the other, each way.
    chunk("xyzxy") + chunk("xyzxx"): 0.5,
    # The third has no 4-gram and does not count; the first two are the same.
    chunk("xyzx") + chunk("xyzx") + chunk("yyy"): 1.0,
    # Across a sync they are siblings all the same. 1 of 1, and xyzx of (xyzx, yzxy, zxyy): (1 + 1/3) / 2.
    chunk("xyzx") + "<sync/>" + chunk("xyzxyy"): 2 / 3,
}


@pytest.mark.parametrize("text", REDUNDANCIES)
def test_redundancy(text: str, vocabulary: Vocabulary) -> None:
    assert redundancy(script_of(text, vocabulary)) == pytest.approx(REDUNDANCIES[text])


def test_blocks_of_different_parents_are_no_siblings(vocabulary: Vocabulary) -> None:
    inner = script_of(chunk("x" + chunk("yyyyy")) + chunk("z" + chunk("yyyyy")), vocabulary)
    # The two inner blocks have different parents: nothing repeats. The outer ones repeat their tags: P of one stands in
    # the other, 6-gram window x|P of 6 tokens: (x,P1..P3), (P1..P4), (P2..P5); two of three shared.
    assert redundancy(inner) == pytest.approx((2 / 3 + 0 + 2 / 3 + 0) / 4)


def test_geometric_mean() -> None:
    assert geometric([1.0, 4.0]) == pytest.approx(2.0)
    assert math.isnan(geometric([]))


@pytest.mark.parametrize(
    "tokens, loops",
    [
        ([7] * 25, True),  # a text of one token, and 24 that repeat it
        ([7] * 24, False),
        ([1, 2, 3] * 9, True),  # 24 of 27 repeat
        ([1, 2, 3] * 8 + [1, 2], False),
        ([9, 8] + [*range(30)] * 3, True),  # three times, two of them repeats
        ([9, 8] + [*range(30)] * 2 + [*range(20)], False),  # not yet a third time
        ([*range(65)] * 3, False),  # longer than a circle may be
        ([*range(10), 50] * 3 + [*range(10), 51], True),  # a number counts on
        ([*range(100)], False),
        ([1, 2, 3] * 9 + [*range(10, 20)], False),  # a circle that it has left
        ([], False),
    ],
)
def test_a_loop_at_the_end(tokens: list[int], loops: bool) -> None:
    assert ends_in_a_loop(tokens) is loops


def test_an_answer_runs_in_circles_if_one_of_its_threads_does(vocabulary: Vocabulary) -> None:
    assert not circles(script_of(chunk("xyzxy") + "zyx", vocabulary))
    assert circles(script_of(chunk("xyz" * 10) + "zyx", vocabulary))  # its chunk, whose </async> does not hide it
    assert circles(script_of("y" + chunk("x") * 6, vocabulary))  # the same promise again and again
    assert answer_metrics(script_of("xy" * 20, vocabulary), vocabulary, position_policy("pred10")).circles


def test_redundancy_by_block_and_repetition(vocabulary: Vocabulary) -> None:
    script = script_of(chunk("xyzxz") + chunk("xyzxy") + chunk("z"), vocabulary)
    assert block_redundancy(script) == {1: 0.5, 2: 0.5}  # the third is too short for a 4-gram
    # main: xyz1 | yz1x z1xy 1xyz xyz1: one of five was there before
    assert repetition(script_of("xyz1xyz1", vocabulary), vocabulary) == pytest.approx(1 / 5)
    assert repetition(script_of("xyz", vocabulary), vocabulary) == 0.0
