"""`pasta audit`: how much the chunks of a data set need each other, by a model's own likelihoods."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pastalm.cli.models import hush, working
from pastalm.cli.options import (
    Device,
    DType,
    Json,
    MaxDepth,
    Model,
    Positions,
    TrustRemoteCode,
    place_argument,
    place_option,
)
from pastalm.cli.tables import figures_grid, page_console, print_table
from pastalm.data.check import CheckedRecord, read_sound
from pastalm.progress import track

if TYPE_CHECKING:
    from pastalm.data.audit import Audited, Auditor, AuditSummary, Measured
    from pastalm.data.repaired import Repaired


class AuditFlagsError(ValueError):
    """Flags that contradict each other, and what to do."""


def audit(
    data: Annotated[Path, place_argument("Annotated JSONL; `pasta check` validates it.", "DATA")],
    model: Model,
    top: Annotated[int, typer.Option(min=0, help="How many of the most dependent chunks to show.")] = 20,
    sync_above: Annotated[
        float | None,
        typer.Option(min=0, help="Nats a token; chunks that depend by more are put right in --out."),
    ] = None,
    out: Annotated[Path | None, place_option("Where to write: a file, the repaired data set.")] = None,
    journal: Annotated[
        Path | None, place_option("A file that keeps every chunk's figures. Default: DATA's .audit.jsonl.")
    ] = None,
    positions: Positions = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a pass; each holds one answer.")] = 8,
    max_depth: MaxDepth = 1,
    device: Device = "auto",
    dtype: DType = "auto",
    trust_remote_code: TrustRemoteCode = False,
    json: Json = False,
) -> None:
    """Find chunks that need their siblings: how much does hiding these change a chunk's log-likelihood?

    Positive is dependent: the chunk is likelier when it sees its siblings. Stop it at any moment and start it again: it
    goes on where it was.
    """
    journal = _beside(data).with_suffix(".audit.jsonl") if journal is None else journal
    _require_sound(data, sync_above, out, journal)
    lines = read_sound(data, max_depth=max_depth)
    auditor = _auditor(
        model, device, dtype, trust_remote_code, positions=positions, batch=batch_size, max_depth=max_depth
    )
    from pastalm.data.audit import ranked, summarise

    audited = list(track(auditor.run(lines, journal), "Auditing", len(lines), unit="records"))
    summary, first = summarise(audited), ranked(audited, top)
    repaired = _repair(audited, auditor, sync_above, out)
    if json:
        typer.echo(json_module.dumps(_json(summary, first, repaired, auditor.policy.name), indent=2))
        return
    _print(summary, first)
    typer.echo(f"Every chunk's figures are in {journal} (positions {auditor.policy.name}).")
    if repaired is not None:
        typer.echo(_repaired(repaired, out))


def _beside(data: Path) -> Path:
    """``data``, or what would have its name in the working folder where it names no place, such as a set of the hub."""
    return data if data.parent.is_dir() else Path(data.name)


def _require_sound(data: Path, above: float | None, out: Path | None, journal: Path) -> None:
    if (above is None) != (out is None):
        raise AuditFlagsError("--sync-above and --out go together: the limit, and where the repaired set goes.")
    places = [place.resolve() for place in (data, journal, out) if place is not None]
    if len(set(places)) < len(places):
        raise AuditFlagsError("DATA, --journal and --out must be different files.")


def _auditor(model: str, device: str, dtype: str, trust: bool, **options: Any) -> Auditor:
    with working(f"Loading {model} .."):
        hush()
        from pastalm.data.audit import Auditor
        from pastalm.runtime.load import load

        return Auditor(*load(model, device, dtype, trust_remote_code=trust), **options)


def _repair(audited: list[Audited], auditor: Auditor, above: float | None, out: Path | None) -> Repaired | None:
    if above is None or out is None:
        return None
    from pastalm.data.repaired import write_repaired

    return write_repaired(audited, out, above, auditor.steps, max_depth=auditor.max_depth)


def _json(
    summary: AuditSummary, first: Sequence[tuple[CheckedRecord, Measured]], repaired: Repaired | None, positions: str
) -> dict[str, Any]:
    top = [{"line": line.number, **vars(block), "dependence": block.dependence} for line, block in first]
    done = {} if repaired is None else {"repaired": vars(repaired)}
    return {"positions": positions, "summary": summary.as_json(), "top": top, **done}


def _print(summary: AuditSummary, first: Sequence[tuple[CheckedRecord, Measured]]) -> None:
    console = page_console()
    if first:
        _print_ranking(console, first)
        console.print()
    console.print(_summary(summary))
    if summary.too_long:
        typer.echo(f"{summary.too_long} records do not fit the model's window and were not measured.")


def _print_ranking(console: Console, first: Sequence[tuple[CheckedRecord, Measured]]) -> None:
    heads = ("nats/token", "line", "chunk", "topic", "place", "tokens", "hidden", "seen")
    rows = []
    for line, block in first:
        figures = [f"{value:.3f}" for value in (block.hidden or 0.0, block.seen or 0.0)]
        cells = [f"{block.dependence:+.3f}", str(line.number), str(block.number), block.topic, str(block.place)]
        rows.append((*cells, str(block.tokens), *figures))
    print_table(console, heads, rows, title="Most dependent chunks", left=("topic",))


def _summary(summary: AuditSummary) -> Table:
    table = figures_grid()
    blocks = f"{summary.blocks} in {summary.records} records"
    table.add_row("chunks", blocks, f"{summary.hidden} of them have siblings hidden from them")
    if summary.mean is not None:
        table.add_row("dependence", f"mean {summary.mean:+.4f}", "nats a token, of these")
        shares = "  ".join(f"{100 * share:.0f}%: {value:+.3f}" for share, value in summary.quantiles.items())
        table.add_row("quantiles", "", shares)
        places = "  ".join(f"{place}: {found.mean:+.3f} ({found.blocks})" for place, found in summary.places.items())
        table.add_row("by place in the group", "", places)
    return table


def _repaired(done: Repaired, out: Path | None) -> str:
    parts = [f"Written to {out}: {done.kept} records as they were, {done.changed} changed"]
    if done.changed:
        parts.append(f" ({done.dependent} dependent chunks behind a <sync/>, {done.unmarked} marks removed)")
    if done.left_out:
        parts.append(f"; {done.left_out} left out, not measured")
    return "".join(parts) + "."
