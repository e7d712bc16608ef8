"""What a request may ask for, and what is refused before anything is decoded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pastalm.lang.positions import DEFAULT, PositionPolicy, position_policy
from pastalm.runtime.limits import Limits
from pastalm.runtime.mode import Mode as Mode
from pastalm.runtime.response import MAX_TOP
from pastalm.runtime.sampler import SamplingParams
from pastalm.runtime.thread import ThreadPath

# Is shown every choice: thread, logits [V] as the model gave them, token. For tests and tools.
Observer = Callable[[ThreadPath, Tensor, int], None]


class RequestError(ValueError):
    """A request that cannot be started, and why."""


@dataclass(frozen=True)
class RequestOptions:
    """What a request may set, and the defaults.

    ``max_tokens`` counts all threads together. ``temperature`` 0 is greedy. ``promise_bias``, from -3 to 3 nats, is
    added to the logit of starting a promise wherever one may start: more chunks or fewer from the same model. ``stop``
    strings end the answer in the main thread, the chunk in any other. ``max_threads``, ``max_async_tokens`` and
    ``max_depth`` are those of :class:`pastalm.runtime.limits.Limits`. ``positions`` is a policy of
    :mod:`pastalm.lang.positions`; by default, and if the model was trained with one, it is the model's own. ``eager``
    turns tokens into text at once, for those who drain events. ``observe`` is shown every choice. ``logit_bias`` (ids
    to numbers), ``presence_penalty`` and ``frequency_penalty`` are those of
    :class:`pastalm.runtime.sampler.SamplingParams`; ``logprobs`` asks for the probabilities of the text's tokens, with
    so many of the likeliest beside each. ``stop_token_ids``, which may be empty, end the answer like the model's own
    end, and make every token of it plain: tags are neither read nor forbidden, for clients that read them themselves.
    Raises :class:`RequestError` or ``ValueError`` with one sentence for values that mean nothing.
    """

    max_tokens: int = 1024
    mode: str = Mode.ASYNC
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    promise_bias: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logprobs: int | None = None
    stop: str | Sequence[str] | None = None
    stop_token_ids: Sequence[int] | None = None
    max_threads: int | None = None
    max_async_tokens: int | None = None
    max_depth: int = 1
    positions: str | None = None
    eager: bool = False
    observe: Observer | None = None

    def __post_init__(self) -> None:
        if self.mode not in list(Mode):
            raise RequestError(f"Unknown mode {self.mode!r}; choose 'async' or 'sequential'.")
        if self.logprobs is not None and (type(self.logprobs) is not int or not 0 <= self.logprobs <= MAX_TOP):
            raise RequestError(f"logprobs is a whole number from 0 to {MAX_TOP}, not {self.logprobs}.")
        for name, (sound, meant) in {
            "logit_bias": (isinstance(self.logit_bias, Mapping), "a mapping of token ids to numbers"),
            "stop": (isinstance(self.stop, str) or _are(str, self.stop), "a string or a list of strings"),
            "stop_token_ids": (_are(int, self.stop_token_ids), "a list of token ids"),
            "positions": (isinstance(self.positions, str), "the name of a policy"),
        }.items():
            if getattr(self, name) is not None and not sound:
                raise RequestError(f"{name} is {meant}, not {getattr(self, name)!r}.")
        _ = self.limits, self.sampling  # they check themselves

    @property
    def limits(self) -> Limits:
        """The limits it sets."""
        return Limits(self.max_tokens, self.max_async_tokens, self.max_threads, self.max_depth)

    @property
    def sampling(self) -> SamplingParams:
        """How its tokens are drawn."""
        bias = tuple((self.logit_bias or {}).items())
        penalties = self.presence_penalty, self.frequency_penalty
        return SamplingParams(self.temperature, self.top_p, self.seed, self.promise_bias, bias, *penalties)

    @property
    def stops(self) -> list[str]:
        """The stop strings, without empty ones."""
        return [one for one in ([self.stop] if isinstance(self.stop, str) else self.stop or ()) if one]


def _are(kind: type, values: Any) -> bool:
    """Whether these are values of one kind."""
    return isinstance(values, Collection) and all(isinstance(one, kind) for one in values)


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
