"""Pairs of answers as training examples: the very tokens that were decoded, and which of them carry loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pastalm.data.collate import Collator
from pastalm.data.examples import Example
from pastalm.files.journal import Journal
from pastalm.lang.positions import PositionPolicy
from pastalm.lang.prompt import Prompt
from pastalm.lang.recogniser import Recogniser
from pastalm.lang.script import Script
from pastalm.lang.vocabulary import Vocabulary
from pastalm.layout import IGNORE
from pastalm.training.sampling import read_script
from pastalm.views import view_layout


@dataclass(frozen=True)
class SampledAnswer:
    """A prompt and an answer that was sampled. ``silent`` are the indices, in the example's tokens, whose target
    carries no loss: what follows them was written by the runtime, not chosen by the model."""

    example: Example
    silent: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.example)


@dataclass(frozen=True)
class PreferencePair:
    """Two answers to one prompt, and their log-probabilities under the reference model in nats, once these are
    known."""

    prompt: int
    chosen: SampledAnswer
    rejected: SampledAnswer
    references: tuple[float, float] = (0.0, 0.0)


def sampled_answer(
    prompt: Sequence[int], answer: dict[str, Any], vocabulary: Vocabulary, *, in_views: bool = False
) -> SampledAnswer:
    """A sampled answer from its line in a journal, as an example; ``in_views`` says that a completion server decoded
    it, in views and without a grammar.

    An answer whose main thread ended by itself gets the end of answer, which the runtime's script leaves out. No loss
    is on tokens that were not chosen: those for which the grammar left one choice (their probability was 1, and to
    train them would be a way to the margin that changes no answer), and the ``</async>`` of a chunk that a limit ended.
    """
    script = read_script(answer["script"])
    forced = sorted(forced_tokens(script, vocabulary, answer["cut"], constrained=not in_views))
    if answer["ended"] and answer["end"] is not None:
        script.append([answer["end"]], 0)
    if in_views:
        silent = view_layout(prompt, script).givers[forced].tolist()
    else:
        silent = [_giver(script, index, len(prompt)) for index in forced]
    return SampledAnswer(Example(prompt, script, in_views), tuple(silent))


def forced_tokens(
    script: Script, vocabulary: Vocabulary, cut: Sequence[int] = (), *, constrained: bool = True
) -> set[int]:
    """Indices of the script's tokens that the runtime wrote because the grammar allowed nothing else, or because it cut
    the chunk off; not ``<async>``, which never is a target."""
    forced: set[int] = set()
    for block, opened in enumerate(script.blocks):
        own = [index for index, owner in enumerate(script.block) if owner == block][block > 0 :]
        # The depth of the grammar does not matter here: tokens are forced only inside promises.
        reader = Recogniser(vocabulary, main=opened.parent < 0, may_promise=True, constrained=constrained)
        for index in own:
            if reader.legal().forced == script.tokens[index]:
                forced.add(index)
            reader.read(script.tokens[index])
        if block in cut and own and script.tokens[own[-1]] == vocabulary.async_end:
            forced.add(own[-1])
    return forced


def _giver(script: Script, index: int, start: int) -> int:
    """The index in the example, of ``start`` prompt tokens, of the token that predicts the script's token ``index``."""
    before = (k for k in range(index - 1, -1, -1) if script.block[k] == script.block[index])
    return start + next(before, -1)


class Pairs(Dataset):
    """The pairs of a round as training reads them: token ids from the samples' journal, when they are needed. Behind
    them come None, as many as make every step of an epoch complete.

    ``lines`` are those of the pairs' file, ``prompts`` the prompts by number; ``references`` are the log-probabilities
    under the reference model by prompt, once these are known. ``in_views``: see :func:`sampled_answer`.
    """

    def __init__(
        self,
        lines: Sequence[dict[str, Any]],
        prompts: Mapping[int, Prompt],
        samples: Journal,
        vocabulary: Vocabulary,
        *,
        in_views: bool = False,
    ) -> None:
        self.lines, self.prompts, self.samples, self.vocabulary = lines, prompts, samples, vocabulary
        self.in_views = in_views
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
            sampled_answer(ids, self.samples[prompt, line[side]["sample"]], self.vocabulary, in_views=self.in_views)
            for side in ("chosen", "rejected")
        )
        return PreferencePair(prompt, chosen, rejected, self.references.get(prompt, (0.0, 0.0)))


class AnswerCollator:
    """Make a batch of answers, side by side in as few rows as hold the longest, blind to each other.

    Returns what :class:`pastalm.data.collate.Collator` does, and ``answer`` [B, T], the number of the answer that a
    position belongs to. A batch without answers has a row without targets. No position lies beyond the model's
    ``window``: where an answer fills it, its last token was never fed to the model, and has no target, and the end of a
    chunk was fed at the last position.
    """

    def __init__(self, policy: PositionPolicy, pad: int, window: int | None = None) -> None:
        self.collator, self.window = Collator(policy, pad), window

    def __call__(self, answers: Sequence[SampledAnswer]) -> dict[str, Tensor]:
        rows = share_rows([len(answer) for answer in answers])
        batch = self.collator([[answers[k].example for k in row] for row in rows])
        if self.window is not None:
            batch["position_ids"].clamp_(max=self.window - 1)
        batch["answer"] = torch.zeros_like(batch["labels"])
        for index, row in enumerate(rows):
            start = 0
            for k in row:
                batch["answer"][index, start : start + len(answers[k])] = k
                for place in answers[k].silent:
                    batch["labels"][index, start + place] = IGNORE
                start += len(answers[k])
        return batch


class PairCollator(AnswerCollator):
    """Make a batch of pairs: pair p's chosen answer has the number 2p, its rejected one 2p + 1.

    Adds ``references`` [P, 2]. None is passed over; in a batch of nothing else P is 0.
    """

    def __call__(self, batch_of: Sequence[PreferencePair | None]) -> dict[str, Tensor]:  # type: ignore[override]
        pairs = [pair for pair in batch_of if pair is not None]
        batch = super().__call__([answer for pair in pairs for answer in (pair.chosen, pair.rejected)])
        batch["references"] = torch.tensor([pair.references for pair in pairs], dtype=torch.float32).reshape(-1, 2)
        return batch


def share_rows(lengths: Sequence[int]) -> list[list[int]]:
    """Indices in rows no longer than the longest: first fit, the longest first."""
    width = max(lengths, default=0)
    rows: list[list[int]] = []
    left: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda k: -lengths[k]):
        place = next((k for k, room in enumerate(left) if room >= lengths[index]), len(rows))
        if place == len(rows):
            rows.append([])
            left.append(width)
        rows[place].append(index)
        left[place] -= lengths[index]
    return rows
