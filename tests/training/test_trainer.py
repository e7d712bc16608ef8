"""Gradient checkpointing changes memory and time, not gradients, whatever the context holds by the backward pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from pastalm.data.collate import Collator
from pastalm.data.examples import encode_answers, read_annotated
from pastalm.lang.positions import POLICIES
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.attention import DenseMetadata, attach
from pastalm.training.losses import token_loss
from pastalm.training.trainer import recompute_layers
from tests.runtime.families import tiny


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_gradients_are_the_same(family: str, data: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    examples = list(encode_answers(read_annotated(data), Vocabulary(tokenizer), POLICIES["pred10"], plain=0, seed=0))
    batch, other = (Collator(POLICIES["pred10"], 0)([examples[k : k + 3]]) for k in (0, 6))
    losses, gradients = [], []
    for checkpointed in (False, True):
        model = tiny(family, len(tokenizer)).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        context = attach(model)
        if checkpointed:
            recompute_layers(model, context)
            calls = count_attention(model)
        context.metadata = DenseMetadata(batch["visible"], batch["position_ids"])
        logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        loss = token_loss(logits, batch["labels"])
        context.metadata = DenseMetadata(other["visible"], other["position_ids"])  # by another pass
        left = context.metadata
        loss.backward()
        assert context.metadata is left
        losses.append(loss.item())
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})
    assert set(calls.values()) == {2}  # each layer was indeed computed twice
    assert losses[0] == losses[1]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def count_attention(model: torch.nn.Module) -> dict[str, int]:
    """How often each attention module runs, from now on."""
    calls: dict[str, int] = {}
    for name, module in model.named_modules():
        if hasattr(module, "layer_idx") and any(part in type(module).__name__ for part in ("Attention",)):
            calls[name] = 0

            def note(*_: object, name: str = name) -> None:
                calls[name] += 1

            module.register_forward_hook(note)
    return calls
