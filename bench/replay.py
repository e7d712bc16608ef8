"""Known answers replayed through a random model of real size: what the runtime makes of real annotations.

    python -m bench.replay TRACES.jsonl --number 40 --out figures.json

Each line of TRACES holds ``instruction`` (or ``prompt``) and ``annotated``. The model is a random Llama of about 100M
parameters (``--layers``, ``--width``), its tokenizer a BPE trained on the file itself, so that tokens are as long as a
real model's. Theoretical speedup is counted over all answers; the realised one over ``--number`` of them, spread
evenly: each is decoded sequentially and asynchronously by force, one after the other, and both times compared.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from bench.scratch import train_tokenizer
from pastalm.evaluation.comparison import Pair, summarise
from pastalm.lang.answer import Answer
from pastalm.lang.clock import critical_path
from pastalm.lang.metrics import geometric
from pastalm.lang.parse import parse
from pastalm.lang.positions import position_policy
from pastalm.lang.script import compile_script
from pastalm.runtime.engine import Engine


def random_engine(texts: Sequence[str], layers: int, width: int, vocabulary: int, dtype: str, device: str) -> Engine:
    """A random Llama and a tokenizer for ``texts``."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(texts, vocabulary)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config).to(getattr(torch, dtype)).to(device)
    return Engine(model, tokenizer)


def replay(engine: Engine, prompt: str, answer: Answer, index: int) -> Pair:
    """Both ways through the same runtime; which goes first alternates."""
    ways = [answer, Answer((answer.plain,))]
    order = (0, 1) if index % 2 else (1, 0)
    found = {way: engine.replay(prompt, ways[way]) for way in order}
    return Pair(found[0], found[1])


def theoretical(engine: Engine, answers: Sequence[Answer]) -> list[float]:
    """The theoretical speedup of each answer over its own plain text."""
    policy = position_policy(engine.positions)
    paths = [critical_path(compile_script(answer, engine.vocabulary, policy), engine.vocabulary) for answer in answers]
    return [len(engine.codec.encode(answer.plain)) / path for answer, path in zip(answers, paths, strict=True)]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", type=Path)
    parser.add_argument("--number", type=int, default=40)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--vocabulary", type=int, default=16000)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.traces.read_text().splitlines() if line.strip()]
    prompts = [line.get("instruction") or line["prompt"] for line in lines]
    answers = [parse(line["annotated"]) for line in lines]
    texts = prompts + [answer.plain for answer in answers]
    engine = random_engine(texts, options.layers, options.width, options.vocabulary, options.dtype, options.device)
    size = sum(weight.numel() for weight in engine.runner.model.parameters())
    everything = theoretical(engine, answers)
    chosen = range(0, len(lines), max(1, len(lines) // options.number))
    engine.replay(prompts[0], Answer(("warm up",)))
    pairs: list[Pair] = []
    try:
        for index in track(chosen, description="Replaying", console=Console(stderr=True)):
            pairs.append(replay(engine, prompts[index], answers[index], len(pairs)))
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted; these are the figures so far.")
    forking = [one for one, answer in zip(everything, answers, strict=True) if answer.depth]
    figures = {
        "parameters": size,
        "dtype": options.dtype,
        "device": options.device,
        "answers": len(lines),
        "answers that fork": len(forking),
        "theoretical x, all answers": geometric(everything),
        "theoretical x, those that fork": geometric(forking),
    }
    if pairs:
        s = summarise(pairs)
        figures |= {"replayed": s.number, "theoretical x": s.theoretical, "realised x": s.realised}
        figures |= {"efficiency": s.efficiency, "theoretical x, arithmetic": s.theoretical_arithmetic}
        figures |= {"realised x, arithmetic": s.realised_arithmetic}
    shown = Table("figure", "value", title="replay")
    for name, value in figures.items():
        shown.add_row(name, f"{value:.3f}" if isinstance(value, float) else str(value))
    Console().print(shown)
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
