"""The report of an evaluation as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console

from pastalm.cli.tables import print_table
from pastalm.evaluation.comparison import too_short
from pastalm.evaluation.report import GROUPS

UNIT = "in `tokens`"  # the attribute counts tens of tokens, but for the policy pred1

# Each row: what it is called, its figure in the report, its unit, its factor; and the figure in the last column.
ROWS = (
    ("theoretical speedup", "theoretical", "x", 1, "theoretical_arithmetic"),
    ("realised speedup", "realised", "x", 1, "realised_arithmetic"),
    ("efficiency", "efficiency", "", 1, "efficiency_arithmetic"),
    ("parallelism", "parallelism", "", 1, "parallelism_arithmetic"),
    ("answers that fork", "forked", "%", 100, None),
    ("chunks an answer", "chunks", "", 1, None),
    ("redundancy", "redundancy", "%", 100, None),
    ("run in circles", "circles", "%", 100, None),
    ("baseline's in circles", "baseline_circles", "%", 100, None),
    ("length error", "length_error", UNIT, 1, None),
    ("promised too long by", "length_bias", UNIT, 1, None),
    ("tokens", "tokens", "", 1, None),
    ("baseline's tokens", "baseline_tokens", "", 1, None),
    ("wall time", "seconds", "s", 1, None),
    ("baseline's wall time", "baseline_seconds", "s", 1, None),
    ("complete answers", "finished", "%", 100, None),
)
BUSY = 1.15  # an efficiency that one model against itself cannot have


def print_scores(console: Console, report: dict[str, Any]) -> None:
    """Print all figures with their intervals; geometric means, and the arithmetic ones beside them."""
    title = f"{report['name']}: {report['number']} prompts, against {report['baseline']}"
    print_table(console, ("", "", "95% interval", "arithmetic"), list(_scores(report)), title=title)


def _scores(report: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    for name, key, unit, factor, beside in ROWS:
        figure, other = report["figures"][key], report["figures"].get(beside)
        if figure is not None:
            arithmetic = f"{factor * other['value']:.2f}" if other else ""
            value = f"{factor * figure['value']:.2f}{' ' * bool(unit)}{unit}"
            yield name, value, _interval(figure, factor), arithmetic
    quality = report["quality"]
    if quality:
        yield quality["kind"], f"{quality['value']:.1f} %", _interval(quality), ""
        if quality["baseline"] is not None:
            yield "the baseline's", f"{quality['baseline']:.1f} %", "", ""


def print_curve(console: Console, reports: Sequence[dict[str, Any]]) -> None:
    """Print what the promise bias does: a row for each report, the means alone."""
    heads = ("nats", "forks", "chunks", "theoretical x", "realised x", "in circles", "quality")
    print_table(console, heads, [_point(report) for report in reports], title="Promise bias")


def _point(report: dict[str, Any]) -> tuple[str, ...]:
    found = {key: value and value["value"] for key, value in report["figures"].items()}
    realised, quality = found["realised"], report["quality"]
    return (
        f"{report['settings']['promise_bias']:+g}",
        f"{100 * found['forked']:.1f}%",
        f"{found['chunks']:.2f}",
        f"{found['theoretical']:.2f}",
        "" if realised is None else f"{realised:.2f}",
        f"{100 * found['circles']:.1f}%",
        f"{quality['value']:.1f}%" if quality else "",
    )


def print_families(console: Console, report: dict[str, Any]) -> None:
    """Print the families of generated tasks, one a row; below them those that should fork and those that should not."""
    heads = ("family", "tasks", "accepted", "baseline", "theoretical x", "realised x", "efficiency", "forked")
    rows = []
    for name, row in report["families"].items():
        shares = [f"{row[key]:.1f}%" for key in ("accepted", "baseline_accepted")]
        found = (row[key] for key in ("theoretical", "realised", "efficiency"))
        speeds = ["" if value is None else f"{value:.2f}" for value in found]
        rows.append((name, str(row["number"]), *shares, *speeds, f"{100 * row['forked']:.0f}%"))
    first = next((number for number, row in enumerate(rows) if row[0] in GROUPS), len(rows))
    for part, title in ((rows[:first], "By family"), (rows[first:], "By kind of family")):
        console.print()
        print_table(console, heads, part, title=title)


def notes(report: dict[str, Any]) -> Iterator[str]:
    """What the reader should know besides the figures."""
    yield f"Baseline: {report['baseline']}, decoded sequentially."
    figures = report["figures"]
    if too_short(figures["baseline_content"]["value"], figures["content"]["value"]):
        yield (
            "The baseline's answers are much shorter than the model's, so the speedups say little: give a baseline "
            "that was trained on the same data without marks (--baseline)."
        )
    if report["refused"]:
        yield f"{len(report['refused'])} prompts could not be asked; the first: {report['refused'][0]}"
    finished = figures["finished"]["value"]
    if finished < 1:
        yield f"A limit ended {100 * (1 - finished):.1f}% of the answers before they were complete (--max-tokens)."
    yield from _timing(figures["efficiency"], report["settings"])
    yield from _judged(report["judge"])


def _timing(efficiency: dict[str, float] | None, settings: dict[str, Any]) -> Iterator[str]:
    if efficiency is None:
        yield "Answered several at once, so wall times say nothing: realised speedup and efficiency are left out."
    elif efficiency["value"] > BUSY and not settings["baseline"]:
        value = efficiency["value"]
        yield f"An efficiency of {value:.2f} cannot be: other work on this machine spoiled the wall times."


def _judged(judge: dict[str, Any] | None) -> Iterator[str]:
    if not judge:
        return
    yield f"Judged by {judge['model']} against {judge['reference']}: {judge['judged']} prompts."
    if judge["unjudged"]:
        yield f"{judge['unjudged']} prompts stayed unjudged, and count nothing."
    if judge["note"]:
        yield judge["note"]
    rates = judge["rates"]
    if rates and rates["length_controlled"] is not None:
        yield f"Plain win rate {rates['win_rate']:.2f}%; length control by {rates['formula']}."


def _interval(figure: dict[str, float], factor: float = 1) -> str:
    return f"{factor * figure['low']:.2f} to {factor * figure['high']:.2f}"
