"""How well the terms of quality that need no judge order the samples of a prompt as a judge does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod
from pathlib import Path

from pastalm.annotation.judge import TO_JUDGE
from pastalm.annotation.verdict import AnswerPair
from pastalm.evaluation.bootstrap import Bootstrap, Estimate
from pastalm.files.journal import ranks, read_journal
from pastalm.files.lines import DataError
from pastalm.files.rows import objects
from pastalm.lang.prompt import as_text

JUDGES = ("verdicts", "judge", "checker")  # the factors of quality that are no such terms
TOGETHER = "all of them"
Parts = Mapping[str, float]  # the factors of one sample's quality, by name


@dataclass(frozen=True)
class JudgedPair:
    """Two samples of a prompt, by the factors of their quality, and whether the judge prefers the ``first``."""

    first: Parts
    second: Parts
    prefers_first: bool

    def alike(self, term: str) -> float:
        """1 if the term prefers the same one, 0 if the other, 0.5 if it sees no difference."""
        one, other = self.first[term], self.second[term]
        return 0.5 if one == other else float((one > other) == self.prefers_first)


@dataclass(frozen=True)
class TermAgreement:
    """Over ``pairs`` of samples of a prompt, of which the judge prefers one: the ``share`` that the term orders alike,
    a pair that it sees as equal counting half. Kendall's ``tau`` is the same on a scale from -1 to 1, the judge's ties
    left out. The intervals come from resampling prompts."""

    term: str
    pairs: int
    share: Estimate
    tau: Estimate


def term_agreements(folder: Path, shares: Mapping[str, float | None], model: str) -> list[TermAgreement]:
    """The agreement of each term, and of their product, with the judge ``model`` in the rounds of a run of stage 2.
    ``shares`` are its cache's, by key; one that ranks all samples of a prompt has said how it holds each two.

    Empty where nothing has been scored or judged. Raises ``DataError`` for a file that stage 2 has not written.
    """
    prompts = [
        pairs for scores in sorted(folder.glob("round*/scores.jsonl")) for pairs in _judged(scores, shares, model)
    ]
    prompts = [pairs for pairs in prompts if pairs]
    terms = [name for name in (prompts[0][0].first if prompts else ()) if name not in (*JUDGES, TOGETHER)]
    return [agreement(term, prompts) for term in (*terms, *[TOGETHER] * (len(terms) > 1))]


def agreement(term: str, prompts: Sequence[Sequence[JudgedPair]]) -> TermAgreement:
    """Of one term over the pairs of some prompts, at least one pair of each."""
    alike = [sum(pair.alike(term) for pair in pairs) for pairs in prompts]
    drawn = Bootstrap({"alike": alike, "pairs": [len(pairs) for pairs in prompts]})
    share = drawn.estimate(lambda means: means["alike"] / means["pairs"])
    assert share is not None  # no resample is without pairs
    tau = Estimate(2 * share.value - 1, 2 * share.low - 1, 2 * share.high - 1)
    return TermAgreement(term, sum(map(len, prompts)), share, tau)


def _judged(scores: Path, shares: Mapping[str, float | None], model: str) -> Iterator[list[JudgedPair]]:
    """The pairs of each prompt of a round of which the judge prefers one."""
    for prompt, samples in _scored(scores).items():
        pairs = []
        for (text, parts), (other, others) in combinations(samples, 2):
            orders = (shares.get(order.key(model)) for order in AnswerPair(prompt, text, other).orders)
            shown, turned = orders
            if shown is not None and turned is not None and shown != turned:
                pairs.append(JudgedPair(parts, others, shown > turned))
        yield pairs


def _scored(scores: Path) -> dict[str, list[tuple[str, Parts]]]:
    """The texts and factors of the samples of each prompt that no limit ended."""
    found: dict[str, list[tuple[str, Parts]]] = {}
    folder = scores.parent
    try:
        prompts = [as_text(fields["prompt"]) for _, fields in objects(folder / TO_JUDGE)]
        samples = (line for path in ranks(folder / "samples.jsonl") for line in read_journal(path))
        texts = {(line["prompt"], line["sample"]): line["text"] for line in samples}
        for line in read_journal(scores):
            if parts := dict(line["parts"]):
                both = parts | {TOGETHER: prod(value for name, value in parts.items() if name not in JUDGES)}
                text = texts[line["prompt"], line["sample"]]
                found.setdefault(prompts[line["prompt"]], []).append((text, both))
    except (OSError, LookupError, TypeError, ValueError):
        raise DataError(f"{folder} is no round of `pasta train prefer --quality verdicts,..`.") from None
    return found
