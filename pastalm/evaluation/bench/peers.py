"""Other engines beside ours, on the same machine in the same run: how long they take for the texts of known answers.

Each decodes sequentially as many tokens as the text has: transformers and llama.cpp exactly the text's own tokens, a
server over HTTP as many tokens of its own choice, since it takes no text by force.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.request import Request, urlopen

import torch
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from pastalm.data.examples import AnnotatedAnswer
from pastalm.evaluation.bench.steps import now
from pastalm.runtime.engine import Engine

TIMEOUT = 600.0  # seconds


@dataclass(frozen=True)
class PeerTimes:
    """What an engine took for each answer: seconds and tokens. ``note`` says what was not the same."""

    name: str
    seconds: tuple[float, ...]
    tokens: tuple[int, ...]
    note: str = ""

    @property
    def milliseconds(self) -> float:
        """Milliseconds a token."""
        return 1000 * sum(self.seconds) / max(1, sum(self.tokens))


class PeerError(ValueError):
    """A peer that cannot be asked, and what to do."""


def transformers_times(engine: Engine, model: PreTrainedModel, answers: Sequence[AnnotatedAnswer]) -> PeerTimes:
    """``generate`` of transformers with its own cache and attention; ``model`` is one that no engine runs."""
    generate: Any = model.generate  # a mixin hides it from type checkers
    counts, times = [], []
    for known in [answers[0], *answers]:  # the first once more: it warms the model up
        prompt = engine.encode(known.prompt)
        text = engine.codec.encode(known.answer.plain)
        ids = torch.tensor([prompt], device=model.device)
        forced = LogitsProcessorList([_Forced(text, len(prompt))])
        started = now(engine)
        with torch.inference_mode():
            out = generate(
                ids,
                attention_mask=torch.ones_like(ids),
                logits_processor=forced,
                max_new_tokens=len(text),
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        times.append(now(engine) - started)
        counts.append(len(text))
        if out[0, len(prompt) :].tolist() != text:
            raise RuntimeError("generate did not decode the text that was forced on it.")
    return PeerTimes("transformers generate", tuple(times[1:]), tuple(counts[1:]))


class _Forced(LogitsProcessor):
    """Leaves one token of each row of scores: the next of a text."""

    def __init__(self, text: Sequence[int], start: int) -> None:
        self.text, self.start = text, start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        token = self.text[input_ids.shape[1] - self.start]
        forced = torch.full_like(scores, float("-inf"))
        forced[:, token] = 0
        return forced


def require_llama_cpp(file: Path) -> None:
    """Raises :class:`PeerError` where llama-cpp-python is not installed or the GGUF file is not there."""
    if find_spec("llama_cpp") is None:
        raise PeerError("llama.cpp as a peer needs the package llama-cpp-python: pip install llama-cpp-python")
    if not file.is_file():
        raise PeerError(f"There is no GGUF file {file} for llama.cpp as a peer.")


def llama_cpp_times(file: Path, answers: Sequence[AnnotatedAnswer], threads: int) -> PeerTimes:
    """llama.cpp with a GGUF file, by llama-cpp-python. Raises what :func:`require_llama_cpp` raises."""
    require_llama_cpp(file)
    from llama_cpp import Llama

    texts = [(_text(known.prompt).encode(), known.answer.plain.encode()) for known in answers]
    longest = max(len(prompt) + len(text) for prompt, text in texts) + 8
    model = Llama(str(file), n_ctx=longest, n_threads=threads, verbose=False)
    counts, times = [], []
    for prompt, text in [texts[0], *texts]:
        ids = model.tokenize(text, add_bos=False)
        model.reset()
        model.eval(model.tokenize(prompt))
        started = perf_counter()
        for token in ids:
            model.eval([token])
        times.append(perf_counter() - started)
        counts.append(len(ids))
    return PeerTimes(f"llama.cpp, {file.name}", tuple(times[1:]), tuple(counts[1:]), "by its own tokenizer")


def _text(prompt: Any) -> str:
    """A prompt as one text."""
    return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)


def require_server(url: str) -> str:
    """The name of a completion server's first model. Raises :class:`PeerError` if it does not answer with one."""
    ask = _asker(url.rstrip("/"))
    try:
        return str(ask("/models", None)["data"][0]["id"])
    except (LookupError, TypeError) as error:
        raise PeerError(f"The peer at {url} names no model; its URL may have to end in /v1.") from error


def server_times(url: str, engine: Engine, answers: Sequence[AnnotatedAnswer]) -> PeerTimes:
    """A completion server such as vLLM's, asked over HTTP. Raises :class:`PeerError` for one that does not answer."""
    ask = _asker(url.rstrip("/"))
    name = require_server(url)
    counts, times = [], []
    for known in [answers[0], *answers]:
        wanted = len(engine.codec.encode(known.answer.plain))
        body = {"model": name, "prompt": engine.encode(known.prompt), "max_tokens": wanted, "temperature": 0}
        started = perf_counter()
        found = ask("/completions", body | {"ignore_eos": True})
        times.append(perf_counter() - started)
        counts.append(int(found["usage"]["completion_tokens"]))
    return PeerTimes(f"{name} at {url}", tuple(times[1:]), tuple(counts[1:]), "its own tokens, as many as the text has")


def _asker(url: str) -> Callable[[str, Any], Any]:
    def ask(path: str, body: Any) -> Any:
        data = None if body is None else json.dumps(body).encode()
        try:
            with urlopen(Request(url + path, data, {"Content-Type": "application/json"}), timeout=TIMEOUT) as reply:
                return json.load(reply)
        except (OSError, ValueError) as error:  # not there; no URL, or no JSON
            raise PeerError(f"The peer at {url} does not answer {path}: {error}") from error

    return ask


def speedups(ours: Sequence[float], peer: PeerTimes) -> Iterator[float]:
    """How much sooner each of our answers is there than the peer's."""
    yield from (other / own for own, other in zip(ours, peer.seconds, strict=True))
