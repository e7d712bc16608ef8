"""`pasta check`: every problem of annotated JSONL files, and what the sound records are like."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from pastalm.cli.options import Json, MaxDepth, PositionsWithoutModel, Tokenizer, place_argument, place_option
from pastalm.cli.tables import figures_grid, page_console
from pastalm.data.check import CheckedRecord, Finding, check_file
from pastalm.data.report import Census, Means, Report, Spread
from pastalm.files.lines import DataError
from pastalm.files.rows import count_rows
from pastalm.lang.parse import parse
from pastalm.lang.positions import DEFAULT, position_policy
from pastalm.progress import PATIENCE_SECONDS, track

if TYPE_CHECKING:
    from pastalm.lang.vocabulary import Vocabulary


def check(
    files: Annotated[list[Path], place_argument("JSONL files with 'prompt' or 'messages', and 'annotated'.", "FILE")],
    max_depth: MaxDepth = 1,
    tokenizer: Tokenizer = None,
    positions: PositionsWithoutModel = DEFAULT,
    plots: Annotated[Path | None, place_option("A folder to write the report's plots to, as PNG.")] = None,
    json: Json = False,
) -> None:
    """Check annotated JSONL files: every problem with its place and what to do, then a report on the sound records.

    Status 1 if there is any problem.
    """
    policy = position_policy(positions)
    census = Census(policy, _vocabulary(tokenizer), tokenizer or "")
    errors, bad, unread, records = [], 0, 0, 0
    for file, checked in _records(files, max_depth):
        is_record = checked.number > 0
        records += is_record
        unread += not is_record
        bad += is_record and bool(checked.findings)
        for finding in checked.findings:
            errors.append({"place": finding.place(file), "message": finding.message})
            if not json:
                typer.echo(f"{typer.style(errors[-1]['place'], fg=typer.colors.CYAN)}: {finding.message}")
        if not checked.findings:
            census.add(parse(checked.record.annotated or "", max_depth=max_depth))
    if plots is not None:
        _plot(census, plots)
    if json:
        head = {"files": list(map(str, files)), "records": records, "invalid": bad, "unread": unread, "errors": errors}
        typer.echo(json_module.dumps(head | {"report": census.report().as_json()}, indent=2))
    else:
        _print(census.report())
        _conclude(f"{_count(records, 'record')} in {_count(len(files), 'file')}", bad, unread, len(errors))
    if errors:
        raise typer.Exit(1)


def _conclude(where: str, bad: int, unread: int, errors: int) -> None:
    if errors:
        lost = f", {unread} of which could not be read" if unread else ""
        typer.secho(f"{_count(errors, 'error')}, in {bad} of {where}{lost}.", fg=typer.colors.RED)
    else:
        typer.secho(f"{where}: no errors.", fg=typer.colors.GREEN)


def _vocabulary(tokenizer: str | None) -> Vocabulary | None:
    if tokenizer is None:
        return None
    from pastalm.cli.models import load_tokenizer
    from pastalm.lang.vocabulary import Vocabulary

    return Vocabulary(load_tokenizer(tokenizer))


def _records(files: list[Path], max_depth: int) -> Iterator[tuple[Path, CheckedRecord]]:
    each = ((file, checked) for file in files for checked in _checked(file, max_depth, len(files) == 1))
    counts = [count_rows(file) for file in files]
    total = None if None in counts else sum(filter(None, counts))
    return track(each, "Checking", total, unit="records", patience=PATIENCE_SECONDS)


def _checked(file: Path, max_depth: int, alone: bool) -> Iterator[CheckedRecord]:
    """The records of a file. One that cannot be read, or has none, is a problem beside those of the others; alone, it
    is all that there is to say."""
    try:
        yield from check_file(file, max_depth=max_depth)
    except (OSError, DataError) as error:
        if alone:
            raise
        reason = f"{error.strerror}." if isinstance(error, OSError) else str(error).removeprefix(f"{file} ")
        yield CheckedRecord(0, (Finding(0, reason),))


def _plot(census: Census, folder: Path) -> None:
    from pastalm.data.plots import write_plots

    written = write_plots(census, folder)
    typer.echo(f"Plots written: {', '.join(map(str, written)) or 'none, there is nothing to draw'}.", err=True)


def _print(report: Report) -> None:
    if report.answers:
        page_console().print(report_table(report))
        typer.echo()


def report_table(report: Report) -> Table:
    """The report, a figure a row with what it means."""
    table = figures_grid()
    for row in _rows(report):
        table.add_row(*map(Text, row))
    return table


def _rows(report: Report) -> Iterator[tuple[str, str, str]]:
    yield "answers", str(report.answers), f"lengths in {report.unit}" + _advice(report)
    yield "that fork", f"{100 * report.forking:.1f}%", ""
    yield "length of an answer", f"{report.tokens_per_answer.mean:.0f}", _spread(report.tokens_per_answer)
    yield "chunks", str(report.blocks), ""
    if not report.blocks:
        return
    yield "chunks per answer", f"{report.blocks_per_answer:.2f}", _counts(report.block_counts)
    yield "  where it forks", f"{report.blocks_per_forking_answer:.2f}", ""
    yield "length of a chunk", f"{report.tokens_per_block.mean:.1f}", _spread(report.tokens_per_block)
    yield "theoretical speedup", *_means(report.speedup, "plain length / critical path")
    yield "  where it forks", *_means(report.speedup_forking, "")
    yield "parallelism", *_means(report.parallelism, "content / critical path")
    yield "  where it forks", *_means(report.parallelism_forking, "")
    yield "redundancy", f"{100 * report.redundancy:.1f}%", "of a chunk's 4-grams stand in a sibling"
    yield "length error", *_length_error(report)
    yield "positions", report.positions, ""


def _advice(report: Report) -> str:
    return " between white space; --tokenizer counts tokens" if report.unit == "words" else ""


def _spread(spread: Spread) -> str:
    return (
        f"from {spread.least} to {spread.most}, median {spread.median}, 10% below {spread.p10}, 10% above {spread.p90}"
    )


def _counts(counts: dict[int, int]) -> str:
    total = sum(counts.values())
    return "  ".join(f"{blocks}: {100 * number / total:.0f}%" for blocks, number in counts.items())


def _means(means: Means, what: str) -> tuple[str, str]:
    parts = [f"arithmetic {means.arithmetic:.2f}", *([what] if what else [])]
    return f"{means.geometric:.2f}", ", ".join(parts)


def _length_error(report: Report) -> tuple[str, str]:
    errors = report.length_errors
    if errors is None:
        measured = "no chunk carries a length" if report.unit != "words" else "lengths count tokens: give --tokenizer"
        return "-", measured
    unit = f"{errors.unit} tokens" if errors.unit > 1 else "tokens"
    said = f"promised - measured in units of {unit}, absolute {errors.absolute:.2f}, exact {100 * errors.exact:.0f}%"
    return f"{errors.signed:+.2f}", f"{said}, of {_count(errors.blocks, 'chunk')}"


def _count(number: int, noun: Any) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
