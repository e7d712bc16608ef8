"""`pasta baseline`: what others are measured against, from the same data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from pastalm.cli.help import examples
from pastalm.cli.options import Limit, Split, name_argument, place_argument
from pastalm.cli.verbs import Group, add
from pastalm.data.records import count_records, read_answers
from pastalm.files.atomic import writing
from pastalm.files.lines import json_line
from pastalm.progress import PATIENCE_SECONDS, track

EXAMPLES = ("pasta baseline apar answers.jsonl apar.jsonl", "pasta baseline apar a.parquet b.jsonl --as-is")

FORKED = ("list", "paragraphs")
SEQUENTIAL = "sequential"

baseline = typer.Typer(no_args_is_help=True, cls=Group, epilog=examples(*EXAMPLES))


class BaselineError(ValueError):
    """Files that cannot be used, and what to do."""


@baseline.callback()
def _baseline() -> None:
    """Prepare the baselines: models that others are measured against."""


def apar(
    source: Annotated[str, name_argument("JSONL or Parquet, or a data set id of the hub.", "IN")],
    out: Annotated[Path, place_argument("The annotated JSONL to write, for `pasta train sft`.", "OUT")],
    even: Annotated[
        bool,
        typer.Option(
            "--even/--as-is", help="Repeat the rarer kind until half of the answers fork, as APAR trains; or do not."
        ),
    ] = True,
    bullets: Annotated[
        bool, typer.Option("--bullets", help="Fork bulleted lists like numbered ones, which APAR does not.")
    ] = False,
    limit: Limit = None,
    split: Split = "train",
) -> None:
    """Mark the parts of plain answers by APAR's regular expressions; marks that IN has in 'annotated' are not read.

    Train with --positions contiguous, as APAR's threads go on without a jump.
    """
    from pastalm.data.apar import evened, mark

    if Path(source).resolve() == out.resolve():
        raise BaselineError(f"{source} would be read and written at once; choose another OUT.")
    if not out.parent.is_dir():
        raise BaselineError(f"There is no directory {out.parent} to write {out.name} in.")
    counts: Counter[str] = Counter()
    answers = read_answers(source, split=split, limit=limit)
    total = count_records(source, limit)
    shown = track(answers, "Extracting", total, unit="answers", patience=PATIENCE_SECONDS)
    found = list(mark(shown, counts, bullets=bullets))
    if not found:
        raise BaselineError(f"{source} has no answer that can be used{_reasons(counts)}.")
    forked, sequential = [one for one in found if one["rule"]], [one for one in found if not one["rule"]]
    lines = list(evened(forked, sequential)) if even else found
    with writing(out) as file:
        file.writelines(json_line(fields) + "\n" for fields in lines)
    typer.echo(_summary(counts, len(lines)), err=True)


add(baseline, apar, *EXAMPLES)


def _summary(counts: Counter[str], lines: int) -> str:
    forked, sequential = sum(counts[rule] for rule in FORKED), counts[SEQUENTIAL]
    ways = f"{counts['list']} by lists, {counts['paragraphs']} by paragraphs"
    said = f"{forked} of {forked + sequential} answers fork ({ways}); {lines} lines written."
    faults = _reasons(counts)
    return f"{said} Left out{faults}." if faults else said


def _reasons(counts: Counter[str]) -> str:
    """The faults with their numbers, after a colon; nothing without any."""
    faults = [f"{fault} {number}" for fault, number in counts.most_common() if fault not in (*FORKED, SEQUENTIAL)]
    return f": {', '.join(faults)}" if faults else ""
