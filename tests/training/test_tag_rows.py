"""The tags' rows learn at a rate of their own, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from pastalm.lang.vocabulary import Vocabulary
from pastalm.training.adapters import SHARE, settle_tag_rate
from pastalm.training.base import adopt_tags
from pastalm.training.checkpoints import read_state
from pastalm.training.sft import train_sft
from tests.training.conftest import config

RATE = 1e-3


def after_a_step(base: Path, data: Path, out: Path, lora: int, tag_rate: float) -> dict[str, Tensor]:
    """All trained weights, in float32."""
    settings = config(base, data, out, steps=1, save_every=1, learning_rate=RATE, tag_learning_rate=tag_rate, lora=lora)
    train_sft(settings)
    return load_file(out / "checkpoint-1" / ("adapter_model.safetensors" if lora else "model.safetensors"))


@pytest.mark.parametrize("lora", [0, 2, 6])  # 6: as many rows as there are tags
def test_the_tags_rows_move_as_far_as_their_rate_says(lora: int, base: Path, data: Path, tmp_path: Path) -> None:
    slow = after_a_step(base, data, tmp_path / "slow", lora, RATE)
    fast = after_a_step(base, data, tmp_path / "fast", lora, 7 * RATE)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    adopt_tags(model, tokenizer)
    tags = sorted(Vocabulary(tokenizer).tags)
    tables = [name for name in slow if "embed_tokens" in name or "lm_head" in name]
    assert len(tables) == 2 and slow.keys() == fast.keys()
    for name, weight in slow.items():
        if name not in tables:
            assert torch.equal(weight, fast[name]), name
            continue
        layer = model.get_input_embeddings() if "embed_tokens" in name else model.get_output_embeddings()
        moved = [(found if lora else found[tags]) - layer.weight[tags] for found in (weight, fast[name])]
        torch.testing.assert_close(moved[1], 7 * moved[0], rtol=1e-3, atol=1e-6)
        assert moved[0].abs().max() > RATE / 2
        if not lora:
            assert torch.equal(weight[: tags[0]], fast[name][: tags[0]])


def test_the_default_goes_by_the_ordinary_rows(base: Path, data: Path, tmp_path: Path) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base)
    adopt_tags(model, tokenizer)
    tags = sorted(Vocabulary(tokenizer).tags)

    def settled(**settings: float) -> float:
        return settle_tag_rate(model, 0.2, tags, config(base, data, tmp_path, learning_rate=1e-5, **settings))

    assert settled() == pytest.approx(SHARE * 0.2)
    assert settle_tag_rate(model, 0.2, tags, config(base, data, tmp_path, learning_rate=1.0)) == 1.0
    assert settled(tag_learning_rate=1e-6) == 1e-6
    assert settled(plain=1.0) == 1e-5
    with torch.no_grad():
        model.get_output_embeddings().weight[tags[3]] += 1e-3
    assert settled() == 1e-5  # the model has learned marks


def test_an_adapter_that_has_learned_marks_goes_on_slowly(base: Path, data: Path, tmp_path: Path) -> None:
    first = train_sft(config(base, data, tmp_path / "first", lora=2))
    second = train_sft(config(first / "adapter", data, tmp_path / "second", lora=2, steps=1, learning_rate=1e-9))
    before, after = (load_file(out / "adapter" / "adapter_model.safetensors") for out in (first, second))
    for name, weight in before.items():
        torch.testing.assert_close(weight, after[name], atol=1e-6, rtol=1e-5, msg=name)


def test_marks_are_learned_at_a_low_rate(base: Path, data: Path, tmp_path: Path) -> None:
    """All weights, at a rate at which text is learned, but six equal rows stay so."""

    def tag_loss(out: Path, rate: float) -> float:
        train_sft(config(base, data, out, steps=12, learning_rate=1e-4, tag_learning_rate=rate, eval_data=str(data)))
        return read_state(out)["figures"]["eval_tag_loss"]

    assert tag_loss(tmp_path / "own", 1e-2) < tag_loss(tmp_path / "same", 1e-4) - 0.1


def test_a_run_says_the_rate(base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    after_a_step(base, data, tmp_path, 0, 0.03)
    assert "learning rate 0.001 (0.03 of the marks' rows), computed in float32" in capsys.readouterr().out
