"""Train the bundled model from nothing: tasks, tokenizer, a warm-up, stage 1. A killed run goes on where it was.

    python -m bench.bundled --out runs/bundled

The warm-up mixes tasks with texts to be copied, from which a model with random weights learns to look back at its
prompt. Writes to OUT: the tasks, ``start`` (the untrained model), ``warm`` (after the warm-up), ``model``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from random import Random

from rich.progress import track

from pastalm.data.examples import read_records
from pastalm.data.tasks import sample, to_json
from pastalm.data.tasks.task import Task
from pastalm.training.config import SftConfig
from pastalm.training.scratch import start
from pastalm.training.sft import train_sft

COPY = ("Copy this text.", "Say this again, word for word.", "Repeat what follows.", "Write the same once more.")


def write(path: Path, lines: Iterable[str]) -> None:
    """Write lines, all or nothing."""
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as out:
        for line in lines:
            out.write(line + "\n")
    part.rename(path)


def warm_up(tasks: Iterable[Task], seed: int) -> Iterator[str]:
    """Each task, and its prompt as a text to be copied: lines of a data file."""
    rng = Random(seed)
    for task in tasks:
        ask = rng.choice(COPY)
        prompt = f"{ask}\n{task.prompt}" if rng.random() < 0.7 else f"{task.prompt}\n\n{ask}"
        yield to_json(task)
        yield json.dumps({"prompt": prompt, "annotated": task.prompt.strip()})


def beginning(out: Path) -> Path:
    """The untrained model; its tokenizer is trained on the first tasks."""
    if not (out / "start" / "model.safetensors").exists():
        records = islice(read_records(out / "tasks.jsonl"), 6000)
        start((f"{record.prompt}\n{record.answer.plain}" for record in records), out / "start")
    return out / "start"


def main() -> None:
    """Run the training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bundled"))
    parser.add_argument("--number", type=int, default=46000, help="tasks to train on")
    parser.add_argument("--steps", type=int, default=2700)
    parser.add_argument("--warm-up", type=int, default=600, help="steps of the warm-up")
    parser.add_argument("--decay", type=float, default=0.35, help="share of the steps over which the rate falls to 0")
    parser.add_argument("--batch", type=int, default=8, help="rows of 640 tokens in a step")
    parser.add_argument("--plain", type=float, default=0.4, help="share of answers without tags; 1 is Baseline-SFT")
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "tasks.jsonl").exists():
        tasks = sample("train", 0, options.number)
        write(out / "tasks.jsonl", map(to_json, track(tasks, description="Writing tasks")))
    if not (out / "warm.jsonl").exists():
        number = options.batch * options.warm_up
        tasks = sample("train", 1, number)
        write(out / "warm.jsonl", warm_up(track(tasks, description="Writing the warm-up"), seed=1))
    common = {"batch": options.batch, "row": 640, "learning_rate": 2e-3, "beta2": 0.98, "bf16": options.bf16}
    common |= {"prompt_loss": True, "save_every": 100}
    warm = SftConfig(
        str(beginning(out)),
        str(out / "warm.jsonl"),
        str(out / "warm"),
        steps=options.warm_up,
        warmup=60,
        decay=0.0,
        plain=0.5,
        **common,
    )
    if not (out / "warm" / "model.safetensors").exists():
        train_sft(warm)
    config = SftConfig(
        str(out / "warm"),
        str(out / "tasks.jsonl"),
        str(out / "model"),
        steps=options.steps,
        warmup=20,
        decay=options.decay,
        plain=options.plain,
        **common,
    )
    print(f"The trained model is in {train_sft(config)}.")


if __name__ == "__main__":
    main()
