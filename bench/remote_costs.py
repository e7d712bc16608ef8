"""What the way over HTTP costs: the same prompts and model in our engine and behind a completion server.

    python -m bench.remote_costs http://127.0.0.1:8000/v1 --model MODEL --prompts tasks:held-out:22 --pids 10,11,12

Prints what all answers took, one at a time, in parallel and sequentially, here and at the server, in turn; and what the
server was asked for. The server, vLLM, must serve nobody else. ``--pids`` are its processes on this machine: the
seconds of the processor, which other work lengthens less than those of the clock, then count them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import sysconf
from pathlib import Path
from time import process_time

from pastalm.data.questions import read_questions
from pastalm.evaluation.bench.remote import MeasuredServer
from pastalm.lang.prompt import Prompt
from pastalm.runtime.engine import Engine
from pastalm.runtime.mode import Mode
from pastalm.runtime.response import Response

Answer = Callable[[Prompt, Mode], Response]


@dataclass
class Spent:
    """Seconds of the clock and of the processor, and tokens."""

    clock: float = 0.0
    processor: float = 0.0
    tokens: int = 0

    def add(self, answer: Answer, prompt: Prompt, mode: Mode, pids: Sequence[int]) -> None:
        """Have a prompt answered, and add what that took."""
        before = processor_seconds(pids)
        found = answer(prompt, mode).metrics
        self.processor += processor_seconds(pids) - before
        self.clock += found.wall_seconds
        self.tokens += found.tokens


def processor_seconds(pids: Sequence[int]) -> float:
    """What this process and others have used of the processor so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # in the program and in the system
    return process_time() + ticks / sysconf("SC_CLK_TCK")


def measure(engine: Engine, server: MeasuredServer, prompts: Sequence[Prompt], pids: Sequence[int]) -> dict:
    """What the answers took, by place and mode."""

    def here(prompt: Prompt, mode: Mode) -> Response:
        return engine.generate(prompt, mode=mode, max_tokens=server.max_tokens)

    here(prompts[0], Mode.ASYNC)  # warms the model up
    places: dict[str, Answer] = {"here": here, "server": server.answer}
    spent = {(place, mode): Spent() for place in places for mode in (Mode.ASYNC, Mode.SEQUENTIAL)}
    for prompt in prompts:
        for (place, mode), one in spent.items():
            one.add(places[place], prompt, mode, pids if place == "server" else ())
    return spent


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("url", help="the base URL of the server, .../v1")
    parser.add_argument("--model", required=True, help="the model that it serves, to be run here as well")
    parser.add_argument("--prompts", default="tasks:held-out:22")
    parser.add_argument("--dtype", default="float32", help="the server's number type")
    parser.add_argument("--max-tokens", type=int, default=600)
    parser.add_argument("--pids", default="", help="the server's processes, with commas between")
    asked = parser.parse_args(arguments)
    prompts = [question.prompt for question in read_questions(asked.prompts, None)]
    remote = Engine.remote(asked.url, None, asked.model)
    server = MeasuredServer(remote, [asked.url], asked.max_tokens)
    pids = [int(pid) for pid in asked.pids.split(",") if pid]
    spent = measure(Engine.from_pretrained(asked.model, "cpu", asked.dtype), server, prompts, pids)
    remote.release()
    print(f"{len(prompts)} prompts, one at a time: seconds of the clock, of the processor, tokens")
    for (place, mode), one in spent.items():
        print(f"{place:6} {mode:10} {one.clock:8.2f} {one.processor:8.2f} {one.tokens:6}")
    for cost in server.costs.values():
        print(
            f"{cost.mode}: {cost.requests} completions, {cost.sent} tokens of prompts sent, {cost.prompts} of them the "
            f"prompts' own; {cost.cached} in the cache, {cost.again} computed again"
        )


if __name__ == "__main__":
    main()
