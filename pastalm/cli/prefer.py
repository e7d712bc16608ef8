"""`pasta train prefer`: stage 2, flags derived from its config."""

from __future__ import annotations

import os

import typer

from pastalm.cli.flags import with_flags
from pastalm.cli.models import hush, working
from pastalm.cli.verbs import add
from pastalm.training.config import FLAGS, PreferConfig, helps

EXAMPLES = (
    "pasta train prefer --model stage1 --data tasks.jsonl --out stage2 --lambda 4",
    "pasta train prefer --model stage1 --data tasks.jsonl --out inf --lambda inf --reuse-samples stage2",
    "pasta train prefer --model stage1 --baseline plain --data prompts.jsonl --out stage2 --judge-model my-judge "
    "--judge-url http://localhost:8000/v1",
    "pasta train prefer --model stage1 --remote http://localhost:8000/v1 --rounds 1 --data tasks.jsonl --out s1",
    "accelerate launch --num_processes 8 -m pastalm.cli train prefer --model stage1 --data tasks.jsonl --out s2",
)


def prefer(config: PreferConfig) -> None:
    """Stage 2: sample answers, score them by speed and quality, prefer the best over the worst, train, repeat.

    Stop it at any moment and start it again: it goes on where it was.
    """
    leads = os.environ.get("RANK", "0") == "0"
    if leads:
        with working("Starting .."):
            _load()
    else:
        _load()
    from pastalm.training.prefer import train_prefer
    from pastalm.training.processes import disband

    place = train_prefer(config)
    disband()
    if leads:
        typer.echo(f"Model written to {place}.")


def _load() -> None:
    hush()
    import pastalm.training.optimise  # noqa: F401 -- takes seconds, during which the spinner turns


def add_prefer(train: typer.Typer) -> None:
    """Add the command to the group of training stages."""
    command = with_flags(PreferConfig, helps(PreferConfig), prefer, FLAGS)
    add(train, command, *EXAMPLES, name="prefer")
