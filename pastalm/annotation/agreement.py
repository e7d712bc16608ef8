"""How far judges agree: one with itself in both orders of a pair, and two with each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from pastalm.annotation.verdict import AnswerPair, Verdict


@dataclass(frozen=True)
class Agreement:
    """Two readings of ``pairs`` pairs: the share of them on which both prefer the same answer or both see a tie, and
    Cohen's kappa, the same beyond chance; None where chance alone would make both agree on all."""

    what: str
    pairs: int
    share: float
    kappa: float | None


def agreements(
    pairs: Sequence[AnswerPair],
    shares: Mapping[str, float | None],
    models: Sequence[str],
    places: Mapping[str, str] | None = None,
) -> list[Agreement]:
    """Of each judge the agreement of both orders, then of each two judges. ``shares`` are a cache's, by key, and
    ``places`` where verdicts by file stand: one reading of a ranking decides both orders, so it shows no agreement of
    the two and counts only where there is no other, under a name that says so."""
    verdicts = {model: [pair.verdict(shares, model) for pair in pairs] for model in models}
    found = [_with_itself(model, pairs, verdicts[model], places or {}) for model in models]
    for one, other in combinations(models, 2):
        read = zip(verdicts[one], verdicts[other], strict=True)
        found.append(agreement(f"{one} and {other}", [(left.preference, right.preference) for left, right in read]))
    return [one for one in found if one is not None]


def _with_itself(
    model: str, pairs: Sequence[AnswerPair], verdicts: Sequence[Verdict], places: Mapping[str, str]
) -> Agreement | None:
    """Of the answer preferred when it is shown as A and when it is shown as B."""
    read = zip(pairs, verdicts, strict=True)
    twice = [verdict.orders for pair, verdict in read if not _read_once(pair, model, places)]
    once = [verdict.orders for verdict in verdicts]
    return agreement(f"{model}, both orders", twice) or agreement(f"{model}, both orders in one reading", once)


def _read_once(pair: AnswerPair, model: str, places: Mapping[str, str]) -> bool:
    one, other = (places.get(order.key(model)) for order in pair.orders)
    return one is not None and one == other


def agreement(what: str, readings: Iterable[tuple[float | None, float | None]]) -> Agreement | None:
    """Of readings that are shares of preference for the first answer; pairs that one has not read are left out."""
    labels = [(_label(one), _label(other)) for one, other in readings if one is not None and other is not None]
    if not labels:
        return None
    number = len(labels)
    same = sum(one == other for one, other in labels) / number
    left, right = (Counter(side) for side in zip(*labels, strict=True))
    chance = sum(left[label] * right[label] for label in left) / number**2
    return Agreement(what, number, same, None if chance == 1 else (same - chance) / (1 - chance))


def _label(share: float) -> str:
    return "tie" if abs(share - 0.5) < 1e-9 else "first" if share > 0.5 else "second"
