"""What a reply of the annotating model is worth: the marked answer, or what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pastalm.data.check import Flaw, flaws
from pastalm.lang.parse import parse
from pastalm.lang.render import render_annotator
from pastalm.lang.tags import as_whole

_THOUGHTS = re.compile(r"\A(?:(?!</think(?:ing)?>).)*</think(?:ing)?>", re.DOTALL)
_WRAPPINGS = (
    re.compile(r"```[^\n`]*\n(.*?)\n?[ \t]*```\s*\Z", re.DOTALL),
    re.compile(r"<answer>(.*)</answer>", re.DOTALL),
)


@dataclass
class CheckedReply:
    """What the validator says of one reply: the canonical annotated answer, or a reason and its problems."""

    annotated: str = ""
    reason: str = ""
    problems: list[str] = field(default_factory=list)
    again: bool = True  # whether the reply is shown to the model once more, with the problems


def check_reply(text: str, finish: str | None, answer: str) -> CheckedReply:
    """Validate a reply. White space around it is the answer's own: models drop it, and no tag can change it.

    Thoughts before the answer and a code fence around it are no fault: what stands inside is taken if it is valid.
    """
    if finish == "length":
        return CheckedReply(reason="cut off", problems=["the reply was cut off at the endpoint's limit."], again=False)
    if finish == "content_filter":
        return CheckedReply(reason="filtered", problems=["the endpoint's filter held the reply back."], again=False)
    core, found = answer.strip(), list[Flaw]()
    for candidate in readings(as_whole(text)):  # a topic must not hold half a surrogate pair
        found = list(flaws(candidate, core))
        if not found:
            marked = render_annotator(parse(candidate))
            start = answer.index(core)
            return CheckedReply(annotated=answer[:start] + marked + answer[start + len(core) :])
    if not found:
        return CheckedReply(reason="empty", problems=["the reply is empty."], again=False)
    return CheckedReply(reason=found[0].kind, problems=[str(flaw) for flaw in found])


def readings(text: str) -> Iterator[str]:
    """What the answer in a reply may be, without white space around it: the reply, or what is in its wrapping, the
    likeliest to be meant last. Nothing for a reply that is empty."""
    yield from filter(None, dict.fromkeys([text.strip(), *_unwrapped(without_thoughts(text))]))


def without_thoughts(text: str) -> str:
    """A reply without the thoughts before it, ``<think>..</think>``, whose opening tag may be missing."""
    return _THOUGHTS.sub("", text, count=1)


def _unwrapped(text: str) -> Iterator[str]:
    yield text.strip()
    for wrapping in _WRAPPINGS:
        match = wrapping.search(text)
        if match:
            yield match[1].strip()
