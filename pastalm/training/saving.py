"""The finished model: a directory that the runtime, and any program that reads Hugging Face models, can load."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, Trainer

from pastalm.lang.positions import DEFAULT
from pastalm.lang.vocabulary import Vocabulary
from pastalm.training.adapters import add_adapters, bare, is_adapted, merge
from pastalm.training.config import SftConfig


def save_trained(
    trainer: Trainer, tokenizer: PreTrainedTokenizerBase, config: SftConfig, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write what ``trainer`` has trained to ``config.out``, adapters merged and also alone in its ``adapter``.

    All processes call it, for each may hold a part of the weights (FSDP); the first writes. The trainer's model is not
    fit for use afterwards.
    """
    sharded = trainer.is_fsdp_enabled
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharded else None
    if trainer.args.should_save:
        model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
        if state is not None:
            model = whole(model, state, Vocabulary(tokenizer), config)
        if is_adapted(model):
            model.peft_config["default"].base_model_name_or_path = config.model
            model.save_pretrained(Path(config.out) / "adapter", save_embedding_layers=False)
            model = merge(model)
        save(model, tokenizer, config, dtype)
    trainer.accelerator.wait_for_everyone()


def whole(model: Any, state: dict[str, Tensor], vocabulary: Vocabulary, config: SftConfig) -> Any:
    """A model like ``model``, whose weights lie in parts on many processes, with all of them, from ``state``."""
    config_copy = deepcopy(bare(model).config)  # building a model writes to the config it is given
    built: Any = AutoModelForCausalLM.from_config(config_copy, dtype=torch.float32, attn_implementation="sdpa")
    if is_adapted(model):
        built = add_adapters(built, vocabulary, config)
    missing, unexpected = built.load_state_dict(state, strict=False)
    tensors = built.state_dict()
    loaded = {tensors[name].data_ptr() for name in state if name in tensors}
    lost = [name for name in missing if tensors[name].data_ptr() not in loaded]  # a tied weight has one name there
    if lost or unexpected:
        raise RuntimeError(f"The gathered weights do not fit the model: {[*lost, *unexpected][:5]}")
    return built


def save(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: SftConfig, dtype: torch.dtype = torch.bfloat16
) -> Path:
    """Write model and tokenizer to ``config.out``, with the position policy in the model's config if it learned one.

    Weights come last and are moved into their place, so that a kill leaves no half of a model there.
    """
    if config.plain < 1:
        own = getattr(model.config, "pasta_positions", None)
        model.config.pasta_positions = config.positions or own or DEFAULT
    model.config.use_cache = True  # the Trainer turned it off
    model.set_attn_implementation("sdpa")  # ours is the runtime's choice, not the checkpoint's
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".saving-", dir=out) as part:
        tokenizer.save_pretrained(part)
        model.to(dtype).save_pretrained(part)
        for file in sorted(Path(part).iterdir(), key=lambda path: path.name.endswith((".safetensors", ".index.json"))):
            file.replace(out / file.name)
    return out
