"""The door of transformers: what ``generate`` returns with our decoding in place of its own."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, StoppingCriteriaList, TextIteratorStreamer
from transformers.generation import EosTokenCriteria, MaxLengthCriteria

import pastalm
from pastalm import Engine, RequestError
from pastalm.lang.vocabulary import Vocabulary


@pytest.fixture
def model(tiny_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A model of the test's own, whose padding is the end of an answer."""
    own = deepcopy(tiny_llama)
    own.set_attn_implementation("sdpa")
    own.generation_config.pad_token_id = tokenizer.eos_token_id
    return own


def rows(tokenizer: PreTrainedTokenizerFast, *prompts: str) -> dict[str, torch.Tensor]:
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    longest = max(map(len, ids))
    padded = [[tokenizer.eos_token_id] * (longest - len(one)) + one for one in ids]
    mask = [[0] * (longest - len(one)) + [1] * len(one) for one in ids]
    return {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}


def test_sequentially_it_is_what_generate_gives(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    inputs = rows(tokenizer, "hello world foo", "bar", "12 34")
    tags = list(Vocabulary(tokenizer).tags)
    own = model.generate(**inputs, max_new_tokens=9, do_sample=False, suppress_tokens=tags)
    options = {"custom_generate": pastalm.generate, "pasta_tokenizer": tokenizer, "mode": "sequential"}
    ours = model.generate(**inputs, max_new_tokens=9, do_sample=False, **options)
    assert torch.equal(own, ours)
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(own, model.generate(**inputs, max_new_tokens=9, do_sample=False, suppress_tokens=tags))


def test_in_parallel_it_is_what_the_engine_gives(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    head, vocabulary = torch.nn.Linear(32, model.lm_head.out_features), Vocabulary(tokenizer)
    torch.nn.init.zeros_(head.bias)
    head.bias.data[list(vocabulary.tags)] = 2.0  # so that promises begin and end
    model.lm_head = head
    inputs = rows(tokenizer, "hello world foo", "bar")
    options = {"custom_generate": pastalm.generate, "pasta_tokenizer": tokenizer, "promise_bias": 3.0}
    options |= {"max_new_tokens": 60}
    ours = model.generate(**inputs, do_sample=False, **options)
    full = model.generate(**inputs, do_sample=False, annotated=True, return_dict_in_generate=True, **options).sequences
    engine, length = Engine(model, tokenizer), inputs["input_ids"].shape[1]
    forked = 0
    for row, prompt in enumerate(("hello world foo", "bar")):
        response = engine.generate(prompt, max_tokens=60, promise_bias=3.0, temperature=0.0)
        forked += len(response.threads) - 1
        assert full[row, length:].tolist()[: len(response.script.tokens)] == response.script.tokens
        assert engine.codec.decode(ours[row, length:].tolist()) == response.text
    assert forked


def test_the_seed_of_torch_decides_what_is_drawn(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    def drawn(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        options = {"custom_generate": pastalm.generate, "pasta_tokenizer": tokenizer, "num_return_sequences": 2}
        return model.generate(**rows(tokenizer, "hello"), do_sample=True, max_new_tokens=12, **options).tolist()

    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(1)[0] != drawn(1)[1]
    assert "top_k is not applied" in caplog.text  # which the library sets where nobody does


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_beams": 2}, "no beams"),
        ({"repetition_penalty": 1.5}, "cannot apply RepetitionPenaltyLogitsProcessor"),
        ({"max_time": 9.0}, "cannot apply MaxTimeCriteria"),
        ({"stopping_criteria": StoppingCriteriaList([MaxLengthCriteria(8)])}, "give max_new_tokens or eos_token_id"),
        ({"stopping_criteria": StoppingCriteriaList([EosTokenCriteria([7])])}, "give max_new_tokens or eos_token_id"),
        (
            {"return_dict_in_generate": True, "output_scores": True, "output_logits": True},
            "keeps the ids alone: leave output_scores, output_logits out",
        ),
    ],
)
def test_what_it_cannot_do_it_refuses(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, options: dict[str, object], said: str
) -> None:
    own = {"custom_generate": pastalm.generate, "pasta_tokenizer": tokenizer}
    with pytest.raises(RequestError, match=said):
        model.generate(**rows(tokenizer, "hello"), max_new_tokens=3, **own, **options)


def test_who_reads_a_streamer_is_not_left_waiting(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=30)
    options = {"custom_generate": pastalm.generate, "pasta_tokenizer": tokenizer, "streamer": streamer}
    with pytest.raises(RequestError, match="writes to no streamer: leave it out"):
        model.generate(**rows(tokenizer, "hello"), max_new_tokens=3, **options)
    assert "".join(streamer) == ""


def test_criteria_that_say_what_the_config_says_change_nothing(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    inputs, options = rows(tokenizer, "hello"), {"custom_generate": pastalm.generate, "pasta_tokenizer": tokenizer}
    length = inputs["input_ids"].shape[1] + 3
    same = StoppingCriteriaList([MaxLengthCriteria(length), EosTokenCriteria(tokenizer.eos_token_id)])
    options |= {"max_new_tokens": 3, "do_sample": False, "eos_token_id": [tokenizer.eos_token_id]}
    assert torch.equal(model.generate(**inputs, **options, stopping_criteria=same), model.generate(**inputs, **options))


def test_the_tokenizer_is_found_beside_the_model(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = LlamaForCausalLM.from_pretrained(tmp_path)
    inputs = rows(tokenizer, "hello")
    expected = model.generate(
        **inputs, max_new_tokens=9, do_sample=False, custom_generate=pastalm.generate, pasta_tokenizer=tokenizer
    )
    found = loaded.generate(**inputs, max_new_tokens=9, do_sample=False, custom_generate=pastalm.generate)
    assert torch.equal(found, expected)
