"""Gradient checkpointing changes memory and time, not gradients, whatever the context holds by the backward pass; and
what comes of a loss that is no number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast, TrainingArguments

from pastalm.data.collate import Collator
from pastalm.data.examples import encode_answers, read_annotated
from pastalm.lang.positions import POLICIES
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.attention import DenseMetadata, attach
from pastalm.training.base import SettingsError
from pastalm.training.checkpoints import checkpoints, last_checkpoint, read_state
from pastalm.training.losses import token_loss
from pastalm.training.sft import train_sft
from pastalm.training.trainer import SftTrainer, recompute_layers, training_arguments
from tests.conftest import byte_level_tokenizer
from tests.runtime.families import tiny
from tests.training.conftest import config


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


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of one layer: the time of tracing goes by layers."""
    folder, tokenizer = tmp_path_factory.mktemp("shallow"), byte_level_tokenizer()
    tiny("llama", len(tokenizer), layers=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("lora", [0, 2])
def test_a_compiled_model_trains_alike(
    lora: int, shallow: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced and run without the compiler behind it, whose minutes would prove nothing more."""
    monkeypatch.setattr("pastalm.training.trainer.COMPILER", "aot_eager")
    graphs = []
    for compiled in (False, True):
        torch._dynamo.reset()
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        out = train_sft(config(shallow, data, tmp_path / str(compiled), steps=4, lora=lora, compile=compiled))
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"] - before)
    assert graphs[0] == 0 < graphs[1]
    losses = [read_state(tmp_path / name)["figures"] for name in ("False", "True")]
    for name in ("first_loss", "last_loss", "loss"):
        assert losses[0][name] == pytest.approx(losses[1][name], rel=1e-4)
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("False", "True"))
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], atol=1e-2, rtol=1e-2, msg=name)  # bfloat16
    assert last_checkpoint(out) == out / "checkpoint-4"


DIVERGED = r"^Training diverged: .* not a finite number.*; give a smaller --learning-rate and another --out\.$"


@pytest.mark.parametrize("later", [False, True])
def test_a_loss_that_is_no_number_ends_training(
    later: bool, shallow: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes with the fifth step, after which the log has no line. ``later``: the host does not wait for each
    step, as on a GPU."""

    def arguments(*args: Any, **kwargs: Any) -> TrainingArguments:
        made = training_arguments(*args, **kwargs)
        made.use_cpu = not later
        return made

    def compute_loss(self: SftTrainer, *args: Any, **kwargs: Any) -> Any:
        return plain(self, *args, **kwargs) * (float("nan") if self.state.global_step >= 4 else 1)

    plain = SftTrainer.compute_loss
    monkeypatch.setattr("pastalm.training.sft.training_arguments", arguments)
    monkeypatch.setattr(SftTrainer, "compute_loss", compute_loss)
    with pytest.raises(SettingsError, match=DIVERGED):
        train_sft(config(shallow, data, tmp_path, steps=24, save_every=1))
    kept = [load_file(folder / "model.safetensors") for folder in checkpoints(tmp_path)]
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-4" and len(kept) == 2
    assert all(weight.isfinite().all() for weights in kept for weight in weights.values())
    assert not list(tmp_path.glob("*.safetensors")) and "figures" not in read_state(tmp_path)


def test_a_loss_that_is_infinite_ends_training(
    shallow: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its gradient is finite."""
    plain = SftTrainer.compute_loss
    monkeypatch.setattr(SftTrainer, "compute_loss", lambda *args, **kwargs: plain(*args, **kwargs) + float("inf"))
    with pytest.raises(SettingsError, match=DIVERGED):
        train_sft(config(shallow, data, tmp_path))


def test_a_learning_rate_that_is_far_too_high_ends_training(shallow: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=DIVERGED):
        train_sft(config(shallow, data, tmp_path, learning_rate=1e30, save_every=100))
    assert not list(tmp_path.rglob("*.safetensors"))
