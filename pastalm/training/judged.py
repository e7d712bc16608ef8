"""Quality by a pairwise judge: wins and losses against two other answers to the same prompt (SPEC 6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pastalm.annotation.judge import Comparison, Judge
from pastalm.training.score import Candidate, Quality


def judged(judge: Judge) -> Quality:
    """Quality as ``judge`` sees it: (confidence of wins + 1) / (confidence of losses + 1), the confidences summed over
    judgements against the baseline's answer and the data set's, where there is one, each in both orders. The ones keep
    it finite [D]; an answer that nothing could be said about has quality 1."""

    def quality(candidates: Sequence[Candidate]) -> list[float]:
        asked = [list(comparisons(candidate)) for candidate in candidates]
        verdicts = iter(judge.compare([one for comparisons in asked for one in comparisons]))
        result = []
        for comparisons_of_one in asked:
            found = [next(verdicts) for _ in comparisons_of_one]
            result.append((sum(one.wins for one in found) + 1) / (sum(one.losses for one in found) + 1))
        return result

    return quality


def comparisons(candidate: Candidate) -> Iterator[Comparison]:
    """What a candidate is compared with; each comparison is judged in both orders."""
    for other in (candidate.baseline, candidate.question.answer):
        if other is not None:
            yield Comparison(candidate.question.prompt, candidate.text, other)
