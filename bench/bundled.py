"""Train the bundled model from nothing: tasks, tokenizer, stage 1. A killed run goes on where it was.

    python -m bench.bundled --out runs/bundled

Writes OUT/tasks.jsonl, OUT/start (the untrained model) and OUT/model (the trained one, with its checkpoints).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.progress import track

from pastalm.data.examples import read_records
from pastalm.data.tasks import sample, to_json
from pastalm.training.config import SftConfig
from pastalm.training.scratch import start
from pastalm.training.sft import train_sft


def write_tasks(path: Path, number: int) -> None:
    """Training tasks, at once or not at all."""
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as out:
        for task in track(sample("train", 0, number), description="Writing tasks"):
            out.write(to_json(task) + "\n")
    part.rename(path)


def main() -> None:
    """Run the training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bundled"))
    parser.add_argument("--number", type=int, default=46000, help="tasks to train on")
    parser.add_argument("--steps", type=int, default=2700)
    parser.add_argument("--decay", type=float, default=0.35, help="share of the steps over which the rate falls to 0")
    parser.add_argument("--batch", type=int, default=8, help="rows of 640 tokens in a step")
    parser.add_argument("--plain", type=float, default=0.4, help="share of answers without tags; 1 is Baseline-SFT")
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    data = options.out / "tasks.jsonl"
    if not data.exists():
        write_tasks(data, options.number)
    if not (options.out / "start" / "model.safetensors").exists():
        records = [record for record, _ in zip(read_records(data), range(6000), strict=False)]
        start((f"{record.prompt}\n{record.answer.plain}" for record in records), options.out / "start")
    config = SftConfig(
        model=str(options.out / "start"),
        data=str(data),
        out=str(options.out / "model"),
        plain=options.plain,
        steps=options.steps,
        batch=options.batch,
        row=640,
        learning_rate=2e-3,
        warmup=60,
        decay=options.decay,
        beta2=0.98,
        prompt_loss=True,
        bf16=options.bf16,
        save_every=100,
    )
    print(f"The trained model is in {train_sft(config)}.")


if __name__ == "__main__":
    main()
