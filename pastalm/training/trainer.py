"""The Trainer of stage 1 and its arguments."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainingArguments
from transformers.integrations import TensorBoardCallback

from pastalm.layout import IGNORE
from pastalm.runtime.attention import DenseMetadata, attach
from pastalm.training.adapters import bare
from pastalm.training.config import SftConfig
from pastalm.training.data import processes
from pastalm.training.loss import token_loss
from pastalm.training.meter import Meter
from pastalm.training.told import Told


class SftTrainer(Trainer):
    """The Trainer with SPEC 6's mask and targets; all else (resume, DDP, FSDP, logging) is the library's.

    ``model`` is a Hugging Face model or PEFT's wrapper of one.
    """

    def __init__(self, model: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(model, *args, **kwargs)
        self.attention_context = attach(bare(model))
        self.model_accepts_loss_kwargs = True  # our loss divides by the targets of the whole step
        self._loss_shifts_labels = False  # ours does not: a label in the first column counts
        self.meter = Meter(self.accelerator)
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self.told = Told()
        self.add_callback(self.told)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback):
                callback.logging_dir = str(Path(self.args.output_dir) / "runs")

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """The library's, telling how far it is."""
        with self.told:
            return super().train(*args, **kwargs)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], Tensor | int | None]:
        """The batches of one optimiser step, counted, and their targets over all processes."""
        batches, targets = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.meter.count(batches)
        return batches, targets

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Thread-wise next-token loss; see :func:`pastalm.training.loss.token_loss`."""
        outputs = self._forward(model, inputs)
        loss = token_loss(outputs.logits, inputs["labels"], num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over processes
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The loss of the held-out rows, in nats a target of all of them; logged, and returned as ``eval_loss``."""
        total = torch.zeros(2, dtype=torch.double)
        self.model.eval()
        with torch.random.fork_rng(devices=[]):  # a loader draws a seed, and dropout must not notice
            for batch in self.get_eval_dataloader():
                inputs = self._prepare_inputs(batch)
                with torch.no_grad(), self.compute_loss_context_manager():
                    loss = token_loss(self._forward(self.model, inputs).logits, inputs["labels"], 1)
                total += torch.tensor([loss.item(), (inputs["labels"] != IGNORE).sum().item()])
        loss, targets = self.accelerator.reduce(total.to(self.args.device), "sum").tolist()
        found = {"eval_loss": round(loss / targets, 5)}
        self.log(found)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def held_out(self) -> dict[str, float]:
        """What :meth:`evaluate` finds, from the log if this step has been evaluated; empty without held-out rows."""
        last = next((line for line in reversed(self.state.log_history) if "eval_loss" in line), {"step": -1})
        if last["step"] == self.state.global_step:
            return {"eval_loss": last["eval_loss"]}
        return self.evaluate() if self.eval_dataset else {}

    def _forward(self, model: nn.Module, inputs: dict[str, Tensor]) -> Any:
        self.attention_context.metadata = DenseMetadata(inputs["visible"], inputs["position_ids"])
        return model(input_ids=inputs["input_ids"], position_ids=inputs["position_ids"], use_cache=False)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the tokens a second since the last time."""
        if "loss" in logs:
            logs["tokens_per_second"] = round(self.meter.rate(), 1)
        super().log(logs, start_time)

    def _save_rng_state(self, output_dir: str) -> None:
        """A checkpoint counts as complete once its state is written, which comes next: all must be through by then."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()


def training_arguments(config: SftConfig, rows: int) -> TrainingArguments:
    """The Trainer's arguments for a run over ``rows`` packed rows."""
    steps = planned_steps(config, rows)
    arguments = TrainingArguments(
        output_dir=config.out,
        max_steps=steps,
        per_device_train_batch_size=config.batch,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.learning_rate,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": max(1, round(config.decay * steps)), "decay_type": "linear"},
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        adam_beta2=config.beta2,
        bf16=config.bf16,
        use_cpu=not torch.cuda.is_available(),
        per_device_eval_batch_size=config.batch,
        eval_strategy="steps" if config.eval_data else "no",
        eval_steps=config.save_every,
        save_steps=config.save_every,
        save_total_limit=2,
        logging_steps=config.log_every,
        seed=config.seed,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="tensorboard" if find_spec("tensorboard") else "none",
    )
    if arguments.n_gpu > 1:  # DataParallel copies the model, not its context; several GPUs are for `accelerate launch`
        arguments._n_gpu = 1
    return arguments


def planned_steps(config: SftConfig, rows: int) -> int:
    """How many optimiser steps a run over ``rows`` rows takes."""
    if config.steps > 0:
        return config.steps
    return max(1, round(config.epochs * -(-rows // (config.batch * config.accumulate * processes()))))
