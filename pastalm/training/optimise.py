"""From a round's pairs to its model: reference log-probabilities, computed once and kept, then training (SPEC 6)."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers.trainer_utils import set_seed

from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.attention import attach
from pastalm.runtime.engine import policy_of
from pastalm.training.adapters import add_adapters, bare, is_adapted, merge
from pastalm.training.base import load_base
from pastalm.training.config import SftConfig
from pastalm.training.data import leads, processes
from pastalm.training.journal import Journal
from pastalm.training.pairs import PairCollator, PreferencePair, sampled_answer
from pastalm.training.prefer_config import PreferConfig
from pastalm.training.prefer_trainer import PreferTrainer, Snapshots, pair_loss, reference_log_probabilities
from pastalm.training.progress import shown
from pastalm.training.recompute import recompute_layers
from pastalm.training.record import last_checkpoint
from pastalm.training.round import Round, own_device, rank, wait_until
from pastalm.training.sampling import FIELDS
from pastalm.training.saving import save, save_trained, whole
from pastalm.training.trainer import training_arguments


class Pairs(Dataset):
    """The pairs of a round as training reads them: token ids from the samples' journal, when they are needed. Behind
    them come None, as many as make the last step of an epoch a whole one."""

    def __init__(self, round_: Round, samples: Journal, vocabulary: Vocabulary) -> None:
        self.lines, self.samples, self.vocabulary = round_.pairs(), samples, vocabulary
        self.prompts = {one.index: one.prompt for one in round_.questions}
        self.references: dict[int, tuple[float, float]] = {}
        self.empty = 0

    def __len__(self) -> int:
        return len(self.lines) + self.empty

    def fill(self, multiple: int) -> None:
        """Add empty places, as :meth:`pastalm.training.data.PackedRows.fill` does."""
        self.empty = -len(self.lines) % multiple

    def __getitem__(self, index: int) -> PreferencePair | None:
        if index >= len(self.lines):
            return None
        line = self.lines[index]
        prompt = line["prompt"]
        ids = self.vocabulary.prompts.encode(self.prompts[prompt])
        chosen, rejected = (
            sampled_answer(ids, self.samples[prompt, line[side]["sample"]], self.vocabulary)
            for side in ("chosen", "rejected")
        )
        return PreferencePair(prompt, chosen, rejected, self.references.get(prompt, (0.0, 0.0)))


def optimise(round_: Round) -> None:
    """Train the round's start on its pairs and write ``round_.model``. All processes call it."""
    config = round_.config
    stage = config.training(str(round_.folder), round_.start)
    with Journal(round_.folder / "samples.jsonl", FIELDS, rank()) as samples:
        set_seed(config.seed)
        model, tokenizer = load_base(stage, merged=True)
        vocabulary = Vocabulary(tokenizer)
        pairs = Pairs(round_, samples, vocabulary)
        collator = _collator(model, tokenizer)
        _refer(round_, pairs, collator)
        pairs.fill(config.batch * config.accumulate * processes())
        set_seed(config.seed)
        if config.lora:
            model = add_adapters(model, vocabulary, stage)
        trainer = PreferTrainer(
            model=model,
            args=training_arguments(stage, len(pairs)),
            train_dataset=pairs,
            data_collator=collator,
            loss=pair_loss(config),
        )
        keep = _Keeper(round_, trainer, tokenizer, stage)
        trainer.add_callback(Snapshots(config.snapshot_shares(), keep.snapshot))
        if config.gradient_checkpointing:
            recompute_layers(bare(model), trainer.attention_context)
        checkpoint = last_checkpoint(round_.folder)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        keep.last()
    del model, trainer, keep
    gc.collect()  # the Trainer holds on to itself, and the next round needs the room


def _collator(model: Any, tokenizer: Any) -> PairCollator:
    policy = policy_of(model.config)
    return PairCollator(policy, tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0)


def _refer(round_: Round, pairs: Pairs, collator: PairCollator) -> None:
    """Fill ``pairs.references``, from the journal where it has them. The reference is the stage-1 model in every round;
    it is in memory only while this runs."""
    with Journal(round_.folder / "reference.jsonl", ("prompt",), rank()) as journal:
        share = range(rank(), len(pairs.lines), processes())
        missing = [index for index in share if (pairs.lines[index]["prompt"],) not in journal]
        if missing:
            found = _reference(round_.config, pairs, missing, collator)
            what = f"Round {round_.number}, reference"
            for record in shown(found, what, len(share) - len(missing), len(share), "pairs"):
                journal.append(record)

        def complete() -> bool:
            journal.refresh()
            return len(journal) >= len(pairs.lines)

        wait_until(complete)
        pairs.references = {one["prompt"]: (one["chosen"], one["rejected"]) for one in journal.records()}


def _reference(
    config: PreferConfig, pairs: Pairs, indices: Sequence[int], collator: PairCollator
) -> Iterator[dict[str, Any]]:
    model, _ = load_base(config.training(config.out, config.model), merged=True)
    model = model.to(own_device())
    context = attach(model)
    for start in range(0, len(indices), config.batch):
        batch = [pairs[index] for index in indices[start : start + config.batch]]
        found = reference_log_probabilities(model, context, collator(batch), bf16=config.bf16)
        for pair, (chosen, rejected) in zip(filter(None, batch), found, strict=True):
            yield {"prompt": pair.prompt, "chosen": chosen, "rejected": rejected}


class _Keeper:
    """Writes models of a running round, each into a folder that is there whole or not at all.

    In float32: bfloat16 would round away many of stage 2's small steps, and rounds go on from what is written.
    """

    def __init__(self, round_: Round, trainer: PreferTrainer, tokenizer: Any, stage: SftConfig) -> None:
        self.round, self.trainer, self.tokenizer, self.stage = round_, trainer, tokenizer, stage

    def last(self) -> None:
        """The model that the round ends with."""
        part = self._part(self.round.model)
        save_trained(self.trainer, self.tokenizer, replace(self.stage, out=str(part)), torch.float32)
        self._settle(part, self.round.model)

    def snapshot(self, share: float) -> None:
        """The model as it is now, a copy of which goes through the main memory; training goes on with it untouched."""
        place = self.round.folder / f"snapshot-{100 * share:g}"
        accelerator = self.trainer.accelerator
        live: Any = accelerator.unwrap_model(self.trainer.model_wrapped)
        sharded = self.trainer.is_fsdp_enabled
        state = accelerator.get_state_dict(self.trainer.model_wrapped) if sharded else live.state_dict()
        if leads() and not place.is_dir():
            part = self._part(place)
            with torch.random.fork_rng():  # building draws numbers, and training must not notice
                copy = whole(
                    live, {name: weight.cpu() for name, weight in state.items()}, self._vocabulary(), self.stage
                )
            kept = merge(copy) if is_adapted(copy) else copy
            save(kept, self.tokenizer, replace(self.stage, out=str(part)), torch.float32)
            self._settle(part, place)
        accelerator.wait_for_everyone()

    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self.tokenizer)

    @staticmethod
    def _part(place: Path) -> Path:
        part = place.with_name(f".{place.name}.part")
        if leads():
            shutil.rmtree(part, ignore_errors=True)
        return part

    @staticmethod
    def _settle(part: Path, place: Path) -> None:
        if leads():
            part.rename(place)
