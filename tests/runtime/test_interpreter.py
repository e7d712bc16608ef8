"""The interpreter's invariants under arbitrary token streams and limits, without a model."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pastalm.lang.answer import Answer
from pastalm.lang.clock import critical_path
from pastalm.lang.parse import parse
from pastalm.lang.positions import position_policy
from pastalm.lang.render import render
from pastalm.lang.script import Script, compile_script
from pastalm.lang.vocabulary import Vocabulary
from pastalm.layout import layout
from pastalm.runtime.events import TokenEvent
from pastalm.runtime.limits import Limits
from pastalm.runtime.outcome import respond
from pastalm.runtime.replay import Replay
from pastalm.runtime.thread import Feed, Fork, Thread, ThreadPath, answer_of, script_of
from tests.runtime.scripted import START, Case, Run, Scribbler, cases, drive, interpreter_of, places, play, visibility
from tests.strategies import answers

WIDE = Limits(max_tokens=10_000, max_depth=3)


def forced(
    text: str, vocabulary: Vocabulary, limits: Limits = WIDE, stops: tuple[str, ...] = (), policy: str = "pred10"
) -> Run:
    """Decode a known answer by force."""
    script = compile_script(parse(text, max_depth=3), vocabulary, position_policy("pred10"))
    tokens = Replay(script, None).tokens
    interpreter = interpreter_of(Case(0, limits, False, policy, stops), vocabulary)
    return drive(interpreter, lambda path, legal: tokens[path].pop(0))


def text_of(run: Run) -> str:
    return render(answer_of(run.interpreter.main))


@given(cases)
def test_it_always_ends_within_its_limits(vocabulary: Vocabulary, case: Case) -> None:
    run = play(case, vocabulary)
    limits, threads = case.limits, run.interpreter.main.family()
    assert run.interpreter.finish_reason in ("stop", "length")
    assert run.interpreter.slots == START + len(run.feeds)
    assert limits.slots is None or run.interpreter.slots <= limits.slots
    assert limits.window is None or all(feed.position < limits.window for feed in run.feeds)
    assert all(len(thread.path) <= limits.max_depth for thread in threads)
    assert limits.max_async_tokens is None or all(t.content <= limits.max_async_tokens for t in threads[1:])


@given(cases)
def test_the_model_never_chooses_more_than_max_tokens(vocabulary: Vocabulary, case: Case) -> None:
    run = play(case, vocabulary)
    assert run.chosen <= case.limits.max_tokens
    assert case.constrained or run.interpreter.sampled == run.chosen  # only the grammar's forced tokens come on top


@given(cases)
def test_a_thread_is_forked_once_before_it_is_fed(vocabulary: Vocabulary, case: Case) -> None:
    known: set[ThreadPath] = {()}
    for op in play(case, vocabulary).operations:
        if isinstance(op, Fork):
            assert op.parent in known and op.child not in known
            known.add(op.child)
        assert not isinstance(op, Feed) or op.thread in known


@given(cases, st.integers(0, 99))
def test_neither_width_nor_order_nor_streaming_changes_an_answer(vocabulary: Vocabulary, case: Case, seed: int) -> None:
    def shuffled(threads: list[Thread]) -> list[Thread]:
        Random(seed).shuffle(threads)
        return sorted(threads, key=lambda thread: len(thread.path))  # parents before children

    first = play(replace(case, limits=replace(case.limits, max_threads=None)), vocabulary)
    others = [play(case, vocabulary), play(case, vocabulary, eager=True)]
    others.append(drive(interpreter_of(case, vocabulary), Scribbler(vocabulary, case.seed), shuffled))
    for other in others:
        assert text_of(other) == text_of(first)
        assert other.interpreter.finish_reason == first.interpreter.finish_reason
        assert other.interpreter.rounds == first.interpreter.rounds
        assert sorted(map(str, other.feeds)) == sorted(map(str, first.feeds))


@given(cases)
def test_streamed_text_in_order_of_place_is_the_answer(vocabulary: Vocabulary, case: Case) -> None:
    run = play(case, vocabulary, eager=True)
    tokens = sorted((event for event in run.events if isinstance(event, TokenEvent)), key=lambda event: event.place)
    assert "".join(event.text for event in tokens) == answer_of(run.interpreter.main).plain


@given(cases)
def test_each_sampled_token_is_told_once(vocabulary: Vocabulary, case: Case) -> None:
    run = play(case, vocabulary, eager=True)
    told = Counter(event.thread for event in run.events if isinstance(event, TokenEvent) and event.token >= 0)
    assert told.total() == run.interpreter.sampled
    for thread in run.interpreter.main.family():
        written = [item for item in thread.written if not isinstance(item, Thread)]
        assert len(written) - told[thread.path] in (0, 1)  # a closing tag that it did not write itself


@given(cases)
def test_what_a_token_sees_is_the_mask_of_training(vocabulary: Vocabulary, case: Case) -> None:
    run = play(case, vocabulary)
    script = script_of(run.interpreter.main, vocabulary)
    where, mask = places(script), layout([0] * START, script, position_policy(case.policy)).mask()[START:, START:]
    seen = visibility(run.operations)
    for me, others in seen.items():
        expected = {other for other in seen if mask[where[me], where[other]]}
        assert others == expected, me


@given(cases)
def test_fed_tokens_and_positions_are_those_of_the_layout(vocabulary: Vocabulary, case: Case) -> None:
    run = play(replace(case, limits=replace(case.limits, window=None)), vocabulary)
    script = script_of(run.interpreter.main, vocabulary)
    laid, where = layout([0] * START, script, position_policy(case.policy)), places(script)
    counts: dict[ThreadPath, int] = {}
    for feed in run.feeds:
        index = START + where[feed.thread, counts.get(feed.thread, 0)]
        counts[feed.thread] = counts.get(feed.thread, 0) + 1
        assert (laid.tokens[index], laid.positions[index]) == (feed.token, feed.position)


@given(answers(3))
def test_a_known_answer_comes_out_as_it_is(vocabulary: Vocabulary, answer: Answer) -> None:
    script = compile_script(answer, vocabulary, position_policy("pred10"), end=False)
    run = forced(render(answer), vocabulary)
    assert text_of(run) == render(answer)
    assert run.interpreter.finish_reason == "stop" and not run.interpreter.transcript.problems
    decoded = script_of(run.interpreter.main, vocabulary)
    assert (decoded.tokens, decoded.block, decoded.blocks) == (script.tokens, script.block, script.blocks)
    assert run.interpreter.rounds == critical_path(script, vocabulary)


@given(cases)
def test_content_of_a_thread_is_what_stands_between_its_tags(vocabulary: Vocabulary, case: Case) -> None:
    run = play(case, vocabulary)
    response = respond(run.interpreter, START, 1, 1.0)
    script = script_of(run.interpreter.main, vocabulary)
    for index, thread in enumerate(response.threads[1:], 1):
        inside = [k for k, block in enumerate(script.block) if block == index]
        closed = script.tokens[inside[-1]] == vocabulary.async_end and len(inside) > 1
        last = inside[-1] if closed else max(k for k in range(len(script.block)) if within(script, k, index)) + 1
        assert thread.content == last - inside[0] - 1


def within(script: Script, token: int, block: int) -> bool:
    own = script.block[token]
    while own not in (0, block):
        own = script.blocks[own].parent
    return own == block


def promise(body: str, tokens: int = 1) -> str:
    return f'<promise topic="x" tokens={tokens} /><async>{body}</async>'


def test_a_sync_waits_and_enters_the_cache_after_the_wait(vocabulary: Vocabulary) -> None:
    run = forced(promise("xyzx") + "<sync/>y", vocabulary)
    fed = [op.token for op in run.feeds if op.thread == () or op.token == vocabulary.async_end]
    assert fed.index(vocabulary.sync) == fed.index(vocabulary.async_end) + 1
    assert run.interpreter.main.wait_steps == 4  # sync in round 6, child closed in 5 + 5 = 10: idle in 7 to 10


def test_a_parent_joined_by_main_does_not_bring_its_joined_children_again(vocabulary: Vocabulary) -> None:
    run = forced(promise(promise("x") + "<sync/>y") + "<sync/>z", vocabulary)
    joined = [op.children for op in run.operations if not isinstance(op, Feed | Fork)]
    assert joined == [((0, 0),), ((0,),)]


def test_a_chunk_that_a_join_ends_is_not_waited_for_for_ever(vocabulary: Vocabulary) -> None:
    # The outer chunk reaches its 6 tokens with its sync; main waits for it and must go on.
    text = promise(promise("x") + "<sync/>yyy") + "<sync/>z"
    run = forced(text, vocabulary, Limits(max_tokens=100, max_async_tokens=6, max_depth=2))
    assert answer_of(run.interpreter.main).plain == "xz"
    assert run.interpreter.finish_reason == "stop" and not run.interpreter.main.truncated


def test_a_long_chunk_is_closed_and_marked(vocabulary: Vocabulary) -> None:
    run = forced(promise("xyzxyz") + "<sync/>z", vocabulary, replace(WIDE, max_async_tokens=4))
    child = run.interpreter.main.children[0]
    assert (child.truncated, child.content, child.written[-1]) == (True, 4, vocabulary.async_end)
    assert text_of(run) == promise("xyzx") + "<sync/>z" and run.interpreter.finish_reason == "stop"


def test_max_tokens_ends_with_length_and_keeps_what_there_is(vocabulary: Vocabulary) -> None:
    # Promise 5, then main and child one token each: 5 + 2 + 2 = 9.
    run = forced(promise("xyz") + "zyx", vocabulary, replace(WIDE, max_tokens=9))
    assert text_of(run) == promise("xy") + "zy"
    assert run.interpreter.finish_reason == "length" and run.interpreter.main.truncated


def test_when_tokens_run_out_the_first_threads_in_document_order_get_them(vocabulary: Vocabulary) -> None:
    run = forced(promise("xyz") + "zyx", vocabulary, replace(WIDE, max_tokens=8))
    assert text_of(run) == promise("x") + "zy"


def test_children_go_on_when_main_ends(vocabulary: Vocabulary) -> None:
    assert text_of(forced(promise("xyzxyz"), vocabulary)) == promise("xyzxyz")


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("xyzx", "z", "xy"),
        (promise("xyzx") + "y<sync/>x", "zx", promise("xy") + "y<sync/>x"),  # in a chunk: it ends the chunk
        (promise("xy") + "yzx<sync/>x", "zx", promise("xy") + "y"),  # in main: the answer, but chunks go on
        ("xy" + promise("q") + "zx", "yz", "xy" + promise("q") + "zx"),  # never across a chunk
    ],
)
def test_stop_strings(vocabulary: Vocabulary, text: str, stop: str, expected: str) -> None:
    run = forced(text, vocabulary, stops=(stop,))
    assert text_of(run) == expected and run.interpreter.finish_reason == "stop"


def streamed(vocabulary: Vocabulary, tokens: list[int], stops: tuple[str, ...]) -> Run:
    interpreter = interpreter_of(Case(0, WIDE, False, stops=stops), vocabulary)
    queue = [*tokens, vocabulary.tokenizer.eos_token_id]
    return drive(interpreter, lambda path, legal: queue.pop(0))


def test_stop_strings_are_found_in_tags_that_stay_text(vocabulary: Vocabulary) -> None:
    v = vocabulary
    run = streamed(v, [*v.encode("y"), v.promise_tokens, *v.encode("zx")], ('" tokens=z',))
    assert answer_of(run.interpreter.main).plain == "y"


def test_nothing_revives_a_stopped_thread(vocabulary: Vocabulary) -> None:
    v = vocabulary
    run = streamed(v, [v.promise_topic, *v.encode("x"), v.sync, *v.encode("zzz")], ("x",))
    assert answer_of(run.interpreter.main).plain == '<promise topic="'
    assert run.interpreter.finish_reason == "stop"


def test_a_full_cache_ends_with_length(vocabulary: Vocabulary) -> None:
    # The last token needs no slot: with room for two tokens behind the prompt the third is still shown.
    run = forced("xyzxyz", vocabulary, replace(WIDE, slots=START + 2))
    assert text_of(run) == "xyz" and run.interpreter.finish_reason == "length"


def test_the_window_ends_main_with_length(vocabulary: Vocabulary) -> None:
    # Positions 3 and 4 hold x and y; the third needs none to be shown.
    run = forced("xyzxyz", vocabulary, replace(WIDE, window=START + 2))
    assert text_of(run) == "xyz" and run.interpreter.finish_reason == "length"


def test_a_chunk_that_jumps_out_of_the_window_is_closed_inside_it(vocabulary: Vocabulary) -> None:
    # Counting in ones: main's promise ends at 7, <async> stands at 8, the inner promise ends at 13, its chunk opens at
    # 14. The outer chunk would go on at 14 + 9 = 23, beyond the window; main goes on at 8 + 1.
    text = promise(promise("x", 9) + "yyy") + "<sync/>z"
    run = forced(text, vocabulary, replace(WIDE, window=20), policy="pred1")
    assert max(feed.position for feed in run.feeds) < 20
    assert answer_of(run.interpreter.main).plain == "xz" and run.interpreter.main.children[0].truncated


@pytest.mark.parametrize("name", ["max_tokens", "max_async_tokens", "max_threads", "max_depth", "window", "slots"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3"])
def test_limits_are_whole_numbers_from_one(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1, not {value!r}"):
        Limits(**{name: value})
