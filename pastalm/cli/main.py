"""The command `pasta` and its verbs."""

from __future__ import annotations

from typing import Annotated

import typer

from pastalm import __version__
from pastalm.cli.annotate import annotate
from pastalm.cli.audit import audit
from pastalm.cli.baseline import baseline
from pastalm.cli.check import check
from pastalm.cli.convert import convert
from pastalm.cli.errors import Guarded
from pastalm.cli.evaluate import evaluate
from pastalm.cli.pareto import pareto
from pastalm.cli.run import run
from pastalm.cli.serve import serve
from pastalm.cli.show import show
from pastalm.cli.tasks import tasks
from pastalm.cli.train import train

KNOWN = "Reverse these. Show the letters one by one before and after. river; stone; cloud; bread; paper"


def _examples(*lines: str) -> str:
    """An epilog; blank lines between, because the help joins single ones."""
    return "\n\n".join(["Examples:", *lines])


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pasta {__version__}")
        raise typer.Exit


def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """PASTA: language models mark independent parts of their answer, and a runtime writes these in parallel."""


app = typer.Typer(
    name="pasta",
    cls=Guarded,
    callback=_main,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_examples(
        "pasta run", f"pasta run '{KNOWN}'", "pasta run 'Describe Oslo, Lima and Kyoto.' --model my-model"
    ),
)
app.command(
    epilog=_examples(
        "pasta run",
        f"pasta run '{KNOWN}' --max-threads 4",
        "pasta run --file question.txt --model my-model --json",
        "echo 'Describe Oslo, Lima and Kyoto.' | pasta run --model my-model",
    )
)(run)
app.command(
    epilog=_examples(
        "pasta serve",
        "pasta serve --model my-model --port 8001 --api-key KEY",
        "curl http://127.0.0.1:8000/v1/models",
    )
)(serve)
app.command(epilog=_examples("pasta show answer.txt --svg answer.svg", "pasta show data.jsonl --line 3"))(show)
app.command(
    epilog=_examples(
        "pasta check data.jsonl --tokenizer my-model --plots figures",
        "pasta check part-*.jsonl --max-depth 2 --json",
    )
)(check)
app.command(
    epilog=_examples(
        "pasta audit data.jsonl --model my-model",
        "pasta audit data.jsonl --model my-model --drop-above 0.1 --out filtered.jsonl",
    )
)(audit)
app.command(
    epilog=_examples(
        "pasta convert a.jsonl b.jsonl --from pasta --to apar --skip-lossy",
        "pasta convert a.txt - --from multiverse --to pasta-annotator",
    )
)(convert)
app.command(
    epilog=_examples(
        "pasta tasks --number 1000 --out train.jsonl",
        "pasta tasks --split held-out --families ranking,profiles --missed 0 --wrong 0 --unsynced 0",
    )
)(tasks)
app.command(
    epilog=_examples(
        "pasta annotate Open-Orca/SlimOrca annotated.jsonl --model my-model --limit 1000",
        "pasta annotate answers.jsonl annotated.jsonl --model my-model --base-url http://localhost:8000/v1",
    )
)(annotate)
app.command(
    "eval",
    epilog=_examples(
        "pasta eval my-model tasks:held-out:330 --out scores",
        "pasta eval my-model alpaca_eval.json --out scores --baseline baseline-sft",
        "pasta eval my-model prompts.jsonl --out scores --judge http://localhost:8000/v1 --judge-model judge",
    ),
)(evaluate)
app.command(
    epilog=_examples("pasta pareto scores-1 scores-2 --out fig", "pasta pareto runs/* --out fig --speed theoretical")
)(pareto)
app.add_typer(train, name="train")
app.add_typer(baseline, name="baseline")
