"""An adapter on its base: one of another model is refused, and so is one whose files are damaged."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, PreTrainedTokenizerFast

from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.load import LoadError, load, load_generation_config, load_tokenizer, trained_positions
from tests.runtime.families import tiny


def write_base(folder: Path, layers: int, tokenizer: PreTrainedTokenizerFast) -> None:
    """A model of so many layers."""
    tiny("llama", len(tokenizer), layers).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture
def adapter(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """The folder of an adapter for two layers and the rows of the tags; its base is in "base" beside it."""
    base, folder = tmp_path / "base", tmp_path / "adapter"
    write_base(base, 2, tokenizer)
    rows = {"embed_tokens": sorted(Vocabulary(tokenizer).tags)}
    settings = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], trainable_token_indices=rows)
    model = load(str(base), "cpu", "float32")[0]
    wrapped = get_peft_model(model, settings)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    return folder


def test_what_it_says_about_answers_goes_before_its_base(adapter: Path) -> None:
    base = load_generation_config(str(adapter))
    assert base and not base.do_sample
    GenerationConfig(do_sample=True, temperature=0.5, eos_token_id=[1, 7]).save_pretrained(adapter)
    found = load_generation_config(str(adapter))
    assert found and (found.temperature, found.eos_token_id) == (0.5, [1, 7])
    assert load(str(adapter), "cpu", "float32")[0].generation_config.eos_token_id == [1, 7]


def test_it_is_merged_into_its_base(adapter: Path) -> None:
    plain, _ = load(str(adapter.with_name("base")), "cpu", "float32")
    expected = PeftModel.from_pretrained(plain, str(adapter)).merge_and_unload().state_dict()
    for name, weight in load(str(adapter), "cpu", "float32")[0].state_dict().items():
        torch.testing.assert_close(weight, expected[name], msg=name)


@pytest.mark.parametrize(("layers", "strange"), [(1, 2), (4, 4)])
def test_one_for_another_number_of_layers_is_refused(
    layers: int, strange: int, adapter: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    write_base(adapter.with_name("base"), layers, tokenizer)
    with pytest.raises(LoadError, match=rf"adapter does not fit .* {strange} weights, the first .*q_proj\.lora_A"):
        load(str(adapter), "cpu", "float32")


@pytest.mark.parametrize("part", ["layers.1.self_attn.q_proj.lora_B", "token_adapter"])
def test_one_that_lost_weights_is_refused(part: str, adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    left = {name: weight for name, weight in load_file(file).items() if part not in name}
    save_file(left, file, metadata={"format": "pt"})
    with pytest.raises(LoadError, match=rf"adapter does not fit .* 1 weights, the first .*{part}"):
        load(str(adapter), "cpu", "float32")


def test_two_that_name_each_other_are_refused(adapter: Path) -> None:
    other = shutil.copytree(adapter, adapter.with_name("other"))
    for folder, base in ((adapter, other), (other, adapter)):
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
        with pytest.raises(LoadError, match=f"{folder} holds an adapter for {base}, which is an adapter too"):
            load(str(folder))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("adapter_config.json", "[1]", "is no JSON object with a model's settings"),
        ("adapter_config.json", "{", "is no JSON: Expecting"),
        ("adapter_config.json", "[" * 100_000, "is no JSON: maximum recursion depth"),
        (
            "adapter_config.json",
            '{"base_model_name_or_path": 5}',
            "names 5 as base_model_name_or_path, which must be a",
        ),
        ("pasta.json", "[1]", "is no JSON object"),
        ("pasta.json", '{"positions": ["pred10"]}', r"names \['pred10'\] as positions, which must be a text"),
        ("generation_config.json", "[]", "is no JSON object"),
    ],
)
def test_one_with_damaged_settings_is_refused(name: str, text: str, said: str, adapter: Path) -> None:
    (adapter / name).write_text(text)
    for read in (load, load_tokenizer, load_generation_config, trained_positions):
        with pytest.raises(LoadError, match=f"^{re.escape(str(adapter / name))} {said}"):
            read(str(adapter))


def test_its_kind_and_its_positions_may_be_missing(adapter: Path) -> None:
    (adapter / "pasta.json").write_text("{}")
    assert trained_positions(str(adapter)) is None
    (adapter / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(adapter.with_name("base"))})
    )
    with pytest.raises(LoadError, match=r"adapter_config\.json names no peft_type"):
        load(str(adapter))


def test_one_without_weights_is_refused(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(LoadError, match="adapter holds an adapter without weights: there is no adapter_model"):
        load(str(adapter), "cpu", "float32")
