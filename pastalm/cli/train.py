"""`pasta train`: the training stages, flags derived from their configs."""

from __future__ import annotations

import typer

from pastalm.cli.flags import with_flags
from pastalm.cli.models import hush, working
from pastalm.cli.prefer import add_prefer
from pastalm.lang.positions import DEFAULT, POLICIES
from pastalm.training.config import ALL_LINEAR, SftConfig

EXAMPLE = "\n\n".join(
    (
        "Examples:",
        "pasta train sft --model gemma-7b --data train.jsonl --out my-model --epochs 4",
        "pasta train sft --model gemma-7b --data train.jsonl --out my-model --lora 16 --learning-rate 2e-4 --bf16",
        "pasta train sft --model gemma-7b --data train.jsonl --out baseline --plain 1",
        "accelerate launch --num_processes 8 -m pastalm.cli train sft --model gemma-7b --data train.jsonl --out tuned",
    )
)

SFT_HELP = {
    "model": "The model to start from: a directory or a hub id.",
    "data": "Annotated JSONL; `pasta check` validates it.",
    "out": "The directory for checkpoints and the finished model.",
    "eval_data": "Held-out annotated JSONL, whose loss is told with every checkpoint and at the end.",
    "positions": f"The position policy: {', '.join(POLICIES)}. Default: the model's own, else {DEFAULT}.",
    "plain": "Share of answers that lose their tags; 1 trains Baseline-SFT.",
    "epochs": "Passes over the data.",
    "steps": "Optimizer steps; -1 goes by --epochs.",
    "batch": "Rows in a step of one device.",
    "accumulate": "Steps whose gradients are added before the weights change.",
    "row": "Tokens of a packed row; longer examples are left out.",
    "pack": "As many examples in a row as fit, or one.",
    "learning_rate": "The highest learning rate.",
    "warmup": "Steps of rising learning rate.",
    "decay": "Share of the steps, the last ones, over which the learning rate falls to zero.",
    "weight_decay": "Weight decay.",
    "beta2": "The decay of AdamW's second moment.",
    "prompt_loss": "Train on prompts too; models from random weights need it.",
    "lora": "Rank of low-rank adapters; 0 trains all weights. The rows of the tags are trained in either case.",
    "lora_alpha": "Adapters count alpha / rank times.",
    "lora_dropout": "Share of the adapters' inputs left out at random.",
    "lora_targets": f"The modules that get adapters, with commas between; {ALL_LINEAR!r}: all but the head.",
    "gradient_checkpointing": "Compute layers again in the backward pass: slower, less memory.",
    "bf16": "Compute in bfloat16.",
    "save_every": "Steps between checkpoints.",
    "log_every": "Steps between lines of the log; TensorBoard reads it from OUT/runs.",
    "seed": "The seed of order and initialisation.",
    "resume": "Go on from the last checkpoint in --out, if there is one.",
}


class MissingExtraError(ValueError):
    """A package that training needs and that is not installed."""


train = typer.Typer(no_args_is_help=True, epilog=EXAMPLE)


@train.callback()
def _train() -> None:
    """Train a model to mark and fork its answers."""


def sft(config: SftConfig) -> None:
    """Stage 1: fine-tune a model on annotated answers. An interrupted run goes on where it was."""
    with working("Starting .."):
        hush()
        try:
            from pastalm.training.data import disband, leads
            from pastalm.training.sft import train_sft
        except ImportError as error:
            raise MissingExtraError(f"Training needs {error.name}: pip install 'pastalm[train]'.") from error

    place = train_sft(config)
    disband()
    if leads():
        typer.echo(f"Model written to {place}.")


train.command("sft", epilog=EXAMPLE)(with_flags(SftConfig, SFT_HELP, sft))
add_prefer(train)
