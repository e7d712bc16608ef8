"""Quality against speedup for many models: which are dominated, and a figure of all (extra ``plots``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pastalm.evaluation.bootstrap import Estimate
from pastalm.evaluation.report import CONTROLLED, TWO_SIDED, WIN_RATE
from pastalm.files.lines import DataError

AXES = ("realised", "theoretical")
ALIKE = ("prompts", "max_tokens")  # settings that reports in one figure have in common
FRONT, DOMINATED = "#0b5394", "#9a9a9a"
# Where a label may stand, in points from its mark, with its alignment; the first free place is taken.
NEAR = 20  # points; a label that stands further from its mark has a line to it
_PLACES = (
    *((7, 6, "left"), (7, -13, "left"), (-7, 6, "right"), (-7, -13, "right"), (7, 20, "left"), (-7, 20, "right")),
    *((x, y, "left" if x > 0 else "right") for far in (36, 56, 76) for x in (12, -12, 40, -40) for y in (far, -far)),
)


class MissingPlotsError(ValueError):
    """The package that draws is not installed."""


@dataclass(frozen=True)
class EvaluatedModel:
    """One model of the figure: its speedup, and its quality in percent, with their intervals."""

    name: str
    speedup: Estimate
    quality: Estimate


@dataclass(frozen=True)
class Tradeoff:
    """All models, what their quality measures, and the baseline's quality where it is the same for all."""

    models: tuple[EvaluatedModel, ...]
    axis: str
    kind: str
    baseline: float | None

    def dominator(self, model: EvaluatedModel) -> EvaluatedModel | None:
        """A model that is at least as fast and as good as this one, and one of it more; None on the frontier."""
        found = [other for other in self.models if _dominates(other, model)]
        return max(found, key=lambda other: (other.quality.value, other.speedup.value), default=None)

    def frontier(self) -> list[EvaluatedModel]:
        """The models that no other dominates, the slowest first."""
        found = [model for model in self.models if self.dominator(model) is None]
        return sorted(found, key=lambda model: (model.speedup.value, -model.quality.value))


def _dominates(one: EvaluatedModel, other: EvaluatedModel) -> bool:
    """By the figures themselves, not by their intervals."""
    mine, yours = ((model.speedup.value, model.quality.value) for model in (one, other))
    return mine != yours and mine[0] >= yours[0] and mine[1] >= yours[1]


def read_models(reports: Sequence[dict[str, Any]], axis: str = AXES[0]) -> Tradeoff:
    """The models of reports. Where the win rates of some alone were controlled for length, the plain ones of all count.

    Raises ``DataError`` where a report has no quality, or another kind than the first.
    """
    if axis not in AXES:
        raise ValueError(f"Unknown axis {axis!r}; choose one of {', '.join(AXES)}.")
    names = [report["name"] for report in reports]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"Several reports are of {', '.join(twice)}; tell them apart with `pasta eval --name`.")
    for report in reports:
        if report["quality"] is None:
            raise DataError(
                f"The report of {report['name']} has no quality; evaluate it with --judge-model, or on tasks."
            )
        if report["figures"][axis] is None:
            raise DataError(f"The report of {report['name']} has no {axis} speedup; evaluate it with --max-batch 1.")
    _require_alike(reports)
    qualities = _qualities(reports)
    kinds = {quality["kind"]: name for name, quality in zip(names, qualities, strict=True)}
    if len(kinds) > 1:
        told = ", ".join(f"{kind} ({name})" for kind, name in kinds.items())
        raise DataError(f"These qualities cannot stand in one figure: {told}.")
    baselines = {quality["baseline"] for quality in qualities}
    models = (
        EvaluatedModel(report["name"], Estimate(**report["figures"][axis]), _quality(quality))
        for report, quality in zip(reports, qualities, strict=True)
    )
    return Tradeoff(tuple(models), axis, next(iter(kinds), ""), baselines.pop() if len(baselines) == 1 else None)


def _require_alike(reports: Sequence[dict[str, Any]]) -> None:
    """Raise ``DataError`` for a report on other prompts, with other room for an answer, against another baseline or by
    another judge than the first's."""
    first, *others = ({"name": one["name"], **_grounds(one)} for one in reports)
    for other in others:
        for what, value in first.items():
            if what != "name" and value != other[what]:
                told = f"{first['name']} has {what} {value!r}, {other['name']} {other[what]!r}"
                raise DataError(f"These reports cannot stand in one figure: {told}.")


def _grounds(report: dict[str, Any]) -> dict[str, Any]:
    """What reports in one figure have in common. A baseline is what its weights are, or else its name; one model is
    called by several names where it is measured under several promise biases."""
    settings, judge = report["settings"], report.get("judge") or {}
    baseline = settings.get("baseline_print") or settings.get("baseline")
    reference = judge.get("reference")
    if judge and reference == report.get("baseline"):
        reference = baseline or settings.get("model_print") or settings.get("model")
    return {
        "number of prompts": report["number"],
        **{key: settings.get(key) for key in ALIKE},
        "baseline": baseline,
        "judge's model": judge.get("model"),
        "judge's reference": reference,
    }


def _qualities(reports: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The quality of each report, all of one kind if they can be."""
    mixed = {report["quality"]["kind"] for report in reports} == {CONTROLLED, WIN_RATE}
    return [_plain(report) if mixed else report["quality"] for report in reports]


def _plain(report: dict[str, Any]) -> dict[str, Any]:
    """The win rate before it was controlled for length."""
    quality = report["quality"]
    if quality["kind"] == WIN_RATE:
        return quality
    value, error = (report["judge"]["rates"][name] for name in ("win_rate", "standard_error"))
    low, high = max(0.0, value - TWO_SIDED * error), min(100.0, value + TWO_SIDED * error)
    return {**quality, "kind": WIN_RATE, "value": value, "low": low, "high": high}


def _quality(fields: dict[str, Any]) -> Estimate:
    return Estimate(fields["value"], fields["low"], fields["high"])


def draw(found: Tradeoff, out: Path) -> list[Path]:
    """Write ``pareto.png`` and ``pareto.svg`` into the folder ``out``. Raises :class:`MissingPlotsError`."""
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise MissingPlotsError(
            "Drawing needs the package matplotlib: install it with  pip install 'pastalm[plots]'"
        ) from error
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "pasta", "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=(7.2, 4.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        _marks(axes, found)
        axes.set_xlabel(f"{found.axis} speedup (geometric mean, baseline = 1)")
        axes.set_ylabel(f"{found.kind} (%)")
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(0.17, 0.12)
        figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=9)
        figure.canvas.draw()
        _labels(axes, found)
        paths = [out / "pareto.png", out / "pareto.svg"]
        out.mkdir(parents=True, exist_ok=True)
        for path in paths:
            figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def _marks(axes: Any, found: Tradeoff) -> None:
    """The models with their intervals, the frontier as a line, the baseline."""
    front = found.frontier()
    rest = [model for model in found.models if model not in front]
    axes.plot(*_places(front), color=FRONT, linewidth=1.4, zorder=2)
    solid = {"marker": "o", "color": FRONT, "label": "not dominated"}
    hollow = {"marker": "o", "color": DOMINATED, "markerfacecolor": "white", "label": "dominated"}
    for models, style in ((front, solid), (rest, hollow)):
        if models:
            x, y = _places(models)
            errors = [_reach([getattr(model, side) for model in models]) for side in ("speedup", "quality")]
            axes.errorbar(
                x, y, xerr=errors[0], yerr=errors[1], linestyle="", markersize=7, elinewidth=0.9, zorder=3, **style
            )
    if found.baseline is not None:
        axes.plot([1], [found.baseline], "*", color="#b45f06", markersize=11, label="baseline, sequential", zorder=3)


def _places(models: Sequence[EvaluatedModel]) -> tuple[list[float], list[float]]:
    return [model.speedup.value for model in models], [model.quality.value for model in models]


def _reach(estimates: Sequence[Estimate]) -> list[list[float]]:
    """How far each interval reaches below and above; a length-controlled value may stand outside by rounding."""
    below = [max(0.0, one.value - one.low) for one in estimates]
    return [below, [max(0.0, one.high - one.value) for one in estimates]]


def _labels(axes: Any, found: Tradeoff) -> None:
    """A name beside each mark, where it covers neither a mark nor another name, if there is such a place."""
    from matplotlib.text import Text

    ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.6}  # so that a line does not cross it
    renderer = axes.figure.canvas.get_renderer()
    points = axes.transData.transform([(model.speedup.value, model.quality.value) for model in found.models])
    taken: list[Any] = []
    for model in found.models:
        color = "#222222" if found.dominator(model) is None else "#6f6f6f"
        name = "".join(filter(str.isprintable, model.name))  # an SVG must hold no control character
        place = (model.speedup.value, model.quality.value)
        for x, y, side in _PLACES:
            label = axes.annotate(
                name,
                place,
                (x, y),
                textcoords="offset points",
                ha=side,
                fontsize=9,
                color=color,
                bbox=ground,
                parse_math=False,  # a name with dollars in it is no formula
                arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6} if abs(y) > NEAR else None,
            )
            label.update_positions(renderer)
            box = Text.get_window_extent(label, renderer)  # without its line
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.figure.bbox.x1 and axes.bbox.y0 <= box.y0
            if inside and not any(box.overlaps(other) for other in taken) and box.count_contains(points) == 0:
                break
            if (x, y, side) != _PLACES[-1]:
                label.remove()
        taken.append(box)
