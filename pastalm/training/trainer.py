"""The Trainer of stage 1, on which that of stage 2 builds, and the arguments of both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PrinterCallback, ProgressCallback, Trainer, TrainingArguments
from transformers.integrations import TensorBoardCallback

from pastalm.lang.vocabulary import Vocabulary
from pastalm.layout import IGNORE
from pastalm.runtime.attention import AttentionContext, AttentionMetadata, DenseMetadata, attach
from pastalm.training.adapters import bare
from pastalm.training.base import SettingsError
from pastalm.training.checkpoints import saving, weights_trained
from pastalm.training.config import TrainingConfig
from pastalm.training.data import tag_targets
from pastalm.training.losses import target_nats, token_loss
from pastalm.training.monitor import LoggingCallback, Throughput
from pastalm.training.processes import processes

COMPILER = "inductor"
LINES = 10  # of the log, at least, whatever --log-every says


class SftTrainer(Trainer):
    """The Trainer with our mask and targets; all else (resume, DDP, FSDP, logging) is the library's.

    ``model`` is a Hugging Face model or PEFT's wrapper of one. ``vocabulary`` is needed for held-out rows, to tell text
    from tags.
    """

    model: Any

    def __init__(self, model: nn.Module, *args: Any, vocabulary: Vocabulary | None = None, **kwargs: Any) -> None:
        super().__init__(model, *args, **kwargs)
        self.vocabulary = vocabulary
        self.tag_rate: float | None = None  # of the tags' rows, where it is known
        self.attention_context = attach(bare(model))
        self.model_accepts_loss_kwargs = True  # our loss divides by the targets of the whole step
        self._loss_shifts_labels = False  # ours does not: a label in the first column counts
        self.throughput = Throughput(self.accelerator)
        self.diverged = torch.tensor(False, device=self.accelerator.device)
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self.logging = LoggingCallback()
        self.add_callback(self.logging)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback):
                callback.logging_dir = str(self.out / "runs")

    @property
    def out(self) -> Path:
        """Where checkpoints and the log lie."""
        return Path(str(self.args.output_dir))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """The library's, which is shown while it runs."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self.logging.close()

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], Tensor | int | None]:
        """The batches of one optimiser step, counted, and their targets over all processes."""
        batches, targets = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.throughput.count(batches)
        return batches, targets

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Thread-wise next-token loss; see :func:`pastalm.training.losses.token_loss`."""
        outputs = self.forward(model, inputs)
        loss = token_loss(outputs.logits, inputs["labels"], num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over processes
        return (loss, outputs) if return_outputs else loss

    def forward(self, model: nn.Module, inputs: dict[str, Tensor]) -> Any:
        """The model's output for a batch, whose tokens see what the batch says."""
        return forward(model, self.attention_context, inputs)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The loss of the held-out rows; logged, and returned.

        ``eval_loss`` is in nats a target of all rows, ``eval_text_loss`` that of the text alone (with the ends of
        answers), ``eval_tag_loss`` that of the tags, topics and lengths. ``eval_text_per_character``, nats a character
        of the text, compares models with different tokenizers.
        """
        total = torch.zeros(5, dtype=torch.double)
        self.model.eval()
        with torch.random.fork_rng(devices=[]):  # a loader draws a seed, and dropout must not notice
            for batch in self.get_eval_dataloader():
                inputs = self._prepare_inputs(batch)
                with torch.no_grad(), self.compute_loss_context_manager():
                    total += self._held_out_sums(inputs)
        found = _held_out_losses(*self.accelerator.reduce(total.to(self.args.device), "sum").tolist())
        self.log(dict(found))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def held_out(self) -> dict[str, float]:
        """What :meth:`evaluate` finds, from the log if this step has been evaluated; empty without held-out rows."""
        last = next((line for line in reversed(self.state.log_history) if "eval_loss" in line), {"step": -1})
        if last["step"] == self.state.global_step:
            return {name: value for name, value in last.items() if name.startswith("eval_")}
        return self.evaluate() if self.eval_dataset else {}

    def _held_out_sums(self, inputs: dict[str, Tensor]) -> Tensor:
        """Of a batch: nats of text, text's targets, nats of tags, tags' targets, characters of text."""
        if self.vocabulary is None:
            raise ValueError("Held-out rows need a vocabulary, to tell text from tags.")
        labels = inputs["labels"]
        nats = target_nats(self.forward(self.model, inputs).logits, labels)
        tags = tag_targets(inputs["input_ids"], labels, self.vocabulary)[labels != IGNORE]
        text = self.vocabulary.decode(labels[labels != IGNORE][~tags].tolist())
        sums = [value for chosen in (~tags, tags) for value in (nats[chosen].sum().item(), chosen.sum().item())]
        return torch.tensor([*sums, len(text)], dtype=torch.double)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The library's, which is that of all processes; notes whether it is finite, before the step is taken.

        A GPU is not waited for: there a line of the log, or weights that are to be written, come upon it.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        whole = norm.full_tensor() if isinstance(norm, DTensor) else torch.as_tensor(norm)
        self.diverged |= ~whole.isfinite().to(self.diverged.device)
        if self.args.use_cpu:
            self.require_finite()
        return norm

    def require_finite(self, loss: float = 0.0) -> None:
        """Raise :class:`SettingsError` if ``loss``, the mean of all processes, or a gradient so far is not finite. All
        processes find the same."""
        if self.diverged.item() or not isfinite(loss):
            raise SettingsError(
                f"Training diverged: after {self.state.global_step} of {self.state.max_steps} steps the loss or the "
                "gradient is not a finite number, so nothing more is written; give a smaller --learning-rate and "
                "another --out."
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the tokens a second since the last time."""
        self.require_finite(logs.get("loss", 0.0))
        if "loss" in logs:
            logs["tokens_per_second"] = round(self.throughput.rate(), 1)
        super().log(logs, start_time)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.require_finite()
        with saving(self.out / f"checkpoint-{self.state.global_step}"):
            super()._save_checkpoint(*args, **kwargs)

    def _save_rng_state(self, output_dir: str) -> None:
        """A checkpoint counts as complete once its state is written, which comes next: all must be through by then."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()


def forward(model: nn.Module, context: AttentionContext, batch: dict[str, Tensor]) -> Any:
    """The output of ``model``, attached to ``context``, for a batch of :class:`pastalm.data.collate.Collator`."""
    context.metadata = DenseMetadata(batch["visible"], batch["position_ids"])
    return model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False)


def _held_out_losses(text: float, texts: float, tag: float, tags: float, characters: float) -> dict[str, float]:
    found = {"eval_loss": (text + tag) / (texts + tags), "eval_text_loss": text / max(texts, 1)}
    found |= {"eval_tag_loss": tag / tags} if tags else {}
    return {name: round(value, 5) for name, value in found.items()} | {
        "eval_text_per_character": round(text / max(characters, 1), 5)
    }


def recompute_layers(model: PreTrainedModel, context: AttentionContext) -> None:
    """Gradient checkpointing: make ``model`` keep only the inputs of its layers. Raises ``ValueError`` for models that
    cannot.

    Attention finds its mask in ``context``, where a later forward pass may have put other metadata by the time of the
    backward pass: each layer remembers those of its own forward pass and puts them there while it is computed again.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _restored(context, context.metadata)

    if not getattr(model, "supports_gradient_checkpointing", False):
        raise ValueError(f"{type(model).__name__} has no gradient checkpointing; train without it.")
    # transformers 5.2x has renamed it, and warns about the old name
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False, "context_fn": contexts})


@contextmanager
def _restored(context: AttentionContext, metadata: AttentionMetadata | None) -> Iterator[None]:
    before, context.metadata = context.metadata, metadata
    try:
        yield
    finally:
        context.metadata = before


def training_arguments(config: TrainingConfig, rows: int, *, held_out: bool = False) -> TrainingArguments:
    """The Trainer's arguments for a run over ``rows`` rows, or pairs; ``held_out``: whether others are held out."""
    steps = planned_steps(config, rows)
    arguments = TrainingArguments(
        output_dir=config.out,
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.learning_rate,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": max(1, round(config.decay * steps)), "decay_type": "linear"},
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        adam_beta2=config.beta2,
        bf16=config.dtype == "bfloat16",
        torch_compile=config.compile,
        torch_compile_backend=COMPILER if config.compile else None,
        use_cpu=not torch.cuda.is_available(),
        per_device_eval_batch_size=config.batch_size,
        eval_strategy="steps" if held_out else "no",
        eval_steps=config.save_every,
        save_steps=config.save_every,
        save_total_limit=2,
        logging_steps=min(config.log_every, max(1, steps // LINES)),
        logging_first_step=True,
        logging_nan_inf_filter=False,  # it would report a loss that is no number as 0
        seed=config.seed,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="tensorboard" if find_spec("tensorboard") else "none",
    )
    if arguments.n_gpu > 1:  # DataParallel copies the model, not its context; several GPUs are for `accelerate launch`
        arguments._n_gpu = 1
    return arguments


def planned_steps(config: TrainingConfig, rows: int) -> int:
    """How many optimiser steps a run over ``rows`` rows takes."""
    if config.steps > 0:
        return config.steps
    return max(1, round(config.epochs * -(-rows // (config.batch_size * config.accumulate * processes()))))


def plan(trainer: SftTrainer, config: TrainingConfig) -> str:
    """A line that says what will be trained and how."""
    weights = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    tags = f" ({trainer.tag_rate:.2g} of the marks' rows)" if trainer.tag_rate else ""
    return (
        f"{weights_trained(config)} {sum(weight.numel() for weight in weights):,} weights, learning rate "
        f"{config.learning_rate:g}{tags}, computed in {config.dtype}, {trainer.args.max_steps} steps."
    )
