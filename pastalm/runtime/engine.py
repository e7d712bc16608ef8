"""The engine: any Hugging Face decoder, decoding PASTA-LANG in parallel over one cache."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Many
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pastalm.files.packages import require
from pastalm.lang.answer import Answer
from pastalm.lang.codec import TextCodec
from pastalm.lang.parse import parse
from pastalm.lang.positions import PositionPolicy
from pastalm.lang.prompt import LongPromptError, Prompt, PromptEncoder
from pastalm.lang.recogniser import require_promises
from pastalm.lang.script import Script, compile_script
from pastalm.lang.tokenizer import MissingTagsError, end_tokens, has_tags
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.events import NO_TOKEN, DoneEvent, Event
from pastalm.runtime.interpreter import Interpreter
from pastalm.runtime.language import Language
from pastalm.runtime.limits import Limits
from pastalm.runtime.load import load
from pastalm.runtime.logprobs import Logprobs
from pastalm.runtime.quantize import quantize as quantize_model
from pastalm.runtime.replay import Replay
from pastalm.runtime.request import Mode, Observer, RequestError, RequestOptions, policy_of
from pastalm.runtime.response import Response
from pastalm.runtime.runner import Runner
from pastalm.runtime.scheduler import Scheduler
from pastalm.runtime.sequence import Sequence
from pastalm.runtime.step_lock import StepLock

_log = logging.getLogger(__name__)


class Engine:
    """A model ready to answer.

    ``model`` is any decoder-only Hugging Face model, ``tokenizer`` its fast tokenizer; a tokenizer without PASTA's tags
    serves ``mode="sequential"`` only. ``max_model_len`` bounds the cache slots of one request, its prompt and all its
    threads (None: what it may need); ``max_batch`` is how many requests :meth:`generate_batch` decodes at once.
    ``constrained`` enforces the grammar of tags, ``unique_topics`` that an answer promises no topic twice. ``compile``
    makes graphs of the model's pass, which takes up to minutes the first time and seconds later
    (:mod:`pastalm.runtime.compiled`); the model then stays as it is: adapters merged or switched afterwards
    may not be seen. On a GPU steps are replayed as ``cuda_graphs`` (:mod:`pastalm.runtime.graphs`),
    and with ``ahead`` launched before the last one's tokens are seen (:mod:`pastalm.runtime.ahead`; None: where steps
    are replayed);
    ``quantize="int8"`` rounds the model's weights in place (:mod:`pastalm.runtime.quantize`). Raises
    ``UnsupportedModelError`` for models that cannot be driven, ``ValueError`` for a quantisation that cannot be.

    The cache is kept between calls, as large as the largest call that did not fit it needed; :meth:`release` frees it.
    Calls may come from several threads, and iterators of several calls may be read in turn: their requests then share
    the batch, and every answer is what it would be alone. What a call shows its choices to (``observe``) may not use
    the engine in the middle of that step: a ``RuntimeError`` says so.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_model_len: int | None = None,
        max_batch: int = 8,
        constrained: bool = True,
        unique_topics: bool = True,
        compile: bool = False,
        cuda_graphs: bool = True,
        ahead: bool | None = None,
        quantize: str | None = None,
    ) -> None:
        if quantize is not None:
            quantize_model(model, quantize)
        self.runner = Runner(model, compile=compile, cuda_graphs=cuda_graphs, ahead=ahead)
        self.tokenizer = tokenizer
        self.codec, self.prompts = TextCodec(tokenizer), PromptEncoder(tokenizer)
        self.eos = frozenset(end_tokens(tokenizer, getattr(model, "generation_config", None)))
        self.vocabulary = Vocabulary(tokenizer, self.eos) if has_tags(tokenizer) else None
        if self.vocabulary and constrained:
            require_promises(self.vocabulary)
        if not self.eos:
            _log.warning("Neither the tokenizer nor the generation config names an end: answers go on to max_tokens.")
        self.positions = self.policy().name
        self.max_model_len, self.max_batch = max_model_len, max_batch
        self.constrained, self.unique_topics = constrained, unique_topics
        self._scheduler: Scheduler | None = None
        self._steps = StepLock()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str,
        device: str = "auto",
        dtype: str | torch.dtype = "auto",
        *,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> Engine:
        """Load a model by directory, GGUF file, hub id or ``"bundled"``; see :func:`pastalm.runtime.load.load`."""
        return cls(*load(name_or_path, device, dtype, trust_remote_code=trust_remote_code), **options)

    @classmethod
    def remote(
        cls, base_url: str | Many[str], model: str | None, tokenizer: Any, api_key: str | None = None, **options: Any
    ) -> Engine:
        """The same engine over a completion server such as vLLM; see
        :class:`pastalm.runtime.remote.engine.RemoteEngine`."""
        require("openai", "remote")
        from pastalm.runtime.remote.engine import RemoteEngine

        return RemoteEngine(base_url, model, tokenizer, api_key, **options)

    @property
    def window(self) -> int | None:
        """How many positions the model can be used for; None if nobody says."""
        return self.runner.window

    @property
    def known_tokens(self) -> int:
        """How many ids the model can both read and write."""
        return self.runner.known_tokens

    @property
    def device(self) -> str:
        """What it runs on: a device of torch, or the address of a server."""
        return str(self.runner.device)

    @property
    def dtype(self) -> str:
        """The number type of the weights; empty if nobody says."""
        return str(self.runner.model.dtype).removeprefix("torch.")

    @property
    def defaults(self) -> dict[str, float]:
        """How the model wants its tokens to be drawn where a request says nothing: ``temperature`` and ``top_p`` of its
        generation config, if that asks for sampling."""
        config = getattr(self.runner.model, "generation_config", None)
        if not getattr(config, "do_sample", False):
            return {}
        found = {name: getattr(config, name, None) for name in ("temperature", "top_p")}
        return {"temperature": 1.0} | {name: value for name, value in found.items() if value is not None}

    def policy(self, asked: str | None = None) -> PositionPolicy:
        """The position policy of the model; see :func:`pastalm.runtime.request.policy_of`."""
        return policy_of(self.runner.model.config, asked)

    def scheduler(self, max_batch: int, max_model_len: int, max_batch_threads: int | None = None) -> Scheduler:
        """A scheduler of its own, for one who steps it himself."""
        return Scheduler(self.runner, max_batch, max_model_len, max_batch_threads)

    def generate(self, prompt: Prompt, **options: Any) -> Response:
        """Answer a prompt: a user's message as one string, chat messages, a ``RawPrompt`` or token ids.

        A string is a message where the tokenizer has a chat template; see :class:`pastalm.lang.prompt.PromptEncoder`.

        ``options`` are those of :class:`pastalm.runtime.request.RequestOptions`: ``mode`` is "async" (default) or
        "sequential", ``temperature`` 0 is greedy and, unless the model brings another, the default; ``max_tokens`` is
        1024 by default; None is the default too. Raises
        :class:`RequestError` or ``ValueError`` with one sentence for what cannot be done.
        """
        return self.run(self.request(prompt, **options))

    def generate_batch(
        self, prompts: Many[Prompt], *, max_batch: int | None = None, seeds: Many[int] = (), **options: Any
    ) -> Iterator[Response]:
        """Answer many prompts, up to ``max_batch`` at once (None: the engine's), in their order. Each answer is what it
        would be alone. ``seeds``, one for each prompt, stand for ``seed``."""
        if len(seeds) not in (0, len(prompts)):
            raise RequestError(f"There are {len(seeds)} seeds for {len(prompts)} prompts: give one for each, or none.")
        each = [{**options, "seed": seed} for seed in seeds] or [options] * len(prompts)
        waiting = deque(self.request(prompt, **own) for prompt, own in zip(prompts, each, strict=True))
        for sequence in self._decode(waiting, self.max_batch if max_batch is None else max_batch):
            if sequence.finished:
                yield sequence.result()

    def stream(self, prompt: Prompt, **options: Any) -> Iterator[Event]:
        """Answer like :meth:`generate`, yielding events as they happen; the last holds the response."""
        sequence = self.request(prompt, **{**options, "eager": True})
        for _ in self._decode(deque([sequence]), 1):
            with self._steps.hold():
                events = sequence.interpreter.transcript.drain()
            yield from events
        yield DoneEvent((), (1 << 60,), sequence.result())

    def run(self, sequence: Sequence) -> Response:
        """Decode what :meth:`request` has made."""
        for _ in self._decode(deque([sequence]), 1):
            pass
        return sequence.result()

    def request(self, prompt: Prompt, **options: Any) -> Sequence:
        """What a prompt and its options ask for, checked and ready for :meth:`run` or a ``Scheduler``; decodes nothing.

        Takes the options of :meth:`generate` and raises what it raises.
        """
        asked = RequestOptions(**self.defaults | {name: one for name, one in options.items() if one is not None})
        policy = self.policy(asked.positions)
        if policy.needs_length and asked.mode == Mode.ASYNC:
            raise RequestError(
                "The policy 'oracle' needs the true length of chunks: it serves training and replay only."
            )
        self._require_named("logit_bias", asked.logit_bias or (), self.known_tokens)
        self._require_named("stop_token_ids", asked.stop_token_ids or (), max(self.known_tokens, len(self.tokenizer)))
        plain = asked.stop_token_ids is not None
        language = self.plain_language(asked.stop_token_ids or ()) if plain else self.language(asked.mode)
        ids = self.encode(prompt)
        self._require_known("prompt", ids)
        limits = self.bounded(asked.limits, ids)
        interpreter = Interpreter(language, policy, limits, len(ids), stops=asked.stops, eager=asked.eager)
        notes = None if asked.logprobs is None else Logprobs(asked.logprobs)
        return Sequence(ids, interpreter, asked.sampling, observe=asked.observe, logprobs=notes)

    def replay(
        self, prompt: Prompt, annotated: str | Answer, *, max_threads: int | None = None, positions: str | None = None
    ) -> Response:
        """Decode a known answer by force through the same path, for its metrics and its time on this model.

        ``annotated`` is text in either form of the language, or a tree. Raises ``AnnotationError`` for broken text.
        """
        vocabulary = self.tags()
        answer = parse(annotated, max_depth=8) if isinstance(annotated, str) else annotated
        policy = self.policy(positions)
        script = compile_script(answer, vocabulary, policy, end=False)
        return self.replay_script(self.encode(prompt), script, policy, max_threads=max_threads)

    def replay_script(self, prompt: Many[int], script: Script, policy: PositionPolicy, **options: Any) -> Response:
        """Like :meth:`replay`, of ids: exactly these tokens are fed. Takes the options of :meth:`replay_request`."""
        return self.run(self.replay_request(prompt, script, policy, **options))

    def replay_request(
        self,
        prompt: Many[int],
        script: Script,
        policy: PositionPolicy,
        *,
        max_threads: int | None = None,
        observe: Observer | None = None,
    ) -> Sequence:
        """A known answer, ready for :meth:`run` or a ``Scheduler``; decodes nothing. Raises :class:`RequestError` for
        tokens that the model does not have."""
        self._require_known("prompt", prompt)
        self._require_known("answer", script.tokens)
        eos = self.eos or frozenset([NO_TOKEN])  # an end is never fed to the model
        vocabulary = self.tags() if self.eos else Vocabulary(self.tags().tokenizer, eos)
        known = Replay(script, min(eos), vocabulary.async_end)
        limits = Limits(max_tokens=max(1, known.total), max_threads=max_threads, max_depth=max(1, len(script.blocks)))
        language = Language(self.codec, eos, vocabulary, asynchronous=True, constrained=False)
        limits = self.bounded(limits, prompt)
        interpreter = Interpreter(language, policy, limits, len(prompt), lengths=known.length)
        return Sequence(list(prompt), interpreter, teacher=known, coming=known.coming, observe=observe)

    def encode(self, prompt: Prompt) -> list[int]:
        """The ids of a prompt. Raises :class:`RequestError` for an empty one, for one so long that it is seen before
        all of it is encoded, and for messages without a template, or that it refuses or leaves out."""
        room = min((one for one in (self.window, self.max_model_len) if one is not None), default=None)
        try:
            ids = self.prompts.encode(prompt, room)
        except LongPromptError as error:
            self._require_room(error.tokens, "more than ")
            raise
        except ValueError as error:
            raise RequestError(str(error)) from error
        if not ids:
            raise RequestError("The prompt is empty: there is nothing to answer.")
        return ids

    def language(self, mode: str = Mode.ASYNC) -> Language:
        """How answers are read in a mode. Raises ``MissingTagsError`` where the model does not know the tags."""
        asynchronous = mode == Mode.ASYNC
        vocabulary = self.tags() if asynchronous else self.vocabulary if self._knows_tags else None
        settings = {"constrained": self.constrained, "unique_topics": self.unique_topics}
        return Language(self.codec, self.eos, vocabulary, asynchronous=asynchronous, **settings)

    def plain_language(self, stops: Many[int]) -> Language:
        """How answers are read whose tags are tokens like others; ``stops`` end them, too."""
        return Language(self.codec, self.eos | set(stops), None, asynchronous=False, constrained=False)

    def bounded(self, limits: Limits, prompt: Many[int]) -> Limits:
        """The limits with the model's window and the cache's size. Raises :class:`RequestError` for a prompt that
        leaves no room."""
        self._require_room(len(prompt))
        # Besides what is sampled, a chunk takes the two tags that the runtime may write; a promise takes five tokens.
        most = len(prompt) + limits.max_tokens + 2 * (limits.max_tokens // 5 + 1)
        return replace(limits, window=self.window, slots=min(most, self.max_model_len or most))

    def _require_room(self, tokens: int, how: str = "") -> None:
        """Raise :class:`RequestError` for a prompt of so many tokens if none can come behind them."""
        prompt, window, room = f"The prompt has {how}{tokens} tokens", self.window, self.max_model_len
        if window is not None and tokens >= window:
            raise RequestError(f"{prompt}, but the model's window is {window}; shorten it.")
        if room is not None and tokens >= room:
            raise RequestError(f"{prompt}, but the cache holds {room}; raise max_model_len.")

    @staticmethod
    def _require_named(option: str, ids: Iterable[int], size: int) -> None:
        """Raise :class:`RequestError` if an option names a token that is none of ``size``."""
        unknown = next((token for token in ids if not 0 <= token < size), None)
        if unknown is not None:
            raise RequestError(f"{option} names the token {unknown}, which this model does not have.")

    def _require_known(self, what: str, ids: Many[int]) -> None:
        """Raise :class:`RequestError` for a token that the tokenizer has and the model's tables lack."""
        largest = max(ids, default=0)
        if largest >= self.known_tokens:
            raise RequestError(
                f"The {what} holds the token {largest}, but this model knows {self.known_tokens} tokens: take the "
                "tokenizer that belongs to it."
            )

    def release(self) -> None:
        """Free the cache that is kept between calls, and the graphs of steps over it. The next call makes them; calls
        that are running keep theirs."""
        with self._steps.hold():
            self._scheduler = None
            self.runner.graphs.clear()
            self.runner.choices.clear()

    @property
    def cache_bytes(self) -> int:
        """What the cache that is kept between calls takes."""
        return self._scheduler.cache.bytes if self._scheduler else 0

    def _decode(self, waiting: deque[Sequence], max_batch: int) -> Iterator[Sequence]:
        """Add, step until finished: the one loop. Yields the first sequence that has not been finished yet after each
        step, and each one when it is. Whoever stops reading takes back what is left."""
        if not isinstance(max_batch, int) or max_batch < 1:
            raise ValueError(f"A batch must be a whole number of at least 1 request, not {max_batch!r}.")
        scheduler = self._scheduler_for(waiting, max_batch)
        added: deque[Sequence] = deque()
        try:
            while waiting or added:
                with self._steps.hold():
                    while waiting and sum(not one.finished for one in added) < max_batch:
                        scheduler.add(waiting[0])
                        added.append(waiting.popleft())
                    if not added[0].finished:
                        scheduler.step()
                finished = added[0].finished
                yield added.popleft() if finished else added[0]  # nobody holds one that is finished
        finally:
            for sequence in added:
                self._steps.between_steps(partial(scheduler.cancel, sequence))

    def _scheduler_for(self, sequences: Many[Sequence], max_batch: int) -> Scheduler:
        """The scheduler of the last call, or a new one if its cache is too small for these."""
        rows = min(max_batch, max(1, len(sequences)))
        slots = max((sequence.max_slots for sequence in sequences), default=1)
        with self._steps.hold():
            kept = self._scheduler
            if kept is None or kept.max_batch < rows or kept.max_model_len < slots:
                kept = self._scheduler = self.scheduler(rows, slots)
            return kept

    def tags(self) -> Vocabulary:
        """The vocabulary with PASTA's tags. Raises ``MissingTagsError`` where the tokenizer or the model lacks them."""
        if self.vocabulary is None:
            raise MissingTagsError(
                "The tokenizer does not know PASTA's tags, so this model cannot mark chunks. `pasta train sft` adds "
                "and trains them; without, decode with mode='sequential'."
            )
        if not self._knows_tags:
            raise MissingTagsError(
                f"The tokenizer knows PASTA's tags, but the model knows {self.known_tokens} tokens and not all "
                "of these: let `pasta train sft` add and train them, or call "
                "model.resize_token_embeddings(len(tokenizer)) before the engine is made."
            )
        return self.vocabulary

    @property
    def _knows_tags(self) -> bool:
        """Whether tokenizer and model know the tags."""
        return self.vocabulary is not None and max(self.vocabulary.tags) < self.known_tokens
