"""How far judges agree: one with itself in both orders of a pair, and two with each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from pastalm.annotation.verdict import AnswerPair


@dataclass(frozen=True)
class Agreement:
    """Two readings of ``pairs`` pairs: the share of them on which both prefer the same answer or both see a tie, and
    Cohen's kappa, the same beyond chance; None where chance alone would make both agree on all."""

    what: str
    pairs: int
    share: float
    kappa: float | None


def agreements(
    pairs: Sequence[AnswerPair], shares: Mapping[str, float | None], models: Sequence[str]
) -> list[Agreement]:
    """Of each judge the agreement of both orders, then of each two judges. ``shares`` are a cache's, by key."""
    orders = {model: [_both(pair, shares, model) for pair in pairs] for model in models}
    found = [agreement(f"{model}, both orders", orders[model]) for model in models]
    for one, other in combinations(models, 2):
        read = [(_mean(first), _mean(second)) for first, second in zip(orders[one], orders[other], strict=True)]
        found.append(agreement(f"{one} and {other}", read))
    return [one for one in found if one is not None]


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


def _both(pair: AnswerPair, shares: Mapping[str, float | None], model: str) -> tuple[float | None, float | None]:
    """How much the first answer is preferred when it is shown as A, and when it is shown as B."""
    shown, turned = (shares.get(order.key(model)) for order in pair.orders)
    return shown, None if turned is None else 1 - turned


def _mean(orders: tuple[float | None, float | None]) -> float | None:
    one, other = orders
    return None if one is None or other is None else (one + other) / 2


def _label(share: float) -> str:
    return "tie" if abs(share - 0.5) < 1e-9 else "first" if share > 0.5 else "second"
