"""Stage 1: supervised fine-tuning on annotated answers, with the Hugging Face Trainer and our collator (SPEC 6)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint, set_seed

from pastalm.data.collate import Collator
from pastalm.data.examples import DataError, Example, encode_records, pack, read_records
from pastalm.lang.positions import position_policy
from pastalm.lang.vocabulary import Vocabulary, add_tags
from pastalm.runtime.attention import DenseView, attach
from pastalm.runtime.load import load
from pastalm.training.config import SftConfig
from pastalm.training.loss import token_loss


class PackedRows(Dataset):
    """Rows of examples, each row as many as fit into its length."""

    def __init__(self, examples: list[Example], row: int, seed: int) -> None:
        self.examples, self.dropped = examples, 0
        self.rows = pack([len(example) for example in examples], row, seed, self._drop)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> list[Example]:
        return [self.examples[k] for k in self.rows[index]]

    def _drop(self, index: int) -> None:
        self.dropped += 1


class SftTrainer(Trainer):
    """The Trainer with SPEC 6's mask and targets; all else (resume, DDP, FSDP, logging) is the library's."""

    def __init__(self, model: PreTrainedModel, *args: Any, **kwargs: Any) -> None:
        super().__init__(model, *args, **kwargs)
        self.seat = attach(model)
        self.model_accepts_loss_kwargs = True  # our loss divides by the targets of the whole step

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Thread-wise next-token loss; see :func:`pastalm.training.loss.token_loss`."""
        self.seat.view = DenseView(inputs["visible"], inputs["position_ids"])
        outputs = model(input_ids=inputs["input_ids"], position_ids=inputs["position_ids"], use_cache=False)
        loss = token_loss(outputs.logits, inputs["labels"], num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over processes
        return (loss, outputs) if return_outputs else loss


def train_sft(config: SftConfig) -> Path:
    """Run stage 1 and write model and tokenizer to ``config.out``; an interrupted run goes on where it was.

    Raises ``DataError`` for data that cannot be used, ``LoadError`` for a model that cannot be found.
    """
    set_seed(config.seed)
    model, tokenizer = load(config.model, dtype="float32")
    adopt_tags(model, tokenizer)
    rows = load_rows(config, Vocabulary(tokenizer))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    trainer = SftTrainer(
        model=model,
        args=training_arguments(config, len(rows)),
        train_dataset=rows,
        data_collator=Collator(position_policy(config.positions), pad, prompt_targets=config.prompt_loss),
    )
    trainer.train(resume_from_checkpoint=_checkpoint(config))
    return save(model, tokenizer, config)


def adopt_tags(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Add the six tags to tokenizer and model; new rows start as the mean of the ordinary ones (SPEC 2)."""
    ordinary = len(tokenizer)
    if not add_tags(tokenizer):
        return
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        for layer in {model.get_input_embeddings(), model.get_output_embeddings()} - {None}:
            layer.weight[ordinary : len(tokenizer)] = layer.weight[:ordinary].mean(0)


def load_rows(config: SftConfig, vocabulary: Vocabulary) -> PackedRows:
    """Read, encode and pack the training data. Raises ``DataError`` if nothing usable is in it."""
    records = list(read_records(config.data))
    policy = position_policy(config.positions)
    encoded = encode_records(records, vocabulary, policy, plain=config.plain, seed=config.seed)
    examples = list(_progress(encoded, len(records)))
    rows = PackedRows(examples, config.row, config.seed)
    if not len(rows):
        raise DataError(f"{config.data}: no example fits into a row of {config.row} tokens; raise --row.")
    if rows.dropped:
        print(f"{rows.dropped} of {len(examples)} examples are longer than a row of {config.row} tokens and left out.")
    return rows


def _progress(examples: Iterable[Example], total: int) -> Iterable[Example]:
    return track(examples, description="Encoding", total=total)


def training_arguments(config: SftConfig, rows: int) -> TrainingArguments:
    """The Trainer's arguments for a run over ``rows`` packed rows."""
    steps = config.steps if config.steps > 0 else round(config.epochs * -(-rows // (config.batch * config.accumulate)))
    steps = max(1, steps)
    return TrainingArguments(
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
        save_steps=config.save_every,
        save_total_limit=2,
        logging_steps=20,
        seed=config.seed,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="tensorboard",
    )


def _checkpoint(config: SftConfig) -> str | None:
    return get_last_checkpoint(config.out) if config.resume and Path(config.out).is_dir() else None


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: SftConfig) -> Path:
    """Write model and tokenizer to ``config.out``, with the position policy in the model's config."""
    model.config.pasta_positions = config.positions
    model.set_attn_implementation("sdpa")  # ours is the runtime's choice, not the checkpoint's
    model.to(torch.bfloat16).save_pretrained(config.out)
    tokenizer.save_pretrained(config.out)
    return Path(config.out)
