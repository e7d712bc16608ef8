"""Stage 1: supervised fine-tuning on annotated answers, with the Hugging Face Trainer and our collator (SPEC 6)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import set_seed

from pastalm.data.collate import Collator
from pastalm.lang.positions import position_policy
from pastalm.lang.vocabulary import Vocabulary
from pastalm.training.adapters import add_adapters
from pastalm.training.base import adopt_tags, load_base, settle_positions
from pastalm.training.config import SftConfig
from pastalm.training.data import PackedRows, leads, load_rows, processes, read_data
from pastalm.training.recompute import recompute_layers
from pastalm.training.record import (
    contents,
    drop_checkpoints,
    is_finished,
    last_checkpoint,
    overwritten,
    read_run,
    require_elsewhere,
    require_folder,
    require_same,
    step_of,
    write_run,
)
from pastalm.training.saving import save, save_trained
from pastalm.training.trainer import SftTrainer, training_arguments

__all__ = ["PackedRows", "SftTrainer", "adopt_tags", "load_rows", "save", "train_sft", "training_arguments"]


def train_sft(config: SftConfig) -> Path:
    """Run stage 1 and write model and tokenizer to ``config.out``; an interrupted run goes on where it was.

    Under `accelerate launch` every process calls it. Raises ``DataError`` for data that cannot be used, ``LoadError``
    for a model that cannot be found, ``SettingsError`` for settings that contradict the model or the run in
    ``config.out``, for a ``config.out`` that is no folder, and for one where the model itself lies.
    """
    require_elsewhere(config.model, overwritten(config.out))
    require_folder(config.out)
    run = read_run(config.out) if config.resume else {}
    records = read_data(config)
    held_records = read_data(replace(config, data=config.eval_data)) if config.eval_data else []
    known = contents(config, records)
    require_same(config, known, run)
    set_seed(config.seed)
    model, tokenizer = load_base(config)
    config = settle_positions(model, config)
    require_same(config, known, run)  # once more, for the positions may be the model's
    if is_finished(config, run):
        if leads():
            print(f"{config.out} holds this very run, finished; --no-resume trains it anew.")
        return Path(config.out)
    vocabulary = Vocabulary(tokenizer)
    rows = load_rows(config, vocabulary, records)
    held_rows = load_rows(replace(config, data=config.eval_data), vocabulary, held_records) if held_records else None
    if leads():
        _start(config, known)
    checkpoint = last_checkpoint(config.out) if config.resume else None
    trainer = _trainer(model, tokenizer, rows, held_rows, config)
    loss = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None).training_loss
    figures = _figures(trainer, checkpoint, loss) | trainer.held_out()
    save_trained(trainer, tokenizer, config)
    if leads():
        write_run(config, known, figures)
        print(_summary(figures))
    return Path(config.out)


def _start(config: SftConfig, known: dict[str, str]) -> None:
    if not config.resume:
        drop_checkpoints(config.out)
    write_run(config, known)


def _trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: PackedRows,
    held: PackedRows | None,
    config: SftConfig,
) -> SftTrainer:
    trained = add_adapters(model, Vocabulary(tokenizer), config) if config.lora else model
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    trainer = SftTrainer(
        model=trained,
        args=training_arguments(config, len(rows)),
        train_dataset=rows,
        eval_dataset=held,
        data_collator=Collator(position_policy(config.positions), pad, prompt_targets=config.prompt_loss),
    )
    if config.gradient_checkpointing:
        recompute_layers(model, trainer.attention_context)
    return trainer


def _figures(trainer: SftTrainer, checkpoint: Path | None, loss: float) -> dict[str, Any]:
    """What `run.json` keeps. Figures of a run that went on from a checkpoint count what came after it."""
    done = {"steps": trainer.state.global_step, "resumed_from": step_of(checkpoint) if checkpoint else 0}
    return {**done, "loss": round(loss, 5), "processes": processes(), **trainer.meter.report()}


def _summary(figures: dict[str, Any]) -> str:
    held = f" Held-out loss {figures['eval_loss']:.4f}." if "eval_loss" in figures else ""
    return (
        f"{figures['steps']} steps, {figures['tokens']} tokens ({figures['targets']} with a target) in "
        f"{figures['seconds']:.0f} s: {figures['tokens_per_second']:.0f} tokens/s, rows {100 * figures['fill']:.0f}% "
        f"full, peak memory {figures['peak_memory_mib']} MiB.{held}"
    )
