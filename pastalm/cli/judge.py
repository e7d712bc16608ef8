"""`pasta judge`: comparisons judged by file, by people or by any model that can read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pastalm.cli.help import examples
from pastalm.cli.options import JudgeModel, place_argument
from pastalm.cli.tables import page_console, print_table
from pastalm.cli.verbs import Group, add
from pastalm.files.lines import DataError

if TYPE_CHECKING:
    from pastalm.evaluation.bootstrap import Estimate

EXPORT = ("pasta judge export scores items.jsonl", "pasta judge export scores items.md --form pairs")
IMPORT = ("pasta judge import scores items.jsonl --judge-model anna",)
AGREE = ("pasta judge agree scores anna ben",)

judge = typer.Typer(no_args_is_help=True, cls=Group, epilog=examples(*EXPORT, *IMPORT, *AGREE))

Folder = Annotated[Path, place_argument("The folder of `pasta eval` or `pasta train prefer`.", "FOLDER")]


@judge.callback()
def _judge() -> None:
    """Have comparisons judged by file: by people, or by any model that can read.

    `pasta eval` and `pasta train prefer` write what they want judged when they are run with --judge-model NAME and
    --judge-url file. Export it, have the verdicts written, import them, and run the same command again.
    """


def export(
    folder: Folder,
    out: Annotated[Path, place_argument("The file to write: JSON lines, or Markdown if it ends in .md.", "OUT")],
    form: Annotated[
        str, typer.Option(metavar="FORM", help="'rankings' of all answers to a prompt, or 'pairs' in both orders.")
    ] = "rankings",
) -> None:
    """Write blind items: an instruction and answers under letters, in an order that tells nothing.

    A reader fills in the verdict of each: a ranking such as B > A = C, or for two answers the better one and how sure
    it is in percent, such as A 80, or tie.
    """
    from pastalm.annotation.exchange import FORMS, items_of, write_items
    from pastalm.annotation.judge import read_pairs

    if form not in FORMS:
        raise DataError(f"--form {form!r} is unknown; choose one of {', '.join(FORMS)}.")
    if out.exists():
        raise DataError(f"{out} is there already, perhaps with verdicts; choose another OUT.")
    items = items_of(read_pairs(_cache(folder)), form)
    write_items(items, out)
    typer.echo(f"{len(items)} items written to {out}.", err=True)


def take(
    folder: Folder,
    files: Annotated[
        list[Path], place_argument("Files with verdicts: items filled in, or JSON lines of id and verdict.", "FILE...")
    ],
    judge_model: JudgeModel,
    partial: Annotated[bool, typer.Option("--partial", help="Take what there is; other verdicts may follow.")] = False,
) -> None:
    """Read verdicts and put them where an endpoint's judge puts its own; then the command that wanted them goes on."""
    from pastalm.annotation.exchange import take_verdicts

    decided, open_ = take_verdicts(_cache(folder), judge_model, files, partial=partial)
    said = f"{decided} comparisons of {judge_model} taken"
    typer.echo(f"{said}, {open_} still open." if open_ else f"{said}: all that were wanted.", err=True)


def agree(
    folder: Folder,
    judges: Annotated[list[str], typer.Argument(metavar="NAME...", help="The judges, as they were named.")],
) -> None:
    """Show how far judges agree, each with itself in both orders and each two with each other, with Cohen's kappa.

    In the folder of `pasta train prefer --quality verdicts,redundancy,..`, also how often each term that needs no judge
    orders two samples of a prompt as the judge does, with 95% intervals.
    """
    from pastalm.annotation.agreement import agreements
    from pastalm.annotation.judge import read_pairs
    from pastalm.evaluation.terms import term_agreements
    from pastalm.files.journal import read_journal

    cache = _cache(folder)
    shares = {line["id"]: line["share"] for line in read_journal(cache)} if cache.exists() else {}
    found = agreements(read_pairs(cache), shares, judges)
    if not found:
        raise DataError(f"{cache} has no verdicts of {', '.join(judges)}.")
    rows = [
        (one.what, str(one.pairs), f"{100 * one.share:.1f}%", "-" if one.kappa is None else f"{one.kappa:.2f}")
        for one in found
    ]
    console = page_console()
    print_table(console, ("judges", "pairs", "agree", "kappa"), rows, title="Agreement", left=("judges",))
    for name in judges:
        if terms := term_agreements(cache.parent, shares, name):
            rows = [(one.term, str(one.pairs), _interval(one.share, 100, "%"), _interval(one.tau)) for one in terms]
            print_table(console, ("term", "pairs", "agree", "tau"), rows, title=f"Terms of quality and {name}")


def _interval(figure: Estimate, factor: float = 1, unit: str = "") -> str:
    value, low, high = (f"{factor * number:.{1 if unit else 2}f}" for number in (figure.value, figure.low, figure.high))
    return f"{value}{unit} ({low} to {high})"


def _cache(folder: Path) -> Path:
    """The judge's cache in a folder, or the file itself where it was put elsewhere."""
    return folder if folder.suffix == ".jsonl" else folder / "judge.jsonl"


add(judge, export, *EXPORT)
add(judge, take, *IMPORT, name="import")
add(judge, agree, *AGREE)
