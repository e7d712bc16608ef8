"""Penalties by what a thread sees, biases, and the probabilities of the text's tokens."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from pastalm import Engine
from pastalm.lang.parse import parse
from pastalm.lang.script import compile_script
from pastalm.runtime.replay import Replay
from pastalm.runtime.request import RequestError, policy_of
from pastalm.runtime.scheduler import Scheduler
from pastalm.runtime.seen_text import seen_counts, text_places
from pastalm.runtime.sequence import Sequence
from pastalm.runtime.thread import Thread
from tests.runtime.families import tiny

SHORT: dict[str, Any] = {"max_tokens": 20, "mode": "sequential"}
FORKING: dict[str, Any] = {"max_tokens": 60, "temperature": 1.3, "promise_bias": 3.0, "max_async_tokens": 9}
ANSWER = (
    '<promise topic="one" tokens=1 /><async>aa</async>b<promise topic="two" tokens=1 /><async>cc</async><sync/>d'
    '<promise topic="three" tokens=1 /><async>e</async>f'
)


@pytest.fixture(scope="module")
def engine(tokenizer: PreTrainedTokenizerFast) -> Engine:
    return Engine(tiny("llama", len(tokenizer)), tokenizer)


def known(engine: Engine, **options: Any) -> Sequence:
    """A request that is answered with the known answer."""
    policy = policy_of(engine.runner.model.config)
    request = engine.request("hello", max_tokens=200, **options)
    request.teacher = Replay(compile_script(parse(ANSWER), engine.vocabulary, policy, end=False), min(engine.eos))
    return request


def main_of(engine: Engine) -> Thread:
    """The main thread of the known answer."""
    request = known(engine)
    engine.run(request)
    return request.interpreter.main


def text(engine: Engine, counts: Counter[int]) -> str:
    return "".join(sorted(engine.codec.decode([token]) * times for token, times in counts.items()))


def test_a_thread_sees_its_own_text_its_parent_s_before_it_and_what_it_has_joined(engine: Engine) -> None:
    main = main_of(engine)
    first, second, third = main.children
    assert text(engine, seen_counts(main, engine.vocabulary)) == "aabccdf"  # not the last chunk: it is not joined
    assert text(engine, seen_counts(first, engine.vocabulary)) == "aa"
    assert text(engine, seen_counts(second, engine.vocabulary)) == "bcc"
    assert text(engine, seen_counts(third, engine.vocabulary)) == "aabccde"


def test_text_places_are_the_document_without_tags(engine: Engine) -> None:
    main = main_of(engine)
    threads = {thread.path: thread for thread in main.family()}
    tokens = [threads[path].written[number] for path, number in text_places(main, engine.vocabulary)]
    assert engine.codec.decode([token for token in tokens if isinstance(token, int)]) == parse(ANSWER).plain


def test_a_bias_rules_tokens_out_and_in(engine: Engine) -> None:
    free = engine.generate("hello", **SHORT)
    common = Counter(free.script.tokens).most_common(1)[0][0]
    without = engine.generate("hello", logit_bias={common: -100}, **SHORT)
    assert common not in without.script.tokens
    assert set(engine.generate("hello", logit_bias={common: 100}, **SHORT).script.tokens) == {common}


def test_penalties_take_from_what_was_seen(engine: Engine) -> None:
    def most(**options: Any) -> int:
        return max(Counter(engine.generate("hello", **SHORT, **options).script.tokens).values())

    assert most(presence_penalty=2.0, frequency_penalty=2.0) < most() > 2
    assert most(frequency_penalty=-2.0) >= most()


def test_the_arithmetic_of_penalties(engine: Engine) -> None:
    """The token is the best of the logits less what the formula says, step by step."""
    shown: list[tuple[Tensor, int]] = []
    engine.generate(
        "hello",
        presence_penalty=0.7,
        frequency_penalty=0.4,
        observe=lambda _, logits, token: shown.append((logits.clone(), token)),
        **SHORT,
    )
    seen: Counter[int] = Counter()
    for logits, token in shown:
        own = logits.float()
        for one, times in seen.items():
            own[one] -= 0.7 + 0.4 * times
        own[list(engine.vocabulary.tags)] = -torch.inf
        assert token == int(own.argmax())
        seen[token] += 1


def test_neighbours_in_the_batch_keep_their_own_fields(engine: Engine) -> None:
    each: list[dict[str, Any]] = [{}, {"presence_penalty": 2.0}, {"logit_bias": {5: 100.0}}]
    alone = [engine.generate("hello", seed=3, **FORKING, **own).annotated for own in each]
    requests = [engine.request("hello", seed=3, **FORKING, **own) for own in each]
    scheduler = Scheduler(engine.runner, 3, 400)
    for request in requests:
        scheduler.add(request)
    while scheduler.step():
        pass
    assert [request.result().annotated for request in requests] == alone


def test_logprobs_are_the_model_s(engine: Engine) -> None:
    shown: dict[int, Tensor] = {}

    def observe(path: tuple[int, ...], logits: Tensor, token: int) -> None:
        shown[len(shown)] = torch.log_softmax(logits.float(), -1)[[token, int(logits.argmax())]]

    response = engine.generate("hello", logprobs=3, observe=observe, **SHORT)
    assert response.logprobs is not None and "".join(one.text for one in response.logprobs) == response.text
    for one, (own, best) in zip(response.logprobs, shown.values(), strict=True):
        assert one.logprob == pytest.approx(float(own)) and one.top[0][1] == pytest.approx(float(best))
        assert len(one.top) == 3 and [value for _, value in one.top] == sorted((v for _, v in one.top), reverse=True)


def ascii_of(text: str) -> str:
    """Without characters of several bytes, which may be several tokens."""
    return "".join(char for char in text if char.isascii())


def test_logprobs_of_threads_are_in_the_order_of_the_document(engine: Engine) -> None:
    for seed in range(4):
        response = engine.generate("hello world", logprobs=0, seed=seed, **FORKING)
        assert response.logprobs is not None
        assert ascii_of("".join(one.text for one in response.logprobs)) == ascii_of(response.text)
        assert len(response.logprobs) == response.metrics.content_tokens
    assert engine.generate("hello", **SHORT).logprobs is None


def test_logprobs_that_become_known_step_by_step_are_those_of_the_whole(engine: Engine) -> None:
    request, told, more = known(engine, logprobs=1, eager=True), [], True
    scheduler = Scheduler(engine.runner, 1, 400)
    scheduler.add(request)
    assert request.logprobs is not None
    while more:
        more = scheduler.step()
        told.append(request.logprobs.fresh(request.interpreter))
    assert sum(told, ()) == request.result().logprobs and len(list(filter(None, told))) > 4
    assert "".join(one.text for piece in told for one in piece) == "aabccdef"


def test_a_malformed_promise_is_text_like_any_other(tokenizer: PreTrainedTokenizerFast) -> None:
    engine = Engine(tiny("llama", len(tokenizer)), tokenizer, constrained=False)
    v = engine.vocabulary
    request = engine.request("hello", logprobs=0, presence_penalty=1.0)
    tokens = iter([v.promise_topic, *v.encode("aa"), v.sync, *v.encode("bc"), v.promise_topic, *v.encode("d"), v.end])
    request.teacher = lambda logits, legal, paths: [next(tokens) for _ in paths]
    response = engine.run(request)
    assert response.text == '<promise topic="aabc<promise topic="d' and len(response.problems) == 2
    assert "".join(one.text for one in response.logprobs or ()) == "aabcd"
    assert text(engine, seen_counts(request.interpreter.main, v)) == "aabcd"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"presence_penalty": 2.1}, "presence_penalty is a number from -2 to 2"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty is a number from -2 to 2"),
        ({"logit_bias": {1 << 30: 1.0}}, "which this model does not have"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias is ids"),
        ({"logit_bias": {1: 101.0}}, "numbers from -100 to 100"),
        ({"logprobs": 21}, "logprobs is a whole number from 0 to 20"),
        ({"logprobs": True}, "logprobs is a whole number from 0 to 20"),
        ({"logprobs": 2.5}, "logprobs is a whole number from 0 to 20"),
        ({"logit_bias": {5.0: 1.0}}, "logit_bias is ids"),
        ({"logit_bias": {"5": 1.0}}, "logit_bias is ids"),
        ({"logit_bias": {5: "1"}}, "logit_bias is ids"),
        ({"logit_bias": [5]}, "logit_bias is a mapping"),
        ({"temperature": "1"}, "temperature must be a number, not '1'"),
        ({"top_p": [1]}, "top_p must be a number"),
        ({"promise_bias": "more"}, "promise_bias must be a number"),
        ({"presence_penalty": {}}, "presence_penalty must be a number"),
        ({"frequency_penalty": "1"}, "frequency_penalty must be a number"),
        ({"stop": 1}, "stop is a string or a list of strings, not 1"),
        ({"stop": [1]}, "stop is a string or a list of strings"),
        ({"stop": b"a"}, "stop is a string or a list of strings"),
        ({"stop_token_ids": 5}, "stop_token_ids is a list of token ids"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids is a list of token ids"),
        ({"stop_token_ids": [10**9]}, "stop_token_ids names the token 1000000000"),
        ({"positions": ["pred10"]}, "positions is the name of a policy"),
    ],
)
def test_values_that_mean_nothing(engine: Engine, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        engine.generate("hello", **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_batch": "2"}, "whole number of at least 1 request, not '2'"),
        ({"max_batch": 1.5}, "whole number of at least 1 request, not 1.5"),
        ({"seeds": [1]}, "There are 1 seeds for 2 prompts"),
        ({"seeds": [1, 2, 3]}, "There are 3 seeds for 2 prompts"),
    ],
)
def test_values_that_mean_nothing_for_a_batch(engine: Engine, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        next(engine.generate_batch(["hello"] * 2, **SHORT, **options))


@pytest.mark.parametrize("prompt", [None, 5, {"role": "user"}, b"hi", torch.tensor([1, 2])])
def test_what_is_no_prompt(engine: Engine, prompt: Any) -> None:
    with pytest.raises(RequestError, match=f"A prompt is a string.*, not a {type(prompt).__name__}"):
        engine.generate(prompt)
