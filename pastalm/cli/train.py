"""`pasta train`: the training stages, flags derived from their configs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from pastalm.cli.flags import with_flags
from pastalm.cli.models import hush, working
from pastalm.lang.positions import POLICIES

if TYPE_CHECKING:
    from pastalm.training.sft import SftConfig

EXAMPLE = "Examples:\n\npasta train sft --model gemma-7b --data train.jsonl --out my-model --epochs 4"

SFT_HELP = {
    "model": "The model to start from: a directory or a hub id.",
    "data": "Annotated JSONL; `pasta check` validates it.",
    "out": "The directory for checkpoints and the finished model.",
    "positions": f"The position policy: {', '.join(POLICIES)}.",
    "plain": "Share of answers that lose their tags; 1 trains Baseline-SFT.",
    "epochs": "Passes over the data.",
    "steps": "Optimizer steps; -1 goes by --epochs.",
    "batch": "Rows in a step of one device.",
    "accumulate": "Steps whose gradients are added before the weights change.",
    "row": "Tokens of a packed row; longer examples are left out.",
    "learning_rate": "The highest learning rate.",
    "warmup": "Steps of rising learning rate.",
    "decay": "Share of the steps, the last ones, over which the learning rate falls to zero.",
    "weight_decay": "Weight decay.",
    "beta2": "The decay of AdamW's second moment.",
    "prompt_loss": "Train on prompts too; models from random weights need it.",
    "bf16": "Compute in bfloat16.",
    "save_every": "Steps between checkpoints.",
    "seed": "The seed of order and initialisation.",
    "resume": "Go on from the last checkpoint in --out, if there is one.",
}


class Stages(TyperGroup):
    """The training commands. They are built when asked for, since their configs come with torch."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the stages."""
        return ["sft"]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a stage, None for an unknown one."""
        return _sft_command() if cmd_name == "sft" else None


train = typer.Typer(cls=Stages, no_args_is_help=True, epilog=EXAMPLE)


@train.callback()
def _train() -> None:
    """Train a model to mark and fork its answers."""


def _sft_command() -> Any:
    with working("Starting .."):
        hush()
        from pastalm.training.sft import SftConfig

    one = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})
    one.command("sft", epilog=EXAMPLE)(with_flags(SftConfig, SFT_HELP, sft))
    return get_command(one)


def sft(config: SftConfig) -> None:
    """Stage 1: fine-tune a model on annotated answers. An interrupted run goes on where it was."""
    from pastalm.training.sft import train_sft

    place = train_sft(config)
    typer.echo(f"Model written to {place}.")
