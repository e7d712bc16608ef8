"""Models that cannot be driven are refused with a sentence, and stay as they came."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertLMHeadModel,
    PreTrainedTokenizerFast,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
    T5Config,
)
from transformers.models.llama.modeling_llama import LlamaAttention

from pastalm import Engine
from pastalm.runtime.attention import NAME
from pastalm.runtime.load import LoadError
from pastalm.runtime.probe import UnsupportedModelError
from tests.runtime.families import FAMILIES, WINDOW, tiny

EXPERTS = {"num_local_experts": 2, "num_experts": 2, "num_experts_per_tok": 1}


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    T5Config(num_layers=1).save_pretrained(tmp_path)
    with pytest.raises(LoadError, match="has an encoder"):
        Engine.from_pretrained(str(tmp_path))


def test_an_encoder_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(UnsupportedModelError, match="encoder"):
        Engine(BertLMHeadModel(config), tokenizer)


def test_linear_attention_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    config = Qwen3NextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        moe_intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_experts=2,
        num_experts_per_tok=1,
        shared_expert_intermediate_size=32,
    )
    with pytest.raises(UnsupportedModelError, match="3 of its 4 layers do not attend"):
        Engine(Qwen3NextForCausalLM(config), tokenizer)


@pytest.mark.parametrize(
    ("family", "layers", "settings"),
    [
        ("qwen2_moe", 2, {"sliding_window": WINDOW, "use_sliding_window": True, "max_window_layers": 4}),
        ("phimoe", 4, {"sliding_window": WINDOW}),
        ("llama4_text", 3, {"attention_chunk_size": WINDOW, "intermediate_size_mlp": 32}),
    ],
)
def test_a_window_that_only_a_mask_knows_is_refused(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, family: str, layers: int, settings: dict
) -> None:
    monkeypatch.setitem(FAMILIES, family, {**settings, **EXPERTS})
    with pytest.raises(UnsupportedModelError, match=f"{layers} of its 4 layers attend within a window or a chunk"):
        Engine(tiny(family, len(tokenizer)), tokenizer)
    windowless = {name: 512 if value == WINDOW else value for name, value in settings.items()}
    monkeypatch.setitem(FAMILIES, family, {**windowless, **EXPERTS})
    assert Engine(tiny(family, len(tokenizer)), tokenizer)  # all its positions are within the window


def hand_on(monkeypatch: pytest.MonkeyPatch, **given: Any) -> None:
    """Llama's layers hand these to their attention, too."""
    forward = LlamaAttention.forward
    monkeypatch.setattr(
        LlamaAttention, "forward", lambda self, *args, **kwargs: forward(self, *args, **{**kwargs, **given})
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"attention_mask": torch.zeros(1, 1, 4, 4)}, "makes an attention mask of its own"),
        ({"block_indices": torch.zeros(1)}, "gives its attention 'block_indices'"),
    ],
)
def test_what_would_steer_the_attention_is_refused(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], said: str
) -> None:
    hand_on(monkeypatch, **given)
    with pytest.raises(UnsupportedModelError, match=said):
        Engine(tiny("llama", len(tokenizer)), tokenizer)


def test_what_an_engine_itself_hands_on_is_no_steering(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some models hand all keywords of a call down to their attention."""
    hand_on(monkeypatch, logits_to_keep=torch.zeros(1))
    assert Engine(tiny("llama", len(tokenizer)), tokenizer).generate("hello", max_tokens=3, mode="sequential").text


def test_a_refused_model_stays_as_it_came(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = tiny("llama", len(tokenizer)), torch.tensor([[5, 6, 7]])
    own = model(input_ids=ids).logits
    monkeypatch.setattr(LlamaAttention, "forward", _tempered(LlamaAttention.forward))
    for _ in range(2):  # a second try meets the same refusal
        with pytest.raises(UnsupportedModelError, match="more than scores, mask and softmax"):
            Engine(model, tokenizer)
    monkeypatch.undo()
    torch.testing.assert_close(model(input_ids=ids).logits, own)


def _tempered(forward: Callable) -> Callable:
    """An attention that does something of its own unless ours is at work."""

    def tempered(self: LlamaAttention, *args: Any, **kwargs: Any) -> tuple:
        out, weights = forward(self, *args, **kwargs)
        return (out if self.config._attn_implementation == NAME else -out), weights

    return tempered


def test_a_model_whose_forward_fails_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny("llama", len(tokenizer))
    model.model.norm = torch.nn.LayerNorm(7)
    with pytest.raises(UnsupportedModelError, match=r"^LlamaForCausalLM cannot be driven by PASTA: .*normalized_shape"):
        Engine(model, tokenizer)


def test_what_depends_on_the_order_of_a_pass_is_refused(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every layer attends, and has a state space beside: what a token comes to follows from the one before it in the
    pass, whether it sees that or not."""
    mamba = {"d_ssm": 64, "n_heads": 4, "d_head": 16, "d_state": 8, "n_groups": 1, "expand": 2, "chunk_size": 16}
    monkeypatch.setitem(FAMILIES, "falcon_h1", {f"mamba_{name}": value for name, value in mamba.items()})
    with pytest.raises(UnsupportedModelError, match="depends on tokens of the same pass that it does not see"):
        Engine(tiny("falcon_h1", len(tokenizer)), tokenizer)
