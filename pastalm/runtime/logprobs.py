"""The probabilities of an answer's tokens, for requests that ask for them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pastalm.runtime.interpreter import Interpreter
from pastalm.runtime.response import TokenLogprob
from pastalm.runtime.seen_text import Written, text_places


@dataclass
class Logprobs:
    """Notes the probabilities of what is chosen, with the ``top`` likeliest tokens beside each."""

    top: int
    _noted: dict[Written, tuple[int, float, list[int], list[float]]] = field(default_factory=dict)

    def note(self, place: Written, logits_V: Tensor, token: int) -> None:
        """A token has been chosen from these logits."""
        logprobs = torch.log_softmax(logits_V.float(), -1)
        top = logprobs.topk(min(self.top, len(logprobs)))
        self._noted[place] = (token, float(logprobs[token]), top.indices.tolist(), top.values.tolist())

    def of_text(self, interpreter: Interpreter) -> tuple[TokenLogprob, ...]:
        """Those of the text's tokens, in the order of the document. Tags, topics and lengths have none."""
        decode = interpreter.language.codec.decode
        found = []
        for place in text_places(interpreter.main, interpreter.language.vocabulary):
            if place in self._noted:
                token, logprob, ids, values = self._noted[place]
                top = tuple((decode([one]), value) for one, value in zip(ids, values, strict=True))
                found.append(TokenLogprob(decode([token]), logprob, top))
        return tuple(found)
