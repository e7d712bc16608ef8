"""The report of an evaluation as tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from pastalm.evaluation.report import GROUPS

UNIT = "in `tokens`"  # the attribute counts tens of tokens, but for the policy pred1

# Each row: what it is called, its figure in the report, its unit, its factor; and the figure in the second column.
ROWS = (
    ("theoretical speedup", "theoretical", "x", 1, "theoretical_arithmetic"),
    ("realised speedup", "realised", "x", 1, "realised_arithmetic"),
    ("efficiency", "efficiency", "", 1, "efficiency_arithmetic"),
    ("parallelism", "parallelism", "", 1, "parallelism_arithmetic"),
    ("answers that fork", "forked", "%", 100, None),
    ("chunks an answer", "chunks", "", 1, None),
    ("redundancy", "redundancy", "%", 100, None),
    ("length error", "length_error", UNIT, 1, None),
    ("promised too long by", "length_bias", UNIT, 1, None),
    ("tokens", "tokens", "", 1, None),
    ("baseline's tokens", "baseline_tokens", "", 1, None),
    ("wall time", "seconds", "s", 1, None),
    ("baseline's wall time", "baseline_seconds", "s", 1, None),
    ("complete answers", "finished", "%", 100, None),
)
BUSY = 1.15  # an efficiency that one model against itself cannot have


def scores_table(report: dict[str, Any]) -> Table:
    """All figures with their intervals; geometric means, and the arithmetic ones beside them."""
    title = f"{report['name']}: {report['number']} prompts"
    table = Table("", "", "95% interval", "arithmetic", title=title, box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    for name, key, unit, factor, beside in ROWS:
        figure, other = report["figures"][key], report["figures"].get(beside)
        if figure is not None:
            arithmetic = f"{factor * other['value']:.2f}" if other else ""
            value = f"{factor * figure['value']:.2f}{' ' * bool(unit)}{unit}"
            table.add_row(name, value, _interval(figure, factor), arithmetic)
    quality = report["quality"]
    if quality:
        table.add_row(quality["kind"], f"{quality['value']:.1f} %", _interval(quality), "", style="bold")
        if quality["baseline"] is not None:
            table.add_row("the baseline's", f"{quality['baseline']:.1f} %")
    return table


def families_table(report: dict[str, Any]) -> Table:
    """The families of generated tasks, one a row."""
    heads = ("family", "tasks", "accepted", "baseline", "theoretical x", "realised x", "efficiency", "forked")
    table = Table(*heads)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in report["families"].items():
        shares = [f"{row[key]:.1f}%" for key in ("accepted", "baseline_accepted")]
        found = (row[key] for key in ("theoretical", "realised", "efficiency"))
        speeds = ["" if value is None else f"{value:.2f}" for value in found]
        if name == next(iter(GROUPS)):
            table.add_section()
        table.add_row(name, str(row["number"]), *shares, *speeds, f"{100 * row['forked']:.0f}%")
    return table


def notes(report: dict[str, Any]) -> Iterator[str]:
    """What the reader should know besides the figures."""
    if report["refused"]:
        yield f"{len(report['refused'])} prompts could not be asked; the first: {report['refused'][0]}"
    finished = report["figures"]["finished"]["value"]
    if finished < 1:
        yield f"A limit ended {100 * (1 - finished):.1f}% of the answers before they were complete (--max-tokens)."
    efficiency = report["figures"]["efficiency"]
    if efficiency is None:
        yield "Answered several at once, so wall times say nothing: realised speedup and efficiency are left out."
    elif efficiency["value"] > BUSY and not report["settings"]["baseline"]:
        value = efficiency["value"]
        yield f"An efficiency of {value:.2f} cannot be: other work on this machine spoiled the wall times."
    judge = report["judge"]
    if judge:
        yield f"Judged by {judge['model']} against {judge['reference']}: {judge['judged']} prompts."
        if judge["unjudged"]:
            yield f"{judge['unjudged']} prompts stayed unjudged, and count nothing."
        if judge["note"]:
            yield judge["note"]
        rates = judge["rates"]
        if rates:
            yield f"Plain win rate {rates['win_rate']:.2f}%; length control by {rates['formula']}."


def _interval(figure: dict[str, float], factor: float = 1) -> str:
    return f"{factor * figure['low']:.2f} to {factor * figure['high']:.2f}"
