"""The Trainer of stage 2: a loss of pairs, the reference's log-probabilities, models kept inside a round (SPEC 6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback

from pastalm.runtime.attention import AttentionContext, DenseMetadata
from pastalm.training.prefer_config import PreferConfig
from pastalm.training.preference_loss import advantage, answer_log_probabilities, bonbon, dpo, ipo, margin
from pastalm.training.sft import SftTrainer

# From the log-probabilities [P] of chosen and rejected, then those of the reference, to the losses [P].
PairLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def pair_loss(config: PreferConfig) -> PairLoss:
    """The loss that the settings name."""
    if config.loss == "bonbon":
        return partial(bonbon, alpha=config.alpha, margin=config.margin or margin(config.samples))
    return partial(ipo, tau=config.beta) if config.loss == "ipo" else partial(dpo, beta=config.beta)


def log_probabilities(
    model: torch.nn.Module, context: AttentionContext, batch: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """``log p`` of the chosen and of the rejected answers of a batch, [P] each, in nats: one forward pass for both."""
    context.metadata = DenseMetadata(batch["visible"], batch["position_ids"])
    logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    log_p = answer_log_probabilities(logits, batch["labels"], batch["answer"], 2 * len(batch["references"]))
    return log_p[0::2], log_p[1::2]


@torch.no_grad()
def reference_log_probabilities(
    model: PreTrainedModel, context: AttentionContext, batch: dict[str, Tensor], *, bf16: bool
) -> list[tuple[float, float]]:
    """``log p0`` of each pair's answers, computed in the precision that training computes in, so that a model that has
    not moved has gained nothing."""
    device = model.device
    precision: AbstractContextManager[Any] = torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()
    with precision:
        found = log_probabilities(model.eval(), context, {name: tensor.to(device) for name, tensor in batch.items()})
    return list(zip(*(one.tolist() for one in found), strict=True))


class PreferTrainer(SftTrainer):
    """The Trainer of stage 1 with a loss of pairs: the mean over the pairs of a step, of all its batches and processes.

    Logs, beside the loss, what the pairs have come to since the last log: ``advantage`` in nats, ``won``, the share of
    pairs that have any, and ``chosen``, the nats that the chosen answers have gained.
    """

    def __init__(self, model: PreTrainedModel, *args: Any, loss: PairLoss, **kwargs: Any) -> None:
        super().__init__(model, *args, **kwargs)
        self.pair_loss = loss
        self.seen: list[Tensor] = []  # [P, 2] each: advantage, and what the chosen answers gained

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], Tensor | int | None]:
        """The batches of one optimiser step, and their pairs over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        pairs = torch.tensor(sum(len(batch["references"]) for batch in batches), device=device)
        return batches, self.accelerator.reduce(pairs, "sum")

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """See :func:`pair_loss`."""
        chosen, rejected = log_probabilities(model, self.attention_context, inputs)
        references = inputs["references"].unbind(1)
        gained = torch.stack([advantage(chosen, rejected, *references), chosen - references[0]], 1)
        self.seen.append(gained.detach())
        loss = self.pair_loss(chosen, rejected, *references).sum()
        if num_items_in_batch is not None:
            loss = loss / num_items_in_batch * self.accelerator.num_processes  # gradients are averaged over processes
        return (loss, gained) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The library's log, with how the pairs stand."""
        if self.seen and "loss" in logs:
            gained = torch.cat(self.seen)
            self.seen = []
            if len(gained):
                logs["advantage"], logs["chosen"] = gained.mean(0).tolist()
                logs["won"] = (gained[:, 0] > 0).float().mean().item()
        super().log(logs, *args, **kwargs)


class Snapshots(TrainerCallback):
    """Calls ``keep(share)`` when a share of a round's steps is through."""

    def __init__(self, shares: tuple[float, ...], keep: Callable[[float], None]) -> None:
        self.shares, self.keep = shares, keep

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See :class:`transformers.TrainerCallback`."""
        for share in self.shares:
            if state.global_step == max(1, round(share * state.max_steps)):
                self.keep(share)
