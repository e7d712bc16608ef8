"""Weights as int8: the arithmetic written out, one row as many, and how often a real model chooses the same token."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from pastalm import Engine
from pastalm.runtime.quantize import Int8Linear, quantize
from tests.runtime.families import tiny


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_the_rounded_weight_is_multiplied(dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 48, bias=bias).to(dtype)
    own = Int8Linear(layer)
    exact = layer.weight.detach().float()
    scale = (exact.abs().amax(1) / 127).to(dtype).float()[:, None]
    rounded = (exact / scale).round().clamp(-127, 127)
    assert torch.equal(own.rounded.float(), rounded)
    assert (rounded * scale - exact).abs().max() <= 0.51 * scale.max()
    loose = 1e-5 if dtype is torch.float32 else 2e-2
    with torch.inference_mode():
        for shape in ((1, 64), (1, 1, 64), (5, 64), (1, 3, 64)):
            x = torch.randn(shape).to(dtype)
            expected = x.float() @ (rounded * scale).T + (layer.bias.float() if bias else 0)
            torch.testing.assert_close(own(x).float(), expected, atol=loose, rtol=loose)


def test_a_row_of_zeros_stays_zero() -> None:
    layer = nn.Linear(32, 2, bias=False)
    nn.init.zeros_(layer.weight)
    assert not Int8Linear(layer)(torch.ones(1, 32)).any()


@pytest.mark.parametrize("size", [64, 70])
def test_a_weight_may_lie_in_columns(size: int) -> None:
    layer, other = nn.Linear(64, size), nn.Linear(64, size)
    other.weight = nn.Parameter(layer.weight.detach().t().contiguous().t())
    one, two = Int8Linear(layer, kernel=True), Int8Linear(other, kernel=True)
    assert torch.equal(one.rounded, two.rounded) and torch.equal(one.weight, two.weight)
    assert two.rounded.is_contiguous() and two.weight.is_contiguous()


def test_every_linear_layer_of_a_model_is_quantised(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny("llama", len(tokenizer))
    quantize(model, "int8")
    assert not any(type(layer) is nn.Linear for name, layer in model.named_modules() if not name.endswith("many"))
    assert sum(isinstance(layer, Int8Linear) for layer in model.modules()) == 4 * 7 + 1
    engine = Engine(model, tokenizer)
    assert engine.runner.vocabulary_size == len(tokenizer)
    assert engine.generate("hello", max_tokens=5, mode="sequential").metrics.tokens == 5


def test_schedules_of_a_quantised_model_agree(tokenizer: PreTrainedTokenizerFast) -> None:
    """One row and several take different kernels over the same rounded weights."""
    engine = Engine(tiny("llama", len(tokenizer)), tokenizer, quantize="int8")
    prompts = ["hello", "foo bar 12", "34 world"]
    alone = [engine.generate(prompt, max_tokens=30, mode="sequential").text for prompt in prompts]
    together = engine.generate_batch(prompts, max_tokens=30, mode="sequential")
    assert [response.text for response in together] == alone


def test_a_quantised_model_mostly_chooses_the_same_token() -> None:
    prompt = [{"role": "user", "content": "Spell each word, then spell it backwards: river, stone, maple, candle."}]
    exact, rounded = (Engine.from_pretrained("bundled", "cpu", "float32", quantize=kind) for kind in (None, "int8"))
    response = exact.generate(prompt, max_tokens=400)
    tokens = torch.tensor([*exact.encode(prompt), *response.script.tokens])
    positions, causal = torch.arange(len(tokens)), torch.ones(len(tokens), len(tokens), dtype=torch.bool).tril()
    one, other = (engine.runner.dense(tokens, positions, causal).argmax(-1) for engine in (exact, rounded))
    assert (one == other).float().mean() > 0.95


def test_what_cannot_be_quantised_gets_a_sentence(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="Unknown quantisation 'int3'; choose int8"):
        Engine(tiny("llama", len(tokenizer)), tokenizer, quantize="int3")
    with pytest.raises(ValueError, match="has no linear layers"):
        quantize(nn.Sequential(nn.Linear(7, 3)), "int8")
