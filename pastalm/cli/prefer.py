"""`pasta train prefer`: stage 2, flags derived from its config."""

from __future__ import annotations

import os

import typer

from pastalm.cli.flags import with_flags
from pastalm.cli.models import hush, working
from pastalm.training.prefer_config import LOSSES, SPEEDS, PreferConfig

EXAMPLES = "\n\n".join(
    (
        "Examples:",
        "pasta train prefer --model stage1 --data tasks.jsonl --out stage2 --lambda 4",
        "pasta train prefer --model stage1 --data tasks.jsonl --out inf --lambda inf --reuse stage2",
        "pasta train prefer --model stage1 --baseline plain --data prompts.jsonl --out stage2 --judge my-judge "
        "--judge-url http://localhost:8000/v1",
        "accelerate launch --num_processes 8 -m pastalm.cli train prefer --model stage1 --data tasks.jsonl --out s2",
    )
)

HELP = {
    "model": "The stage-1 model: a directory or a hub id.",
    "data": "Prompts as JSONL: tasks with their facts, or for a judge any with 'prompt' or 'messages'.",
    "out": "The directory for samples, scores, pairs and models.",
    "baseline": "Baseline-SFT, against which speed and quality count. Default: --model, decoded sequentially.",
    "reuse": "Another run's directory, to take over what it sampled in round 1 and what its judge said.",
    "rounds": "How often; the second round samples from the first's model.",
    "samples": "Answers a prompt.",
    "limit": "Take the first N prompts only; 0 takes all.",
    "temperature": "The sampling temperature.",
    "max_tokens": "The most tokens an answer may have, all threads together.",
    "lanes": "Answers decoded at once.",
    "quality_weight": "Lambda in score = speed + lambda * quality; 'inf' goes by quality alone.",
    "speed": f"The speed term: {', '.join(SPEEDS)}.",
    "judge": "The model that judges quality, as its endpoint names it. Default: the tasks' own checker.",
    "judge_url": "The judge's OpenAI-compatible endpoint. Default: OpenAI's own.",
    "key_env": "The environment variable that holds the judge's key.",
    "concurrency": "Requests to the judge that are in flight at once.",
    "loss": f"The loss: {', '.join(LOSSES)}.",
    "alpha": "BoNBoN's weight of the chosen answer's likelihood.",
    "margin": "BoNBoN's margin in nats; 0 takes the one that belongs to --samples.",
    "beta": "DPO's beta, IPO's tau.",
    "epochs": "Passes over the pairs of a round.",
    "steps": "Optimizer steps of a round; -1 goes by --epochs.",
    "batch": "Pairs in a step of one device.",
    "accumulate": "Steps whose gradients are averaged before the weights change.",
    "learning_rate": "The highest learning rate.",
    "warmup": "Steps of rising learning rate.",
    "decay": "Share of a round's steps, the last ones, over which the learning rate falls to zero.",
    "weight_decay": "Weight decay.",
    "beta2": "The decay of AdamW's second moment.",
    "lora": "The rank of low-rank adapters; 0 trains all weights.",
    "lora_alpha": "The adapters' scale.",
    "lora_dropout": "Dropout before the adapters.",
    "lora_targets": "Modules that get adapters, with commas between, or 'all-linear'.",
    "gradient_checkpointing": "Compute layers again in the backward pass: less memory, more time.",
    "bf16": "Compute in bfloat16.",
    "snapshots": "Shares of a round after which the model is kept, such as 0.1,0.5.",
    "save_every": "Steps between checkpoints.",
    "log_every": "Steps between logs.",
    "seed": "The seed of sampling, order and initialisation.",
}


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
    from pastalm.training.data import disband
    from pastalm.training.prefer import train_prefer

    place = train_prefer(config)
    disband()
    if leads:
        typer.echo(f"Model written to {place}.")


def _load() -> None:
    hush()
    import pastalm.training.optimise  # noqa: F401 -- takes seconds, during which the spinner turns


def add_prefer(train: typer.Typer) -> None:
    """Add the command to the group of training stages."""
    train.command("prefer", epilog=EXAMPLES)(with_flags(PreferConfig, HELP, prefer, {"quality_weight": "--lambda"}))
