"""Low-rank adapters (PEFT) beside which the rows of the six tags are trained, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from pastalm.lang.vocabulary import Vocabulary
from pastalm.training.base import SettingsError, starting_point
from pastalm.training.config import ALL_LINEAR, TrainingConfig, flag


def add_adapters(model: PreTrainedModel, vocabulary: Vocabulary, config: TrainingConfig) -> Any:
    """Freeze ``model`` and put adapters of rank ``config.lora`` on it; returns PEFT's wrapper (a ``PeftModel``). If
    ``config.model`` is an adapter, they start as that.

    Of the embedding, and of a head with weights of its own, only the tags' rows are trained. A head that PEFT cannot
    train by rows (one with a bias, or no plain linear layer) is trained whole. Raises :class:`SettingsError` for
    targets that the model lacks, ``ValueError`` where PEFT is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ValueError("Low-rank adapters need PEFT: pip install 'pastalm[train]'.") from error
    rows, whole = _token_layers(model)
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=config.lora_dropout,
        target_modules=targets(model, config),
        trainable_token_indices={name: sorted(vocabulary.tags) for name in rows},
        modules_to_save=whole or None,
    )
    wrapped = get_peft_model(model, settings)
    # With a name PEFT writes both embeddings into each checkpoint, because ours have more rows than that model's.
    wrapped.peft_config["default"].base_model_name_or_path = ""
    for weight in wrapped.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()  # steps of 1e-5 are lost in half precision
    adapter = starting_point(config)[1]
    if adapter:
        _fill(wrapped, adapter, config)
    return wrapped


def _fill(wrapped: Any, adapter: Path, config: TrainingConfig) -> None:
    """Give the adapters of ``wrapped`` the weights in the folder ``adapter``. Raises :class:`SettingsError` for weights
    of another shape."""
    from peft import PeftConfig, set_peft_model_state_dict

    own: Any = PeftConfig.from_pretrained(str(adapter))
    for name, has in (("lora", own.r), ("lora_alpha", own.lora_alpha)):
        if has != getattr(config, name):
            raise SettingsError(
                f"The adapter {adapter} was trained with {flag(name)} {has}, but this run asks for "
                f"{getattr(config, name)}: give the same, or start from the merged model."
            )
    found: Any = set_peft_model_state_dict(wrapped, load_file(adapter / "adapter_model.safetensors"))
    if found.unexpected_keys or any("lora_" in name for name in found.missing_keys):
        raise SettingsError(
            f"The adapter {adapter} was trained on other modules than --lora-targets {config.lora_targets}: give the "
            "same, or start from the merged model."
        )


def targets(model: PreTrainedModel, config: TrainingConfig) -> str | list[str]:
    """The modules that get adapters, as PEFT wants them. Raises :class:`SettingsError` for names the model lacks."""
    if config.lora_targets == ALL_LINEAR:
        return ALL_LINEAR
    names = [name.strip() for name in config.lora_targets.split(",") if name.strip()]
    there = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    missing = [name for name in names if name.rpartition(".")[2] not in there]
    if missing or not names:
        known = sorted({n.rpartition(".")[2] for n, module in model.named_modules() if isinstance(module, nn.Linear)})
        raise SettingsError(
            f"{type(model).__name__} has no module {', '.join(missing) or 'without a name'}; --lora-targets takes "
            f"{ALL_LINEAR!r} or some of {', '.join(known)}."
        )
    return names


def _token_layers(model: PreTrainedModel) -> tuple[list[str], list[str]]:
    """Names of the layers with a row for each token: those trained by rows, and those that must be trained whole."""
    names = {module: name for name, module in model.named_modules()}
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or head.weight is embedding.weight:  # PEFT finds the tied head by itself
        return [names[embedding]], []
    if isinstance(head, nn.Linear) and head.bias is None:
        return [names[embedding], names[head]], []
    return [names[embedding]], [names[head]]


def merge(model: Any) -> PreTrainedModel:
    """The plain model that PEFT's ``model`` stands for; adapters and rows go into its weights."""
    merged = model.merge_and_unload()
    for weight in merged.parameters():
        weight.requires_grad_(True)
    return merged


def is_adapted(model: nn.Module) -> bool:
    """Whether ``model`` is PEFT's wrapper."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def bare(model: Any) -> PreTrainedModel:
    """The Hugging Face model inside PEFT's wrapper, or the model itself."""
    return model.get_base_model() if is_adapted(model) else model
