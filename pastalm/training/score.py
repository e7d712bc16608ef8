"""How good a sampled answer is: speed + lambda * quality, and which two answers of a prompt make a pair.

Speed terms (the last two are ours: the paper's ablation names them and does not write them out):

- ``speedup``: tokens of the baseline's answer / critical path, the paper's choice;
- ``parallelism``: content tokens / critical path, which padding raises;
- ``harmonic``, ``arithmetic``: that mean of the two.

An answer that a limit ended has speed and quality 0: a cut makes the critical path short, which is not speed. So it
is never chosen over one that ended by itself, and may well be rejected.

With lambda = infinity the score is the quality alone. Speed only breaks ties inside the best and inside the worst; a
prompt whose answers are all equally good gives no pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from statistics import harmonic_mean, mean
from typing import Any

from pastalm.annotation.judge import Judge
from pastalm.annotation.verdict import AnswerPair
from pastalm.data.questions import Question
from pastalm.files.lines import DataError


@dataclass(frozen=True)
class Candidate:
    """An answer whose quality is asked: its text without tags, and the baseline's to the same question."""

    question: Question
    text: str
    baseline: str


# The quality of each candidate, at least 0. A checker, a judge, or a function of the caller's.
Quality = Callable[[Sequence[Candidate]], list[float]]
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
    return (harmonic_mean if kind == "harmonic" else mean)([speedup, parallelism])


def score_all(
    kind: str,
    quality_weight: float,
    quality: Quality,
    groups: Sequence[Answered],
) -> list[Scored]:
    """The scores of all answers to some questions, given with the baseline's answer to each. The quality of all that
    are complete is asked for at once."""
    flat = [(question, answer, baseline) for question, answers, baseline in groups for answer in answers]
    asked = [Candidate(question, answer["text"], baseline["text"]) for question, answer, baseline in flat]
    complete = [answer["finished"] for _, answer, _ in flat]
    found = iter(quality([one for one, finished in zip(asked, complete, strict=True) if finished]))
    result = []
    for (question, answer, baseline), finished in zip(flat, complete, strict=True):
        speed, good = (speed_term(kind, answer, baseline), float(next(found))) if finished else (0.0, 0.0)
        both = score(speed, good, quality_weight)
        result.append(Scored(question.index, answer["sample"], speed, good, both, finished))
    return result


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


def judged(judge: Judge) -> Quality:
    """Quality as ``judge`` sees it: (confidence of wins + 1) / (confidence of losses + 1), the confidences summed over
    judgements against the baseline's answer and the data set's, where there is one, each in both orders. The ones keep
    it finite; an answer that nothing could be said about has quality 1."""

    def quality(candidates: Sequence[Candidate]) -> list[float]:
        asked = [list(comparisons(candidate)) for candidate in candidates]
        verdicts = iter(judge.compare([one for comparisons in asked for one in comparisons]))
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
