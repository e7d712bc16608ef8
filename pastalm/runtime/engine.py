"""The engine: any Hugging Face decoder, decoding PASTA-LANG in parallel over one cache."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypedDict, Unpack

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pastalm.lang.answer import Answer
from pastalm.lang.codec import TextCodec
from pastalm.lang.parse import parse
from pastalm.lang.positions import DEFAULT, PositionPolicy, position_policy
from pastalm.lang.prompt import Prompt, PromptEncoder
from pastalm.lang.script import Script, compile_script
from pastalm.lang.tokenizer import MissingTagsError, has_tags
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.batcher import Batcher, Observer, Request
from pastalm.runtime.events import NO_TOKEN, DoneEvent, Event
from pastalm.runtime.interpreter import Interpreter, Language
from pastalm.runtime.limits import Limits
from pastalm.runtime.load import load
from pastalm.runtime.replay import Replay
from pastalm.runtime.response import Response
from pastalm.runtime.runner import Runner
from pastalm.runtime.sampling import LegalMasks, Sampler, SamplingOptions

MODES = ("async", "sequential")


class Options(TypedDict, total=False):
    """What a request may set. ``max_tokens`` counts all threads together; ``stop`` strings end the answer in the main
    thread, the chunk in any other; the limits are those of :class:`pastalm.runtime.limits.Limits`; ``positions`` is a
    policy of :mod:`pastalm.lang.positions`, by default the model's own, and no other if it has one; ``speed``, from -3
    to 3 nats, is added to the logit of starting a promise wherever one may start: more chunks or fewer from the same
    model; ``observe`` is shown every choice."""

    max_tokens: int
    mode: str
    temperature: float
    top_p: float
    seed: int
    speed: float
    stop: str | Sequence[str] | None
    max_threads: int | None
    max_async_tokens: int | None
    max_depth: int
    positions: str | None
    observe: Observer | None


class RequestError(ValueError):
    """A request that cannot be started, and why."""


def policy_of(config: Any, asked: str | None = None) -> PositionPolicy:
    """The position policy of a model with this config: its own, or the one asked for if it has none, or the default.

    Raises :class:`RequestError` if it has another than the one asked for: with that it would decode badly and say
    nothing.
    """
    own = getattr(config, "pasta_positions", None)
    policy = position_policy(asked or own or DEFAULT)
    if own and policy.name != own:
        raise RequestError(
            f"This model was trained with the positions {own!r}, but the request asks for {policy.name!r}: leave "
            "them out, or take a model that was trained with them."
        )
    return policy


class Engine:
    """A model ready to answer.

    ``model`` is any decoder-only Hugging Face model, ``tokenizer`` its fast tokenizer; a tokenizer without PASTA's tags
    serves ``mode="sequential"`` only. ``pool_tokens`` bounds the cache slots of one request (None: what it may need).
    ``constrained`` enforces the grammar of tags. Raises ``UnsupportedModelError`` for models that cannot be driven.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pool_tokens: int | None = None,
        constrained: bool = True,
    ) -> None:
        self.runner = Runner(model)
        self.tokenizer = tokenizer
        self.codec, self.prompts = TextCodec(tokenizer), PromptEncoder(tokenizer)
        self.eos = _end_tokens(model, tokenizer)
        self.vocabulary = Vocabulary(tokenizer, self.eos) if has_tags(tokenizer) else None
        self.positions = policy_of(model.config).name
        self.pool_tokens, self.constrained = pool_tokens, constrained
        self._masks = LegalMasks(self.runner.vocabulary_size, self.runner.device)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str, device: str = "auto", dtype: str | torch.dtype = "auto", **options: Any
    ) -> Engine:
        """Load a model by directory, hub id or ``"bundled"``; see :func:`pastalm.runtime.load.load`."""
        return cls(*load(name_or_path, device, dtype), **options)

    def generate(self, prompt: Prompt, **options: Unpack[Options]) -> Response:
        """Answer a prompt: a user's message as one string, chat messages, a ``RawPrompt`` or token ids.

        A string is a message where the tokenizer has a chat template; see :class:`pastalm.lang.prompt.PromptEncoder`.

        ``mode`` is "async" (default) or "sequential"; ``temperature`` 0 (default) is greedy; ``max_tokens`` is 1024 by
        default; see :class:`Options` for all. Raises :class:`RequestError` or ``ValueError`` with one sentence for
        what cannot be done.
        """
        return self._finish(self.request(prompt, **options))

    def generate_batch(
        self, prompts: Sequence[Prompt], *, batch: int = 8, seeds: Sequence[int] = (), **options: Unpack[Options]
    ) -> Iterator[Response]:
        """Answer many prompts, up to ``batch`` at once, in their order. Each answer is what it would be alone.
        ``seeds``, one for each prompt, stand for ``seed``."""
        each = [{**options, "seed": seed} for seed in seeds] or [options] * len(prompts)
        requests = deque(self.request(prompt, **own) for prompt, own in zip(prompts, each, strict=True))
        batcher = Batcher(self.runner, batch, max(map(self._slots, requests), default=1))
        for request in requests:
            batcher.add(request)
        while requests:
            request = requests.popleft()  # nobody holds one that is over
            while not request.over:
                batcher.step()
            yield request.result()

    def stream(self, prompt: Prompt, **options: Unpack[Options]) -> Iterator[Event]:
        """Answer like :meth:`generate`, yielding events as they happen; the last holds the response."""
        request = self.request(prompt, eager=True, **options)
        batcher = Batcher(self.runner, 1, self._slots(request))
        batcher.add(request)
        while not request.over:
            batcher.step()
            yield from request.interpreter.drain()
        yield DoneEvent((), (1 << 60,), request.result())

    def request(
        self,
        prompt: Prompt,
        *,
        eager: bool = False,
        max_tokens: int = 1024,
        mode: str = "async",
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        speed: float = 0.0,
        stop: str | Sequence[str] | None = None,
        max_threads: int | None = None,
        max_async_tokens: int | None = None,
        max_depth: int = 1,
        positions: str | None = None,
        observe: Observer | None = None,
    ) -> Request:
        """What a prompt and its options ask for, checked and ready for a ``Batcher``; decodes nothing.

        Takes the options of :meth:`generate` and raises what it raises. ``eager`` turns tokens into text at once, for
        those who drain its interpreter's events.
        """
        if mode not in MODES:
            raise RequestError(f"Unknown mode {mode!r}; choose 'async' or 'sequential'.")
        policy = policy_of(self.runner.model.config, positions)
        if policy.needs_length and mode == "async":
            raise RequestError(
                "The policy 'oracle' needs the true length of chunks: it serves training and replay only."
            )
        sampler = Sampler(SamplingOptions(temperature, top_p, seed, speed), self._masks)
        limits = Limits(max_tokens, max_async_tokens, max_threads, max_depth)
        ids = self.encode(prompt)
        interpreter = Interpreter(
            self._language(mode),
            policy,
            self._bounded(limits, ids),
            len(ids),
            stops=[one for one in ([stop] if isinstance(stop, str) else stop or ()) if one],
            eager=eager,
        )
        return Request(ids, interpreter, sampler, observe=observe)

    def replay(
        self, prompt: Prompt, annotated: str | Answer, *, max_threads: int | None = None, positions: str | None = None
    ) -> Response:
        """Decode a known answer by force through the same path, for its metrics and its time on this model.

        ``annotated`` is text in either form of the language, or a tree. Raises ``AnnotationError`` for broken text.
        """
        vocabulary = self._tags()
        answer = parse(annotated, max_depth=8) if isinstance(annotated, str) else annotated
        policy = policy_of(self.runner.model.config, positions)
        script = compile_script(answer, vocabulary, policy, end=False)
        return self.replay_script(self.encode(prompt), script, policy, max_threads=max_threads)

    def replay_script(
        self,
        prompt: Sequence[int],
        script: Script,
        policy: PositionPolicy,
        *,
        max_threads: int | None = None,
        observe: Observer | None = None,
    ) -> Response:
        """Like :meth:`replay`, of ids: exactly these tokens are fed."""
        eos = self.eos or frozenset([NO_TOKEN])  # an end is never fed to the model
        vocabulary = self._tags() if self.eos else Vocabulary(self._tags().tokenizer, eos)
        known = Replay(script, min(eos))
        limits = Limits(max_tokens=max(1, known.total), max_threads=max_threads, max_depth=max(1, len(script.blocks)))
        language = Language(self.codec, eos, vocabulary, asynchronous=True, constrained=False)
        limits = self._bounded(limits, prompt)
        interpreter = Interpreter(language, policy, limits, len(prompt), lengths=known.length)
        return self._finish(Request(prompt, interpreter, known, observe=observe))

    def encode(self, prompt: Prompt) -> list[int]:
        """The ids of a prompt. Raises :class:`RequestError` for an empty one, and for messages without a template, or
        that it refuses or leaves out."""
        try:
            ids = self.prompts.encode(prompt)
        except ValueError as error:
            raise RequestError(str(error)) from error
        if not ids:
            raise RequestError("The prompt is empty: there is nothing to answer.")
        return ids

    def _language(self, mode: str) -> Language:
        vocabulary = self._tags() if mode == "async" else self.vocabulary
        asynchronous = mode == "async"
        return Language(self.codec, self.eos, vocabulary, asynchronous=asynchronous, constrained=self.constrained)

    def _bounded(self, limits: Limits, prompt: Sequence[int]) -> Limits:
        """The limits with the model's window and the cache's size; refuses a prompt that leaves no room."""
        window = self.runner.window
        if window is not None and len(prompt) >= window:
            raise RequestError(f"The prompt has {len(prompt)} tokens, but the model's window is {window}; shorten it.")
        if self.pool_tokens is not None and len(prompt) >= self.pool_tokens:
            raise RequestError(
                f"The prompt has {len(prompt)} tokens, but the cache holds {self.pool_tokens}; raise pool_tokens."
            )
        # Besides what is sampled, a chunk takes the two tags that the runtime may write; a promise takes five tokens.
        most = len(prompt) + limits.max_tokens + 2 * (limits.max_tokens // 5 + 1)
        return replace(limits, window=window, slots=min(most, self.pool_tokens or most))

    def _tags(self) -> Vocabulary:
        if self.vocabulary is None:
            raise MissingTagsError(
                "The tokenizer does not know PASTA's tags, so this model cannot mark chunks. `pasta train sft` adds "
                "and trains them; without, decode with mode='sequential'."
            )
        if max(self.vocabulary.tags) >= self.runner.known_tokens:
            raise MissingTagsError(
                f"The tokenizer knows PASTA's tags, but the model knows {self.runner.known_tokens} tokens and not all "
                "of these: let `pasta train sft` add and train them, or call "
                "model.resize_token_embeddings(len(tokenizer)) before the engine is made."
            )
        return self.vocabulary

    def _slots(self, request: Request) -> int:
        return request.interpreter.limits.slots or 1

    def _finish(self, request: Request) -> Response:
        batcher = Batcher(self.runner, 1, self._slots(request))
        batcher.add(request)
        while not request.over:
            batcher.step()
        return request.result()


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """All ids that end an answer: the tokenizer's, and those of the model's generation config."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in (tokenizer.eos_token_id, *ids) if token is not None)
