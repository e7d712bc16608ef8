"""`pasta judge`: comparisons judged by file, by people or by any model that can read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from pastalm.cli.help import examples
from pastalm.cli.options import JudgeModel, Limit, place_argument
from pastalm.cli.tables import page_console, print_table
from pastalm.cli.verbs import Group, add
from pastalm.files.lines import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pastalm.annotation.verdict import AnswerPair
    from pastalm.evaluation.bootstrap import Estimate
    from pastalm.evaluation.ranked import RankedAnswers

EXPORT = (
    "pasta judge export scores items.jsonl",
    "pasta judge export scores items.md --form pairs",
    "pasta judge export scores-1 scores-2 items.jsonl --orders 2",
)
IMPORT = (
    "pasta judge import scores items.jsonl --judge-model anna",
    "pasta judge import scores-1 scores-2 items.jsonl --judge-model anna",
)
AGREE = ("pasta judge agree scores anna ben",)

judge = typer.Typer(no_args_is_help=True, cls=Group, epilog=examples(*EXPORT, *IMPORT, *AGREE))


@judge.callback()
def _judge() -> None:
    """Have comparisons judged by file: by people, or by any model that can read.

    `pasta eval` with --judge-model NAME and --judge-url file, and `pasta train prefer` with --judge-model NAME and
    --quality verdicts, write what they want judged. Export it, have the verdicts written, import them, and run the same
    command again. Of several folders of `pasta eval`, all answers to a prompt are ranked together, the baseline's among
    them.
    """


def export(
    folders: Annotated[
        list[Path],
        place_argument("The folder of `pasta eval` or `pasta train prefer`, or several of `pasta eval`.", "FOLDER"),
    ],
    out: Annotated[Path, place_argument("The file to write: JSON lines, or Markdown if it ends in .md.", "OUT")],
    form: Annotated[
        str, typer.Option(metavar="FORM", help="'rankings' of all answers to a prompt, or 'pairs' in both orders.")
    ] = "rankings",
    orders: Annotated[
        int, typer.Option(min=1, max=2, help="In how many orders each ranking is shown; the second is the reverse.")
    ] = 1,
    judge_model: Annotated[
        str,
        typer.Option(metavar="NAME", help="The model that judges; what it has decided is left out."),
    ] = "",
    limit: Limit = None,
) -> None:
    """Write blind items: an instruction and answers under letters, in an order that tells nothing.

    A reader fills in the verdict of each: a ranking such as B > A = C, or for two answers the better one and how sure
    it is in percent, such as A 80, or tie.
    """
    from pastalm.annotation.exchange import FORMS, items_of, undecided, write_items

    if form not in FORMS:
        raise DataError(f"--form {form!r} is unknown; choose one of {', '.join(FORMS)}.")
    if out.exists():
        raise DataError(f"{out} is there already, perhaps with verdicts; choose another OUT.")
    asked = _comparisons(folders, limit)
    pairs = undecided(asked.pairs, judge_model, asked.caches) if judge_model else asked.pairs
    if judge_model and not pairs:
        raise DataError(f"{judge_model} has decided everything that is asked here.")
    items = items_of(pairs, form, orders)
    write_items(items, out)
    typer.echo(f"{len(items)} items written to {out}.", err=True)


def take(
    folder: Annotated[Path, place_argument("The folder, or the folders, as they were exported.", "FOLDER...")],
    files: Annotated[
        list[Path], place_argument("Files with verdicts: items filled in, or JSON lines of id and verdict.", "FILE")
    ],
    judge_model: JudgeModel,
    partial: Annotated[bool, typer.Option("--partial", help="Take what there is; other verdicts may follow.")] = False,
    limit: Limit = None,
) -> None:
    """Read verdicts and put them where an endpoint's judge puts its own; then the command that wanted them goes on.

    Of several evaluations, also show how far the judge agrees with itself and with others, and the win rates of each
    two models. The first N are those of export's --limit.
    """
    from pastalm.annotation.exchange import take_verdicts

    asked = _comparisons([folder, *filter(Path.is_dir, files)], limit)
    verdicts = [file for file in files if not file.is_dir()]
    if not verdicts:
        raise DataError("No file of verdicts is named; name them behind the folders.")
    decided, open_ = take_verdicts(asked.caches, asked.pairs, judge_model, verdicts, partial=partial)
    said = f"{decided} comparisons of {judge_model} taken"
    typer.echo(f"{said}, {open_} still open." if open_ else f"{said}: all that were wanted.", err=True)
    if asked.answers:
        known = _known(asked.caches)
        _print_agreement(
            asked, known, [judge_model, *sorted({line["model"] for line in known if "model" in line} - {judge_model})]
        )


def agree(
    folder: Annotated[Path, place_argument("The folder, or the folders, as they were exported.", "FOLDER...")],
    judges: Annotated[list[str], typer.Argument(metavar="NAME", help="The judges, as they were named.")],
    limit: Limit = None,
) -> None:
    """Show how far judges agree, each with itself in both orders and each two with each other, with Cohen's kappa.

    Of several evaluations, also the win rates of each two models. In the folder of `pasta train prefer --quality
    verdicts,redundancy,..`, also how often each term that needs no judge orders two samples of a prompt as the judge
    does. Intervals are of 95%. The first N are those of export's --limit.
    """
    folders = [Path(name) for name in judges if Path(name).is_dir()]
    names = [name for name in judges if not Path(name).is_dir()]
    asked = _comparisons([folder, *folders], limit)
    known = _known(asked.caches)
    if not names:
        raise DataError("No judge is named; name the judges behind the folders.")
    if not _print_agreement(asked, known, names):
        raise DataError(f"{asked.caches[0]} has no verdicts of {', '.join(names)}.")
    if not asked.answers:
        _print_terms(asked.caches[0].parent, _shares(known), names)


class Comparisons(NamedTuple):
    """What verdicts are about, and the judges' caches that keep them; ``answers`` are those of evaluations, ranked."""

    caches: list[Path]
    pairs: list[AnswerPair]
    answers: RankedAnswers | None = None


def _comparisons(folders: Sequence[Path], limit: int | None = None) -> Comparisons:
    """What a folder has noted, which may be another judge's cache; of several, or where none is noted, all answers."""
    from pastalm.annotation.judge import VERDICTS, pairs_path, read_pairs
    from pastalm.annotation.verdict import of_first_prompts
    from pastalm.evaluation.ranked import ANSWERS, read_ranked

    caches = [one if one.suffix == ".jsonl" or one.is_file() else one / VERDICTS for one in folders]
    noted = pairs_path(caches[0]).exists() or not (folders[0] / ANSWERS).exists()
    if len(folders) == 1 and noted:
        return Comparisons(caches, of_first_prompts(read_pairs(caches[0]), limit))
    answers = read_ranked(folders, limit)
    return Comparisons(caches, answers.pairs, answers)


def _known(caches: Sequence[Path]) -> list[dict[str, Any]]:
    """The verdicts that the caches have."""
    from pastalm.files.journal import read_journal

    known = [line for cache in caches if cache.exists() for line in read_journal(cache)]
    if any(not {"id", "share"} <= line.keys() for line in known):
        raise DataError(f"{caches[0]} holds lines that are no verdicts of a judge.")
    return known


def _shares(known: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    return {line["id"]: line["share"] for line in known}


def _print_agreement(asked: Comparisons, known: Sequence[dict[str, Any]], judges: Sequence[str]) -> bool:
    """Whether there was anything to show."""
    from pastalm.annotation.agreement import agreements

    places = {line["id"]: line["place"] for line in known if "place" in line}
    found = agreements(asked.pairs, _shares(known), judges, places)
    rows = [
        (one.what, str(one.pairs), f"{100 * one.share:.1f}%", "-" if one.kappa is None else f"{one.kappa:.2f}")
        for one in found
    ]
    if rows:
        print_table(page_console(), ("judges", "pairs", "agree", "kappa"), rows, title="Agreement", left=("judges",))
    if asked.answers:
        for name in judges:
            _print_win_rates(asked.answers, _shares(known), name)
    return bool(rows)


def _print_win_rates(answers: RankedAnswers, shares: dict[str, float | None], judge: str) -> None:
    found = answers.head_to_head(shares, judge)
    rows = [(one.one, one.other, str(one.prompts), _interval(one.share, 100, "%")) for one in found]
    heads = ("model", "against", "prompts", "win rate")
    if rows:
        print_table(page_console(), heads, rows, title=f"Win rates by {judge}", left=heads[1:2])


def _print_terms(folder: Path, shares: dict[str, float | None], judges: Sequence[str]) -> None:
    from pastalm.evaluation.terms import term_agreements

    for name in judges:
        if terms := term_agreements(folder, shares, name):
            rows = [(one.term, str(one.pairs), _interval(one.share, 100, "%"), _interval(one.tau)) for one in terms]
            print_table(page_console(), ("term", "pairs", "agree", "tau"), rows, title=f"Terms of quality and {name}")


def _interval(figure: Estimate, factor: float = 1, unit: str = "") -> str:
    value, low, high = (f"{factor * number:.{1 if unit else 2}f}" for number in (figure.value, figure.low, figure.high))
    return f"{value}{unit} ({low} to {high})"


add(judge, export, *EXPORT)
add(judge, take, *IMPORT, name="import")
add(judge, agree, *AGREE)
