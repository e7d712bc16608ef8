"""The loopback server of the annotator's tests as a judge: it counts the word 'good', with a weakness for A."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import log
from typing import Any

import pytest

from tests.annotation.openai_server import REPLIES, Ask, Desk, serving

_SHOWN = re.compile(r"\[answer ([AB])\]\n(.*?)\n\[end of answer", re.DOTALL)


def scores(text: str) -> dict[str, int]:
    """How often each of the two shown answers says 'good'."""
    return {letter: answer.count("good") for letter, answer in _SHOWN.findall(text)}


def better(text: str) -> str:
    """The letter of the better answer; A where they are alike."""
    found = scores(text)
    return "B" if found["B"] > found["A"] else "A"


def completion(reply: str | None, logprobs: Any = None) -> bytes:
    """A reply of the protocol."""
    choice = {"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}
    choice["logprobs"] = logprobs
    usage = {"prompt_tokens": 100, "completion_tokens": 3, "total_tokens": 103}
    return json.dumps({"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()


def likelihoods(letter: str, share: float) -> dict[str, Any]:
    """``logprobs`` of a reply '<letter> 80' in which A has this share."""
    both = [{"token": " A", "logprob": log(share / 2)}, {"token": " B", "logprob": log((1 - share) / 2)}]
    others = [{"token": "The", "logprob": log(0.5)}]
    first = {"token": f" {letter}", "logprob": -0.1, "top_logprobs": [*others, *both]}
    return {"content": [first, {"token": " 80", "logprob": -0.1, "top_logprobs": []}]}


REPLIES |= {
    "stated": lambda text: completion(f"{better(text)} 80"),
    "bare": lambda text: completion(better(text)),
    "measured": lambda text: completion(f"{better(text)} 80", likelihoods(better(text), 0.9)),
    "chatter": lambda text: completion("Both have their merits."),
    "contradiction": lambda text: completion("A 20"),
    "nothing": lambda text: completion(None),
}


@dataclass
class JudgeDesk(Desk):
    """A desk for judges: ``plan`` says from what is shown and how often it was asked what to do."""

    def take(self, body: dict[str, Any], authorization: str) -> tuple[str, str]:
        """Log a request; what is shown, and what to do."""
        shown = next(message["content"] for message in body["messages"] if message["role"] == "user")
        with self._lock:
            self._counts[shown] += 1
            nth = self._counts[shown]
            self.asks.append(Ask(shown, nth, body, authorization, 0.0))
        return shown, self.plan(shown, nth)


@contextmanager
def judging(monkeypatch: pytest.MonkeyPatch, reply: str) -> Iterator[JudgeDesk]:
    """A judge on loopback, past any proxy, that gives replies of this kind until its plan is changed."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with serving(JudgeDesk(plan=lambda shown, nth: reply)) as desk:
        yield desk
