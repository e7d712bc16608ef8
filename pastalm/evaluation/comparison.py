"""An answer against a baseline's: pairs of answers, what is odd about them, and means over many pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from pastalm.lang.metrics import geometric

if TYPE_CHECKING:
    from pastalm.lang.prompt import Prompt
    from pastalm.runtime.engine import Engine
    from pastalm.runtime.response import Metrics, Response

WARM_UP_TOKENS = 16
SHORT = 0.7  # a baseline's share of an answer's length below which a speedup says little


class MeasuredAnswer(Protocol):
    """An answer with its text and its metrics."""

    @property
    def text(self) -> str: ...

    @property
    def metrics(self) -> Metrics: ...


One = TypeVar("One", bound=MeasuredAnswer)


@dataclass(frozen=True)
class Pair(Generic[One]):
    """One prompt answered by a model and by its baseline, in the same runtime."""

    answer: One
    baseline: One

    @property
    def theoretical(self) -> float:
        """Tokens of the baseline's answer by the critical path of the model's."""
        return max(1, self.baseline.metrics.tokens) / max(1, self.answer.metrics.critical_path)

    @property
    def realised(self) -> float:
        """Wall time of the baseline's answer by that of the model's."""
        return self.baseline.metrics.wall_seconds / self.answer.metrics.wall_seconds

    @property
    def efficiency(self) -> float:
        """What of the theoretical speedup was realised."""
        return self.realised / self.theoretical

    def remarks(self) -> Iterator[str]:
        """Sentences on what the speedups do not say: that the two answers differ, and by how much in length."""
        if self.answer.text == self.baseline.text:
            return
        own, other = self.answer.metrics.content_tokens, self.baseline.metrics.content_tokens
        yield f"The two answers differ ({own} and {other} tokens of text): the speedup compares two different answers."
        if too_short(other, own):
            yield (
                "The baseline's answer is much shorter than this one, so the speedup says little: a model that ends "
                "early is no baseline. Compare with one that was trained on the same data without marks (--baseline)."
            )
        if self.baseline.metrics.circles:
            yield "The baseline's answer runs in circles, so the speedup says little."


def too_short(baseline: float, answer: float) -> bool:
    """Whether a baseline's answers are so much shorter, in tokens of text, that a speedup against them says little."""
    return baseline < SHORT * answer


def timed(engine: Engine, prompt: Prompt, *, baseline: Engine | None = None, **options: Any) -> Pair[Response]:
    """Decode a prompt with the options and, by ``baseline`` (by default the same engine), sequentially, for their
    times. The caller has decoded it before, so that the model is warm; all steps of a sequential answer are alike, so a
    few of them warm the baseline up."""
    answer, other = engine.generate(prompt, **options), baseline or engine
    plain = {name: value for name, value in options.items() if name not in ("promise_bias", "positions")}
    few = min(WARM_UP_TOKENS, options.get("max_tokens", WARM_UP_TOKENS))
    other.generate(prompt, **{**plain, "mode": "sequential", "max_tokens": few})
    return Pair(answer, other.generate(prompt, **{**plain, "mode": "sequential"}))


@dataclass(frozen=True)
class SpeedupMeans:
    """Speedups of pairs: geometric means, and the arithmetic ones beside them."""

    number: int
    theoretical: float
    realised: float
    efficiency: float
    theoretical_arithmetic: float
    realised_arithmetic: float


def summarise(pairs: Sequence[Pair[Any]]) -> SpeedupMeans:
    """The means over at least one pair."""
    theoretical = [pair.theoretical for pair in pairs]
    realised = [pair.realised for pair in pairs]
    return SpeedupMeans(
        number=len(pairs),
        theoretical=geometric(theoretical),
        realised=geometric(realised),
        efficiency=geometric(realised) / geometric(theoretical),
        theoretical_arithmetic=mean(theoretical),
        realised_arithmetic=mean(realised),
    )
