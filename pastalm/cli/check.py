"""`pasta check`: every problem of annotated JSONL files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pastalm.data.check import check_file


def check(
    files: Annotated[list[Path], typer.Argument(help="JSONL files with 'prompt' or 'messages', and 'annotated'.")],
    max_depth: Annotated[int, typer.Option(min=1, help="How deep chunks may nest; 1 is flat.")] = 1,
) -> None:
    """Check annotated JSONL files: every problem with its place and what to do. Status 1 if there is any."""
    errors = bad = records = 0
    for file in files:
        for record in check_file(file, max_depth=max_depth):
            records += 1
            bad += bool(record.findings)
            errors += len(record.findings)
            for finding in record.findings:
                place = typer.style(finding.place(file), fg=typer.colors.CYAN)
                typer.echo(f"{place}: {finding.message}")
    where = f"{_count(records, 'record')} in {_count(len(files), 'file')}"
    if errors:
        typer.secho(f"{_count(errors, 'error')}, in {bad} of {where}.", fg=typer.colors.RED)
        raise typer.Exit(1)
    typer.secho(f"{where}: no errors.", fg=typer.colors.GREEN)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
