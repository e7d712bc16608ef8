"""What an answer's parallelism was worth: the same model, prompt and runtime, with and without threads (SPEC 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pastalm.runtime.engine import Engine, Prompt
    from pastalm.runtime.response import Response

WARM_UP_TOKENS = 16


def timed(engine: Engine, prompt: Prompt, *, mode: str = "async", **options: Any) -> tuple[Response, Response | None]:
    """Decode a prompt for its time, and once more sequentially as the baseline (None if ``mode`` is sequential).

    The caller has decoded it once already, so that the model is warm in ``mode``. All steps of a sequential run are
    alike, so a few of them warm that one up.
    """
    response = engine.generate(prompt, mode=mode, **options)
    if mode == "sequential":
        return response, None
    few = min(WARM_UP_TOKENS, options.get("max_tokens", WARM_UP_TOKENS))
    engine.generate(prompt, mode="sequential", **{**options, "max_tokens": few})
    return response, engine.generate(prompt, mode="sequential", **options)


def speedups(response: Response, baseline: Response) -> dict[str, float | None]:
    """``theoretical``: the baseline's tokens by the answer's critical path. ``realised``: the baseline's wall time by
    the answer's. ``efficiency``: realised by theoretical. None where an empty answer leaves nothing to divide by."""
    theoretical = _ratio(baseline.metrics.tokens, response.metrics.critical_path)
    realised = _ratio(baseline.metrics.wall_seconds, response.metrics.wall_seconds)
    return {"theoretical": theoretical, "realised": realised, "efficiency": _ratio(realised or 0, theoretical or 0)}


def _ratio(above: float, below: float) -> float | None:
    return above / below if below else None


def baseline_figures(baseline: Response) -> dict[str, Any]:
    """The baseline as plain JSON types."""
    metrics = baseline.metrics
    return {
        "text": baseline.text,
        "finish_reason": baseline.finish_reason,
        "tokens": metrics.tokens,
        "steps": metrics.steps,
        "wall_seconds": metrics.wall_seconds,
        "tokens_per_second": metrics.tokens_per_second,
    }
