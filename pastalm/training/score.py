"""How good a sampled answer is: speed + lambda * quality, and which two answers of a prompt make a pair.

Speed terms (the paper's ablation names the means and does not write them out; the last is ours):

- ``speedup``: tokens of the baseline's answer / critical path, the paper's choice;
- ``parallelism``: content tokens / critical path, which padding raises;
- ``harmonic``, ``arithmetic``: that mean of the two;
- ``bounded``: the first, with the baseline's tokens counted up to 1.2 times the answer's own content, so that an answer
  does not become fast by saying less.

An answer that a limit ended has speed and quality 0: a cut makes the critical path short, which is not speed. So it
is never chosen over one that ended by itself, and may well be rejected.

With lambda = infinity the score is the quality alone. Speed only breaks ties inside the best and inside the worst; a
prompt whose answers are all equally good gives no pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, inf, prod
from statistics import harmonic_mean, mean
from typing import Any

from pastalm.annotation.judge import Judge
from pastalm.annotation.verdict import AnswerPair
from pastalm.data.questions import Question
from pastalm.files.lines import DataError
from pastalm.lang.metrics import block_redundancy, circles, repetition
from pastalm.lang.script import Script
from pastalm.lang.vocabulary import Vocabulary
from pastalm.training.sampling import read_script

BOUND = 1.2  # times an answer's content: so much longer a baseline's answer may be and count
COVERED = 0.6  # of the baseline's content: an answer that has as much is not called short


@dataclass(frozen=True)
class Candidate:
    """An answer whose quality is asked: its text without tags, the baseline's to the same question, and its tokens.
    ``share`` is its content tokens as a share of the baseline's."""

    question: Question
    text: str
    baseline: str
    script: Script = field(default_factory=Script)
    share: float = 1.0


# The quality of each candidate, at least 0. A checker, a judge, or a function of the caller's.
QualityFactor = Callable[[Sequence[Candidate]], list[float]]
# A prompt, its sampled answers, and the baseline's answer to it; answers as journals keep them.
Answered = tuple[Question, Sequence[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Scored:
    """One sample of a prompt with its score and what that is made of."""

    prompt: int
    sample: int
    speed: float
    quality: float
    score: float
    finished: bool = True
    parts: dict[str, float] = field(default_factory=dict, compare=False)  # the factors of quality

    def order(self) -> tuple[float, float, int]:
        """The better of two has the higher; equal scores go by speed, then by number, so that one is always first."""
        return (self.score, self.speed, -self.sample)


def score(speed: float, quality: float, quality_weight: float) -> float:
    """``speed + lambda * quality``; the quality alone if lambda is infinite."""
    return quality if quality_weight == inf else speed + quality_weight * quality


def speed_term(kind: str, answer: dict[str, Any], baseline: dict[str, Any]) -> float:
    """The speed of a sampled answer against the baseline's to the same prompt; both as journals keep them."""
    path = max(1, answer["critical_path"])
    speedup, parallelism = max(1, baseline["tokens"]) / path, answer["content_tokens"] / path
    if kind == "speedup":
        return speedup
    if kind == "parallelism":
        return parallelism
    if kind == "bounded":
        return min(speedup, BOUND * parallelism)
    return (harmonic_mean if kind == "harmonic" else mean)([speedup, parallelism])


def score_all(
    kind: str, quality_weight: float, factors: Mapping[str, QualityFactor], groups: Sequence[Answered]
) -> list[Scored]:
    """The scores of all answers to some questions, given with the baseline's answer to each. Quality is the product of
    ``factors``, each asked for all complete answers at once."""
    asked = candidates(groups)
    columns = {name: factor(asked) for name, factor in factors.items()}
    parts = iter([dict(zip(columns, row)) for row in zip(*columns.values(), strict=True)])
    result = []
    for question, answer, baseline in _flat(groups):
        found = next(parts) if answer["finished"] else {}
        speed, good = (speed_term(kind, answer, baseline), prod(found.values())) if found else (0.0, 0.0)
        both = score(speed, good, quality_weight)
        result.append(Scored(question.index, answer["sample"], speed, good, both, answer["finished"], found))
    return result


def candidates(groups: Sequence[Answered]) -> list[Candidate]:
    """The answers whose quality is asked: those that no limit ended."""
    return [_candidate(*one) for one in _flat(groups) if one[1]["finished"]]


def _flat(groups: Sequence[Answered]) -> Iterator[tuple[Question, dict[str, Any], dict[str, Any]]]:
    """Each answer with its question and the baseline's answer to it."""
    return ((question, answer, baseline) for question, answers, baseline in groups for answer in answers)


def _candidate(question: Question, answer: dict[str, Any], baseline: dict[str, Any]) -> Candidate:
    share = answer["content_tokens"] / max(1, baseline["content_tokens"])
    return Candidate(question, answer["text"], baseline["text"], read_script(answer["script"]), share)


def best_and_worst(answers: Sequence[Scored]) -> tuple[Scored, Scored] | None:
    """The pair of a prompt: the answers with the highest and the lowest score; none if these are equal."""
    best, worst = max(answers, key=Scored.order), min(answers, key=Scored.order)
    return (best, worst) if best.score > worst.score else None


def checked(candidates: Sequence[Candidate]) -> list[float]:
    """Quality by program: 1 if the task's checker accepts the answer, else 0. See :func:`require_checks`."""
    return [float(bool(one.question.accepts(one.text))) for one in candidates]


def require_checks(questions: Sequence[Question], path: str) -> None:
    """Raise ``DataError`` unless every question can be checked by program."""
    for question in questions:
        if not question.family or not question.facts:
            raise DataError(
                f"{path}, prompt {question.index + 1}: no 'family' and 'facts', so no program can check its answers; "
                "name a judge with --judge-model, or take the data from `pasta tasks`."
            )


def distinct(candidates: Sequence[Candidate]) -> list[float]:
    """1 less the redundancy between siblings: the mean over the chunks of the share of 4-grams that stand in a sibling.
    A chunk whose topic its parent has promised before counts as redundant as a whole."""
    return [1 - _redundancy(one.script) for one in candidates]


def _redundancy(script: Script) -> float:
    shares, promised = block_redundancy(script), set()
    for index, block in enumerate(script.blocks[1:], 1):
        topic = (block.parent, " ".join(block.topic.lower().split()))
        if topic in promised:
            shares[index] = 1.0
        promised.add(topic)
    return mean(shares.values()) if shares else 0.0


def unrepeated(vocabulary: Vocabulary) -> QualityFactor:
    """1 less the share of 4-grams that the thread has seen in the answer before; 0 for one that ends in a loop."""

    def quality(candidates: Sequence[Candidate]) -> list[float]:
        return [0.0 if circles(one.script) else 1 - repetition(one.script, vocabulary) for one in candidates]

    return quality


def covered(candidates: Sequence[Candidate]) -> list[float]:
    """How much of the baseline's length is there, at most 1; from 0.6 of it on an answer counts as long enough."""
    return [min(1.0, one.share / COVERED) for one in candidates]


def likely(nats: Callable[[Sequence[tuple[Question, str]]], list[float]]) -> QualityFactor:
    """How likely the text is under Baseline-SFT, a token on average, against the baseline's own answer; at most 1,
    since text in circles is the likeliest. ``nats`` measures texts in nats a token."""

    def quality(candidates: Sequence[Candidate]) -> list[float]:
        own = nats([(one.question, one.text) for one in candidates])
        other = nats([(one.question, one.baseline) for one in candidates])
        return [min(1.0, exp(theirs - ours)) for ours, theirs in zip(own, other, strict=True)]

    return quality


def judged(judge: Judge, waiting: str = "") -> QualityFactor:
    """Quality as ``judge`` sees it: (confidence of wins + 1) / (confidence of losses + 1), the confidences summed over
    judgements against the baseline's answer and the data set's, where there is one, each in both orders. The ones keep
    it finite; an answer that nothing could be said about has quality 1.

    With ``waiting``, a sentence, nobody is asked: it is raised as ``DataError`` when a verdict is missing.
    """

    def quality(candidates: Sequence[Candidate]) -> list[float]:
        asked = [list(comparisons(candidate)) for candidate in candidates]
        pairs = [one for comparisons in asked for one in comparisons]
        if waiting and (missing := judge.missing(pairs)):
            raise DataError(f"{missing} verdicts are missing: {waiting}")
        verdicts = iter(judge.compare(pairs))
        result = []
        for comparisons_of_one in asked:
            found = [next(verdicts) for _ in comparisons_of_one]
            result.append((sum(one.wins for one in found) + 1) / (sum(one.losses for one in found) + 1))
        return result

    return quality


def comparisons(candidate: Candidate) -> Iterator[AnswerPair]:
    """What a candidate is compared with; each comparison is judged in both orders."""
    for other in (candidate.baseline, candidate.question.answer):
        if other is not None:
            yield AnswerPair(candidate.question.prompt, candidate.text, other)
