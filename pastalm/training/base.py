"""The model that a run starts from: loaded, with the six tags, its position policy settled."""

from __future__ import annotations

from dataclasses import replace

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pastalm.lang.positions import DEFAULT
from pastalm.lang.tokenizer import add_tags
from pastalm.runtime.load import load
from pastalm.training.config import SftConfig


class SettingsError(ValueError):
    """Settings that contradict the model or an earlier run."""


def load_base(config: SftConfig, *, merged: bool = False) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load ``config.model`` with the tags adopted, on the CPU: the Trainer moves it to where its process runs.

    Weights that are trained are float32. Frozen ones, below low-rank adapters, are bfloat16 where that was asked for,
    unless adapters are ``merged`` into them again and again: small steps would be lost. Raises ``LoadError``.
    """
    dtype = "bfloat16" if config.lora and config.bf16 and not merged else "float32"
    model, tokenizer = load(config.model, device="cpu", dtype=dtype)
    adopt_tags(model, tokenizer)
    return model, tokenizer


def adopt_tags(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Add the six tags to tokenizer and model; new rows start as the mean of the ordinary ones (SPEC 2).

    A matrix that has spare rows keeps its size.
    """
    ordinary = len(tokenizer)
    if not add_tags(tokenizer):
        return
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        for layer in {model.get_input_embeddings(), model.get_output_embeddings()} - {None}:
            for weight in (layer.weight, getattr(layer, "bias", None)):
                if weight is not None:
                    weight[ordinary : len(tokenizer)] = weight[:ordinary].float().mean(0).to(weight.dtype)


def settle_positions(model: PreTrainedModel, config: SftConfig) -> SftConfig:
    """The settings with a position policy: the one asked for, else the model's own, else the default; noted in the
    model's config, where checkpoints keep it. Plain answers have no promises: Baseline-SFT learns no policy, and notes
    none.

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
