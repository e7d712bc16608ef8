"""A timeline as SVG: x is the decode step, one row a thread. Readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from pastalm.evaluation.timeline import Doing, ThreadRow, Timeline

LABELS, PLOT, RIGHT = 190, 720, 30  # widths
TOP, ROW, BAR, BOTTOM = 52, 38, 16, 78  # heights
WIDTH = LABELS + PLOT + RIGHT
LONGEST_TOPIC = 24
MOST_TICKS = 10

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2937 }
.title { font-size: 14px; font-weight: 600 }
.small { font-size: 10px; fill: #5b6472 }
.page { fill: #ffffff }
.grid { stroke: #e2e6ec }
.text { fill: #2f6fde }
.promise { fill: #e08a00 }
.wait { fill: none; stroke: #7a8494; stroke-dasharray: 4 3 }
.fork { stroke: #e08a00; fill: none }
.dot { fill: #e08a00 }
.join { stroke: #0e8a5f; stroke-dasharray: 2 3; fill: none }
.sync { fill: #0e8a5f }
@media (prefers-color-scheme: dark) {
  text { fill: #e5e9f0 }
  .small { fill: #9aa5b5 }
  .page { fill: #14181f }
  .grid { stroke: #2b323d }
  .text { fill: #6ea0ff }
  .promise, .dot { fill: #ffb547 }
  .fork { stroke: #ffb547 }
  .wait { stroke: #9aa5b5 }
  .join { stroke: #3fd09a }
  .sync { fill: #3fd09a }
}
"""


def draw(timeline: Timeline, unit: int) -> str:
    """The timeline as the text of an SVG file. ``unit`` is how many tokens a promise's number counts in."""
    height = TOP + ROW * len(timeline.rows) + BOTTOM
    attributes = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {WIDTH} {height}", "role": "img"}
    svg = Element("svg", {**attributes, "width": str(WIDTH), "height": str(height)})
    threads = f"{len(timeline.rows)} thread{'s' if len(timeline.rows) > 1 else ''}"
    SubElement(svg, "title").text = f"Timeline of an answer: {threads}, {timeline.steps} decode steps"
    SubElement(svg, "style").text = STYLE
    _rect(svg, "page", 0, 0, WIDTH, height)
    _text(svg, 16, 24, f"{threads}, {timeline.steps} decode steps", "title")
    _axis(svg, timeline, height - BOTTOM)
    for row in timeline.rows[1:]:
        _fork(svg, timeline, row)
    for row in timeline.rows:
        _joins(svg, timeline, row)
    for row in timeline.rows:
        _row(svg, timeline, row, unit)
    _legend(svg, height - 20)
    indent(svg)
    return tostring(svg, encoding="unicode") + "\n"


def _x(timeline: Timeline, step: int) -> float:
    return round(LABELS + PLOT * step / max(1, timeline.steps), 2)


def _y(row: int) -> float:
    """The middle of a row."""
    return TOP + ROW * row + ROW / 2


def _axis(svg: Element, timeline: Timeline, bottom: float) -> None:
    ticks = range(0, timeline.steps + 1, _spacing(timeline.steps))
    for step in ticks:
        x = _x(timeline, step)
        _line(svg, "grid", (x, TOP), (x, bottom))
        _text(svg, x, bottom + 14, str(step), "small", anchor="middle")
    _text(svg, LABELS + PLOT / 2, bottom + 30, "decode step", "small", anchor="middle")


def _spacing(steps: int) -> int:
    """The distance of the axis' ticks: 1, 2 or 5 times a power of ten."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if steps <= factor * power * MOST_TICKS:
                return factor * power
        power *= 10


def _row(svg: Element, timeline: Timeline, row: ThreadRow, unit: int) -> None:
    middle = _y(row.block)
    group = SubElement(svg, "g", {"class": "thread"})
    name = _visible(row.topic) if row.block else "main"
    SubElement(group, "title").text = f"{name}: steps {row.start} to {row.end}"
    _text(group, 16, middle - 1, name if len(name) <= LONGEST_TOPIC else name[: LONGEST_TOPIC - 2] + " ..")
    _text(group, 16, middle + 12, _lengths(row, unit), "small")
    for span in row.spans:
        start, end = _x(timeline, span.start), _x(timeline, span.end)
        tall = BAR if span.doing is not Doing.WAIT else BAR / 2
        _rect(group, span.doing.value, start, middle - tall / 2, round(end - start, 2), tall)
    for sync in row.syncs:
        _diamond(group, _x(timeline, sync.step), middle)


def _lengths(row: ThreadRow, unit: int) -> str:
    if not row.block:
        steps = sum(span.end - span.start for span in row.spans if span.doing is not Doing.WAIT)
        return f"{steps} steps of writing"
    return f"promised ~{unit * row.promised}, has {row.content} tokens"


def _fork(svg: Element, timeline: Timeline, row: ThreadRow) -> None:
    """A line from the parent, at the end of its promise, down to the child."""
    x = _x(timeline, row.start)
    _line(svg, "fork", (x, _y(row.parent)), (x, _y(row.block)))
    SubElement(svg, "circle", {"class": "dot", "cx": str(x), "cy": str(_y(row.block)), "r": "3.5"})


def _joins(svg: Element, timeline: Timeline, row: ThreadRow) -> None:
    """Lines from the ends of the joined threads to the moment when they are read."""
    for sync in row.syncs:
        resume = _x(timeline, sync.resume)
        for block in sync.blocks:
            end = _x(timeline, timeline.rows[block].end)
            _line(svg, "join", (end, _y(block)), (resume, _y(block)))
        if sync.blocks:
            _line(svg, "join", (resume, _y(row.block)), (resume, _y(max(sync.blocks))))


def _legend(svg: Element, y: float) -> None:
    entries = (("text", "text"), ("promise", "promise"), ("wait", "waiting"), ("fork", "fork"), ("sync", "sync, join"))
    x = float(LABELS)
    for kind, label in entries:
        if kind == "fork":
            _line(svg, "fork", (x, y - 10), (x, y))
            SubElement(svg, "circle", {"class": "dot", "cx": str(x), "cy": str(y), "r": "3.5"})
        elif kind == "sync":
            _diamond(svg, x, y - 4)
            _line(svg, "join", (x + 8, y - 4), (x + 24, y - 4))
        else:
            _rect(svg, kind, x, y - 9, 24, 10)
        x += 34 if kind != "fork" else 14
        _text(svg, x, y, label)
        x += 20 + 7 * len(label)


def _rect(parent: Element, kind: str, x: float, y: float, width: float, height: float) -> None:
    size = {"width": str(width), "height": str(height), "rx": "2" if kind != "page" else "0"}
    SubElement(parent, "rect", {"class": kind, "x": str(x), "y": str(y), **size})


def _line(parent: Element, kind: str, start: Sequence[float], end: Sequence[float]) -> None:
    points = dict(zip(("x1", "y1", "x2", "y2"), map(str, (*start, *end)), strict=True))
    SubElement(parent, "line", {"class": kind, **points})


def _diamond(parent: Element, x: float, y: float) -> None:
    points = " ".join(f"{x + dx},{y + dy}" for dx, dy in ((0, -7), (5, 0), (0, 7), (-5, 0)))
    SubElement(parent, "polygon", {"class": "sync", "points": points})


def _text(parent: Element, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
    look = {"class": kind} if kind else {}
    SubElement(parent, "text", {"x": str(x), "y": str(y), "text-anchor": anchor, **look}).text = text


def _visible(text: str) -> str:
    """The text without characters that XML cannot hold."""
    return "".join(char for char in text if char.isprintable())
