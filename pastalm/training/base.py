"""The model that a run starts from: loaded, with the six tags, its position policy settled."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pastalm.lang.positions import DEFAULT
from pastalm.lang.tokenizer import end_tokens
from pastalm.runtime.adapter import adapter_generation_config, adopt_tags, read_positions
from pastalm.runtime.checkpoint import ADAPTER_CONFIG, find_checkpoint
from pastalm.runtime.device import multiplies_bfloat16
from pastalm.runtime.load import load
from pastalm.training.config import SftConfig, TrainingConfig

Config = TypeVar("Config", bound=TrainingConfig)
NOISE = ("drop", "jitter")  # in the names of a module's numbers that say how much it leaves out or blurs in training


class SettingsError(ValueError):
    """Settings that contradict the model or an earlier run."""


def settle_dtype(config: Config) -> Config:
    """The settings with the number type that "auto" stands for here."""
    if config.dtype != "auto":
        return config
    on_gpu = torch.cuda.is_available()
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else multiplies_bfloat16()
    return replace(config, dtype="bfloat16" if fast else "float32")


def load_base(config: TrainingConfig, *, merged: bool = False) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load ``config.model`` with the tags adopted, on the CPU: the Trainer moves it to where its process runs.

    Weights that are trained are float32. Frozen ones, below low-rank adapters, are bfloat16 where that is computed in,
    unless adapters are ``merged`` into them again and again: small steps would be lost. Of an adapter that training
    goes on with the base is returned; :func:`pastalm.training.adapters.add_adapters` puts it on.

    Raises ``LoadError``, also for quantised weights other than a GGUF file's, and :class:`SettingsError` for a model
    whose answers have no end.
    """
    half = config.lora and config.dtype == "bfloat16" and not merged
    number = "bfloat16" if half else "float32"
    name, adapter = starting_point(config)
    model, tokenizer = load(
        name, device="cpu", dtype=number, trust_remote_code=config.trust_remote_code, trainable=True
    )
    if adapter:
        model.config.pasta_positions = read_positions(adapter)
        model.generation_config = adapter_generation_config(adapter) or model.generation_config
    adopt_end(model, tokenizer, config.model)
    adopt_tags(model, tokenizer)
    return model, tokenizer


def disable_dropout(model: nn.Module) -> None:
    """Have ``model`` compute in training what it computes in evaluation: its dropout, of modules and of numbers that
    they keep for a function, becomes 0. The config, which is saved, stays as it is."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and any(noise in name for noise in NOISE):
                setattr(module, name, 0.0)


def starting_point(config: TrainingConfig) -> tuple[str, Path | None]:
    """The name of the model to load, and the adapter that training goes on with: with ``lora``, a ``model`` that is an
    adapter alone is not merged into its base."""
    adapter = find_checkpoint(config.model).adapter if config.lora else None
    if adapter is None:
        return config.model, None
    settings = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    return settings["base_model_name_or_path"], adapter


def adopt_end(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Give a tokenizer without an end-of-answer token the one that the model's generation config names; of several, the
    one that the chat template writes after an answer. Raises :class:`SettingsError` where none is named."""
    if tokenizer.eos_token_id is not None:
        return
    names = tokenizer.convert_ids_to_tokens(list(end_tokens(tokenizer, model.generation_config)))
    if not names:
        raise SettingsError(
            f"Neither the tokenizer of {name} nor its generation_config.json names a token that ends an answer, so the "
            'model could not learn to end one: set "eos_token" in tokenizer_config.json.'
        )
    written = _after_an_answer(tokenizer)
    tokenizer.eos_token = next((name for name in names if name in written), names[0])


def _after_an_answer(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the chat template writes behind an assistant's turn; nothing without a template."""
    if not tokenizer.chat_template:
        return ""
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "ANSWER"}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False)).rpartition("ANSWER")[2]


def settle_positions(model: PreTrainedModel, config: SftConfig) -> SftConfig:
    """The settings with a position policy: the one asked for, else the model's own, else the default; noted in the
    model's config, which checkpoints and the finished model keep. Plain answers have no promises: Baseline-SFT learns
    no policy, and notes none.

    Raises :class:`SettingsError` if the model was trained with another than the one asked for.
    """
    own = getattr(model.config, "pasta_positions", None)
    if own and config.positions and own != config.positions:
        raise SettingsError(
            f"{config.model} was trained with the positions {own!r}, but --positions asks for {config.positions!r}: "
            "leave the option out, or start from a model without a policy."
        )
    settled = replace(config, positions=config.positions or own or DEFAULT)
    if config.plain < 1:
        model.config.pasta_positions = settled.positions
    return settled
