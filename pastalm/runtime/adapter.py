"""A folder that holds an adapter alone, as a model: the base that it names, with what was trained merged into it."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from pastalm.lang.tokenizer import add_tags
from pastalm.runtime.checkpoint import ADAPTER_CONFIG, ADAPTER_NOTES, LoadError, read_settings

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def apply_adapter(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Any:
    """``model`` with the six tags and the adapter in ``folder``; the tokenizer gets the tags too. The folder's
    ``generation_config.json``, if it has one, becomes the model's. Raises :class:`LoadError` where PEFT is missing, and
    for an adapter of another model."""
    if find_spec("peft") is None:
        raise LoadError(f"{folder} holds an adapter, and merging it needs PEFT: pip install 'pastalm[assistant]'.")
    from peft import PeftConfig, PeftModel

    adopt_tags(model, tokenizer)
    settings = PeftConfig.from_pretrained(str(folder))
    if settings.peft_type is None:
        raise LoadError(f"{folder / ADAPTER_CONFIG} names no peft_type: what kind of adapter it is, it does not say.")
    adapted: Any = PeftModel(model, settings)
    if strange := load_weights(adapted, folder):
        raise LoadError(
            f"The adapter {folder} does not fit the model that it names, at {len(strange)} weights, the first "
            f"{strange[0]}: name the model that it was trained on, or get its files again."
        )
    merged = adapted.merge_and_unload()
    merged.config.pasta_positions = read_positions(folder) or getattr(merged.config, "pasta_positions", None)
    merged.generation_config = adapter_generation_config(folder) or merged.generation_config
    return merged.eval()


def adapter_generation_config(folder: Path) -> GenerationConfig | None:
    """What the adapter in ``folder`` says about answers, if it says anything."""
    there = (folder / "generation_config.json").is_file()
    return GenerationConfig.from_pretrained(folder) if there else None


def load_weights(adapted: Any, folder: Path) -> list[str]:
    """Give the adapters of ``adapted``, PEFT's model, the weights in ``folder``; returns the names of those that the
    folder lacks or that have no place there. Raises :class:`LoadError` for a folder without weights."""
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise LoadError(f"{folder} holds an adapter without weights: there is no {' or '.join(WEIGHTS)}.")
    renamed = getattr(adapted.get_base_model(), "_checkpoint_conversion_mapping", None)
    try:  # "trainable" leaves the model in the mode that it is in
        found = adapted.load_adapter(str(folder), "default", torch_device="cpu", key_mapping=renamed, is_trainable=True)
    except KeyError as error:  # rows of the tags, or a layer that was trained whole
        return [str(error.args[0])]
    return [*found.missing_keys, *found.unexpected_keys]


def read_positions(folder: Path) -> str | None:
    """The position policy that the adapter in ``folder`` was trained with, if it notes one. Raises
    :class:`LoadError`."""
    place = folder / ADAPTER_NOTES
    return read_settings(place).get("positions") if place.is_file() else None


def note_positions(folder: Path, positions: str | None) -> None:
    """Write the position policy beside the adapter in ``folder``."""
    if positions:
        (folder / ADAPTER_NOTES).write_text(json.dumps({"positions": positions}) + "\n", encoding="utf-8")


def adopt_tags(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Add the six tags to tokenizer and model; new rows start as the mean of the ordinary ones.

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
