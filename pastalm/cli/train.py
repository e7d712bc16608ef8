"""`pasta train`: the training stages, flags derived from their configs."""

from __future__ import annotations

import typer

from pastalm.cli.flags import with_flags
from pastalm.cli.help import examples
from pastalm.cli.models import hush, working
from pastalm.cli.prefer import add_prefer
from pastalm.cli.verbs import Group, add
from pastalm.training.config import SftConfig, helps

EXAMPLES = (
    "pasta train sft --model gemma-7b --data train.jsonl --out my-model --epochs 4",
    "pasta train sft --model gemma-7b --data train.jsonl --out my-model --lora 16",
    "pasta train sft --model gemma-7b --data train.jsonl --out baseline --plain 1",
    "accelerate launch --num_processes 8 -m pastalm.cli train sft --model gemma-7b --data train.jsonl --out tuned",
)


class MissingExtraError(ValueError):
    """A package that training needs and that is not installed."""


train = typer.Typer(no_args_is_help=True, cls=Group, epilog=examples(*EXAMPLES))


@train.callback()
def _train() -> None:
    """Train a model to mark and fork its answers."""


def sft(config: SftConfig) -> None:
    """Stage 1: fine-tune a model on annotated answers. An interrupted run goes on where it was."""
    with working("Starting .."):
        hush()
        try:
            from pastalm.training.processes import disband, leads
            from pastalm.training.sft import train_sft
        except ImportError as error:
            raise MissingExtraError(f"Training needs {error.name}: pip install 'pastalm[train]'.") from error

    place = train_sft(config)
    disband()
    if leads():
        typer.echo(f"Model written to {place}.")


add(train, with_flags(SftConfig, helps(SftConfig), sft), *EXAMPLES, name="sft")
add_prefer(train)
