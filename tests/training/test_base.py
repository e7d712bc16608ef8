"""The model that a run starts from: where answers end, which weights can be trained, in which numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pastalm import Engine
from pastalm.data.examples import encode_answers, read_annotated
from pastalm.lang.positions import POLICIES
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.load import LoadError
from pastalm.training.base import SettingsError, load_base, settle_dtype
from pastalm.training.sft import train_sft
from tests.conftest import byte_level_tokenizer
from tests.runtime.gguf_file import write_gguf
from tests.training.conftest import config

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}12{% endfor %}"


def small(tokenizer, **other: object) -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape, num_key_value_heads=2, **other))


def write_endless(folder: Path, ends: int | list[int] | None, template: str | None = None) -> Path:
    """A model whose tokenizer names no end of an answer; its generation config names ``ends``."""
    tokenizer = byte_level_tokenizer()
    model = small(tokenizer)
    tokenizer.eos_token, tokenizer.chat_template = None, template
    model.generation_config.eos_token_id = ends
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).eos_token_id is None
    return folder


@pytest.mark.parametrize(("ends", "template", "expected"), [(0, None, 0), ([0, 260], None, 0), ([0, -1], TEMPLATE, -1)])
def test_targets_end_with_what_the_generation_config_names(
    ends: int | list[int], template: str | None, expected: int, data: Path, tmp_path: Path
) -> None:
    """Of several with the one that the chat template writes behind an answer."""
    twelve = byte_level_tokenizer().convert_tokens_to_ids("12")
    ends = [twelve if end == -1 else end for end in ends] if isinstance(ends, list) else ends
    expected = twelve if expected == -1 else expected
    base = write_endless(tmp_path / "base", ends, template)
    _, tokenizer = load_base(config(base, data, tmp_path))
    vocabulary = Vocabulary(tokenizer)
    [example, *_] = encode_answers(read_annotated(data), vocabulary, POLICIES["pred10"], plain=0, seed=0)
    assert example.script.tokens[-1] == expected == tokenizer.eos_token_id


def test_the_trained_model_knows_its_end(data: Path, tmp_path: Path) -> None:
    base = write_endless(tmp_path / "base", 0)
    out = train_sft(config(base, data, tmp_path / "out", steps=1))
    assert AutoTokenizer.from_pretrained(out).eos_token_id == 0


def test_a_model_whose_answers_have_no_end_is_refused(data: Path, tmp_path: Path) -> None:
    base = write_endless(tmp_path / "base", None)
    with pytest.raises(
        SettingsError, match=r"^Neither the tokenizer of .*base nor .* \"eos_token\" in tokenizer_config"
    ):
        train_sft(config(base, data, tmp_path / "out"))
    assert not list((tmp_path / "out").glob("[!.]*"))


@pytest.mark.parametrize("name", ["file", "folder"])
def test_a_gguf_base_trains_and_is_saved(name: str, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    tokenizer = byte_level_tokenizer()
    (tmp_path / "base").mkdir()
    write_gguf(tmp_path / "base" / "m.gguf", small(tokenizer, max_position_embeddings=256), tokenizer, quantised=True)
    base = tmp_path / "base" / "m.gguf" if name == "file" else tmp_path / "base"
    out = train_sft(config(base, data, tmp_path / "out"))
    assert Engine.from_pretrained(str(out)).generate("add 3", max_tokens=8).metrics.tokens > 0
    assert train_sft(config(base, data, tmp_path / "out")) == out  # finished, and known as the same
    (tmp_path / "base" / "m.gguf").write_bytes((tmp_path / "base" / "m.gguf").read_bytes()[:-1] + b"x")
    with pytest.raises(SettingsError, match=r"--model .* which has changed since"):
        train_sft(config(base, data, tmp_path / "out"))


def test_other_quantised_weights_are_refused_before_training(base: Path, data: Path, tmp_path: Path) -> None:
    settings = json.loads((base / "config.json").read_text()) | {"quantization_config": {"quant_method": "gptq"}}
    (tmp_path / "base").mkdir()
    for path in base.iterdir():
        (tmp_path / "base" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "base" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(LoadError, match=r"quantised \(gptq\).*cannot be trained"):
        train_sft(config(tmp_path / "base", data, tmp_path / "out"))
    assert not list((tmp_path / "out").glob("[!.]*"))


def test_auto_is_what_the_hardware_computes_in(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for there, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr("pastalm.training.base.multiplies_bfloat16", lambda there=there: there)
        assert settle_dtype(config(base, data, tmp_path, dtype="auto")).dtype == expected
        assert settle_dtype(config(base, data, tmp_path, dtype="float32")).dtype == "float32"
