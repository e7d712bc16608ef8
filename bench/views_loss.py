"""What a model loses behind a plain completion server: its loss there and under its own positions and visibility.

    python -m bench.views_loss held-out.jsonl --model MODEL

Known answers, token by token: as this runtime shows them, and in the views that a server is sent (`pastalm.views`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from statistics import mean

import torch
from torch import Tensor

from pastalm.data.examples import AnnotatedAnswer, read_annotated
from pastalm.lang.script import NEVER, Script, compile_script
from pastalm.lang.vocabulary import Vocabulary
from pastalm.layout import Layout, layout
from pastalm.runtime.load import load
from pastalm.runtime.request import policy_of
from pastalm.runtime.runner import Runner
from pastalm.views import NOBODY, ViewLayout, view_layout

KINDS = ("main thread", "chunks", "behind a sync")


@dataclass
class Losses:
    """The losses of tokens in nats, as the model was trained and at a server."""

    own: list[float] = field(default_factory=list)
    served: list[float] = field(default_factory=list)


def own_givers(script: Script, start: int) -> list[int]:
    """The index in a layout, behind ``start`` tokens of prompt, of the token that predicts each of the script's."""
    last, givers = {0: start - 1}, []
    for index, block in enumerate(script.block):
        givers.append(last.get(block, NOBODY))
        last[block] = start + index
    return givers


def kinds(script: Script) -> list[str]:
    """Where each token stands."""
    first = min((block.release for block in script.blocks if block.release), default=NEVER)
    places = enumerate(script.block)
    return ["chunks" if block else "behind a sync" if index > first else "main thread" for index, block in places]


def losses(runner: Runner, laid: Layout | ViewLayout, givers: Sequence[int], tokens: Sequence[int]) -> Tensor:
    """The loss of each token [tokens]; that of one without a giver means nothing."""
    logits = runner.dense(laid.tokens, laid.positions, laid.mask()).float()
    return -logits.log_softmax(-1)[list(givers), list(tokens)]


@torch.inference_mode()
def measure(runner: Runner, vocabulary: Vocabulary, answers: Iterable[AnnotatedAnswer]) -> dict[str, Losses]:
    """The losses of known answers by where their tokens stand."""
    policy, found = policy_of(runner.model.config), {kind: Losses() for kind in KINDS}
    for answer in answers:
        prompt, script = vocabulary.prompts.encode(answer.prompt), compile_script(answer.answer, vocabulary, policy)
        givers, views = own_givers(script, len(prompt)), view_layout(prompt, script)
        own = losses(runner, layout(prompt, script, policy), givers, script.tokens).tolist()
        served = losses(runner, views, views.givers.tolist(), script.tokens).tolist()
        for kind, giver, one, other in zip(kinds(script), givers, own, served, strict=True):
            if giver != NOBODY:
                found[kind].own.append(one)
                found[kind].served.append(other)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("data", help="annotated answers")
    parser.add_argument("--model", required=True)
    parser.add_argument("--limit", type=int, default=100, help="the first so many answers")
    parser.add_argument("--dtype", default="auto")
    asked = parser.parse_args(arguments)
    model, tokenizer = load(asked.model, "cpu", asked.dtype)
    found = measure(Runner(model), Vocabulary(tokenizer), islice(read_annotated(asked.data), asked.limit))
    every = Losses()
    for one in found.values():
        every.own += one.own
        every.served += one.served
    for kind, one in {**found, "all": every}.items():
        if one.own:
            print(f"{kind:14} {len(one.own):6} tokens  own {mean(one.own):.4f}  served {mean(one.served):.4f}")


if __name__ == "__main__":
    main()
