"""The audit of a data set: how much each block needs its siblings.

Judge-free: the model's own likelihoods say it (:mod:`pastalm.data.dependence`). What is measured goes into a journal at
once, so that a run can be killed at any moment and goes on where it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pastalm.annotation.journal import Lines
from pastalm.data.audited import Audited, Line, Measured
from pastalm.data.dependence import Row, log_probabilities, open_before, scored, show_siblings
from pastalm.files.lines import DataError
from pastalm.lang.clock import critical_path
from pastalm.lang.parse import parse
from pastalm.lang.script import Script, compile_script
from pastalm.lang.tokenizer import has_tags
from pastalm.lang.vocabulary import Vocabulary
from pastalm.layout import Layout, layout
from pastalm.runtime.engine import policy_of
from pastalm.runtime.runner import Runner

WINDOW_PASSES = 8  # passes that are sorted by length together; their records are written when all are through


class AuditError(ValueError):
    """A model or a setting that an audit cannot be done with, and what to do."""


class Auditor:
    """A model that is asked how likely blocks are.

    ``positions`` is a policy of :mod:`pastalm.lang.positions`, by default the model's own, and no other if it has one;
    ``batch`` the layouts of one pass. Raises :class:`AuditError` for a model without PASTA's tags,
    ``UnsupportedModelError`` for one that cannot be driven, ``RequestError`` for another policy than the model's.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        positions: str | None = None,
        batch: int = 8,
        max_depth: int = 1,
    ) -> None:
        if batch < 1:
            raise AuditError(f"The batch is {batch}; it must be at least 1.")
        if not has_tags(tokenizer):
            raise AuditError(
                "This model's vocabulary lacks PASTA's tags, so it cannot say how likely a marked answer is: "
                "`pasta train sft --model MODEL --data DATA --out OUT` adds and trains them; audit with OUT."
            )
        self.runner, self.vocabulary = Runner(model), Vocabulary(tokenizer)
        if max(self.vocabulary.tags) >= self.runner.vocabulary_size:
            raise AuditError(
                f"The model has {self.runner.vocabulary_size} tokens, its tokenizer more: they do not belong together."
            )
        self.policy = policy_of(model.config, positions)
        self.batch, self.max_depth = batch, max_depth
        self._model = _fingerprint(model, self.policy.name)

    def identity(self, line: Line) -> str:
        """What a measurement is known by in the journal: a digest of record, model and positions."""
        asked = line.fields["messages"] if "messages" in line.fields else line.fields["prompt"]
        return sha256(json.dumps([self._model, asked, line.fields["annotated"]]).encode()).hexdigest()

    def run(self, path: Path, lines: Sequence[Line], journal: Path) -> Iterator[Audited]:
        """Measure all lines of the file ``path``, those that ``journal`` holds already without a pass. Each is in the
        journal before it is handed out, in no certain order."""
        store = Lines(journal)
        try:
            known = {record["id"]: record for record in store.records}
            store.records = []
            waiting = [line for line in lines if self.identity(line) not in known]
            yield from (_recalled(line, record) for line in lines if (record := known.get(self.identity(line))))
            for window in self._windows(path, waiting):
                measured = list(self._measure(window))
                for done in measured:
                    store.append(self._record(done))
                os.fsync(store.file.fileno())  # a kill needs no such care, a power cut does
                yield from measured
        finally:
            store.file.close()

    def _record(self, done: Audited) -> dict[str, Any]:
        blocks = [vars(block) | {"dependence": block.dependence} for block in done.blocks]
        return {"id": self.identity(done.line), "line": done.line.number, "too_long": done.too_long, "blocks": blocks}

    def _windows(self, path: Path, lines: Sequence[Line]) -> Iterator[list[_Job]]:
        window: list[_Job] = []
        rows = 0
        for line in lines:
            window.append(self._job(path, line))
            rows += len(window[-1].rows)
            if rows >= WINDOW_PASSES * self.batch or len(window) >= 64 * self.batch:
                yield window
                window, rows = [], 0
        if window:
            yield window

    def _job(self, path: Path, line: Line) -> _Job:
        answer = parse(line.fields["annotated"], max_depth=self.max_depth)
        try:
            prompt = self.vocabulary.prompts.encode(line.fields.get("messages") or line.fields["prompt"])
        except ValueError as error:  # a chat template that refuses these messages
            raise DataError(f"{path}, line {line.number}: {error}") from error
        script = compile_script(answer, self.vocabulary, self.policy)
        laid = layout(prompt, script, self.policy)
        room = self.runner.window
        if room is not None and int(laid.positions.max()) >= room:
            return _Job(line, script, laid, {}, too_long=True)
        hidden = [block for block in range(1, len(script.blocks)) if open_before(script, block)]
        return _Job(line, script, laid, _rows(laid, script, hidden))

    def _measure(self, window: Sequence[_Job]) -> Iterator[Audited]:
        """Run a window's passes, alike in length side by side, and put their results together again."""
        wanted = [(row, job, key) for job in window for key, row in job.rows.items()]
        wanted.sort(key=lambda one: len(one[0]))
        for start in range(0, len(wanted), self.batch):
            batch = wanted[start : start + self.batch]
            for (_, job, key), found in zip(batch, log_probabilities(self.runner, [row for row, _, _ in batch])):
                job.found[key] = found
        yield from (job.result() for job in window)

    def steps(self, annotated: str) -> int:
        """The critical path of an annotated text in decode steps."""
        answer = parse(annotated, max_depth=self.max_depth)
        return critical_path(compile_script(answer, self.vocabulary, self.policy, end=False), self.vocabulary)


@dataclass
class _Job:
    """A line with its passes: under key 0 the one that hides siblings, under a block's number the one that shows it its
    own; and what they found."""

    line: Line
    script: Script
    laid: Layout
    rows: dict[int, Row]
    too_long: bool = False
    found: dict[int, torch.Tensor] = field(default_factory=dict)

    def result(self) -> Audited:
        if self.too_long:
            return Audited(self.line, (), too_long=True)
        return Audited(self.line, tuple(map(self._block, range(1, len(self.script.blocks)))))

    def _block(self, number: int) -> Measured:
        own = scored(self.laid, number)
        head = (number, self.script.blocks[number].topic, 1 + len(open_before(self.script, number)), len(own))
        if number not in self.found:
            return Measured(*head)
        at = torch.searchsorted(self.rows[0].scored, own)
        return Measured(*head, self.found[0][at].mean().item(), self.found[number].mean().item())


def _rows(laid: Layout, script: Script, hidden: Sequence[int]) -> dict[int, Row]:
    if not hidden:
        return {}
    rows = {number: Row(show_siblings(laid, script, number), scored(laid, number)) for number in hidden}
    return {0: Row(laid, torch.cat([row.scored for row in rows.values()]).sort().values)} | rows


def _recalled(line: Line, record: dict[str, Any]) -> Audited:
    names = Measured.__dataclass_fields__
    blocks = ({name: block[name] for name in names} for block in record["blocks"])
    return Audited(line, tuple(Measured(**block) for block in blocks), record["too_long"])


def _fingerprint(model: PreTrainedModel, positions: str) -> str:
    """What tells models apart, and their precision: some of each weight."""
    digest = sha256(f"{positions} {model.dtype}".encode())
    for weight in model.parameters():
        digest.update(weight.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()
