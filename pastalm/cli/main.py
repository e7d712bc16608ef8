"""The command `pasta` and its verbs."""

from __future__ import annotations

from typing import Annotated

import typer

from pastalm import __version__
from pastalm.cli.annotate import annotate
from pastalm.cli.audit import audit
from pastalm.cli.baseline import baseline
from pastalm.cli.bench import bench
from pastalm.cli.chat import chat
from pastalm.cli.check import check
from pastalm.cli.convert import convert
from pastalm.cli.distil import distil
from pastalm.cli.errors import Guarded
from pastalm.cli.evaluate import evaluate
from pastalm.cli.help import examples
from pastalm.cli.judge import judge
from pastalm.cli.pareto import pareto
from pastalm.cli.run import run
from pastalm.cli.serve import serve
from pastalm.cli.show import show
from pastalm.cli.tasks import tasks
from pastalm.cli.train import train
from pastalm.cli.verbs import add

KNOWN = "Points: 12|6, 5|7. How long is it, squared?"  # the bundled model answers it well


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pasta {__version__}")
        raise typer.Exit


def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """PASTA: a language model marks independent parts of its answer, and a runtime writes them in parallel.

    The model writes a promise (a topic and a length) where a part belongs. The runtime writes that part, a chunk, in a
    thread of its own beside the rest of the answer. At a sync the answer waits for the chunks before it and then goes
    on with their text in view. The reader sees plain text without any of these marks.
    """


app = typer.Typer(
    name="pasta",
    cls=Guarded,
    callback=_main,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples("pasta run", f"pasta run '{KNOWN}'", "pasta run 'Describe Oslo, Lima and Kyoto.' --model my-model"),
)
add(
    app,
    run,
    "pasta run",
    f"pasta run '{KNOWN}' --max-threads 4",
    "pasta run --file question.txt --model my-model --json",
    "echo 'Describe Oslo, Lima and Kyoto.' | pasta run --model my-model",
)
add(
    app,
    chat,
    "pasta chat --model my-model",
    "pasta chat --model my-model --temperature 0.7 --promise-bias 1",
)
add(
    app,
    serve,
    "pasta serve",
    "pasta serve --model my-model --port 8001 --api-key KEY",
    "curl http://127.0.0.1:8000/v1/models",
)
add(app, show, "pasta show answer.txt --svg answer.svg", "pasta show data.jsonl --line 3")
add(
    app,
    check,
    "pasta check data.jsonl --tokenizer my-model --plots figures",
    "pasta check part-*.jsonl --max-depth 2 --json",
)
add(
    app,
    audit,
    "pasta audit data.jsonl --model my-model",
    "pasta audit data.jsonl --model my-model --sync-above 0.1 --out repaired.jsonl",
)
add(
    app,
    convert,
    "pasta convert a.jsonl b.jsonl --from pasta --to apar --skip-lossy",
    "pasta convert a.txt - --from multiverse --to pasta-annotator",
)
add(
    app,
    tasks,
    "pasta tasks --number 1000 --out train.jsonl",
    "pasta tasks --split held-out --families ranking,profiles --missed 0 --wrong 0 --unsynced 0",
)
add(
    app,
    annotate,
    "pasta annotate Open-Orca/SlimOrca annotated.jsonl --model my-model --limit 1000",
    "pasta annotate answers.jsonl annotated.jsonl --model my-model --base-url http://localhost:8000/v1",
)
add(
    app,
    distil,
    "pasta distil prompts.jsonl own.jsonl --model base",
    "pasta distil pasta-instruct own.jsonl --model base --samples 8 --keep 2 --temperature 0.7",
)
add(
    app,
    evaluate,
    "pasta eval tasks:held-out:330 --model my-model --out scores",
    "pasta eval alpaca_eval.json --model my-model --baseline baseline-sft --out scores",
    "pasta eval prompts.jsonl --model my-model --out scores --judge-model judge --judge-url http://localhost:8000/v1",
    name="eval",
)
add(
    app,
    bench,
    "pasta bench --model my-model --out speed",
    "pasta bench --shape llama-7b --only steps,breakdown --out speed",
    "pasta bench --model my-model --data answers.jsonl --limit 20 --gguf my-model.gguf --out speed",
)
add(
    app,
    pareto,
    "pasta pareto scores-1 scores-2 --out fig",
    "pasta pareto runs/* --out fig --axis theoretical",
)
app.add_typer(train, name="train")
app.add_typer(judge, name="judge")
app.add_typer(baseline, name="baseline")
