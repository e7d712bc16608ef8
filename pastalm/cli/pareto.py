"""`pasta pareto`: many evaluated models in one figure, quality against speedup."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from pastalm.evaluation.bootstrap import Estimate
    from pastalm.evaluation.pareto import Comparison


class Speed(StrEnum):
    """Which speedup is drawn."""

    REALISED = "realised"
    THEORETICAL = "theoretical"


def pareto(
    reports: Annotated[list[Path], typer.Argument(metavar="REPORT", help="Folders of `pasta eval`, or reports.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where pareto.png and pareto.svg are written.")],
    speed: Annotated[
        Speed, typer.Option(metavar="SPEED", help="'realised' (wall time) or 'theoretical' (decode steps).")
    ] = Speed.REALISED,
) -> None:
    """Draw quality against speedup for many models, and say which are dominated.

    A model is dominated if another is at least as fast and at least as good, and better in one of the two.
    """
    from pastalm.evaluation.pareto import draw, read_models
    from pastalm.evaluation.report import read_report

    found = read_models([read_report(place) for place in reports], speed.value)
    Console().print(_table(found))
    for path in draw(found, out):
        typer.echo(f"Written: {path}")


def _table(found: Comparison) -> Table:
    table = Table("model", f"{found.speed} speedup", f"{found.kind}, %", "dominated by")
    for model in sorted(found.models, key=lambda model: -model.speed.value):
        by = found.dominator(model)
        shown = (_figure(model.speed, 2), _figure(model.quality, 1))
        table.add_row(model.name, *shown, by.name if by else "-", style="dim" if by else None)
    return table


def _figure(estimate: Estimate, digits: int) -> str:
    return f"{estimate.value:.{digits}f} ({estimate.low:.{digits}f} to {estimate.high:.{digits}f})"
