"""The verdict on a reply of the annotating model."""

from __future__ import annotations

from dataclasses import dataclass, field

from pastalm.data.check import flaws
from pastalm.lang.parse import parse
from pastalm.lang.render import render_annotator


@dataclass
class Verdict:
    """What the validator says of one reply: the canonical annotated answer, or a reason and its problems."""

    annotated: str = ""
    reason: str = ""
    problems: list[str] = field(default_factory=list)
    again: bool = True  # whether the reply is shown to the model once more, with the problems


def judge(text: str, finish: str | None, answer: str) -> Verdict:
    """Validate a reply. White space around it is the answer's own: models drop it, and no tag can change it."""
    if finish == "length":
        return Verdict(reason="cut off", problems=["the reply was cut off at the endpoint's limit."], again=False)
    if finish == "content_filter":
        return Verdict(reason="filtered", problems=["the endpoint's filter held the reply back."], again=False)
    if not text.strip():
        return Verdict(reason="empty", problems=["the reply is empty."], again=False)
    core = answer.strip()
    found = list(flaws(text.strip(), core))
    if found:
        return Verdict(reason=found[0].kind, problems=[str(flaw) for flaw in found])
    start = answer.index(core)
    marked = render_annotator(parse(text.strip()))
    return Verdict(annotated=answer[:start] + marked + answer[start + len(core) :])
