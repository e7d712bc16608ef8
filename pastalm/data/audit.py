"""The audit of a data set: how much each block needs its siblings.

Judge-free: the model's own likelihoods say it (:mod:`pastalm.data.dependence`). What is measured goes into a journal at
once, so that a run can be killed at any moment and goes on where it was.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pastalm.data.check import CheckedRecord
from pastalm.data.dependence import ScoredLayout, log_probabilities, open_before, scored, show_siblings
from pastalm.files.journal import Journal
from pastalm.files.lines import DataError
from pastalm.lang.clock import critical_path
from pastalm.lang.parse import parse
from pastalm.lang.script import Script, compile_script
from pastalm.lang.vocabulary import Vocabulary, has_tags
from pastalm.layout import Layout, layout
from pastalm.runtime.engine import policy_of
from pastalm.runtime.runner import Runner

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
WINDOW_PASSES = 8  # passes that are sorted by length together; their records are written when all are through


@dataclass(frozen=True)
class Measured:
    """One block. ``number`` counts the answer's blocks from 1 in document order, ``place`` those of its group that are
    open together; ``tokens`` are those scored, the block's own and its ``</async>``. ``hidden`` and ``seen`` are its
    log-likelihood a token in nats; None for the first of a group, which has nothing hidden."""

    number: int
    topic: str
    place: int
    tokens: int
    hidden: float | None = None
    seen: float | None = None

    @property
    def dependence(self) -> float:
        """What hiding the siblings costs the block, nats a token; 0 where nothing is hidden."""
        return 0.0 if self.hidden is None or self.seen is None else self.seen - self.hidden


@dataclass(frozen=True)
class Audited:
    """What was measured of one line; ``too_long`` if it does not fit the model, and nothing was."""

    line: CheckedRecord
    blocks: tuple[Measured, ...]
    too_long: bool = False


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

    def identity(self, line: CheckedRecord) -> str:
        """What a measurement is known by in the journal: a digest of record, model and positions."""
        content = json.dumps([self._model, line.record.prompt, line.record.annotated])
        return sha256(content.encode()).hexdigest()

    def run(self, lines: Sequence[CheckedRecord], journal: Path) -> Iterator[Audited]:
        """Measure all lines, those that ``journal`` holds already without a pass. Each is in the
        journal before it is handed out, in no certain order."""
        with Journal(journal) as known:
            waiting = [line for line in lines if self.identity(line) not in known]
            yield from (_recalled(line, known[key]) for line in lines if (key := self.identity(line)) in known)
            for window in self._windows(waiting):
                measured = list(self._measure(window))
                for done in measured:
                    known.append(self._record(done))
                known.sync()
                yield from measured

    def _record(self, done: Audited) -> dict[str, Any]:
        blocks = [vars(block) | {"dependence": block.dependence} for block in done.blocks]
        return {"id": self.identity(done.line), "line": done.line.number, "too_long": done.too_long, "blocks": blocks}

    def _windows(self, lines: Sequence[CheckedRecord]) -> Iterator[list[_Job]]:
        window: list[_Job] = []
        rows = 0
        for line in lines:
            window.append(self._job(line))
            rows += len(window[-1].rows)
            if rows >= WINDOW_PASSES * self.batch or len(window) >= 64 * self.batch:
                yield window
                window, rows = [], 0
        if window:
            yield window

    def _job(self, line: CheckedRecord) -> _Job:
        answer = parse(line.record.annotated or "", max_depth=self.max_depth)
        try:
            prompt = self.vocabulary.prompts.encode(line.record.prompt)
        except ValueError as error:  # a chat template that refuses these messages
            raise DataError(f"{line.record.place}: {error}") from error
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

    line: CheckedRecord
    script: Script
    laid: Layout
    rows: dict[int, ScoredLayout]
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


def _rows(laid: Layout, script: Script, hidden: Sequence[int]) -> dict[int, ScoredLayout]:
    if not hidden:
        return {}
    rows = {number: ScoredLayout(show_siblings(laid, script, number), scored(laid, number)) for number in hidden}
    return {0: ScoredLayout(laid, torch.cat([row.scored for row in rows.values()]).sort().values)} | rows


def _recalled(line: CheckedRecord, record: dict[str, Any]) -> Audited:
    names = Measured.__dataclass_fields__
    blocks = ({name: block[name] for name in names} for block in record["blocks"])
    return Audited(line, tuple(Measured(**block) for block in blocks), record["too_long"])


def _fingerprint(model: PreTrainedModel, positions: str) -> str:
    """What tells models apart, and their precision: some of each weight."""
    digest = sha256(f"{positions} {model.dtype}".encode())
    for weight in model.parameters():
        digest.update(weight.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Place:
    """The blocks that stand at one place of their groups: how many, and their mean dependence."""

    blocks: int
    mean: float


@dataclass(frozen=True)
class AuditSummary:
    """Many audited lines. ``blocks`` are all that were measured, ``hidden`` those of them that have siblings hidden
    from them; the other figures are of the dependence of these, in nats a token: ``mean``, ``quantiles`` (a share to
    the value that it lies below) and ``places`` (from 2, the first place with something hidden)."""

    records: int
    too_long: int
    blocks: int
    hidden: int
    mean: float | None
    quantiles: dict[float, float]
    places: dict[int, Place]

    def as_json(self) -> dict[str, Any]:
        """The same for JSON."""
        return asdict(self)


def summarise(audited: Iterable[Audited]) -> AuditSummary:
    """The summary of what was measured."""
    audited = list(audited)
    blocks = [block for one in audited for block in one.blocks]
    hidden = [block for block in blocks if block.place > 1]
    values = sorted(block.dependence for block in hidden)
    places = defaultdict(list)
    for block in hidden:
        places[block.place].append(block.dependence)
    return AuditSummary(
        records=len(audited),
        too_long=sum(one.too_long for one in audited),
        blocks=len(blocks),
        hidden=len(hidden),
        mean=mean(values) if values else None,
        quantiles={share: values[int(share * (len(values) - 1))] for share in QUANTILES} if values else {},
        places={place: Place(len(found), mean(found)) for place, found in sorted(places.items())},
    )


def ranked(audited: Iterable[Audited], most: int) -> list[tuple[CheckedRecord, Measured]]:
    """The ``most`` blocks that need their siblings most, with their lines; the neediest first."""
    pairs = [(one.line, block) for one in audited for block in one.blocks if block.place > 1]
    pairs.sort(key=lambda pair: (-pair[1].dependence, pair[0].index, pair[1].number))
    return pairs[:most]
