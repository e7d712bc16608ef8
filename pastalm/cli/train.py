"""`pasta train`: the training stages, flags derived from their configs."""

from __future__ import annotations

import typer

from pastalm.cli.flags import with_flags
from pastalm.cli.models import hush, working
from pastalm.lang.positions import POLICIES
from pastalm.training.config import SftConfig

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


train = typer.Typer(no_args_is_help=True, epilog=EXAMPLE)


@train.callback()
def _train() -> None:
    """Train a model to mark and fork its answers."""


def sft(config: SftConfig) -> None:
    """Stage 1: fine-tune a model on annotated answers. An interrupted run goes on where it was."""
    with working("Starting .."):
        hush()
        from pastalm.training.sft import train_sft

    place = train_sft(config)
    typer.echo(f"Model written to {place}.")


train.command("sft", epilog=EXAMPLE)(with_flags(SftConfig, SFT_HELP, sft))
