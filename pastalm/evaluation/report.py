"""The report of an evaluation: means with intervals, quality, families; as JSON for programs and for `pasta pareto`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import log
from pathlib import Path
from typing import Any

import numpy as np

from pastalm.evaluation.alpaca import WinRates
from pastalm.evaluation.answers import Outcome
from pastalm.evaluation.bootstrap import Bootstrap, Columns, Estimate, estimate_mean, wilson
from pastalm.files.lines import DataError
from pastalm.tasks import FAMILIES

FORM = 1  # of report.json
REPORT = "report.json"
TWO_SIDED = 1.96  # standard errors to each side, for 95%
WIN_RATE = "win rate"  # what a judge's quality is called
CONTROLLED = f"length-controlled {WIN_RATE}"

_Figure = Callable[[Columns], np.ndarray]


def _mean(name: str) -> _Figure:
    return lambda means: means[name]


def _geometric(name: str) -> _Figure:
    return lambda means: np.exp(means[f"log {name}"])


def _ratio(name: str, by: str) -> _Figure:
    return lambda means: means[name] / means[by]


# Speedups, parallelism and efficiency are geometric means over prompts, those called arithmetic are not. Redundancy
# is the mean over answers that fork; length errors are means over chunks.
FIGURES: dict[str, _Figure] = {
    "theoretical": _geometric("theoretical"),
    "theoretical_arithmetic": _mean("theoretical"),
    "realised": _geometric("realised"),
    "realised_arithmetic": _mean("realised"),
    "efficiency": lambda means: np.exp(means["log realised"] - means["log theoretical"]),
    "efficiency_arithmetic": _mean("efficiency"),
    "parallelism": _geometric("parallelism"),
    "parallelism_arithmetic": _mean("parallelism"),
    "forked": _mean("forked"),
    "redundancy": _ratio("redundancy", "forked"),
    "circles": _mean("circles"),
    "baseline_circles": _mean("baseline circles"),
    "length_error": _ratio("length error", "promises"),
    "length_bias": _ratio("length bias", "promises"),
    "chunks": _mean("chunks"),
    "tokens": _mean("tokens"),
    "baseline_tokens": _mean("baseline tokens"),
    "content": _mean("content"),
    "baseline_content": _mean("baseline content"),
    "seconds": _mean("seconds"),
    "baseline_seconds": _mean("baseline seconds"),
    "finished": _mean("finished"),
    "baseline_finished": _mean("baseline finished"),
}


TIMED = frozenset(name for name in FIGURES if name.startswith(("realised", "efficiency")) or name.endswith("seconds"))
GROUPS = {"should fork": True, "should not": False}  # families by whether a good answer forks


@dataclass(frozen=True)
class Quality:
    """How good the answers are, in percent with a 95% interval, and how good the baseline's by the same measure.

    ``kind``: ``accepted`` by the checker, ``win rate`` or ``length-controlled win rate`` by a judge, in which the
    reference has 50; ``baseline`` is None where the reference is another model's.
    """

    kind: str
    value: float
    low: float
    high: float
    baseline: float | None


def figures(outcomes: Sequence[Outcome], timed: bool = True) -> dict[str, Estimate | None]:
    """Every figure of :data:`FIGURES` over at least one outcome; without ``timed``, those of wall times are None."""
    bootstrap = Bootstrap(_columns(outcomes))
    return {name: bootstrap.estimate(of) if timed or name not in TIMED else None for name, of in FIGURES.items()}


def _columns(outcomes: Sequence[Outcome]) -> dict[str, list[float]]:
    """The value of each prompt in each column that the figures are made of."""
    columns: dict[str, list[float]] = {}

    def add(name: str, value: float) -> None:
        columns.setdefault(name, []).append(value)

    for one in outcomes:
        answer, baseline = one.answer.metrics, one.baseline.metrics
        speeds = {"theoretical": one.pair.theoretical, "realised": one.pair.realised}
        for name, value in {**speeds, "parallelism": answer.parallelism or 1.0}.items():
            add(name, value)
            add(f"log {name}", log(value))
        forked = bool(one.answer.topics)
        add("efficiency", one.pair.efficiency)
        add("forked", forked)
        add("redundancy", answer.redundancy if forked else 0.0)
        add("chunks", len(one.answer.topics))
        add("promises", len(answer.length_errors))  # Skeleton-of-Thought has chunks and promises nothing
        add("length error", sum(map(abs, answer.length_errors)))
        add("length bias", sum(answer.length_errors))
        for prefix, side, of in (("", one.answer, answer), ("baseline ", one.baseline, baseline)):
            add(f"{prefix}tokens", of.tokens)
            add(f"{prefix}content", of.content_tokens)
            add(f"{prefix}seconds", of.wall_seconds)
            add(f"{prefix}finished", side.finished)
            add(f"{prefix}circles", of.circles)
    return columns


def checker_quality(outcomes: Sequence[Outcome]) -> Quality | None:
    """The share of answers that the tasks' checkers accept; None where a prompt has none."""
    verdicts = [[one.question.accepts(side.text) for side in (one.answer, one.baseline)] for one in outcomes]
    if not verdicts or any(None in pair for pair in verdicts):
        return None
    own = wilson(sum(bool(pair[0]) for pair in verdicts), len(verdicts))
    baseline = sum(bool(pair[1]) for pair in verdicts) / len(verdicts)
    return Quality("accepted", 100 * own.value, 100 * own.low, 100 * own.high, 100 * baseline)


def judge_quality(
    preferences: Sequence[float | None], rates: WinRates | None, baseline: float | None
) -> Quality | None:
    """Quality by a judge's preferences, shares in [0, 1] for the model: length-controlled where that could be computed.

    Its interval is that of the package's standard error, the plain win rate's is a bootstrap's.
    """
    if rates is not None and rates.length_controlled is not None and rates.length_controlled_error is not None:
        value, reach = rates.length_controlled, TWO_SIDED * rates.length_controlled_error
        return Quality(CONTROLLED, value, max(0.0, value - reach), min(100.0, value + reach), baseline)
    own = estimate_mean([share for share in preferences if share is not None])
    return Quality(WIN_RATE, 100 * own.value, 100 * own.low, 100 * own.high, baseline) if own else None


def families(outcomes: Sequence[Outcome], timed: bool = True) -> dict[str, dict[str, Any]]:
    """Number, speedups and share accepted of each family of generated tasks, and of those that should fork or not."""
    names = sorted({one.question.family for one in outcomes} - {""})
    groups = {name: [one for one in outcomes if one.question.family == name] for name in names}
    for name, forks in GROUPS.items():
        groups[name] = [one for one in outcomes if one.question.family and FAMILIES[one.question.family].forks is forks]
    return {name: _row(own, timed) for name, own in groups.items() if own}


def _row(outcomes: Sequence[Outcome], timed: bool) -> dict[str, Any]:
    values, quality = figures(outcomes, timed), checker_quality(outcomes)
    means = {name: value and value.value for name, value in values.items()}
    wanted = {name: means[name] for name in ("theoretical", "realised", "efficiency", "forked")}
    accepted = {"accepted": quality and quality.value, "baseline_accepted": quality and quality.baseline}
    return {"number": len(outcomes), **wanted, **accepted}


def report(
    name: str, outcomes: Sequence[Outcome], quality: Quality | None, timed: bool = True, **more: Any
) -> dict[str, Any]:
    """The whole report as plain JSON types; ``timed`` says that wall times count; ``more`` goes in as it is."""
    values = {key: value and asdict(value) for key, value in figures(outcomes, timed).items()}
    head = {"form": FORM, "name": name, "number": len(outcomes), "quality": quality and asdict(quality)}
    return head | {"figures": values, "families": families(outcomes, timed)} | more


def read_report(place: Path) -> dict[str, Any]:
    """A report from its file or folder. Raises ``DataError`` for other files, ``OSError`` for none."""
    path = place / REPORT if place.is_dir() else place
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["form"] == FORM and isinstance(found["name"], str) and isinstance(found["figures"], dict):
            return found
    except (ValueError, LookupError, TypeError):
        pass
    raise DataError(f"{path} is not a report of `pasta eval`.")
