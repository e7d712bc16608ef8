"""The bundled model (or any other) on held-out tasks: share of answers accepted, speedup, efficiency, per family.

    python -m bench.tasks --number 330 --out figures.json

Each task is answered both ways, one after the other, which way first alternates. Interrupted runs print what they have.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pastalm.data.tasks import FAMILIES, SPLITS, check, sample
from pastalm.data.tasks.task import Task
from pastalm.evaluation.comparison import Pair, Summary, summarise
from pastalm.runtime.engine import Engine

MAX_TOKENS = 900
SERIAL = ("chain", "rewrite")


def answer(engine: Engine, task: Task, first: str) -> Pair:
    """Both answers to a task; ``first`` is the mode that goes first."""
    messages = [{"role": "user", "content": task.prompt}]
    modes = (first, "sequential" if first == "async" else "async")
    found = {mode: engine.generate(messages, mode=mode, max_tokens=MAX_TOKENS) for mode in modes}
    verdicts = tuple(check(task.family, task.facts, found[mode].text) for mode in ("async", "sequential"))
    return Pair(found["async"], found["sequential"], task.family, verdicts)


def groups(pairs: Sequence[Pair]) -> dict[str, Summary]:
    """Summaries of each family, of those that should fork, of the serial ones, of all."""
    chosen = {name: [pair for pair in pairs if pair.family == name] for name in FAMILIES}
    chosen["should fork"] = [pair for pair in pairs if FAMILIES[pair.family].forks]
    chosen["serial"] = [pair for pair in pairs if pair.family in SERIAL]
    chosen["all"] = list(pairs)
    return {name: summarise(own) for name, own in chosen.items() if own}


def table(summaries: dict[str, Summary]) -> Table:
    """The summaries for the terminal."""
    heads = ("family", "tasks", "accepted async", "sequential", "theoretical x", "realised x", "efficiency", "forked")
    shown = Table(*heads, title="held-out tasks")
    for name, s in summaries.items():
        accepted = (f"{100 * s.accepted_async:.1f}%", f"{100 * s.accepted_sequential:.1f}%")
        speeds = (f"{s.theoretical:.2f}", f"{s.realised:.2f}", f"{s.efficiency:.2f}", f"{100 * s.forked:.0f}%")
        shown.add_row(name, str(s.number), *accepted, *speeds)
    return shown


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled", help="a directory, a hub id, or the one that ships")
    parser.add_argument("--number", type=int, default=330)
    parser.add_argument("--split", choices=SPLITS, default="held-out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    parser.add_argument("--failures", type=Path, help="write the answers that were not accepted as JSON lines")
    options = parser.parse_args()
    engine = Engine.from_pretrained(options.model, dtype=options.dtype)
    engine.generate([{"role": "user", "content": "warm up"}], max_tokens=20)
    pairs: list[Pair] = []
    failures = []
    try:
        tasks = sample(options.split, options.seed, options.number)
        for index, task in enumerate(track(tasks, description="Answering", console=Console(stderr=True))):
            pair = answer(engine, task, ("async", "sequential")[index % 2])
            pairs.append(pair)
            if not all(pair.accepted or ()):
                both = {"async": pair.asynchronous.annotated, "sequential": pair.sequential.text}
                failures.append({"family": task.family, "prompt": task.prompt, "accepted": pair.accepted, **both})
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted; these are the figures so far.")
    if not pairs:
        return
    summaries = groups(pairs)
    Console().print(table(summaries))
    if options.failures:
        options.failures.write_text("\n".join(map(json.dumps, failures)) + "\n")
    if options.out:
        machine = {"device": str(engine.runner.device), "threads": torch.get_num_threads(), "torch": torch.__version__}
        rows = {name: asdict(summary) for name, summary in summaries.items()}
        options.out.write_text(
            json.dumps({"machine": {**machine, "cpu": platform.machine()}, "figures": rows}, indent=2)
        )


if __name__ == "__main__":
    main()
