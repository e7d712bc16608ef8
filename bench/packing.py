"""What packing is worth: tokens a second and peak memory of stage 1, packed against one example a row.

    python -m bench.packing

All runs train the same examples (generated tasks) once on a random Llama, about as many tokens in each step. Only
tokens of examples count, padding does not. Each run is a process of its own, so that its peak memory is its own. On a
CPU that does other things besides, tokens a CPU second are the figure to trust.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from pastalm.tasks import sample, to_json

COLUMNS = {
    "tokens_per_second": "tokens/s",
    "fill": "share of tokens",
    "peak_memory_mib": "peak MiB",
    "per_cpu_second": "tokens/CPU s",
    "steps": "steps",
    "tokens": "tokens",
    "seconds": "s",
}


def base(place: Path, texts: list[str], width: int, layers: int) -> None:
    """A random Llama with a tokenizer of these texts."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from bench.scratch import train_tokenizer

    torch.manual_seed(0)
    tokenizer = train_tokenizer(texts, 1024)
    settings = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 8 // 3 // 32 * 32,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(settings).save_pretrained(place)
    tokenizer.save_pretrained(place)


def trained(place: Path, options: argparse.Namespace, name: str, batch: int, *flags: str) -> dict[str, float]:
    """The figures of one run over all examples once, in a process of its own."""
    out = place / name
    arguments = ["--model", place / "base", "--data", place / "tasks.jsonl", "--out", out, "--epochs", 1]
    arguments += ["--row", options.row, "--batch-size", batch, "--save-every", 10**6, *flags]
    command = [sys.executable, "-m", "pastalm.cli", "train", "sft", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    figures = json.loads((out / "run.json").read_text())["figures"]
    return {**figures, "per_cpu_second": round(figures["tokens"] / max(figures["cpu_seconds"], 1e-9), 1)}


def main() -> None:
    """Run both and print them side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=300, help="generated tasks")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--row", type=int, default=512, help="tokens of a packed row")
    parser.add_argument("--batch-size", type=int, default=4, help="packed rows in a step")
    parser.add_argument("--out", type=Path, help="also write the figures here, as JSON")
    options = parser.parse_args()
    tasks = sample("train", 0, options.number)
    with TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "tasks.jsonl").write_text("".join(to_json(task) + "\n" for task in tasks), encoding="utf-8")
        base(place / "base", [f"{task.prompt}\n{task.answer.plain}" for task in tasks], options.width, options.layers)
        packed = trained(place, options, "packed", options.batch_size)
        mean = packed["tokens"] / options.number
        many = max(1, round(options.batch_size * options.row * packed["fill"] / mean))  # as many tokens in a step
        found = {
            f"packed, {options.batch_size} of {options.row}": packed,
            f"one example a row, {many}": trained(place, options, "alone", many, "--no-pack"),
            "packed, layers recomputed": trained(
                place, options, "again", options.batch_size, "--gradient-checkpointing"
            ),
        }
    table = Table("rows", *COLUMNS.values())
    for name, figures in found.items():
        table.add_row(name, *(f"{figures[column]:g}" for column in COLUMNS))
    Console().print(table)
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
