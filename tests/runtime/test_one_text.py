"""One way to make text: events, the response and its annotated form say the same, wherever a limit cuts, with every
tokenizer; and an engine says when it is made what it can never do."""

from __future__ import annotations

import logging
from functools import cache

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pastalm import Answer, Block, Engine, Sync, parse
from pastalm.lang.codec import BROKEN
from pastalm.lang.tags import TAGS, is_topic, normal_topic
from pastalm.lang.tokenizer import add_tags, has_tags
from pastalm.runtime.events import TokenEvent
from tests.tokenizers import EXACT, LOSSY, tagged

every = pytest.mark.parametrize("kind", [*EXACT, *LOSSY])
WILD = {"temperature": 1.0, "promise_bias": 3.0}


def random_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config).eval()
    model.lm_head = torch.nn.Linear(32, len(tokenizer))
    torch.nn.init.zeros_(model.lm_head.bias)
    if has_tags(tokenizer):  # promises begin and end
        model.lm_head.bias.data[tokenizer.convert_tokens_to_ids(list(TAGS))] = 4.0
    return model


@cache
def engine_of(kind: str) -> Engine:
    return Engine(random_model(tagged(kind)), tagged(kind))


@every
@pytest.mark.parametrize("mode", ["async", "sequential"])
def test_what_streams_is_the_answer_wherever_it_is_cut(kind: str, mode: str) -> None:
    engine = engine_of(kind)
    for limit in (1, 9, 40):
        *events, last = engine.stream("foo 12", max_tokens=limit, mode=mode, seed=limit, **WILD)
        response, told = last.response, {}
        for event in events:
            if isinstance(event, TokenEvent):
                told[event.thread] = told.get(event.thread, "") + event.text
        assert {thread.path: thread.text for thread in response.threads if thread.text} == {
            path: text for path, text in told.items() if text
        }
        whole = engine.generate("foo 12", max_tokens=limit, mode=mode, seed=limit, **WILD)
        assert (whole.text, whole.answer) == (response.text, response.answer)


@pytest.mark.parametrize("kind", ["llama2", "gemma", "unigram", "gpt2"])
def test_a_limit_within_a_character_spoils_no_other(kind: str) -> None:
    engine = engine_of(kind)
    ids = engine.codec.encode("東京は日本の首都です。😀")
    for end in range(1, len(ids)):
        response = engine.replay_script([5], _script(ids[:end]), _policy())
        assert "東京は日本の首都です。😀".startswith(response.text.removesuffix(BROKEN))
        assert response.text.count(BROKEN) <= 1


def _script(ids: list[int]):
    from pastalm.lang.script import Script

    return Script(list(ids), [0] * len(ids))


def _policy():
    from pastalm.lang.positions import position_policy

    return position_policy("pred10")


@every
def test_a_random_model_promises_nothing_but_topics(kind: str) -> None:
    engine, found = engine_of(kind), 0
    for seed in range(2):
        response = engine.generate("foo", max_tokens=60, seed=seed, **WILD)
        assert response.problems == ()
        for thread in response.threads[1:]:
            found += 1
            assert is_topic(thread.topic) and thread.topic == normal_topic(thread.topic)
    assert found


def test_a_tokenizer_without_digits_is_refused_when_the_engine_is_made() -> None:
    names = ["<unk>", "</s>", *"abc "]
    backend = Tokenizer(models.BPE({name: place for place, name in enumerate(names)}, [], unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    plain = Engine(random_model(tokenizer), tokenizer)
    assert plain.generate("ab", mode="sequential", max_tokens=2).metrics.tokens
    add_tags(tokenizer)
    with pytest.raises(ValueError, match="can write not the number 1, so no promise could be completed"):
        Engine(random_model(tokenizer), tokenizer)
    assert Engine(random_model(tokenizer), tokenizer, constrained=False)


def without_end(kind: str) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tagged(kind).backend_tokenizer, unk_token="<unk>")
    assert tokenizer.eos_token_id is None
    return tokenizer


@pytest.mark.parametrize("named", [0, [7, 0]])
def test_an_end_that_only_the_generation_config_names_ends_answers(named: int | list[int]) -> None:
    tokenizer = without_end("llama2")
    model = random_model(tagged("llama2"))
    model.generation_config.eos_token_id = named
    engine = Engine(model, tokenizer)
    ends = {named} if isinstance(named, int) else set(named)
    assert engine.eos == ends and engine.vocabulary.end == min(ends)
    torch.nn.init.zeros_(model.lm_head.bias)
    torch.nn.init.zeros_(model.lm_head.weight)  # so that the first token is the likeliest
    response = engine.generate("foo", mode="sequential", max_tokens=50)
    assert (response.finish_reason, response.end, response.text) == ("stop", 0, "")


def test_an_engine_without_any_end_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model = random_model(tagged("llama2"))
    model.generation_config.eos_token_id = None
    with caplog.at_level(logging.WARNING):
        Engine(model, tagged("llama2"))
        assert not caplog.messages
        Engine(model, without_end("llama2"))
    (said,) = caplog.messages
    assert said.startswith("Neither the tokenizer nor the generation config names an end")


def test_an_annotated_answer_whose_text_spells_tags_is_read_back() -> None:
    said = Answer(("see <sync/> ", Block("x", ("</async> and <promise",), 2), Sync(), "&lt;async>"))
    response = engine_of("gpt2").replay("foo", said)
    assert (response.answer, response.text) == (said, said.plain)
    assert parse(response.annotated) == said
