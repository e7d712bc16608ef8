"""`pasta annotate`: answers in, annotated answers out, through any OpenAI-compatible endpoint."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from pastalm.cli.options import Limit, Split, Temperature, name_argument, place_argument
from pastalm.files.lines import DataError
from pastalm.progress import Progress

if TYPE_CHECKING:
    from pastalm.annotation.tally import Tally


class NoKeyError(ValueError):
    """The environment has no key."""


def annotate(
    source: Annotated[str, name_argument("JSONL or Parquet, or a data set id of the hub.", "IN")],
    out: Annotated[Path, place_argument("JSONL to write; rejects go to OUT's .rejects.jsonl.", "OUT")],
    model: Annotated[str, typer.Option(metavar="NAME", help="The model that annotates, as the endpoint names it.")],
    base_url: Annotated[
        str | None,
        typer.Option(metavar="URL", envvar="OPENAI_BASE_URL", help="The endpoint. Default: OpenAI's own."),
    ] = None,
    key_env: Annotated[
        str, typer.Option(metavar="VARIABLE", help="The environment variable that holds the key.")
    ] = "OPENAI_API_KEY",
    temperature: Temperature = 0.0,
    concurrency: Annotated[int, typer.Option(min=1, help="How many requests are in flight at once.")] = 8,
    max_attempts: Annotated[int, typer.Option(min=1, help="Replies to one answer before it is rejected.")] = 3,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for a reply.")] = 120.0,
    limit: Limit = None,
    split: Split = "train",
    price_in: Annotated[float, typer.Option(min=0, help="Price of a million prompt tokens.")] = 0.0,
    price_out: Annotated[float, typer.Option(min=0, help="Price of a million completion tokens.")] = 0.0,
) -> None:
    """Have a model annotate answers. Stop it at any moment and start it again: it goes on where it was."""
    from pastalm.annotation.annotate import annotate as run
    from pastalm.annotation.endpoint import Settings
    from pastalm.annotation.results import rejects_path
    from pastalm.annotation.tally import Tally
    from pastalm.data.records import count_records, read_answers
    from pastalm.files.packages import require

    require("openai")
    key = os.environ.get(key_env, "").strip()
    if not key:
        raise NoKeyError(f"The environment has no {key_env}: set it to your key (any text where none is needed).")
    if Path(source).resolve() in (out.resolve(), rejects_path(out).resolve()):
        raise DataError(f"{source} would be read and written at once; choose another OUT.")
    settings = Settings(model, key, base_url, temperature, concurrency, max_attempts, timeout)
    tally = Tally(total=count_records(source, limit))
    if tally.total == 0:
        raise DataError(f"{source} is empty: it needs one answer a line.")
    prices = (price_in, price_out)
    with Progress("Annotating", tally.total) as progress:
        board = _Board(tally, prices, progress)
        run(read_answers(source, split=split, limit=limit), out, settings, tally, board.show)
    typer.echo(summary(tally, prices))


class _Board:
    """The state of a run on stderr."""

    def __init__(self, tally: Tally, prices: tuple[float, float], progress: Progress) -> None:
        self.tally, self.prices, self.progress = tally, prices, progress
        self.started = monotonic()

    def show(self) -> None:
        """Draw what the tally says now."""
        state = status(self.tally, self.prices, monotonic() - self.started)
        self.progress.update(self.tally.skipped + self.tally.done, state)


def status(tally: Tally, prices: tuple[float, float], seconds: float) -> str:
    """Rate, cost so far and in all, share accepted, reasons of rejects so far, and what the endpoint's trouble is."""
    parts = [f"{60 * tally.done / max(seconds, 1e-9):.0f} a minute"]
    spent = cost(tally, prices)
    if spent:
        decided = tally.accepted + tally.rejected.total()
        in_all = f" of about {spent / decided * tally.total:.2f}" if tally.total is not None and decided else ""
        parts.append(f"cost {spent:.2f}{in_all}")
    parts.append(_share(tally))
    if tally.rejected:
        parts.append(reasons(tally.rejected))
    if tally.trouble:
        parts.append(f"waiting: {tally.trouble}")
    return ", ".join(parts)


def summary(tally: Tally, prices: tuple[float, float]) -> str:
    """What all runs into the same files have come to."""
    parts = [f"{tally.accepted} accepted, {tally.rejected.total()} rejected, {_share(tally)}."]
    if tally.rejected:
        parts.append(f"Rejected: {reasons(tally.rejected)}.")
    if tally.retried:
        parts.append(f"Asked again: {reasons(tally.retried)}.")
    usage, spent = tally.usage, cost(tally, prices)
    paid = f"Tokens: {usage.prompt_tokens} in, {usage.completion_tokens} out"
    parts.append(paid + (f", cost {spent:.2f}." if spent else "."))
    return "\n".join(parts)


def cost(tally: Tally, prices: tuple[float, float]) -> float:
    """What the tokens cost, in the currency of the prices, which are for a million."""
    return (tally.usage.prompt_tokens * prices[0] + tally.usage.completion_tokens * prices[1]) / 1e6


def reasons(counts: Counter[str]) -> str:
    """Reasons with their counts, the most frequent first."""
    return ", ".join(f"{reason} {count}" for reason, count in counts.most_common())


def _share(tally: Tally) -> str:
    decided = tally.accepted + tally.rejected.total()
    return f"{100 * tally.accepted / decided:.1f}% accepted" if decided else "none finished yet"
