"""The report of a bench run: as JSON, as Markdown with one table a question, and as a figure (extra ``plots``)."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from pastalm.evaluation.bench.answers import LoadPoint
from pastalm.evaluation.bench.breakdown import PARTS, StepBreakdown
from pastalm.evaluation.bench.peers import PeerTimes, speedups
from pastalm.evaluation.bench.remote import ServerCosts
from pastalm.evaluation.bench.steps import Law, StepPoint
from pastalm.evaluation.comparison import Pair, summarise
from pastalm.files.atomic import write_json, write_text
from pastalm.lang.metrics import geometric
from pastalm.runtime.response import Response

AHEAD = ("launched ahead", "places dropped")


@dataclass
class BenchReport:
    """What was measured; a section that was not asked for is empty. ``bandwidth`` is that of a copy, bytes a second.
    ``costs`` are those of a model behind a completion server, whose pairs are answers of its own."""

    model: str
    machine: dict[str, Any]
    bandwidth: float = 0.0
    steps: list[StepPoint] = field(default_factory=list)
    law: Law | None = None
    breakdown: list[StepBreakdown] = field(default_factory=list)
    pairs: list[Pair[Response]] = field(default_factory=list)
    load: list[LoadPoint] = field(default_factory=list)
    peers: list[PeerTimes] = field(default_factory=list)
    costs: list[ServerCosts] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain JSON types."""
        return {
            "model": self.model,
            "machine": self.machine,
            "bandwidth": self.bandwidth,
            "steps": [asdict(one) | {"rows": one.rows, "bandwidth": one.bandwidth} for one in self.steps],
            "law": self.law and asdict(self.law),
            "breakdown": [asdict(one) | {"total": one.total, "host_share": one.host} for one in self.breakdown],
            "replay": [_pair(one) for one in self.pairs],
            "replay_means": asdict(summarise(self.pairs)) if self.pairs else None,
            "load": [asdict(one) | {"speedup": one.speedup} for one in self.load],
            "peers": [asdict(one) | {"speedup": self.against(one)} for one in self.peers],
            "costs": [asdict(one) | {"again": one.again} for one in self.costs],
        }

    def against(self, peer: PeerTimes) -> dict[str, float]:
        """Geometric means of how much sooner our answers are there than the peer's: in parallel, sequentially."""
        parallel = [pair.answer.metrics.wall_seconds for pair in self.pairs]
        plain = [pair.baseline.metrics.wall_seconds for pair in self.pairs]
        return {
            "parallel": geometric(list(speedups(parallel, peer))),
            "sequential": geometric(list(speedups(plain, peer))),
        }

    def write(self, folder: Path) -> list[Path]:
        """Write ``bench.json``, ``bench.md`` and, where matplotlib is installed, ``bench.png``."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "bench.json", self.as_json())
        write_text(folder / "bench.md", "\n".join(markdown(self)) + "\n")
        drawn = draw(self, folder / "bench.png")
        return [folder / "bench.json", folder / "bench.md", *drawn]


def describe_machine(engine: Any) -> dict[str, Any]:
    """On which machine: what all times depend on."""
    weight = next(engine.runner.model.parameters())
    device = torch.cuda.get_device_name(weight.device) if weight.is_cuda else processor()
    number = str(weight.dtype).removeprefix("torch.")
    parameters = sum(one.numel() for one in engine.runner.model.parameters())
    versions = {"torch": str(torch.__version__), "threads": torch.get_num_threads()}
    return {"device": device, "dtype": number, "parameters": parameters, **versions}


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _pair(pair: Pair[Response]) -> dict[str, Any]:
    own, plain = pair.answer.metrics, pair.baseline.metrics
    speeds = {"theoretical": pair.theoretical, "realised": pair.realised, "efficiency": pair.efficiency}
    return {"tokens": plain.tokens, "critical_path": own.critical_path, "seconds": own.wall_seconds, **speeds}


def markdown(report: BenchReport) -> Iterator[str]:
    """The lines of the report."""
    yield f"# Bench of {report.model}"
    yield ""
    yield from _machine(report)
    for title, heads, rows, notes in _sections(report):
        if rows:
            yield from ("", f"## {title}", "", _line(heads), _line(["--:"] * len(heads)), *map(_line, rows))
            yield from ("", *notes) if notes else ()


def _machine(report: BenchReport) -> Iterator[str]:
    machine = report.machine
    if report.costs:
        yield f"Behind the completion server at {machine['device']}; what the model runs on is the server's to know."
        return
    size, number = f"{machine['parameters'] / 1e6:,.1f}M parameters", machine["dtype"]
    yield f"{size} in {number} on {machine['device']}, torch {machine['torch']}, {machine['threads']} host threads."
    yield f"A large copy runs at {report.bandwidth / 1e9:.1f} GB/s, read and written."


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _sections(report: BenchReport) -> Iterator[tuple[str, Sequence[str], list[Sequence[str]], list[str]]]:
    """Title, heads, rows and notes of each table."""
    share = report.bandwidth or float("inf")
    heads: Sequence[str] = (
        "sequences",
        "threads",
        "context",
        "ms a step",
        "tokens/s",
        "GB/s",
        "of the copy's",
        "cache MB",
    )
    yield "A step", heads, [_step(one, share) for one in report.steps], _law(report.law)
    heads = ("sequences", "threads", *PARTS, "ms in all", "host's share", "ms as it runs", *AHEAD)
    yield "Where a step's time goes, ms", heads, [_parts(one) for one in report.breakdown], []
    heads = ("answer", "tokens", "critical path", "theoretical x", "realised x", "efficiency")
    answers = [_answer(number, one) for number, one in enumerate(report.pairs, 1)]
    yield "Answers" if report.costs else "Known answers", heads, answers, _means(report)
    heads = ("sequences", "seconds", "sequentially", "speedup x", "tokens/s", "sequentially", "steps", *AHEAD)
    yield "Many answers at once", heads, [_load(one) for one in report.load], []
    heads = ("engine", "ms a token", "we, in parallel x", "we, sequentially x", "note")
    yield "Other engines", heads, [_peer(report, one) for one in report.peers], []
    heads = ("mode", "answers", "seconds", "tokens", "completions", "tokens sent", "in its cache", "computed again")
    yield "What the server was asked", heads, [_cost(one) for one in report.costs if one.answers], []


def _step(one: StepPoint, share: float) -> Sequence[str]:
    speed = 1000 * one.rows / one.milliseconds
    figures = f"{one.milliseconds:.2f}", f"{speed:.1f}", f"{one.bandwidth / 1e9:.2f}", f"{one.bandwidth / share:.0%}"
    held = f"{one.held / 1e6:.1f} for {one.needed / 1e6:.1f}"
    return (str(one.sequences), str(one.threads), str(one.context), *figures, held)


def _law(law: Law | None) -> list[str]:
    if law is None:
        return []
    terms = f"{law.fixed:.2f} + {law.row:.3f} x rows + {law.kiloslot:.3f} x cache slots / 1000"
    return [f"Fitted: ms = {terms} ({law.explained:.0%} of the variance)."]


def _parts(one: StepBreakdown) -> Sequence[str]:
    values = [getattr(one, part) for part in PARTS]
    shares = [f"{value:.2f} ({value / one.total:.0%})" for value in values]
    ahead = f"{one.ahead:.0%}", f"{one.dropped:.2f}"
    return (
        str(one.sequences),
        str(one.threads),
        *shares,
        f"{one.total:.2f}",
        f"{one.host:.0%}",
        f"{one.wall:.2f}",
        *ahead,
    )


def _answer(number: int, pair: Pair[Response]) -> Sequence[str]:
    own = pair.answer.metrics
    speeds = f"{pair.theoretical:.2f}", f"{pair.realised:.2f}", f"{pair.efficiency:.2f}"
    return (str(number), str(pair.baseline.metrics.tokens), str(own.critical_path), *speeds)


def _means(report: BenchReport) -> list[str]:
    if not report.pairs:
        return []
    means = summarise(report.pairs)
    return [
        f"Geometric means: theoretical {means.theoretical:.2f}, realised {means.realised:.2f}, "
        f"efficiency {means.efficiency:.2f}."
    ]


def _cost(one: ServerCosts) -> Sequence[str]:
    counts = one.tokens, one.requests, one.sent
    cached, again = ("not told" if count is None else str(count) for count in (one.cached, one.again))
    return (one.mode, str(one.answers), f"{one.seconds:.2f}", *map(str, counts), cached, again)


def _load(one: LoadPoint) -> Sequence[str]:
    seconds = f"{one.seconds:.2f}", f"{one.sequential_seconds:.2f}", f"{one.speedup:.2f}"
    speeds = f"{one.tokens_per_second:.1f}", f"{one.sequential_tokens_per_second:.1f}"
    return (str(one.sequences), *seconds, *speeds, *map(str, (one.steps, one.ahead, one.dropped)))


def _peer(report: BenchReport, peer: PeerTimes) -> Sequence[str]:
    found = report.against(peer)
    return (peer.name, f"{peer.milliseconds:.2f}", f"{found['parallel']:.2f}", f"{found['sequential']:.2f}", peer.note)


def draw(report: BenchReport, path: Path) -> list[Path]:
    """Write the figure; nothing without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return []
    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    steps, breakdown, answers, load = figure.subplots(2, 2).flat
    _draw_steps(steps, report.steps)
    _draw_breakdown(breakdown, report.breakdown)
    _draw_answers(answers, report.pairs)
    _draw_load(load, report.load)
    figure.savefig(path, dpi=130)
    return [path]


def _draw_steps(axes: Any, points: Sequence[StepPoint]) -> None:
    least = min((point.context for point in points), default=0)
    alone = [point for point in points if point.sequences == 1 and point.context == least]
    many = [point for point in points if point.threads == 1 and point.context == least]
    for name, found in (("threads of one sequence", alone), ("sequences of one thread", many)):
        axes.plot([point.rows for point in found], [point.milliseconds for point in found], "o-", label=name)
    _label(axes, "A step", "tokens of a step", "ms", bool(points))


def _draw_breakdown(axes: Any, points: Sequence[StepBreakdown]) -> None:
    names, below = [f"{one.sequences} x {one.threads}" for one in points], [0.0] * len(points)
    for part in PARTS:
        values = [getattr(one, part) for one in points]
        axes.bar(names, values, bottom=below, label=part)
        below = [low + value for low, value in zip(below, values, strict=True)]
    _label(axes, "Where a step's time goes", "sequences x threads", "ms", bool(points))


def _draw_answers(axes: Any, pairs: Sequence[Pair[Response]]) -> None:
    axes.plot([pair.theoretical for pair in pairs], [pair.realised for pair in pairs], "o", label="an answer")
    longest = max((pair.theoretical for pair in pairs), default=1.0)
    axes.plot([0, longest], [0, longest], color="#9a9a9a", label="efficiency 1")
    _label(axes, "Known answers", "theoretical speedup", "realised speedup", bool(pairs))


def _draw_load(axes: Any, points: Sequence[LoadPoint]) -> None:
    loads = [point.sequences for point in points]
    axes.plot(loads, [point.tokens_per_second for point in points], "o-", label="in parallel")
    axes.plot(loads, [point.sequential_tokens_per_second for point in points], "o-", label="sequentially")
    _label(axes, "Many answers at once", "answers at once", "tokens/s", bool(points))


def _label(axes: Any, title: str, x: str, y: str, filled: bool) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#e6e6e6")
    if filled:
        axes.legend(frameon=False, fontsize=8)
