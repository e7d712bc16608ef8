"""Why a model cannot be loaded, in one sentence."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import are_progress_bars_disabled
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, PreTrainedTokenizerFast
from transformers.utils import logging

from pastalm import Engine
from pastalm.runtime.load import (
    LONGEST_REASON,
    LoadError,
    load,
    load_generation_config,
    load_tokenizer,
    quantisation,
    trained_positions,
    unloadable,
)
from tests.runtime.families import FAMILIES, tiny


def test_what_was_meant_is_named(tmp_path: Path):
    offline = OSError("We couldn't connect to 'https://huggingface.co' to load the files.\nCheck your connection ..")
    assert unloadable("model", "nomodel", offline).startswith("There is no directory nomodel, and the hub")
    assert "couldn't connect" in unloadable("model", str(tmp_path), offline)
    said = unloadable("tokenizer", str(tmp_path), ValueError("Couldn't instantiate:\n\n(1) a file\n" + "x" * 999))
    assert "Couldn't instantiate: (1) a file" in said and len(said) < LONGEST_REASON + len(str(tmp_path)) + 80


CUSTOM = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "of-our-own"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def saved(tmp_path: Path, tiny_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A checkpoint's folder."""
    tiny_llama.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def changed(folder: Path, **fields: object) -> None:
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def with_code(saved: Path) -> Path:
    """A checkpoint whose config and model are classes of its own."""
    names = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}
    changed(saved, model_type="of-our-own", architectures=["OwnModel"], auto_map=names)
    (saved / "modeling_own.py").write_text(CUSTOM)
    return saved


def test_code_of_a_checkpoint_is_not_run_and_nobody_is_asked(
    with_code: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    with pytest.raises(LoadError, match=r"brings code of its own, .* give --trust-remote-code"):
        load(str(with_code), "cpu")
    changed(with_code, model_type="llama")  # a name that the library knows, and code all the same
    assert load(str(with_code), "cpu")[0].__class__ is LlamaForCausalLM
    assert "y/N" not in "".join(capsys.readouterr())


def test_code_that_is_trusted_runs(with_code: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    engine = Engine.from_pretrained(str(with_code), "cpu", trust_remote_code=True)
    assert type(engine.runner.model).__name__ == "OwnModel"
    assert engine.generate("hello", max_tokens=3, mode="sequential").metrics.tokens


def test_a_tokenizer_with_code_of_its_own_is_not_run(saved: Path) -> None:
    own = json.loads((saved / "tokenizer_config.json").read_text())
    own |= {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]}}
    (saved / "tokenizer_config.json").write_text(json.dumps(own))
    (saved / "tokenization_own.py").write_text("raise RuntimeError('this ran')")
    with pytest.raises(LoadError, match=r"tokenizer .* brings code of its own"):
        load_tokenizer(str(saved))


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8", "compressed-tensors"])
def test_quantised_weights_are_not_trained(saved: Path, method: str) -> None:
    changed(saved, quantization_config={"quant_method": method, "bits": 4, "load_in_4bit": True})
    with pytest.raises(LoadError, match=f"quantised .{method}.: such a model can answer, but it cannot be trained"):
        load(str(saved), "cpu", trainable=True)


def without(folder: Path, *names: str) -> None:
    """Take weights out of a checkpoint's file."""
    file = folder / "model.safetensors"
    left = {name: weight for name, weight in load_file(file).items() if name not in names}
    save_file(left, file, metadata={"format": "pt"})


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_are_missing_are_not_made_up(
    family: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny(family, len(tokenizer), layers=2)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, _ = load(str(tmp_path), "cpu", "float32")  # a tied head is not in the file, and not missed
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], weight, msg=name)
    without(tmp_path, max(name for name in load_file(tmp_path / "model.safetensors") if ".1." in name))
    with pytest.raises(LoadError, match=r"lacks 1 of the model's \d+ weights, the first .*\.1\..*: its files are"):
        load(str(tmp_path), "cpu", "float32")


def test_weights_of_another_model_are_refused(saved: Path) -> None:
    file = saved / "model.safetensors"
    save_file({f"x.{name}": weight for name, weight in load_file(file).items()}, file, metadata={"format": "pt"})
    with pytest.raises(LoadError, match=r"saved lacks 21 of the model's 21 weights, the first lm_head\.weight"):
        load(str(saved), "cpu")


def test_what_a_model_does_not_miss_may_be_missing(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = "model.layers.1.mlp.up_proj.weight"
    without(saved, lost)
    monkeypatch.setattr(LlamaForCausalLM, "_keys_to_ignore_on_load_missing", [r"up_proj"])
    assert load(str(saved), "cpu")


def test_a_buffer_may_be_missing(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some models keep one that older files of them do not have."""
    made = LlamaModel.__init__

    def with_buffer(self: LlamaModel, config: LlamaConfig) -> None:
        made(self, config)
        self.register_buffer("scale", torch.ones(1))

    monkeypatch.setattr(LlamaModel, "__init__", with_buffer)
    assert "model.scale" in load(str(saved), "cpu")[0].state_dict()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("config.json", "[]", "is no JSON object with a model's settings"),
        ("config.json", '{"pasta_positions": ["a"]}', r"names \['a'\] as pasta_positions, which must be a text"),
        ("generation_config.json", "{", "is no JSON: Expecting"),
        ("generation_config.json", "[]", "is no JSON object"),
        (
            "generation_config.json",
            '{"do_sample": true, "temperature": "hot"}',
            "names 'hot' as temperature, which must be a",
        ),
        ("generation_config.json", '{"eos_token_id": "x"}', "names 'x' as eos_token_id, which must be the number of"),
        ("generation_config.json", '{"eos_token_id": [0, "x"]}', r"names \[0, 'x'\] as eos_token_id"),
    ],
)
def test_damaged_settings_are_named(name: str, text: str, said: str, saved: Path) -> None:
    (saved / name).write_text(text)
    for read in (load, load_tokenizer, load_generation_config, trained_positions):
        with pytest.raises(LoadError, match=f"^{re.escape(str(saved / name))} {said}"):
            read(str(saved))


def test_a_directory_may_be_called_like_a_file(saved: Path) -> None:
    assert load(str(saved.rename(saved.with_name("model.gguf"))), "cpu")


def test_quantised_weights_that_cannot_be_read_get_a_sentence(saved: Path) -> None:
    changed(saved, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(LoadError, match="Cannot load the model"):
        load(str(saved), "cpu")


def test_ordinary_weights_are_not_quantised(saved: Path) -> None:
    model, _ = load(str(saved), "cpu", trainable=True)
    assert quantisation(model.config) is None


def test_without_a_network_one_sentence_comes_at_once() -> None:
    program = """
import sys
from pastalm.runtime.load import LoadError, load, load_tokenizer
for read in (load, load_tokenizer):
    try:
        read("nobody/nothing-of-this-name")
    except LoadError as error:
        print(error, error.__suppress_context__)
"""
    asked = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    ran = subprocess.run([sys.executable, "-c", program], env=asked, capture_output=True, text=True, timeout=300)
    sentence = (
        "There is no directory nobody/nothing-of-this-name, and the hub, which may know that name, cannot be reached."
    )
    assert ran.stdout.splitlines() == [f"{sentence} True"] * 2
    assert "Retrying" not in ran.stderr and "Traceback" not in ran.stderr


def test_the_library_draws_no_bar_and_keeps_its_switches(
    tmp_path: Path, tiny_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny_llama.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    logging.enable_progress_bar()
    capfd.readouterr()  # saving draws its own
    load(str(tmp_path), "cpu")
    assert capfd.readouterr().err == "" and logging.is_progress_bar_enabled() and not are_progress_bars_disabled()
