"""Stage 1: supervised fine-tuning on annotated answers, with the Hugging Face Trainer and our collator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import set_seed

from pastalm.data.collate import Collator
from pastalm.data.examples import AnnotatedAnswer
from pastalm.lang.positions import position_policy
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.probe import window_of
from pastalm.training.adapters import TagRows, add_adapters, settle_tag_rate
from pastalm.training.base import SettingsError, load_base, settle_dtype, settle_positions
from pastalm.training.checkpoints import (
    STATE,
    checkpoints,
    drop_checkpoints,
    is_finished,
    last_checkpoint,
    locked,
    model_card,
    read_state,
    require_elsewhere,
    require_folder,
    require_same,
    resumed_from,
    run_state,
    save_trained,
    step_of,
    write_state,
)
from pastalm.training.config import SftConfig
from pastalm.training.data import PackedRows, load_rows, read_data
from pastalm.training.processes import leads, processes
from pastalm.training.trainer import SftTrainer, plan, recompute_layers, training_arguments

INSTEAD = "another --out, or --no-resume to start anew"
DTYPE = torch.bfloat16  # of the finished model


def train_sft(config: SftConfig) -> Path:
    """Run stage 1 and write model and tokenizer to ``config.out``; an interrupted run goes on where it was.

    Under `accelerate launch` every process calls it. Raises ``DataError`` for data that cannot be used and for a
    ``config.out`` where another run is at work, ``LoadError`` for a model that cannot be found, ``SettingsError`` for
    settings that contradict the model or the run in ``config.out``, for a ``config.out`` that is no folder, for one
    where the model itself lies, and for training that diverges; ``SaveError`` for a disk that is full.
    """
    config = settle_dtype(config)
    out = Path(config.out)
    require_elsewhere(config.model, [out, out / "adapter", *checkpoints(out)])
    require_folder(config.out)
    records = read_data(config)
    held_out = read_data(replace(config, data=config.eval_data)) if config.eval_data else []
    with locked(config.out):
        _train(config, records, held_out)
    return out


def _train(config: SftConfig, records: Sequence[AnnotatedAnswer], held_out: Sequence[AnnotatedAnswer]) -> None:
    """All that the run in ``config.out`` has not done."""
    before = read_state(config.out) if config.resume else {}
    if config.resume and not before and (strange := last_checkpoint(config.out)):
        raise SettingsError(f"{strange} is of a run that has left no {STATE}: give {INSTEAD}, which removes it.")
    require_same(config, run_state(config, records), before, INSTEAD)
    set_seed(config.seed)
    model, tokenizer = load_base(config)
    config = settle_positions(model, config)
    state = run_state(config, records)
    require_same(config, state, before, INSTEAD)  # once more, for the positions may be the model's
    if is_finished(config.out, before):
        say(f"{config.out} holds this very run, finished; --no-resume trains it anew.")
    else:
        vocabulary = Vocabulary(tokenizer)
        window = window_of(model.config)
        rows = load_rows(config, vocabulary, records, window)
        eval_config = replace(config, data=config.eval_data)
        held_rows = load_rows(eval_config, vocabulary, held_out, window) if held_out else None
        trainer = _trainer(model, tokenizer, rows, held_rows, config)  # refuses settings before anything is written
        if leads():
            _begin(config, state)
        _run(trainer, tokenizer, config, state)


def _run(trainer: SftTrainer, tokenizer: PreTrainedTokenizerBase, config: SftConfig, state: dict[str, Any]) -> None:
    """Train, save the model, and complete the run state."""
    checkpoint = resumed_from(config.out) if config.resume else None
    say(plan(trainer, config))
    loss = trainer.train(resume_from_checkpoint=checkpoint).training_loss
    figures = _figures(trainer, checkpoint, loss) | trainer.held_out()
    save_trained(trainer, tokenizer, config, DTYPE, model_card(config, DTYPE, figures))
    if leads():
        write_state(config.out, state | {"figures": figures})
    say(_summary(figures))


def say(line: str) -> None:
    """Print a line, in the first process."""
    if leads():
        print(line, flush=True)


def _begin(config: SftConfig, state: dict[str, Any]) -> None:
    if not config.resume:
        drop_checkpoints(config.out)
    write_state(config.out, state)


def _trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: PackedRows,
    held: PackedRows | None,
    config: SftConfig,
) -> SftTrainer:
    vocabulary = Vocabulary(tokenizer)
    tags = sorted(vocabulary.tags)
    embedding: Any = model.get_input_embeddings()
    spread = embedding.weight.detach().float().std().item()  # before adapters cover it
    trained = add_adapters(model, vocabulary, config) if config.lora else model
    rate = settle_tag_rate(trained, spread, tags, config)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    trainer = SftTrainer(
        model=trained,
        args=training_arguments(config, len(rows), held_out=held is not None),
        train_dataset=rows,
        eval_dataset=held,
        data_collator=Collator(position_policy(config.positions), pad, prompt_targets=config.prompt_loss),
        vocabulary=vocabulary,
        callbacks=[TagRows(tags, rate / config.learning_rate)] if rate != config.learning_rate else [],
    )
    trainer.tag_rate = rate
    if config.gradient_checkpointing:
        recompute_layers(model, trainer.attention_context)
    return trainer


def _figures(trainer: SftTrainer, checkpoint: str | None, loss: float) -> dict[str, Any]:
    """What the run state keeps. Figures of a run that went on from a checkpoint count what came after it."""
    done = {"steps": trainer.state.global_step, "resumed_from": step_of(Path(checkpoint)) if checkpoint else 0}
    logged = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    ends = {"first_loss": logged[0], "last_loss": logged[-1]} if logged else {}
    return {**done, "loss": round(loss, 5), **ends, "processes": processes(), **trainer.throughput.report()}


def _summary(figures: dict[str, Any]) -> str:
    losses = ""
    if "last_loss" in figures:
        losses = f"Loss {figures['first_loss']:.4f} at first, {figures['last_loss']:.4f} at last."
    if "eval_loss" in figures:
        tags = f", tags {figures['eval_tag_loss']:.4f}" if "eval_tag_loss" in figures else ""
        losses += f" Held-out loss {figures['eval_loss']:.4f} (text {figures['eval_text_loss']:.4f}{tags})."
    return (
        f"{losses} {figures['steps']} steps, {figures['tokens']} tokens ({figures['targets']} with a target) in "
        f"{figures['seconds']:.0f} s: {figures['tokens_per_second']:.0f} tokens/s, rows {100 * figures['fill']:.0f}% "
        f"full, peak memory {figures['peak_memory_mib']} MiB. The weights are saved in bfloat16."
    )
