"""Asynchronous against sequential decoding: pairs of answers, and means over many (SPEC 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any

from pastalm.lang.metrics import geometric

if TYPE_CHECKING:
    from pastalm.runtime.engine import Engine, Prompt
    from pastalm.runtime.response import Response

WARM_UP_TOKENS = 16


@dataclass(frozen=True)
class Pair:
    """One prompt answered both ways by the same runtime. ``accepted`` are the checker's verdicts, None without one."""

    asynchronous: Response
    sequential: Response
    family: str = ""
    accepted: tuple[bool, bool] | None = None

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
    """Means over pairs. Speedups are geometric means, the arithmetic ones beside them; shares are in [0, 1]."""

    number: int
    theoretical: float
    realised: float
    efficiency: float
    theoretical_arithmetic: float
    realised_arithmetic: float
    parallelism: float
    forked: float
    redundancy: float
    accepted_async: float | None
    accepted_sequential: float | None


def summarise(pairs: Sequence[Pair]) -> Summary:
    """The means over at least one pair."""
    theoretical = [pair.theoretical for pair in pairs]
    realised = [pair.realised for pair in pairs]
    verdicts = [pair.accepted for pair in pairs if pair.accepted is not None]
    forking = [pair.asynchronous for pair in pairs if len(pair.asynchronous.threads) > 1]
    return Summary(
        number=len(pairs),
        theoretical=geometric(theoretical),
        realised=geometric(realised),
        efficiency=geometric(realised) / geometric(theoretical),
        theoretical_arithmetic=mean(theoretical),
        realised_arithmetic=mean(realised),
        parallelism=geometric([pair.asynchronous.metrics.parallelism or 1.0 for pair in pairs]),
        forked=len(forking) / len(pairs),
        redundancy=mean([one.metrics.redundancy for one in forking] or [0.0]),
        accepted_async=mean(a for a, _ in verdicts) if verdicts else None,
        accepted_sequential=mean(s for _, s in verdicts) if verdicts else None,
    )
