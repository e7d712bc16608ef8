"""From a round's pairs to its model: reference log-probabilities, computed once and kept, then training."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_utils import set_seed

from pastalm.data.examples import Example
from pastalm.data.questions import Question
from pastalm.files.atomic import new_folder
from pastalm.files.journal import Journal
from pastalm.lang.answer import Answer
from pastalm.lang.positions import CONTIGUOUS
from pastalm.lang.script import Script, compile_script
from pastalm.lang.vocabulary import Vocabulary
from pastalm.progress import track
from pastalm.runtime.attention import AttentionContext, attach
from pastalm.runtime.engine import policy_of
from pastalm.runtime.probe import window_of
from pastalm.training.adapters import add_adapters, bare, is_adapted, merge
from pastalm.training.base import disable_dropout, load_base
from pastalm.training.checkpoints import model_card, resumed_from, save, save_trained, unwrapped, whole_model
from pastalm.training.config import PreferConfig
from pastalm.training.losses import PairLoss, advantage, answer_log_probabilities, pair_loss
from pastalm.training.pairs import AnswerCollator, PairCollator, Pairs, SampledAnswer
from pastalm.training.processes import leads, own_device, processes, rank, wait_until
from pastalm.training.round import Round
from pastalm.training.sampling import FIELDS
from pastalm.training.trainer import SftTrainer, forward, plan, recompute_layers, training_arguments

DTYPE = torch.float32  # of models: bfloat16 would round away small steps, and rounds go on from what is written


def optimise(round_: Round) -> None:
    """Train the round's start on its pairs and write ``round_.model``. All processes call it."""
    config = replace(round_.config, out=str(round_.folder), model=round_.start)
    with Journal(round_.folder / "samples.jsonl", FIELDS, rank()) as samples:
        set_seed(config.seed)
        model, tokenizer = load_base(config, merged=True)
        disable_dropout(model)  # the reference is taken without; that of adapters, which are added later, stays
        vocabulary = Vocabulary(tokenizer)
        prompts = {one.index: one.prompt for one in round_.questions}
        pairs = Pairs(round_.pairs(), prompts, samples, vocabulary, in_views=bool(config.remote))
        collator = _collator(model, tokenizer, config)
        _add_references(round_, pairs, collator)
        pairs.fill(config.batch_size * config.accumulate * processes())
        trainer = _trainer(model, vocabulary, pairs, collator, config)
        models = _Models(round_, trainer, tokenizer, config)
        trainer.add_callback(Snapshots(round_, models.write_snapshot))
        if leads():
            print(plan(trainer, config), flush=True)
        trainer.train(resume_from_checkpoint=resumed_from(round_.folder))
        models.write_last()
    del model, trainer, models
    gc.collect()  # the Trainer holds on to itself, and the next round needs the room


def _collator(model: Any, tokenizer: Any, config: PreferConfig) -> PairCollator:
    policy = policy_of(model.config, CONTIGUOUS if config.remote else None)
    model.config.pasta_positions = policy.name
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    return PairCollator(policy, pad, window_of(model.config))


def _trainer(
    model: PreTrainedModel, vocabulary: Vocabulary, pairs: Pairs, collator: PairCollator, config: PreferConfig
) -> PreferTrainer:
    set_seed(config.seed)  # the reference may have drawn numbers, in a run that was not interrupted
    trainer = PreferTrainer(
        model=add_adapters(model, vocabulary, config) if config.lora else model,
        args=training_arguments(config, len(pairs)),
        train_dataset=pairs,
        data_collator=collator,
        loss=pair_loss(config),
    )
    if config.gradient_checkpointing:
        recompute_layers(bare(model), trainer.attention_context)
    return trainer


def _add_references(round_: Round, pairs: Pairs, collator: PairCollator) -> None:
    """Fill ``pairs.references``, from the journal where it has them. The reference is the stage-1 model in every round;
    it is in memory only while this runs."""
    with Journal(round_.folder / "reference.jsonl", {"prompt": int}, rank()) as journal:
        share = range(rank(), len(pairs.lines), processes())
        missing = [index for index in share if pairs.lines[index]["prompt"] not in journal]
        if missing:
            found = _references(round_.config, pairs, missing, collator)
            what = f"Round {round_.number}, reference"
            for line in track(found, what, len(share), done=len(share) - len(missing), unit="pairs"):
                journal.append(line)

        def complete() -> bool:
            journal.refresh()
            return len(journal) >= len(pairs.lines)

        wait_until(complete)
        pairs.references = {one["prompt"]: (one["chosen"], one["rejected"]) for one in journal.values()}


def _references(
    config: PreferConfig, pairs: Pairs, indices: Sequence[int], collator: PairCollator
) -> Iterator[dict[str, Any]]:
    model, tokenizer = load_base(config, merged=True)
    reference: Any = add_adapters(model, Vocabulary(tokenizer), config) if config.lora else model
    reference.to(own_device())
    context = attach(model)
    for start in range(0, len(indices), config.batch_size):
        batch = [pairs[index] for index in indices[start : start + config.batch_size]]
        found = reference_log_probabilities(reference, context, collator(batch), dtype=config.dtype)
        for pair, (chosen, rejected) in zip(filter(None, batch), found, strict=True):
            yield {"prompt": pair.prompt, "chosen": chosen, "rejected": rejected}


@torch.no_grad()
def reference_log_probabilities(
    model: PreTrainedModel, context: AttentionContext, batch: dict[str, Tensor], *, dtype: str
) -> list[tuple[float, float]]:
    """``log p0`` of each pair's answers, computed in the precision that training computes in, so that a model that has
    not moved has gained nothing."""
    with precision(model.device, dtype):
        found = pair_log_probabilities(model.eval(), context, _moved(batch, model.device))
    return list(zip(*(one.tolist() for one in found), strict=True))


def precision(device: torch.device, dtype: str) -> AbstractContextManager[Any]:
    """What a model computes in, as in training."""
    return torch.autocast(device.type, torch.bfloat16) if dtype == "bfloat16" else nullcontext()


def _moved(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in batch.items()}


class TextNats:
    """How likely texts are as plain answers of the baseline, or of the stage-1 model without one: nats a token, the end
    of the answer included; of a text that goes beyond the model's window, the part that lies in it. The model is loaded
    when it is first asked; each text is measured once."""

    def __init__(self, config: PreferConfig) -> None:
        self.config = replace(config, model=config.baseline or config.model, lora=0)
        self.known: dict[tuple[int, str], float] = {}

    def __call__(self, texts: Sequence[tuple[Question, str]]) -> list[float]:
        missing = {(one.index, text): one for one, text in texts if (one.index, text) not in self.known}
        keys = sorted(missing, key=lambda key: len(key[1]))  # answers of one length fill their batch
        for start in range(0, len(keys), self.config.batch_size):
            part = keys[start : start + self.config.batch_size]
            self.known.update(zip(part, self._measure([(missing[key], key[1]) for key in part]), strict=True))
        return [self.known[one.index, text] for one, text in texts]

    @cached_property
    def loaded(self) -> tuple[Any, AttentionContext, Vocabulary]:
        """The model, its attention context and its vocabulary."""
        model, tokenizer = load_base(self.config, merged=True)
        whole: Any = model.eval().to(own_device())
        for weight in whole.parameters():  # which nobody trains; buffers, such as those of the positions, stay
            weight.data = weight.data.to(getattr(torch, self.config.dtype))
        return whole, attach(model), Vocabulary(tokenizer)

    @torch.no_grad()
    def _measure(self, texts: Sequence[tuple[Question, str]]) -> list[float]:
        model, context, vocabulary = self.loaded
        policy = policy_of(model.config)
        answers = [SampledAnswer(self._example(one, text)) for one, text in texts]
        batch = _moved(AnswerCollator(policy, vocabulary.tokenizer.pad_token_id or 0)(answers), model.device)
        logits = forward(model, context, batch).logits
        found = answer_log_probabilities(logits, batch["labels"], batch["answer"], len(answers))
        return [-total / len(one.example.script.tokens) for total, one in zip(found.tolist(), answers, strict=True)]

    def _example(self, question: Question, text: str) -> Example:
        model, _, vocabulary = self.loaded
        prompt = vocabulary.prompts.encode(question.prompt)
        script = compile_script(Answer((text,)), vocabulary, policy_of(model.config))
        window = window_of(model.config)
        room = None if window is None else max(1, window - len(prompt))
        return Example(prompt, Script(script.tokens[:room], script.block[:room]))


def pair_log_probabilities(
    model: torch.nn.Module, context: AttentionContext, batch: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """``log p`` of the chosen and of the rejected answers of a batch, [P] each, in nats: one forward pass for both."""
    logits = forward(model, context, batch).logits
    log_p = answer_log_probabilities(logits, batch["labels"], batch["answer"], 2 * len(batch["references"]))
    return log_p[0::2], log_p[1::2]


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
        """See :func:`pastalm.training.losses.pair_loss`."""
        chosen, rejected = pair_log_probabilities(model, self.attention_context, inputs)
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
    """Calls ``keep(share)`` when a share of a round's steps is through, for each that the settings name."""

    def __init__(self, round_: Round, keep: Callable[[float], None]) -> None:
        self.round, self.keep = round_, keep
        self.shares = round_.config.snapshot_shares()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See :class:`transformers.TrainerCallback`."""
        self.round.report_missed(share for share in self.shares if _step(share, state) <= state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See :class:`transformers.TrainerCallback`."""
        for share in self.shares:
            if state.global_step == _step(share, state):
                self.keep(share)


def _step(share: float, state: Any) -> int:
    """The step after which a share of the steps is through."""
    return max(1, round(share * state.max_steps))


class _Models:
    """Writes models of a running round, each into a folder that takes its name when it is complete."""

    def __init__(self, round_: Round, trainer: PreferTrainer, tokenizer: Any, config: PreferConfig) -> None:
        self.round, self.trainer, self.tokenizer, self.config = round_, trainer, tokenizer, config

    def write_last(self) -> None:
        """The model that the round ends with."""
        with new_folder(self.round.model, leads=leads()) as part:
            self.trainer.accelerator.wait_for_everyone()
            save_trained(self.trainer, self.tokenizer, replace(self.config, out=str(part)), DTYPE, self._card())

    def write_snapshot(self, share: float) -> None:
        """The model as it is now, a copy of which goes through the main memory; training goes on with it untouched."""
        self.trainer.require_finite()
        place = self.round.snapshot(share)
        live: Any = unwrapped(self.trainer)
        wrapped = self.trainer.model_wrapped
        sharded = self.trainer.is_fsdp_enabled
        state = self.trainer.accelerator.get_state_dict(wrapped) if sharded else live.state_dict()
        card = self._card()  # asks all processes
        if leads() and not place.is_dir():
            with new_folder(place) as part:
                save(self._copy(live, state), self.tokenizer, part, DTYPE, card)
        self.trainer.accelerator.wait_for_everyone()

    def _copy(self, live: Any, state: dict[str, Tensor]) -> PreTrainedModel:
        with torch.random.fork_rng():  # building draws numbers, and training must not notice
            weights = {name: weight.cpu() for name, weight in state.items()}
            copy = whole_model(live, weights, Vocabulary(self.tokenizer), self.config)
        return merge(copy) if is_adapted(copy) else copy

    def _card(self) -> str:
        figures = {"round": self.round.number, "steps": self.trainer.state.global_step}
        config = replace(self.config, model=self.round.config.model)
        return model_card(config, DTYPE, figures | self.trainer.throughput.report())
