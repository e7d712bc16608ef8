"""Whether a completion server computes what `pasta train sft --views server` learns: log-probabilities, token by token.

    python -m bench.views_exact http://127.0.0.1:8000/v1 --model MODEL --prompts tasks:held-out:11

The driver has the server answer each prompt. The answer is then laid out as training does it, and the log-probability
that the training forward gives each of its tokens is compared with the server's: as it reads the tokens (each view as a
prompt, `prompt_logprobs`) and as it writes them (each completion of the driver once more, `logprobs`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.request import Request, urlopen

import torch

from pastalm.data.collate import Collator
from pastalm.data.examples import Example
from pastalm.data.questions import read_questions
from pastalm.lang.positions import CONTIGUOUS, position_policy
from pastalm.lang.script import Script
from pastalm.runtime.engine import Engine
from pastalm.runtime.load import load
from pastalm.runtime.remote.server import Completion
from pastalm.runtime.remote.token_fields import TokenFields
from pastalm.runtime.runner import Runner
from pastalm.views import ViewLayout, view_layout

TIMEOUT = 600.0  # seconds


@dataclass
class Differences:
    """Between the server's log-probabilities and training's, in nats: of tokens that it read, and that it wrote."""

    read: list[float] = field(default_factory=list)
    written: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return "; ".join(
            f"{name}: {len(found)} tokens, largest difference {max(found):.2e}, mean {sum(found) / len(found):.2e}"
            for name, found in (("read", self.read), ("written", self.written))
        )


class RecordedServer:
    """The completions that an engine asks its server for, put down in ``asked``."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.asked = engine, list[Completion]()
        server: Any = engine.scheduler(1, 0).server  # type: ignore[attr-defined]
        self.url, self.name, self._tokens = server.urls[0], server.model, server.tokens
        self.fields: TokenFields = server.fields
        server.tokens = self._recorded

    def _recorded(self, asked: Completion, first: int = 0) -> Any:
        self.asked.append(asked)
        return self._tokens(asked, first)

    def ask(self, **body: Any) -> dict[str, Any]:
        """The only choice of a completion that is not streamed."""
        data = json.dumps({"model": self.name, "temperature": 0, **body}).encode()
        request = Request(f"{self.url}/completions", data, {"Content-Type": "application/json"})
        with urlopen(request, timeout=TIMEOUT) as reply:
            return json.load(reply)["choices"][0]


class LearnedAnswer:
    """An answer with the log-probability that training gives each token of its views."""

    def __init__(self, runner: Runner, prompt: Sequence[int], script: Script) -> None:
        self.laid: ViewLayout = view_layout(prompt, script)
        batch = Collator(position_policy(CONTIGUOUS), 0)([[Example(prompt, script, True)]])
        logits = runner.dense_rows(batch["input_ids"], batch["position_ids"], batch["visible"])[0].float()
        self.learned = logits.log_softmax(-1)
        nodes = zip(self.laid.parents.tolist(), self.laid.tokens.tolist(), strict=True)
        self.children = {edge: index for index, edge in enumerate(nodes)}

    def path(self, ids: Sequence[int]) -> list[int]:
        """The nodes of a sequence that begins with the prompt, as far as the answer has them."""
        nodes, node = [], -1
        for token in ids:
            if (node, token) not in self.children:
                break
            node = self.children[node, token]
            nodes.append(node)
        return nodes

    def views(self) -> Iterator[list[int]]:
        """The ids of each view from its beginning to its end."""
        inner = set(self.laid.parents.tolist())
        mask = self.laid.mask()
        for leaf in set(range(len(self.laid.tokens))) - inner:
            yield self.laid.tokens[mask[leaf]].tolist()

    def differences(self, ids: Sequence[int], served: Sequence[float | None]) -> Iterator[float]:
        """Between what is learnt and what is ``served`` of each token of ``ids`` that is a target there."""
        nodes = self.path(ids)
        for node, token, found in zip(nodes, ids[1:], served[1:], strict=False):
            if found is not None and self.laid.targets[node] == token:
                yield abs(found - float(self.learned[node, token]))


@torch.inference_mode()
def compare(server: RecordedServer, runner: Runner, prompt: Any, max_tokens: int) -> Differences:
    """The differences of one answer that ``server`` gives; ``runner`` has the same model."""
    found = Differences()
    server.asked.clear()
    response = server.engine.generate(prompt, max_tokens=max_tokens)
    answer = LearnedAnswer(runner, server.engine.encode(prompt), response.script)
    for ids in answer.views():
        read = server.ask(prompt=ids, max_tokens=1, prompt_logprobs=0)["prompt_logprobs"]
        later = [one[str(token)]["logprob"] for token, one in zip(ids[1:], read[1:])]
        found.read += answer.differences(ids, [None, *later])
    for asked in server.asked:
        body = asked.body(server.fields)
        written = server.ask(**body.pop("extra_body"), **body, logprobs=0)
        ids = [*asked.prompt, *written["token_ids"]]
        silent = [None] * len(asked.prompt)
        found.written += answer.differences(ids, [*silent, *written["logprobs"]["token_logprobs"]])
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("url", help="the base URL of the server, .../v1")
    parser.add_argument("--model", required=True, help="the model that it serves, to be computed here as well")
    parser.add_argument("--prompts", default="tasks:held-out:11")
    parser.add_argument("--dtype", default="float32", help="the server's number type")
    parser.add_argument("--max-tokens", type=int, default=600)
    asked = parser.parse_args(arguments)
    runner = Runner(load(asked.model, "cpu", asked.dtype)[0])
    engine = Engine.remote(asked.url, None, asked.model)
    server, total = RecordedServer(engine), Differences()
    for question in read_questions(asked.prompts, None):
        found = compare(server, runner, question.prompt, asked.max_tokens)
        total.read += found.read
        total.written += found.written
    engine.release()
    print(total)


if __name__ == "__main__":
    main()
