"""What a data set of annotated answers is like: its blocks, what they are worth, how right their lengths are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean
from typing import Any

from pastalm.data.words import WordVocabulary
from pastalm.lang.answer import Answer
from pastalm.lang.metrics import answer_metrics, geometric
from pastalm.lang.positions import PositionPolicy
from pastalm.lang.script import compile_script
from pastalm.lang.vocabulary import Vocabulary


@dataclass(frozen=True)
class AnswerFigures:
    """One answer in figures, all lengths in the report's unit.

    ``block_tokens``: what stands between the tags of each block. ``speedup``: plain tokens / critical path.
    ``length_errors``: the ``tokens`` attribute minus the measured one, for the blocks that carry one.
    """

    plain: int
    block_tokens: tuple[int, ...]
    speedup: float
    parallelism: float
    redundancy: float
    length_errors: tuple[int, ...]


@dataclass(frozen=True)
class Means:
    """The geometric and the arithmetic mean; NaN of nothing."""

    geometric: float
    arithmetic: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Means:
        """The means of positive values."""
        return cls(geometric(values), mean(values) if values else float("nan"))


@dataclass(frozen=True)
class Spread:
    """How values are distributed; quantiles are values that occur, the lower of two. Zeros and NaN of nothing."""

    mean: float = float("nan")
    least: int = 0
    p10: int = 0
    median: int = 0
    p90: int = 0
    most: int = 0

    @classmethod
    def of(cls, values: Sequence[int]) -> Spread:
        """The distribution of ``values``."""
        if not values:
            return cls()
        ordered = sorted(values)
        places = (0, 0.1, 0.5, 0.9, 1)
        return cls(mean(ordered), *(ordered[int(share * (len(ordered) - 1))] for share in places))


@dataclass(frozen=True)
class LengthErrors:
    """The ``tokens`` attribute minus the measured one, over ``blocks`` blocks, in the attribute's unit of ``unit``
    tokens: ``signed`` mean, ``absolute`` mean, and the share that is ``exact``."""

    blocks: int
    unit: int
    signed: float
    absolute: float
    exact: float


@dataclass(frozen=True)
class Report:
    """A data set in figures.

    ``unit`` is what all lengths count, ``positions`` the policy that lengths are measured by. ``forking`` is the share
    of answers with a block, ``block_counts`` how many answers have how many. Speedups are an answer's plain tokens by
    its critical path, over all answers and over those that fork; so is parallelism, content tokens by critical path.
    ``redundancy`` is the mean over the answers that fork of :func:`pastalm.lang.metrics.redundancy`. ``length_errors``
    is None where no block carries a length, or where nothing can measure one in tokens.
    """

    unit: str
    positions: str
    answers: int
    forking: float
    blocks: int
    blocks_per_answer: float
    blocks_per_forking_answer: float
    block_counts: dict[int, int]
    tokens_per_answer: Spread
    tokens_per_block: Spread
    speedup: Means
    speedup_forking: Means
    parallelism: Means
    parallelism_forking: Means
    redundancy: float
    length_errors: LengthErrors | None

    def as_json(self) -> dict[str, Any]:
        """The same for JSON, which has no NaN: None stands for it."""
        return _without_nan(asdict(self))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    return None if value != value else value


@dataclass
class Census:
    """Takes answers in and reports on them.

    ``vocabulary`` None counts words between white space, and measures no lengths: the attribute counts tokens.
    ``name`` is what the tokenizer is called in the report.
    """

    policy: PositionPolicy
    vocabulary: Vocabulary | None = None
    name: str = ""
    figures: list[AnswerFigures] = field(default_factory=list)
    _words: WordVocabulary = field(default_factory=WordVocabulary, repr=False)

    @property
    def unit(self) -> str:
        """What is counted, in words."""
        return f"tokens of {self.name}" if self.vocabulary else "words"

    def add(self, answer: Answer) -> None:
        """Count an answer in."""
        vocabulary: Any = self.vocabulary or self._words
        script = compile_script(answer, vocabulary, self.policy, end=False)
        metrics = answer_metrics(script, vocabulary, self.policy)
        plain = len(vocabulary.encode(answer.plain))
        pairs = zip(answer.blocks(), metrics.length_errors, strict=True)
        self.figures.append(
            AnswerFigures(
                plain=plain,
                block_tokens=tuple(block.content for block in script.blocks[1:]),
                speedup=max(1, plain) / max(1, metrics.critical_path),
                parallelism=metrics.parallelism,
                redundancy=metrics.redundancy,
                length_errors=tuple(error for block, error in pairs if block.tokens and self.vocabulary),
            )
        )

    def report(self) -> Report:
        """What has been counted so far; means of nothing are NaN."""
        every, forking = self.figures, [one for one in self.figures if one.block_tokens]
        counts = Counter(len(one.block_tokens) for one in every)
        lengths = [length for one in forking for length in one.block_tokens]
        return Report(
            unit=self.unit,
            positions=self.policy.name,
            answers=len(every),
            forking=_mean([bool(one.block_tokens) for one in every]),
            blocks=len(lengths),
            blocks_per_answer=_mean([len(one.block_tokens) for one in every]),
            blocks_per_forking_answer=_mean([len(one.block_tokens) for one in forking]),
            block_counts=dict(sorted(counts.items())),
            tokens_per_answer=Spread.of([one.plain for one in every]),
            tokens_per_block=Spread.of(lengths),
            speedup=Means.of([one.speedup for one in every]),
            speedup_forking=Means.of([one.speedup for one in forking]),
            parallelism=Means.of([one.parallelism for one in every if one.parallelism]),
            parallelism_forking=Means.of([one.parallelism for one in forking if one.parallelism]),
            redundancy=_mean([one.redundancy for one in forking]),
            length_errors=self._length_errors(),
        )

    def _length_errors(self) -> LengthErrors | None:
        errors = [error for one in self.figures for error in one.length_errors]
        if not errors:
            return None
        exact = _mean([error == 0 for error in errors])
        return LengthErrors(
            len(errors), self.policy.unit, _mean(errors), _mean([abs(error) for error in errors]), exact
        )


def _mean(values: Sequence[float]) -> float:
    return mean(values) if values else float("nan")
