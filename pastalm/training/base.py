"""The model that a run starts from: loaded, with the six tags, its position policy settled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pastalm.lang.positions import DEFAULT
from pastalm.lang.tokenizer import add_tags
from pastalm.runtime.load import load
from pastalm.training.config import SftConfig, TrainingConfig

Config = TypeVar("Config", bound=TrainingConfig)


class SettingsError(ValueError):
    """Settings that contradict the model or an earlier run."""


def settle_dtype(config: Config) -> Config:
    """The settings with the number type that "auto" stands for here."""
    return replace(config, dtype=fast_dtype()) if config.dtype == "auto" else config


def fast_dtype() -> str:
    """bfloat16 where the hardware computes in it, else float32: emulated, it is ten times slower."""
    if torch.cuda.is_available():
        there = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        there = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if there else "float32"


def load_base(config: TrainingConfig, *, merged: bool = False) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load ``config.model`` with the tags adopted, on the CPU: the Trainer moves it to where its process runs.

    Weights that are trained are float32. Frozen ones, below low-rank adapters, are bfloat16 where that is computed in,
    unless adapters are ``merged`` into them again and again: small steps would be lost. Raises ``LoadError``, and
    :class:`SettingsError` for a model whose weights are quantised.
    """
    half = config.lora and config.dtype == "bfloat16" and not merged
    model, tokenizer = load(config.model, device="cpu", dtype="bfloat16" if half else "float32", trainable=True)
    adopt_tags(model, tokenizer)
    return model, tokenizer


def adopt_tags(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Add the six tags to tokenizer and model; new rows start as the mean of the ordinary ones (SPEC 2).

    A matrix that has spare rows keeps its size.
    """
    ordinary = len(tokenizer)
    if not add_tags(tokenizer):
        return
    embedding: Any = model.get_input_embeddings()
    if len(tokenizer) > embedding.weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        for layer in {model.get_input_embeddings(), model.get_output_embeddings()} - {None}:
            for weight in (layer.weight, getattr(layer, "bias", None)):
                if weight is not None:
                    weight[ordinary : len(tokenizer)] = weight[:ordinary].float().mean(0).to(weight.dtype)


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
