"""The engine over a completion server against answers that the server knows, and against its faults."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from time import monotonic, sleep
from typing import Any

import pytest
from hypothesis import given, settings
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pastalm.lang.answer import Answer
from pastalm.lang.parse import parse
from pastalm.lang.positions import position_policy
from pastalm.lang.script import Script, compile_script
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.engine import Engine
from pastalm.runtime.events import ForkEvent, JoinEvent, TokenEvent
from pastalm.runtime.remote.engine import RemoteEngine
from pastalm.runtime.remote.server import RemoteError
from pastalm.runtime.request import RequestError
from tests.runtime.remote.plain_server import MODEL, Fault, PlainServer, Writer, knowing, serving, writing
from tests.strategies import answers

CONTIGUOUS = position_policy("contiguous")
PROMPT = "hello world"
TWO = (
    "So: <async topic='one thing'>foo bar foo</async>, <async topic='other'>12 34</async>.<sync/> Then "
    "<async topic='third'>world</async><sync/> end"
)


def script_of(answer: Answer | str, vocabulary: Vocabulary) -> Script:
    return compile_script(parse(answer) if isinstance(answer, str) else answer, vocabulary, CONTIGUOUS)


@contextmanager
def remote(write: Writer, tokenizer: PreTrainedTokenizerFast, **options: Any) -> Iterator[tuple[Engine, PlainServer]]:
    plain = PlainServer(write)
    with serving(plain.app) as url:
        engine = Engine.remote(url, MODEL, tokenizer, **options)
        try:
            yield engine, plain
        finally:
            engine.release()


@pytest.fixture
def two(vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[Engine, PlainServer]]:
    write = knowing((vocabulary.encode(PROMPT), script_of(TWO, vocabulary)))
    with remote(write, tokenizer, timeout=1.0) as both:
        yield both


@settings(max_examples=25)
@given(answer=answers())
def test_every_answer_is_decoded_as_the_server_knows_it(
    answer: Answer, vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Each prompt that the driver sends is a view of the answer (the server knows no others), at any depth."""
    script = script_of(answer, vocabulary)
    with remote(knowing((vocabulary.encode(PROMPT), script)), tokenizer) as (engine, _):
        found = engine.generate(PROMPT, max_depth=3)
    assert found.script.tokens == script.tokens[:-1]  # the end of answer is not text
    assert found.finish_reason == "stop"
    assert found.text == answer.plain


def test_steps_and_metrics_are_those_of_the_interpreter(
    two: tuple[Engine, PlainServer], vocabulary: Vocabulary
) -> None:
    engine, plain = two
    found = engine.generate(PROMPT)
    script = script_of(TWO, vocabulary)
    assert found.text == parse(TWO).plain
    assert found.metrics.steps == found.metrics.critical_path < found.metrics.tokens
    assert len(found.threads) == len(script.blocks)
    assert len(plain.asked) == 1 + 3 + 2  # main, three chunks, and main anew behind each sync


def test_streams_tell_the_same_as_the_answer(two: tuple[Engine, PlainServer]) -> None:
    events = list(two[0].stream(PROMPT))
    assert sum(isinstance(event, ForkEvent) for event in events) == 3
    assert sum(isinstance(event, JoinEvent) for event in events) == 2
    assert {event.thread for event in events if isinstance(event, TokenEvent)} == {(), (0,), (1,), (2,)}
    assert events[-1].response.text == parse(TWO).plain  # type: ignore[union-attr]


FAULTS = [
    [Fault(after=4)],
    [None, Fault(after=0), Fault(after=2), Fault(status=503)],
    [Fault(status=429, headers={"Retry-After": "0"}), Fault(after=1), Fault(after=2), Fault(after=1), Fault(after=1)],
    [None, Fault(after=1, stall=True)],
]


@pytest.mark.parametrize("faults", FAULTS)
def test_faults_change_no_answer(faults: list[Fault | None], two: tuple[Engine, PlainServer]) -> None:
    engine, plain = two
    plain.faults.extend(faults)
    shown = "".join(event.text for event in engine.stream(PROMPT) if isinstance(event, TokenEvent) and not event.thread)
    assert not plain.faults
    assert engine.generate(PROMPT).text == parse(TWO).plain
    assert shown == "So: , . Then  end"  # nothing that main showed is lost or comes twice


def test_a_child_that_fails_for_good_ends_its_request_alone(
    vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerFast
) -> None:
    plain_text, prompt = "foo bar", vocabulary.encode("bar")
    known = knowing(
        (vocabulary.encode(PROMPT), script_of(TWO, vocabulary)), (prompt, script_of(plain_text, vocabulary))
    )

    def write(ids: Sequence[int], body: Any) -> int:
        if ids[-1] == vocabulary.async_start and len(ids) > 20:
            raise RuntimeError("a child of the first prompt")
        return known(ids, body)

    with remote(write, tokenizer, timeout=1.0, attempts=2) as (engine, _):
        good, bad = engine.request("bar"), engine.request(PROMPT)
        scheduler = engine.scheduler(2, 0)
        for one in (bad, good):
            scheduler.add(one)
        while scheduler.step():
            pass
        assert good.result().text == plain_text
        with pytest.raises(RemoteError, match="times in a row"):
            bad.result()


def test_a_client_that_leaves_ends_its_completions(vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerFast) -> None:
    def write(ids: Sequence[int], body: Any) -> int:
        sleep(0.01)
        return vocabulary.encode("x")[0]

    with remote(write, tokenizer) as (engine, plain):
        stream = engine.stream(PROMPT, max_tokens=900)
        for _ in range(5):
            next(stream)
        stream.close()
        end = monotonic() + 5
        while plain.open and monotonic() < end:
            sleep(0.02)
        assert plain.open == 0


def test_a_release_ends_whatever_runs(vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerFast) -> None:
    """A call in another thread, a stream that is half read, and what is asked afterwards; a second release is none."""
    ended: list[Exception] = []

    def write(ids: Sequence[int], body: Any) -> int:
        sleep(0.01)
        return vocabulary.encode("x")[0]

    def call() -> None:
        with pytest.raises(RemoteError, match="was released") as caught:
            engine.generate(PROMPT, max_tokens=900)
        ended.append(caught.value)

    with remote(write, tokenizer) as (engine, plain):
        reader = Thread(target=call, daemon=True)
        stream = engine.stream("bar", max_tokens=900)
        next(stream)
        reader.start()
        while len(plain.asked) < 2:
            sleep(0.01)
        engine.release()
        reader.join(30)
        assert len(ended) == 1
        with pytest.raises(RemoteError, match="was released"):
            list(stream)
        with pytest.raises(RemoteError, match="was released"):
            list(engine.generate_batch([PROMPT, "bar"], max_batch=1))
        engine.release()


def test_completions_at_once_are_bounded(vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerFast) -> None:
    answer = " ".join(f"<async topic='{letter}'>{letter * 9}</async>" for letter in "abcdef")
    script = script_of(answer, vocabulary)
    with remote(knowing((vocabulary.encode(PROMPT), script)), tokenizer, max_streams=2) as (engine, plain):
        assert engine.generate(PROMPT).text == parse(answer).plain
        assert plain.most_open <= 2


def test_many_requests_at_once(vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerFast) -> None:
    texts = {f"foo {n}": f"bar <async topic='t'>{'12 ' * n}end</async><sync/> {n}" for n in range(1, 9)}
    known = knowing(*((vocabulary.encode(prompt), script_of(text, vocabulary)) for prompt, text in texts.items()))
    with remote(known, tokenizer) as (engine, _):
        found = list(engine.generate_batch(list(texts), max_batch=3))
    assert [one.text for one in found] == [parse(text).plain for text in texts.values()]


def test_a_scheduler_decodes_as_many_as_it_was_asked_for(
    vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerFast
) -> None:
    texts = [f"foo {n}" for n in range(6)]
    script = script_of("bar 12 34 end", vocabulary)
    with remote(knowing(*((vocabulary.encode(text), script) for text in texts)), tokenizer) as (engine, _):
        scheduler = engine.scheduler(2, 0)
        asked = [engine.request(text) for text in texts]
        for one in asked:
            scheduler.add(one)
        most = 0
        while not all(one.finished for one in asked):
            scheduler.step()
            most = max(most, len(scheduler.running))
        assert most == 2
        with pytest.raises(RequestError, match="max_batch_threads says nothing there"):
            engine.scheduler(2, 0, 4)


def test_all_threads_of_a_prompt_ask_one_of_several_servers(
    vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerFast
) -> None:
    texts = {f"foo {n}": f"bar <async topic='t'>12 {n}</async><sync/> end" for n in range(4)}
    known = knowing(*((vocabulary.encode(prompt), script_of(text, vocabulary)) for prompt, text in texts.items()))
    one, other = PlainServer(known), PlainServer(known)
    with serving(one.app) as first, serving(other.app) as second:
        engine = Engine.remote([first, second], MODEL, tokenizer)
        found = list(engine.generate_batch(list(texts), max_batch=4))
        engine.release()
    assert [answer.text for answer in found] == [parse(text).plain for text in texts.values()]
    length = len(vocabulary.encode("foo 0"))
    asked = [{tuple(body["prompt"][:length]) for body in server.asked} for server in (one, other)]
    assert len(asked[0]) == len(asked[1]) == 2 and not asked[0] & asked[1]


def test_sequential_mode_writes_no_tags(tiny_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    with remote(writing(tiny_llama), tokenizer) as (engine, _):
        found = engine.generate(PROMPT, mode="sequential", max_tokens=20)
    local = Engine(tiny_llama, tokenizer).generate(PROMPT, mode="sequential", max_tokens=20)
    assert found.text == local.text


def test_a_sequential_answer_begins_a_chunk_where_the_model_would_promise_one(
    vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerFast
) -> None:
    v, (x, line_break) = vocabulary, vocabulary.encode("x\n")
    follows = {v.encode(PROMPT)[-1]: v.promise_topic, v.async_start: x, x: line_break, line_break: v.promise_topic}

    def write(ids: Sequence[int], body: Any) -> int:
        bias = body.get("logit_bias", {})
        token = tokenizer.eos_token_id if ids[-4:] == [x, line_break] * 2 else follows[ids[-1]]
        assert str(token) not in bias, "the server was told not to"
        return token

    with remote(write, tokenizer) as (engine, plain):
        found = engine.generate(PROMPT, mode="sequential")
    assert found.text == "x\nx\n" and found.finish_reason == "stop"
    assert found.metrics.tokens == found.metrics.critical_path == 4 + 2
    assert [body["max_tokens"] == 1 for body in plain.asked] == [False, True] * 2 + [False]
    assert [v.async_start in body["prompt"][:-1] for body in plain.asked] == [False] * 5


def test_limits_end_an_answer(two: tuple[Engine, PlainServer]) -> None:
    found = two[0].generate(PROMPT, max_tokens=12)
    assert found.finish_reason == "length"
    assert found.metrics.tokens <= 12


@pytest.mark.parametrize("mode", ["async", "sequential"])
def test_an_answer_may_fill_all_that_the_server_has(
    mode: str, tiny_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    plain = PlainServer(writing(tiny_llama), longest=60)
    with serving(plain.app) as url:
        engine = Engine.remote(url, MODEL, tokenizer)
        found = engine.generate(PROMPT, mode=mode)
        engine.release()
    assert found.finish_reason == "length"
    assert found.prompt_tokens + found.metrics.tokens == 60


def test_what_lies_beside_the_tokenizer_counts(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An end of answer that the generation config alone names, and the positions that the model was trained with."""
    letter, end = tokenizer.convert_tokens_to_ids(["x", "y"])
    tokenizer.save_pretrained(tmp_path)
    GenerationConfig(eos_token_id=[tokenizer.eos_token_id, end]).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "pasta_positions": "pred10"}))
    with serving(PlainServer(lambda ids, _: end if ids[-1] == letter else letter).app) as url:
        engine = Engine.remote(url, MODEL, str(tmp_path))
        found = engine.generate(PROMPT, mode="sequential")
        engine.release()
    assert (found.text, found.finish_reason, found.end) == ("x", "stop", end)
    assert "trained with the positions 'pred10'" in caplog.text


def test_what_a_server_cannot_do_is_refused(two: tuple[Engine, PlainServer]) -> None:
    with pytest.raises(RequestError, match="positions 'contiguous' only, not 'pred10'"):
        two[0].generate(PROMPT, positions="pred10")
    with pytest.raises(RequestError, match="observe"):
        two[0].generate(PROMPT, observe=lambda *_: None)
    for count in (0, 1):
        with pytest.raises(RequestError, match="shows no logits: logprobs has nothing to work on"):
            two[0].generate(PROMPT, logprobs=count)
    with pytest.raises(RequestError, match="replay"):
        two[0].replay(PROMPT, "foo")


def test_a_model_that_the_server_does_not_know(
    tokenizer: PreTrainedTokenizerFast, tiny_llama: LlamaForCausalLM
) -> None:
    with (
        serving(PlainServer(writing(tiny_llama)).app) as url,
        pytest.raises(RemoteError, match="does not know the model"),
    ):
        RemoteEngine(url, "other", tokenizer)


def test_calls_from_several_threads(two: tuple[Engine, PlainServer]) -> None:
    found: list[str] = []
    threads = [Thread(target=lambda: found.append(two[0].generate(PROMPT).text)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [parse(TWO).plain] * 3
