"""What the way over HTTP costs: the same prompts and model in our engine and behind a completion server.

    python -m bench.remote_costs http://127.0.0.1:8000/v1 --model MODEL --prompts tasks:held-out:22

Prints the seconds of all answers, one at a time, in parallel and sequentially, in each of the two; and what the server
was asked for. The server, vLLM, must serve nobody else. Run both on the same processor with the same number of threads.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from pastalm.data.questions import read_questions
from pastalm.evaluation.bench.remote import MeasuredServer, ServerCosts
from pastalm.lang.prompt import Prompt
from pastalm.runtime.engine import Engine
from pastalm.runtime.mode import Mode

MODES = (Mode.ASYNC, Mode.SEQUENTIAL)


def native(engine: Engine, prompts: Sequence[Prompt], max_tokens: int) -> list[ServerCosts]:
    """Seconds and tokens of our own engine."""
    costs = {mode: ServerCosts(mode) for mode in MODES}
    engine.generate(prompts[0], max_tokens=32)  # warms the model up
    for prompt in prompts:
        for mode in MODES:
            found = engine.generate(prompt, mode=mode, max_tokens=max_tokens).metrics
            costs[mode].answers += 1
            costs[mode].tokens += found.tokens
            costs[mode].seconds += found.wall_seconds
    return list(costs.values())


def show(where: str, costs: Sequence[ServerCosts]) -> None:
    """A line for each mode."""
    for one in costs:
        speed = 1000 * one.seconds / max(1, one.tokens)
        print(f"{where:10} {one.mode:10} {one.seconds:8.2f} s  {one.tokens:6} tokens  {speed:6.2f} ms a token")
        if one.requests:
            sent = f"{one.sent} tokens of prompts sent, {one.prompts} of them the prompts' own"
            print(f"{'':10} {one.requests} completions; {sent}; {one.cached} in the cache, {one.again} computed again")


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("url", help="the base URL of the server, .../v1")
    parser.add_argument("--model", required=True, help="the model that it serves, to be run here as well")
    parser.add_argument("--prompts", default="tasks:held-out:22")
    parser.add_argument("--dtype", default="float32", help="the server's number type")
    parser.add_argument("--max-tokens", type=int, default=600)
    asked = parser.parse_args(arguments)
    prompts = [question.prompt for question in read_questions(asked.prompts, None)]
    print(f"{len(prompts)} prompts, one at a time; {torch.get_num_threads()} threads here")
    show("here", native(Engine.from_pretrained(asked.model, "cpu", asked.dtype), prompts, asked.max_tokens))
    engine = Engine.remote(asked.url, None, asked.model)
    server = MeasuredServer(engine, [asked.url], asked.max_tokens)
    pairs = list(server.pairs(prompts))
    engine.release()
    show("server", list(server.costs.values()))
    print(f"{sum(len(pair.answer.threads) - 1 for pair in pairs)} chunks")


if __name__ == "__main__":
    main()
