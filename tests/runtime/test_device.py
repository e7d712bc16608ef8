"""In which numbers a model runs: what the processor can multiply decides."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from pastalm.runtime import device as module
from pastalm.runtime.device import FAST_BFLOAT16, choose_dtype
from pastalm.runtime.load import load

CPU, GPU = torch.device("cpu"), torch.device("cuda")
# Taken before the fixture of all tests replaces it.
MULTIPLIES = module.multiplies_bfloat16


@pytest.mark.parametrize(("able", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_on_a_cpu_asks_the_processor(monkeypatch: pytest.MonkeyPatch, able: bool, expected: torch.dtype) -> None:
    monkeypatch.setattr(module, "multiplies_bfloat16", lambda: able)
    for own in (torch.float32, torch.bfloat16, torch.float16, None):
        assert choose_dtype("auto", CPU, own) == expected
    assert choose_dtype("float32", CPU, torch.bfloat16) == torch.float32  # what is asked for is taken


def test_auto_on_a_gpu_is_the_checkpoints() -> None:
    assert choose_dtype("auto", GPU, torch.float16) == torch.float16
    assert choose_dtype("auto", GPU, None) == torch.bfloat16


@pytest.mark.parametrize("able", [True, False])
def test_a_loaded_model_has_that_dtype(
    able: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_llama: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    tiny_llama.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr(module, "multiplies_bfloat16", lambda: able)
    model, _ = load(str(tmp_path), "cpu")
    assert model.dtype == (torch.bfloat16 if able else torch.float32)


@pytest.mark.parametrize("name", FAST_BFLOAT16)
def test_either_instruction_set_counts(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, name: True}, raising=False)
    assert MULTIPLIES()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_f": True, name: False})
    assert not MULTIPLIES()


def test_a_torch_that_cannot_tell_leaves_it_to_the_kernels_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, other = tmp_path / "able", tmp_path / "other"
    listed.write_text("processor : 0\nflags\t\t: fpu avx2 avx512_bf16 wbnoinvd\n")
    other.write_text("flags : fpu avx2 avx512f avx512_bf16x\n")
    assert module._in_cpuinfo(listed)
    assert not module._in_cpuinfo(other) and not module._in_cpuinfo(tmp_path / "missing")
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(module, "_in_cpuinfo", lambda path: str(path) == "/proc/cpuinfo")
    assert MULTIPLIES()
