"""What a step costs beside the model: the host's time of a step, before and after a change, in one run.

    python -m bench.host_time --before ../other-checkout --out figures.json

Decodes 1, 8 and 32 sequences with the bundled model and with a random Llama of 30 layers and width 576, in float32.
The time of a step is the processor time of this process, so that other work on the machine counts little; what the
model's own forward pass takes is subtracted, and the least of ``--rounds`` rounds is reported. With ``--before`` every
measurement is made in turn by two processes, one with the code of that checkout, one with this; any checkout does whose
``pastalm.runtime`` holds either ``scheduler`` or ``batcher``. ``--top-p`` and ``--temperature`` say how tokens are
drawn.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

MODELS = ("bundled", "llama-30x576")
WARM_UP = 8  # steps


def load(name: str, vocabulary: int) -> Any:
    """An engine for one of ``MODELS``."""
    from pastalm import Engine
    from pastalm.runtime.load import load as load_model

    model, tokenizer = load_model("bundled", "cpu", torch.float32)
    if name != "bundled":
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
        )
        model = LlamaForCausalLM(config).eval()
    return Engine(model, tokenizer)


def measure(engine: Any, sequences: int, steps: int, options: dict[str, Any]) -> tuple[float, float]:
    """Milliseconds of processor time of a step, and of the model's forward in it: medians over ``steps``."""
    spent = 0.0
    forward = engine.runner.model.forward

    def timed(*arguments: Any, **named: Any) -> Any:
        nonlocal spent
        started = process_time()
        found = forward(*arguments, **named)
        spent += process_time() - started
        return found

    try:
        from pastalm.runtime.scheduler import Scheduler as Batch
    except ImportError:
        from pastalm.runtime.batcher import Batcher as Batch  # type: ignore[import-not-found,no-redef]
    batch = Batch(engine.runner, sequences, 400)
    limit = steps + WARM_UP + 8
    engine.eos = frozenset()  # nothing ends before it is measured
    for seed in range(sequences):
        batch.add(engine.request("hello world", mode="sequential", max_tokens=limit, seed=seed, **options))
    for _ in range(WARM_UP):
        batch.step()
    times, inside = [], []
    engine.runner.model.forward = timed
    try:
        for _ in range(steps):
            spent = 0.0
            started = process_time()
            batch.step()
            times.append((process_time() - started) * 1000)
            inside.append(spent * 1000)
    finally:
        engine.runner.model.forward = forward
    return median(times), median(inside)


def serve(settings: dict[str, Any]) -> None:
    """Measure what is asked for, a line of JSON each; the parent process says when."""
    torch.set_num_threads(1)
    engines = {name: load(name, settings["vocabulary"]) for name in settings["models"]}
    for line in sys.stdin:
        name, sequences = json.loads(line)
        print(json.dumps(measure(engines[name], sequences, settings["steps"], settings["sampling"])), flush=True)


class Code:
    """A process that runs this file with the package of one checkout."""

    def __init__(self, name: str, checkout: Path, settings: dict[str, Any]) -> None:
        self.name = name
        environment = {**os.environ, "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=checkout,
        )

    def ask(self, name: str, sequences: int) -> list[float]:
        """One measurement."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps([name, sequences]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All measurements, the codes in turn, the least time of all rounds."""
    sampling = {"temperature": options.temperature, "top_p": options.top_p}
    settings = {
        "models": options.models,
        "vocabulary": options.vocabulary,
        "steps": options.steps,
        "sampling": sampling,
    }
    checkouts = {"before": options.before, "after": Path(__file__).resolve().parents[1]}
    codes = [Code(name, path.resolve(), settings) for name, path in checkouts.items() if path]
    found: dict[tuple[str, int, str], list[list[float]]] = {}
    for _ in range(options.rounds):
        for name in options.models:
            for sequences in options.sequences:
                for code in codes:
                    found.setdefault((name, sequences, code.name), []).append(code.ask(name, sequences))
    rows = []
    for (name, sequences, code), times in found.items():
        step = min(time for time, _ in times)
        host = min(time - inside for time, inside in times)
        rows.append({"model": name, "sequences": sequences, "code": code, "step": step, "host": host})
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of the code to compare with")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--sequences", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vocabulary", type=int, default=4096, help="of the random Llama")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    rows = compare(options)
    table = Table("model", "sequences", "code", "ms a step", "ms beside the model", "share", title="host time")
    for row in rows:
        numbers = [f"{row['step']:.2f}", f"{row['host']:.2f}", f"{row['host'] / row['step']:.0%}"]
        table.add_row(row["model"], str(row["sequences"]), row["code"], *numbers)
    Console().print(table)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
