"""A load sweep over HTTP: a real `pasta serve`, real prompts, and clients that ask on as soon as they are answered.

    python -m bench.load --model bundled --clients 1,2,4,8,16,32

Each number of clients asks the same prompts twice, in parallel and sequentially; which goes first alternates. Answers
are streamed. ``--long N`` measures instead how evenly the pieces of a running answer come while the server reads a
prompt of N words for somebody else. Further flags go to `pasta serve`, behind ``--``.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.client import HTTPConnection
from itertools import cycle, islice, pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

from pastalm.data.questions import Question, read_questions
from pastalm.evaluation.bench.report import processor
from pastalm.files.atomic import write_json
from pastalm.runtime.mode import Mode

HEADS = (
    *("clients", "mode", "answers/s", "tokens/s", "first text, p50 s", "p99 s", "answer, p50 s", "p99 s"),
    "tokens/s, of sequential",
)


@dataclass(frozen=True)
class StreamedAnswer:
    """One answer as its client saw it: when it was asked for, and when its pieces came, in seconds; its tokens of text,
    tags left out."""

    asked: float
    pieces: tuple[float, ...]
    tokens: int

    @property
    def first(self) -> float:
        """Seconds to the first text."""
        return self.pieces[0] - self.asked

    @property
    def seconds(self) -> float:
        """Seconds to the end."""
        return self.pieces[-1] - self.asked


@dataclass(frozen=True)
class ServedLoad:
    """What so many clients got in one mode: answers and tokens of text a second, seconds to the first text and to the
    end of an answer."""

    clients: int
    mode: str
    answers: int
    answers_per_second: float
    tokens_per_second: float
    first_p50: float
    first_p99: float
    seconds_p50: float
    seconds_p99: float


@dataclass(frozen=True)
class ModelServer:
    """A running `pasta serve`."""

    host: str
    model: str

    def ask(self, prompt: Any, **fields: Any) -> StreamedAnswer:
        """Ask for an answer, and read its stream. Raises ``RuntimeError`` for anything but an answer."""
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        body = json.dumps({"model": self.model, "messages": messages, "stream": True, **fields})
        connection, asked = HTTPConnection(self.host), perf_counter()
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"The server says {response.status}: {response.read().decode()}")
        pieces, last = [], {}
        for line in response:
            if line.startswith(b"data: {"):
                last = json.loads(line.removeprefix(b"data: "))
                if "error" in last or last["choices"][0]["delta"].get("content") or last.get("pasta"):
                    pieces.append(perf_counter())
        connection.close()
        if "error" in last:
            raise RuntimeError(last["error"]["message"])
        return StreamedAnswer(asked, tuple(pieces), last["pasta"]["content_tokens"])


@contextmanager
def running(model: str, flags: Sequence[str]) -> Iterator[ModelServer]:
    """Serve a model while the block runs."""
    command = [sys.executable, "-m", "pastalm", "serve", "--model", model, "--port", "0", "--no-access-log", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            found = re.match(r"Serving (.*) at (http://\S+)/v1 ", server.stdout.readline() if server.stdout else "")
            if not found:
                raise SystemExit("The server did not start; it says why above.")
            yield ModelServer(urlsplit(found[2]).netloc, found[1])
        finally:
            server.terminate()


def measure(
    server: ModelServer, questions: Sequence[Question], clients: int, mode: Mode, least: int, **fields: Any
) -> ServedLoad:
    """Ask ``questions`` again and again, at least ``least`` and three for each client, from so many clients at once."""
    asked = list(islice(cycle(questions), max(least, 3 * clients)))
    started = perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(lambda one: server.ask(one.prompt, mode=mode.value, **fields), asked))
    seconds = perf_counter() - started
    firsts, wholes = [one.first for one in answers], [one.seconds for one in answers]
    return ServedLoad(
        *(clients, mode.value, len(answers)),
        *(len(answers) / seconds, sum(one.tokens for one in answers) / seconds),
        *(median(firsts), slowest(firsts), median(wholes), slowest(wholes)),
    )


def slowest(values: Sequence[float]) -> float:
    """The 99th percentile: of a hundred values or fewer the largest."""
    return sorted(values)[max(0, round(0.99 * len(values)) - 1) if len(values) > 100 else -1]


def sweep(
    server: ModelServer, questions: Sequence[Question], loads: Sequence[int], least: int, **fields: Any
) -> Iterator[tuple[ServedLoad, ServedLoad]]:
    """For each number of clients what they get in parallel and what sequentially."""
    for mode in Mode:
        server.ask(questions[0].prompt, mode=mode.value, **fields)  # warms up
    for number, clients in enumerate(loads):
        order = [Mode.ASYNC, Mode.SEQUENTIAL] if number % 2 == 0 else [Mode.SEQUENTIAL, Mode.ASYNC]
        found = {mode: measure(server, questions, clients, mode, least, **fields) for mode in order}
        yield found[Mode.ASYNC], found[Mode.SEQUENTIAL]


def rows(pair: tuple[ServedLoad, ServedLoad]) -> Iterator[str]:
    """The two lines of a number of clients."""
    for one in pair:
        rates = f"{one.answers_per_second:.2f} | {one.tokens_per_second:.0f}"
        times = f"{one.first_p50:.2f} | {one.first_p99:.2f} | {one.seconds_p50:.2f} | {one.seconds_p99:.2f}"
        share = one.tokens_per_second / pair[1].tokens_per_second
        yield f"| {one.clients} | {one.mode} | {rates} | {times} | {share:.2f} |"


def beside_long_prompt(server: ModelServer, question: Question, words: int, **fields: Any) -> str:
    """The times between the pieces of an answer, before and while a long prompt is read for another client."""
    long = " ".join(islice(cycle(["river", "stone", "cloud", "bread"]), words))
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(server.ask, question.prompt, mode=Mode.SEQUENTIAL.value, **fields)
        while not answer.running():
            pass
        server.ask("hello", max_tokens=20, mode=Mode.SEQUENTIAL.value)  # the answer is being written now
        other = server.ask(long, max_tokens=1, mode=Mode.SEQUENTIAL.value)
        pieces = answer.result().pieces
    gaps = [(two - one, one >= other.asked and two <= other.pieces[0]) for one, two in pairwise(pieces[:-1])]
    before, beside = ([1000 * gap for gap, during in gaps if during is when] for when in (False, True))
    return (
        f"A prompt of {words} words is read in {other.first:.2f} s. Between pieces of another answer, ms: meanwhile "
        f"{median(beside):.0f} (longest {max(beside):.0f}, {len(beside)} pieces), else {median(before):.0f} "
        f"(longest {max(before):.0f})."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--prompts", default="tasks:held-out:32", help="what `pasta eval` takes")
    parser.add_argument("--clients", default="1,2,4,8,16,32", help="numbers with commas between")
    parser.add_argument("--answers", type=int, default=32, help="the least at each number of clients")
    parser.add_argument("--max-tokens", type=int, default=400, help="of an answer")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--long", type=int, help="the words of a long prompt; see the module")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("flags", nargs="*", help="further flags of `pasta serve`, behind --")
    asked = parser.parse_args(arguments)
    fields: dict[str, Any] = {"max_tokens": asked.max_tokens, "temperature": asked.temperature, "seed": 0}
    questions, found = read_questions(asked.prompts), []
    with running(asked.model, asked.flags) as server:
        print(f"{asked.model} on {processor()}, prompts {asked.prompts}.\n", flush=True)
        if asked.long:
            print(beside_long_prompt(server, questions[0], asked.long, **fields))
            return
        print(f"| {' | '.join(HEADS)} |\n|{'--:|' * len(HEADS)}", flush=True)
        for pair in sweep(server, questions, [int(one) for one in asked.clients.split(",")], asked.answers, **fields):
            found += pair
            print("\n".join(rows(pair)), flush=True)
    if asked.out:
        write_json(asked.out, [asdict(one) for one in found])


if __name__ == "__main__":
    main()
