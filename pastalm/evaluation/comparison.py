"""Asynchronous against sequential decoding: pairs of answers, and means over many (SPEC 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any

from pastalm.lang.metrics import geometric

if TYPE_CHECKING:
    from pastalm.lang.prompt import Prompt
    from pastalm.runtime.engine import Engine
    from pastalm.runtime.response import Response

WARM_UP_TOKENS = 16


@dataclass(frozen=True)
class Pair:
    """One prompt answered both ways by the same runtime."""

    asynchronous: Response
    sequential: Response

    @property
    def theoretical(self) -> float:
        """Tokens of the sequential answer by the critical path of the asynchronous one."""
        return max(1, self.sequential.metrics.tokens) / max(1, self.asynchronous.metrics.critical_path)

    @property
    def realised(self) -> float:
        """Wall time of the sequential answer by that of the asynchronous one."""
        return self.sequential.metrics.wall_seconds / self.asynchronous.metrics.wall_seconds

    @property
    def efficiency(self) -> float:
        """What of the theoretical speedup was realised."""
        return self.realised / self.theoretical


def timed(engine: Engine, prompt: Prompt, **options: Any) -> Pair:
    """Decode a prompt both ways for their times. The caller has decoded it asynchronously before, so that the model is
    warm; all steps of a sequential answer are alike, so a few of them warm that way up."""
    asynchronous = engine.generate(prompt, **options, mode="async")
    few = min(WARM_UP_TOKENS, options.get("max_tokens", WARM_UP_TOKENS))
    engine.generate(prompt, **{**options, "mode": "sequential", "max_tokens": few})
    return Pair(asynchronous, engine.generate(prompt, **options, mode="sequential"))


@dataclass(frozen=True)
class Summary:
    """Speedups of pairs: geometric means, and the arithmetic ones beside them."""

    number: int
    theoretical: float
    realised: float
    efficiency: float
    theoretical_arithmetic: float
    realised_arithmetic: float


def summarise(pairs: Sequence[Pair]) -> Summary:
    """The means over at least one pair."""
    theoretical = [pair.theoretical for pair in pairs]
    realised = [pair.realised for pair in pairs]
    return Summary(
        number=len(pairs),
        theoretical=geometric(theoretical),
        realised=geometric(realised),
        efficiency=geometric(realised) / geometric(theoretical),
        theoretical_arithmetic=mean(theoretical),
        realised_arithmetic=mean(realised),
    )
