"""The probabilities of an answer's tokens, for requests that ask for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice

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
    _told: int = 0  # tokens that :meth:`fresh` has given out

    def note(self, place: Written, logits_V: Tensor, token: int) -> None:
        """A token has been chosen from these logits."""
        logprobs = torch.log_softmax(logits_V.float(), -1)
        top = logprobs.topk(min(self.top, len(logprobs)))
        self._noted[place] = (token, float(logprobs[token]), top.indices.tolist(), top.values.tolist())

    def of_text(self, interpreter: Interpreter) -> tuple[TokenLogprob, ...]:
        """Those of the text's tokens, in the order of the document. Tags, topics and lengths have none."""
        return self._from(0, interpreter)

    def fresh(self, interpreter: Interpreter) -> tuple[TokenLogprob, ...]:
        """The same of the tokens that have become known since the last call: all that it gives out, joined, is what
        :meth:`of_text` says in the end."""
        found = self._from(self._told, interpreter)
        self._told += len(found)
        return found

    def _from(self, start: int, interpreter: Interpreter) -> tuple[TokenLogprob, ...]:
        places = text_places(interpreter.main, interpreter.language.vocabulary)
        decode, found = interpreter.language.codec.decode, []
        for place in islice((place for place in places if place in self._noted), start, None):
            token, logprob, ids, values = self._noted[place]
            top = tuple((decode([one]), value) for one, value in zip(ids, values, strict=True))
            found.append(TokenLogprob(decode([token]), logprob, top))
        return tuple(found)
