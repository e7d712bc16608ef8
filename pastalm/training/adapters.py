"""Low-rank adapters (PEFT), beside which only the rows of the six tags are trained; and these rows' own rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel, TrainerCallback

from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.adapter import load_weights
from pastalm.training.base import SettingsError, starting_point
from pastalm.training.config import ALL_LINEAR, SftConfig, TrainingConfig, flag

SHARE = 0.01  # of the ordinary rows' standard deviation, which a step may move a tag's row by
ROWS = "trainable_tokens_delta"  # in the name of PEFT's weight for single rows


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
    from peft import PeftConfig

    own: Any = PeftConfig.from_pretrained(str(adapter))
    for name, has in (("lora", own.r), ("lora_alpha", own.lora_alpha)):
        if has != getattr(config, name):
            raise SettingsError(
                f"The adapter {adapter} was trained with {flag(name)} {has}, but this run asks for "
                f"{getattr(config, name)}: give the same, or start from the merged model."
            )
    if load_weights(wrapped, adapter):
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


def settle_tag_rate(model: Any, spread: float, tags: Sequence[int], config: SftConfig) -> float:
    """The learning rate of the tags' rows in ``model``, the one that is trained: the one asked for, else
    :data:`SHARE` of ``spread``, the standard deviation of the embedding, but no less than that of the other weights.
    Rows that differ already, and plain answers, which have no tags, take the latter.

    All six rows start alike, so a model tells one mark from another only as far as their rows have moved apart; and
    Adam moves a weight by about the learning rate a step, whatever its gradient. At the rates that suit the rest of a
    model, marks would need thousands of steps.
    """
    if config.tag_learning_rate is not None:
        return config.tag_learning_rate
    learned = any((weight[rows] != weight[rows[:1]]).any() for weight, rows in tag_weights(model, tags))
    return config.learning_rate if learned or config.plain == 1 else max(config.learning_rate, SHARE * spread)


class TagRows(TrainerCallback):
    """Makes each step move the rows of ``tags`` ``factor`` times as far as the optimiser does.

    That is a learning rate of their own, also where they are a part of a larger weight (training of all weights), or
    of a process's share of it (FSDP2).
    """

    def __init__(self, tags: Sequence[int], factor: float) -> None:
        self.tags = list(tags)
        self.factor = factor
        self.weights: list[tuple[Tensor, Tensor]] = []  # found once: with shards that takes a message to all processes
        self.before: list[Tensor] = []

    @torch.no_grad()
    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """See :class:`transformers.TrainerCallback`."""
        self.weights = self.weights or list(tag_weights(model, self.tags))
        self.before = [_local(weight)[rows] for weight, rows in self.weights]

    @torch.no_grad()
    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See :class:`transformers.TrainerCallback`."""
        for (weight, rows), before in zip(self.weights, self.before, strict=True):
            own = _local(weight)
            own[rows] = before + self.factor * (own[rows] - before)


def tag_weights(model: Any, tags: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """The trained weights of embedding and head with rows for ``tags``, each with the numbers of these rows; of a
    sharded weight those in this process's share, which may have none."""
    plain = bare(model)
    layers = {plain.get_input_embeddings(), plain.get_output_embeddings()} - {None}
    found = {weight: name for layer in layers for name, weight in layer.named_parameters() if weight.requires_grad}
    for weight, name in found.items():
        if ROWS in name:  # PEFT's own weight for them
            yield weight, torch.arange(len(_local(weight)), device=weight.device)
        elif len(weight) > max(tags) and "lora_" not in name:
            flags = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
            flags[list(tags)] = 1
            if isinstance(weight, DTensor):
                flags = distribute_tensor(flags, weight.device_mesh, weight.placements)
            yield weight, _local(flags).nonzero()[:, 0]


def _local(weight: Tensor) -> Tensor:
    return weight.to_local() if isinstance(weight, DTensor) else weight
