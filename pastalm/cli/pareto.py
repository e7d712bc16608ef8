"""`pasta pareto`: many evaluated models in one figure, quality against speedup."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pastalm.cli.options import place_argument, place_option
from pastalm.cli.tables import page_console, print_table

if TYPE_CHECKING:
    from pastalm.evaluation.bootstrap import Estimate
    from pastalm.evaluation.pareto import Tradeoff


class Axis(StrEnum):
    """Which speedup is drawn."""

    REALISED = "realised"
    THEORETICAL = "theoretical"


def pareto(
    reports: Annotated[list[Path], place_argument("Folders of `pasta eval`, or their reports.", "REPORT")],
    out: Annotated[Path, place_option("Where to write: a folder for pareto.png and pareto.svg.")],
    axis: Annotated[
        Axis, typer.Option(help="The speedup that is drawn: of wall times (realised) or of decode steps.")
    ] = Axis.REALISED,
) -> None:
    """Draw quality against speedup for many models, and say which are dominated.

    A model is dominated if another is at least as fast and at least as good, and better in one of the two.
    """
    from pastalm.evaluation.pareto import draw, read_models
    from pastalm.evaluation.report import read_report

    found = read_models([read_report(place) for place in reports], axis.value)
    _print(found)
    for path in draw(found, out):
        typer.echo(f"Written: {path}")


def _print(found: Tradeoff) -> None:
    heads = ("model", f"{found.axis} speedup", f"{found.kind}, %", "dominated by")
    models = sorted(found.models, key=lambda model: -model.speedup.value)
    beaten = [found.dominator(model) for model in models]
    rows = [
        (model.name, _figure(model.speedup, 2), _figure(model.quality, 1), by.name if by else "-")
        for model, by in zip(models, beaten, strict=True)
    ]
    faint = [number for number, by in enumerate(beaten) if by]
    print_table(page_console(), heads, rows, left=heads[-1:], dim=faint)


def _figure(estimate: Estimate, digits: int) -> str:
    return f"{estimate.value:.{digits}f} ({estimate.low:.{digits}f} to {estimate.high:.{digits}f})"
