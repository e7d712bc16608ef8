"""A folder that holds an adapter alone, as a model: the base that it names, with what was trained merged into it."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from pastalm.lang.tokenizer import add_tags
from pastalm.runtime.checkpoint import LoadError

SETTINGS = "pasta.json"  # what PEFT has no place for: the position policy that an adapter was trained with


def apply_adapter(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Any:
    """``model`` with the six tags and the adapter in ``folder``; the tokenizer gets the tags too. The folder's
    ``generation_config.json``, if it has one, becomes the model's. Raises :class:`LoadError` where PEFT is missing."""
    if find_spec("peft") is None:
        raise LoadError(f"{folder} holds an adapter, and merging it needs PEFT: pip install 'pastalm[assistant]'.")
    from peft import PeftModel

    adopt_tags(model, tokenizer)
    adapted: Any = PeftModel.from_pretrained(model, folder)
    merged = adapted.merge_and_unload()
    merged.config.pasta_positions = read_positions(folder) or getattr(merged.config, "pasta_positions", None)
    if (folder / "generation_config.json").is_file():
        merged.generation_config = GenerationConfig.from_pretrained(folder)
    return merged.eval()


def read_positions(folder: Path) -> str | None:
    """The position policy that the adapter in ``folder`` was trained with, if it notes one."""
    place = folder / SETTINGS
    return json.loads(place.read_text(encoding="utf-8"))["positions"] if place.is_file() else None


def note_positions(folder: Path, positions: str | None) -> None:
    """Write the position policy beside the adapter in ``folder``."""
    if positions:
        (folder / SETTINGS).write_text(json.dumps({"positions": positions}) + "\n", encoding="utf-8")


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
