"""Several answers to a prompt, and the probabilities of their tokens, as OpenAI's client reads them."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from pastalm import Engine
from pastalm.lang.prompt import RawPrompt
from tests.serving.conftest import RunningServer
from tests.serving.test_server import SPELL, alone, ask


def test_several_answers_are_drawn_apart(served: RunningServer) -> None:
    fields: dict[str, Any] = {"temperature": 1.0, "max_tokens": 20, "seed": 7}
    several = ask(served, n=3, **fields)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    for choice in several.choices:
        one = ask(served, **(fields | {"seed": choice.pasta["seed"]}))
        assert one.choices[0].message.content == choice.message.content
        assert one.pasta == choice.pasta
    assert [choice.pasta["seed"] for choice in several.choices] == [7, 8, 9]
    assert len({choice.message.content for choice in several.choices}) > 1
    written = sum(ask(served, **(fields | {"seed": seed})).usage.completion_tokens for seed in (7, 8, 9))
    assert several.usage.completion_tokens == written
    assert several.usage.prompt_tokens == ask(served, max_tokens=1).usage.prompt_tokens


def test_several_answers_as_a_stream(served: RunningServer) -> None:
    fields: dict[str, Any] = {"temperature": 1.0, "max_tokens": 20, "seed": 7, "n": 2}
    whole, texts, reasons = ask(served, **fields), ["", ""], {}
    for chunk in ask(served, stream=True, **fields):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}


def test_probabilities_of_a_chat_s_tokens(served: RunningServer, bundled: Engine) -> None:
    got, expected = ask(served, logprobs=True, top_logprobs=2), alone(bundled, logprobs=2)
    content = got.choices[0].logprobs.content
    assert "".join(one.token for one in content) == got.choices[0].message.content == expected.text
    assert [one.logprob for one in content] == pytest.approx([one.logprob for one in expected.logprobs], abs=1e-3)
    assert all(bytes(one.bytes).decode() == one.token and len(one.top_logprobs) == 2 for one in content)
    assert ask(served).choices[0].logprobs is None


def test_probabilities_of_a_completion_s_tokens(served: RunningServer, bundled: Engine) -> None:
    create = served.client().completions.create
    got = create(model="bundled", prompt=SPELL, max_tokens=30, logprobs=3).choices[0]
    expected = bundled.generate(RawPrompt(SPELL), max_tokens=30)
    assert "".join(got.logprobs.tokens) == got.text == expected.text
    for token, offset, top in zip(
        got.logprobs.tokens, got.logprobs.text_offset, got.logprobs.top_logprobs, strict=True
    ):
        assert got.text[offset:].startswith(token) and len(top) == 3


def test_probabilities_of_a_chat_s_stream(served: RunningServer) -> None:
    fields: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "n": 2}
    whole = ask(served, **fields)
    told: list[list[Any]] = [[], []]
    pieces: list[list[str]] = [[], []]
    for chunk in ask(served, stream=True, **fields):
        for choice in chunk.choices:
            told[choice.index] += choice.logprobs.content if choice.logprobs else []
            spelt = "".join(one.token for one in choice.logprobs.content) if choice.logprobs else ""
            assert spelt == (choice.delta.content or ""), "a piece has other tokens than its own"
            pieces[choice.index].append(spelt)
    for choice, tokens, texts in zip(whole.choices, told, pieces, strict=True):
        assert said(tokens) == said(choice.logprobs.content) and all(len(one.top_logprobs) == 2 for one in tokens)
        assert "".join(texts) == choice.message.content and len(list(filter(None, texts))) > 3
    assert whole.choices[0].pasta["threads"] > 2


def said(tokens: list[Any]) -> list[tuple[str, float]]:
    """Tokens with their probabilities; those of steps of another width differ in the last digits."""
    return [(one.token, pytest.approx(one.logprob, abs=1e-3)) for one in tokens]


def test_probabilities_of_a_completion_s_stream(served: RunningServer) -> None:
    create = served.client().completions.create
    fields: dict[str, Any] = {"model": "bundled", "prompt": SPELL, "max_tokens": 30, "logprobs": 3}
    whole, text = create(**fields).choices[0], ""
    offsets: list[int] = []
    for chunk in create(**fields, stream=True):
        choice = chunk.choices[0]
        if choice.logprobs:
            assert "".join(choice.logprobs.tokens) == choice.text
            assert choice.logprobs.text_offset[0] == len(text)
            offsets += choice.logprobs.text_offset
        text += choice.text
    assert text == whole.text and offsets == whole.logprobs.text_offset


def test_too_many_probabilities_are_refused(served: RunningServer) -> None:
    with pytest.raises(openai.BadRequestError, match="logprobs is a whole number from 0 to 20, not 21"):
        ask(served, logprobs=True, top_logprobs=21)


def test_a_bias_reaches_the_sampler(served: RunningServer, bundled: Engine) -> None:
    options: dict[str, Any] = {"max_tokens": 20, "mode": "sequential"}
    free = alone(bundled, **options)
    first = free.script.tokens[0]
    biased = ask(served, logit_bias={str(first): -100}, **options).choices[0].message.content
    assert biased == alone(bundled, logit_bias={first: -100}, **options).text != free.text
    penalised = ask(served, frequency_penalty=2, **options).choices[0].message.content
    assert penalised == alone(bundled, frequency_penalty=2.0, **options).text
