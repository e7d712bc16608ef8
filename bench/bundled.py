"""Train the bundled model from nothing: tasks, tokenizer, drills, plain answers to all tasks, then stage 1.

    python -m bench.bundled --out runs/bundled

A killed run goes on where it was. Each phase begins with the model of the one before it and leaves its own in a folder
of its name: ``start`` (untrained), ``short`` (the wording of short tasks), ``copying`` and ``looking-up`` (drills),
``skills`` (more drills, and short tasks again), ``base`` (all tasks and drills), all with plain answers, so that
``base`` is what a pretrained model is elsewhere; then ``model``, stage 1, on the same. The baselines of bench.study
start from ``base`` too. Most steps are small: a model with random weights gains more from many small steps than from
few large ones. The order was found by trial, see docs/log.md.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path

from rich.progress import track
from transformers import AutoTokenizer

from bench.drills import WORDS, drills
from bench.scratch import start
from bench.shards import SHARD, shard
from pastalm.training.config import DTYPES, SftConfig
from pastalm.training.sft import train_sft

SHORT = {"tokens": 275, "of a family": 2600, "of a family with short tasks": 1500}
WITH_SHORT = ("short", "chain", "rewrite")
TAGLESS = 0.2  # share of stage 1's answers that lose their tags: sequential decoding stays natural


def write(path: Path, lines: Iterable[str]) -> None:
    """Write lines, all or nothing."""
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as out:
        out.writelines(line + "\n" for line in lines)
    part.rename(path)


def drawn(number: int) -> Iterator[str]:
    """The first ``number`` lines of all seeds, drawn side by side."""
    seeds = range(-(-number // SHARD))
    with get_context("spawn").Pool() as pool:
        for seed, lines in zip(seeds, track(pool.imap(shard, seeds), "Writing tasks", len(seeds)), strict=True):
            yield from lines[: number - seed * SHARD]


def texts(path: Path, number: int) -> Iterator[str]:
    """What the tokenizer is trained on: tasks, and the words that tasks copy, often enough to become one token each."""
    with path.open(encoding="utf-8") as lines:
        for fields in map(json.loads, (line for line, _ in zip(lines, range(number), strict=False))):
            yield f"{fields['prompt']}\n{fields['answer']}"
    for _ in range(number // 15):
        yield from (f"{word}\n {word}" for word in WORDS)


def short(path: Path, model: Path) -> Iterator[str]:
    """The lines of tasks that are short, of no family too many."""
    tokenizer, taken = AutoTokenizer.from_pretrained(model), Counter()
    with path.open(encoding="utf-8") as lines:
        for line in track(lines.readlines(), "Choosing short tasks"):
            task = json.loads(line)
            most = SHORT["of a family with short tasks" if task["family"] in WITH_SHORT else "of a family"]
            if taken[task["family"]] < most and len(tokenizer(task["prompt"] + task["answer"])[0]) <= SHORT["tokens"]:
                taken[task["family"]] += 1
                yield line.rstrip("\n")


def make_data(out: Path, number: int) -> None:
    """Write what is missing of the data and of the untrained model."""
    tasks = out / "tasks.jsonl"
    if not tasks.exists():
        write(tasks, drawn(number))
    if not (out / "start" / "model.safetensors").exists():
        start(texts(tasks, 6000), out / "start")
    if not (out / "short.jsonl").exists():
        write(out / "short.jsonl", short(tasks, out / "start"))
    for grade, name in (("copying", "copying"), ("looking up", "looking-up")):
        if not (out / f"{name}.jsonl").exists():
            write(out / f"{name}.jsonl", islice(drills(grade, 0), number // 4))
    if not (out / "skills.jsonl").exists():
        brief = (out / "short.jsonl").read_text(encoding="utf-8").splitlines()
        write(out / "skills.jsonl", chain(brief, islice(drills("skills", 1), number)))
    if not (out / "all.jsonl").exists():
        with tasks.open(encoding="utf-8") as lines:
            write(out / "all.jsonl", chain((line.rstrip("\n") for line in lines), islice(drills("skills", 2), number)))


def phases(out: Path, options: argparse.Namespace) -> Iterator[SftConfig]:
    """The settings of each phase, in order."""
    share = options.steps / 7500
    sizes = {  # rows of so many tokens, so many rows a step, steps, learning rate
        "short": (320, 5, 1800, 2e-3),
        "copying": (128, 8, 300, 1.5e-3),
        "looking-up": (128, 8, 300, 1.2e-3),
        "skills": (320, 5, 3000, 1.2e-3),
        "base": (560, 4, 7500, 1.5e-3),
        "model": (560, 4, 5000, 1.1e-3),
    }
    model = out / "start"
    for name, (row, rows, steps, rate) in sizes.items():
        all_tasks = name in ("base", "model")
        yield SftConfig(
            str(model),
            str(out / ("all.jsonl" if all_tasks else f"{name}.jsonl")),
            str(out / name),
            plain=TAGLESS if name == "model" else 1.0,
            row=row,
            batch_size=rows * options.batch_size,
            steps=max(1, round(steps * share)),
            learning_rate=rate,
            warmup=30,
            decay=0.98 if all_tasks else 0.0,
            beta2=0.98,
            dtype=options.dtype,
            save_every=100,
        )
        model = out / name


def main() -> None:
    """Run the training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bundled"))
    parser.add_argument("--number", type=int, default=56100, help="tasks to train on")
    parser.add_argument("--steps", type=int, default=7500, help="steps of the base; the other phases in proportion")
    parser.add_argument("--batch-size", type=int, default=1, help="times the rows of a step")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    make_data(options.out, options.number)
    for config in phases(options.out, options):
        if not (Path(config.out) / "model.safetensors").exists():
            train_sft(config)
    print(f"The trained model is in {config.out}.")


if __name__ == "__main__":
    main()
