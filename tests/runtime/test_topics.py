"""Topics while they are decoded: one of three words ends where the model would begin a fourth, in any batch, and as the
dense oracle's logits say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from pastalm import Engine
from pastalm.lang.positions import position_policy
from pastalm.lang.recogniser import Legal, Recogniser
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.oracle import oracle
from pastalm.runtime.sampler import Draw, SamplingParams
from tests.runtime.drawing import sample

PROMPT = "hello world"


def legal_after(vocabulary: Vocabulary, topic: str) -> Legal:
    reader = Recogniser(vocabulary, main=True, may_promise=True, constrained=True)
    for token in (vocabulary.promise_topic, *vocabulary.encode(topic)):
        reader.read(token)
    return reader.legal()


def logits(vocabulary: Vocabulary, *likely: str) -> Tensor:
    """A row in which the first tokens of these texts are the likeliest, in this order."""
    row = torch.zeros(len(vocabulary.tokenizer))
    for rank, text in enumerate(likely):
        row[vocabulary.encode(text)[0]] = 40.0 - 10 * rank
    return row


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_best_token_decides_in_any_batch(vocabulary: Vocabulary, temperature: float) -> None:
    end, x = vocabulary.promise_tokens, vocabulary.encode("x")[0]
    rows = [
        ("x y z", logits(vocabulary, " ", "x"), end),  # a fourth word would begin
        ("x y z", logits(vocabulary, "x", " "), x),  # the third goes on
        ("x y", logits(vocabulary, " ", "x"), vocabulary.encode(" ")[0]),  # there is room for a third
        ("x y z", logits(vocabulary, "\n", "x"), end),
    ]
    params = SamplingParams(temperature)
    draws = [Draw(params, legal_after(vocabulary, topic), (number,)) for number, (topic, _, _) in enumerate(rows)]
    expected = [token for _, _, token in rows]
    assert [sample(row[None], [draw])[0] for (_, row, _), draw in zip(rows, draws, strict=True)] == expected
    together = torch.stack([row for _, row, _ in rows])
    assert sample(together, draws) == expected
    assert sample(together.flip(0), draws[::-1]) == expected[::-1]


def chosen(row: Tensor, legal: Legal) -> int:
    """The greedy choice, written plainly."""
    best = int(row.argmax())
    if legal.instead and (best in legal.ids) != legal.only:
        legal = legal.instead
    allowed = torch.full_like(row, not legal.only, dtype=torch.bool)
    allowed[list(legal.ids)] = legal.only
    return int(row.masked_fill(~allowed, -torch.inf).argmax())


def wordy(tiny_llama: LlamaForCausalLM, vocabulary: Vocabulary) -> LlamaForCausalLM:
    """A model that goes from promise to promise, each with a topic of ever more words."""
    model = type(tiny_llama)(tiny_llama.config).eval()
    model.load_state_dict(tiny_llama.state_dict())
    v, (x, space, one) = vocabulary, (vocabulary.encode(text)[0] for text in ("x", " ", "1"))
    follows = {v.encode(PROMPT)[-1]: v.promise_topic, v.promise_topic: x, x: space, space: x, v.promise_tokens: one}
    follows |= {one: v.promise_end, v.promise_end: v.promise_topic, v.async_start: v.async_end}
    for place, (token, after) in enumerate(follows.items()):
        model.get_input_embeddings().weight.data[token, place] = 1.0
        model.get_output_embeddings().weight.data[after, place] += 2.0
    return model


def test_an_answer_is_what_the_oracles_logits_say(
    tiny_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary
) -> None:
    engine = Engine(wordy(tiny_llama, vocabulary), tokenizer)
    response, *_ = engine.generate_batch([PROMPT, "foo", "x 12"], max_tokens=120)
    assert response.text == engine.generate(PROMPT, max_tokens=120).text
    dense = oracle(engine.runner, engine.encode(PROMPT), response.script, position_policy("pred10"))
    reader, ended = engine.language().reader(0, 1), 0
    for row, token in zip(dense[()], response.script.of(0), strict=False):
        legal = reader.legal()
        assert token == chosen(row, legal)
        ended += legal.instead is not None and token == vocabulary.promise_tokens != int(row.argmax())
        reader.read(token)
    assert ended > 0
