"""Low-rank adapters: what is trained, what is saved, and that both saved forms are the model that was trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
)

from pastalm import Engine
from pastalm.data.collate import Collator
from pastalm.data.examples import encode_answers, read_annotated
from pastalm.lang.positions import POLICIES
from pastalm.lang.tokenizer import has_tags
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.attention import DenseMetadata
from pastalm.runtime.load import load
from pastalm.training.adapters import add_adapters, bare, merge
from pastalm.training.base import SettingsError, adopt_tags
from pastalm.training.checkpoints import read_state, whole_model
from pastalm.training.sft import train_sft
from pastalm.training.trainer import SftTrainer, training_arguments
from tests.conftest import byte_level_tokenizer
from tests.training.conftest import config

SHAPES = [(False, 0), (True, 0), (True, 20), (False, 20)]  # embedding tied to the head, spare rows


def model_with(tied: bool, spare: int) -> tuple[PreTrainedModel, Vocabulary]:
    """A tiny llama that has adopted the tags."""
    torch.manual_seed(0)
    tokenizer = byte_level_tokenizer()
    settings = LlamaConfig(
        vocab_size=len(tokenizer) + spare, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied, pad_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(settings)
    adopt_tags(model, tokenizer)
    return model, Vocabulary(tokenizer)


@pytest.mark.parametrize(("tied", "spare"), SHAPES)
def test_of_the_embedding_only_the_tags_rows_are_trained(
    tied: bool, spare: int, base: Path, data: Path, tmp_path: Path
) -> None:
    model, vocabulary = model_with(tied, spare)
    settings = config(base, data, tmp_path, lora=2)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    wrapped = add_adapters(model, vocabulary, settings)
    trained = {name: weight for name, weight in wrapped.named_parameters() if weight.requires_grad}
    rows = [weight for name, weight in trained.items() if "trainable_tokens" in name]
    assert [row.shape for row in rows] == [(6, 32)] * (1 if tied else 2)
    assert all("lora_" in name or "trainable_tokens" in name for name in trained)

    collator = Collator(POLICIES["pred10"], 0)
    examples = list(encode_answers(read_annotated(data), vocabulary, POLICIES["pred10"], plain=0, seed=0))
    trainer = SftTrainer(
        wrapped, training_arguments(settings, 20), train_dataset=[[one] for one in examples], data_collator=collator
    )
    trainer.train()
    batch = collator([[examples[0]]])
    trainer.attention_context.metadata = DenseMetadata(batch["visible"], batch["position_ids"])
    asked = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"], "use_cache": False}
    with torch.no_grad():
        adapted = wrapped.eval()(**asked).logits
        merged = merge(wrapped)
        torch.testing.assert_close(merged(**asked).logits, adapted, atol=1e-5, rtol=1e-5)
    after = dict(merged.named_parameters())
    assert set(after) == set(before)
    tags = sorted(vocabulary.tags)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in before:
            changed = (after[name] != before[name]).any(1).nonzero().flatten().tolist()
            assert changed == tags, name
    assert (
        merged.get_output_embeddings().weight.data_ptr() == merged.get_input_embeddings().weight.data_ptr() or not tied
    )


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("lora", [0, 2])
def test_a_model_can_be_put_together_from_gathered_weights(
    tied: bool, lora: int, base: Path, data: Path, tmp_path: Path
) -> None:
    """As FSDP gathers them: a tied weight may come under one name only."""
    model, vocabulary = model_with(tied, 0)
    settings = config(base, data, tmp_path, lora=lora)
    trained = add_adapters(model, vocabulary, settings) if lora else model
    with torch.no_grad():
        for weight in trained.parameters():
            weight.normal_()
    state = {name: weight.detach().clone() for name, weight in trained.state_dict().items()}
    if tied:
        state = {name: weight for name, weight in state.items() if "lm_head" not in name}
    model.generation_config.update(do_sample=True, temperature=0.6)
    built = whole_model(trained, state, vocabulary, settings)
    assert built.generation_config.temperature == 0.6
    for name, weight in trained.state_dict().items():
        torch.testing.assert_close(built.state_dict()[name], weight, msg=name)
    state.pop(next(name for name in state if "q_proj" in name))
    with pytest.raises(RuntimeError, match="q_proj"):
        whole_model(trained, state, vocabulary, settings)


def test_both_saved_forms_are_the_trained_model(base: Path, data: Path, tmp_path: Path) -> None:
    """And an interrupted run, with its adapters in the checkpoint, comes to the same end."""
    settings = config(base, data, tmp_path / "whole", lora=4, gradient_checkpointing=True)
    train_sft(settings)
    assert Engine.from_pretrained(str(tmp_path / "whole")).generate("add 3", max_tokens=8).metrics.tokens > 0
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.float32)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    adopt_tags(model, tokenizer)
    merged = merge(PeftModel.from_pretrained(model, tmp_path / "whole" / "adapter"))
    for (name, left), right in zip(saved.named_parameters(), merged.parameters(), strict=True):
        torch.testing.assert_close(left, right.bfloat16().float(), msg=name)
    loaded, known = load(str(tmp_path / "whole" / "adapter"), dtype=torch.float32)  # by itself, on the base it names
    for (name, left), right in zip(loaded.named_parameters(), merged.parameters(), strict=True):
        torch.testing.assert_close(left, right, msg=name)
    assert loaded.config.pasta_positions == saved.config.pasta_positions == "pred10" and has_tags(known)

    checkpoint = tmp_path / "whole" / "checkpoint-4"
    assert checkpoint.is_dir()
    (tmp_path / "again").mkdir()
    checkpoint.rename(tmp_path / "again" / "checkpoint-4")
    (tmp_path / "whole" / "run.json").rename(tmp_path / "again" / "run.json")
    train_sft(replace(settings, out=str(tmp_path / "again")))
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype=torch.float32)
    for (name, left), right in zip(saved.named_parameters(), again.named_parameters(), strict=True):
        torch.testing.assert_close(left, right[1], msg=name)


def test_half_precision_trains_and_merges(base: Path, data: Path, tmp_path: Path) -> None:
    """bfloat16 below the adapters, float32 in them: steps too small for half precision are not lost."""
    quick = {"steps": 3, "learning_rate": 1e-4, "tag_learning_rate": 1e-4, "lora": 2}
    runs = {
        dtype: train_sft(config(base, data, tmp_path / dtype, dtype=dtype, **quick))
        for dtype in ("float32", "bfloat16")
    }
    losses = [read_state(out)["figures"]["loss"] for out in runs.values()]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    one, other = (load_file(out / "adapter" / "adapter_model.safetensors") for out in runs.values())
    assert one.keys() == other.keys()
    for name in one:
        assert other[name].dtype == torch.float32
        torch.testing.assert_close(one[name], other[name], atol=1e-3, rtol=1e-2, msg=name)
    moved = [name for name in other if "lora_B" in name]
    assert moved
    assert all(other[name].abs().max() > 1e-5 for name in moved)  # they start at zero


def test_targets_by_name(base: Path, data: Path, tmp_path: Path) -> None:
    model, vocabulary = model_with(True, 0)
    wrapped = add_adapters(model, vocabulary, config(base, data, tmp_path, lora=2, lora_targets="q_proj, v_proj"))
    adapted = {name.split(".")[-4] for name, _ in bare(wrapped).named_parameters() if "lora_A" in name}
    assert adapted == {"q_proj", "v_proj"}
    with pytest.raises(SettingsError, match=r"no module query; .* some of .*q_proj"):
        add_adapters(model_with(True, 0)[0], vocabulary, config(base, data, tmp_path, lora=2, lora_targets="query"))


def test_a_head_with_a_bias_is_trained_whole(data: Path, tmp_path: Path) -> None:
    """With its rows for the tags; the saved model and the saved adapters are both the trained one."""
    tokenizer = byte_level_tokenizer()
    settings = PhiConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        pad_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    for saved in (PhiForCausalLM(settings), tokenizer):
        saved.save_pretrained(tmp_path / "biased")
    out = train_sft(config(tmp_path / "biased", data, tmp_path / "out", lora=2))
    before, model = (PhiForCausalLM.from_pretrained(place, dtype=torch.float32) for place in (tmp_path / "biased", out))
    assert len(model.lm_head.bias) == len(model.lm_head.weight) == len(tokenizer) + 6
    for name in ("weight", "bias"):
        changed = getattr(model.lm_head, name)[: len(tokenizer)] != getattr(before.lm_head, name)
        assert changed.float().mean() > 0.9
    adopted = PhiForCausalLM.from_pretrained(tmp_path / "biased")
    adopt_tags(adopted, AutoTokenizer.from_pretrained(tmp_path / "biased"))
    merged = merge(PeftModel.from_pretrained(adopted, out / "adapter"))
    for (name, left), right in zip(model.named_parameters(), merged.parameters(), strict=True):
        torch.testing.assert_close(left, right.bfloat16().float(), msg=name)
    assert Engine.from_pretrained(str(out)).generate("add 3", max_tokens=8).metrics.tokens > 0


def test_training_goes_on_with_an_adapter(base: Path, data: Path, tmp_path: Path) -> None:
    """One adapter on the first base, not a second one on a merged model."""
    first = train_sft(config(base, data, tmp_path / "first", lora=2, positions="const40"))
    GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9).save_pretrained(first / "adapter")
    again = config(first / "adapter", data, tmp_path / "again", lora=2, steps=1, learning_rate=1e-9)
    second = train_sft(again)
    left, right = (load_file(place / "adapter" / "adapter_model.safetensors") for place in (first, second))
    assert left.keys() == right.keys() and any(weight.abs().max() > 1e-3 for weight in right.values())
    for name in left:
        torch.testing.assert_close(left[name], right[name], atol=1e-6, rtol=1e-5, msg=name)
    settings = json.loads((second / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(base)
    engines = [Engine.from_pretrained(str(place), dtype="float32") for place in (first / "adapter", second / "adapter")]
    assert {engine.positions for engine in engines} == {"const40"}
    whole = Engine.from_pretrained(str(second), dtype="float32")
    assert all(one.defaults == {"temperature": 0.6, "top_p": 0.9} for one in (*engines, whole))
    one, other = (engine.generate("add 3", max_tokens=8, temperature=0).script.tokens for engine in engines)
    assert one == other
    for wrong, message in (({"lora": 4}, "--lora 2"), ({"lora_alpha": 8.0}, "--lora-alpha 32")):
        with pytest.raises(SettingsError, match=rf"was trained with {message}.* start from the merged model\."):
            train_sft(replace(again, out=str(tmp_path / "wrong"), **wrong))
    with pytest.raises(SettingsError, match="other modules than --lora-targets q_proj"):
        train_sft(replace(again, out=str(tmp_path / "wrong"), lora_targets="q_proj"))
    assert not (tmp_path / "wrong" / "run.json").exists()  # the command may be given again, put right
