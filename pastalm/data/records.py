"""Records: one line of a data file each, in the shapes that are common; the one reader for all commands.

A prompt is ``messages`` or ``conversations`` (OpenAI's keys or ShareGPT's), or a text (``prompt``, ``question``,
``instruction``, ``query``), perhaps with ``input`` or ``context``, ``system`` and ``history``. If the messages end with
a turn of the assistant, that is the answer and not part of the prompt; else ``answer``, ``response``, ``output`` or
``completion`` has it. ``annotated`` is the answer with its tags. A field that is null counts as one that is not there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from pastalm.files.lines import DataError
from pastalm.files.rows import Row, count_rows, read_rows
from pastalm.lang.parse import scan
from pastalm.lang.prompt import Message
from pastalm.lang.tags import is_whole

TURNS = ("messages", "conversations", "conversation")
PROMPTS = ("prompt", "question", "instruction", "query")
INPUTS = ("input", "context")  # what an instruction is about, in data sets after Alpaca's or Dolly's example
SYSTEMS = ("system", "system_prompt")
ANSWERS = ("answer", "response", "output", "completion")
ROLES = {
    **{role: role for role in ("system", "developer", "user", "assistant", "tool")},
    **{"human": "user", "prompter": "user", "observation": "tool"},
    **dict.fromkeys(("gpt", "chatgpt", "bard", "bing", "model"), "assistant"),
}
SHAPES = (
    "'messages' (role, content), 'conversations' (from, value), or a prompt "
    f"({', '.join(PROMPTS)}), perhaps with an answer ({', '.join(ANSWERS)})"
)
_ID_LENGTH = 16


@dataclass(frozen=True)
class Record:
    """A record as all commands read it.

    ``messages`` are the turns before the answer, ``answer`` is the plain answer and ``annotated`` the one with tags,
    None where there is none. ``id`` is the record's own, or else a digest of its content, the same on every run.
    ``fields`` are all fields as they stand in the file, ``place`` says where.
    """

    messages: tuple[Message, ...]
    answer: str | None = None
    annotated: str | None = None
    id: str = ""
    place: str = field(default="", compare=False)
    fields: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def prompt(self) -> str | list[Message]:
        """The prompt: a text if it is a user's single message, else messages."""
        if len(self.messages) == 1 and self.messages[0]["role"] == "user":
            return self.messages[0]["content"]
        return list(self.messages)

    @property
    def asked(self) -> dict[str, str | list[Message]]:
        """The prompt as the field that data files have it in."""
        return {"prompt" if isinstance(self.prompt, str) else "messages": self.prompt}

    @property
    def fault(self) -> str:
        """Why the plain answer cannot be marked, in two words; empty if it can."""
        if self.answer is None or not self.answer.strip():
            return "no answer"
        if not is_whole("".join([self.answer, *(message["content"] for message in self.messages)])):
            return "broken text"
        tree, problems = scan(self.answer)
        return "has tags" if problems or tree.nodes != (self.answer,) else ""


def read_records(source: str | Path, *, split: str = "train", limit: int | None = None) -> Iterator[Record]:
    """The first ``limit`` records of a source (:func:`pastalm.files.rows.read_rows`), all if it is None.

    Different records with one id stay apart. Raises :class:`DataError` with the place of the first record that cannot
    be understood, or ``OSError``.
    """
    contents: dict[str, str] = {}
    for row in islice(read_rows(source, split), limit):
        record, problems = understand(row)
        for problem in problems:
            raise DataError(f"{record.place}: {problem}")
        content = _digest(row.fields)
        if contents.setdefault(record.id, content) != content:
            record = replace(record, id=f"{record.id}-{content}")
        yield record


def read_answers(source: str | Path, *, split: str = "train", limit: int | None = None) -> Iterator[Record]:
    """The records of plain answers to mark. Raises as :func:`read_records`, also for one without an answer."""
    for record in read_records(source, split=split, limit=limit):
        record = _answered(record)
        if record.answer is None and not any(name in record.fields for name in TURNS):
            raise DataError(f"{record.place}: has no answer, only {_names(record.fields)}; known are {SHAPES}.")
        yield record


def count_records(source: str | Path, limit: int | None = None) -> int | None:
    """How many records :func:`read_records` gives; None where only reading them tells."""
    number = count_rows(source)
    return number if number is None or limit is None else min(number, limit)


def annotation_problems(record: Record) -> Iterator[str]:
    """What a record lacks as an example of annotated answers, a sentence each; its tags are not looked into."""
    if "annotated" not in record.fields:
        yield "has no 'annotated'; give the answer with its tags there."
    elif record.fields["annotated"] is None:
        yield "'annotated' must be a text that is not empty."
    yield from text_problems(record)


def text_problems(record: Record) -> Iterator[str]:
    """What no tokenizer can read in the texts of a record."""
    texts = (*(message["content"] for message in record.messages), record.answer or "", record.annotated or "")
    if not is_whole("".join(texts)):
        yield "a text in it holds half of a surrogate pair, which is no character; write it anew."


def understand(row: Row) -> tuple[Record, list[str]]:
    """The record of a row, and a sentence for each thing that is wrong with it; then the record is not complete."""
    if row.problem:
        return Record((), place=row.place), [row.problem]
    reader = _Reader(row.fields)
    messages, answer = reader.dialogue()
    annotated = reader.text("annotated", filled=True)
    given = next((row.fields[name] for name in ("id", "prompt_id") if row.fields.get(name) not in (None, "")), None)
    name = str(given) if isinstance(given, str | int) else _digest(row.fields)
    return Record(tuple(messages), answer, annotated, name, row.place, row.fields), reader.problems


class _Reader:
    """Reads the fields of one record and gathers what is wrong with them."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = {name: value for name, value in fields.items() if value is not None and value == value}
        self.problems: list[str] = []

    def text(self, name: str, *, filled: bool = False) -> str | None:
        """A field that is a text, ``filled`` one that is not blank."""
        value = self.fields.get(name)
        if value is None or (isinstance(value, str) and (value.strip() or not filled)):
            return value
        self.problems.append(f"{name!r} must be a text{' that is not empty' if filled else ', or left out'}.")
        return None

    def one(self, names: Sequence[str]) -> str:
        """Which of the fields is given, "" if none is. Several must say the same."""
        given = [name for name in names if self.fields.get(name) not in (None, "", [])]
        if any(self.fields[name] != self.fields[given[0]] for name in given[1:]):
            self.problems.append(f"has {_joined(given)}, which differ; leave all but one out.")
        return given[0] if given else ""

    def dialogue(self) -> tuple[list[Message], str | None]:
        """The messages before the answer, and the answer."""
        turns, answer = self.prompt(), self.answer()
        if turns and turns[-1]["role"] == "assistant":
            last = turns.pop()["content"]
            if answer not in (None, "", last):
                name = self.one(ANSWERS)
                self.problems.append(f"its messages end with an answer, and {name!r} gives another; leave one out.")
            answer = last
            if not turns:
                self.problems.append("its messages are an answer without a prompt before it.")
        return turns, answer

    def prompt(self) -> list[Message]:
        """All turns that the record has."""
        name = self.one(TURNS)
        asked = self.one(PROMPTS) or self.one(INPUTS)
        if not name and asked and isinstance(self.fields[asked], list):
            name, asked = asked, ""
        if name:
            turns = self.turns(self.fields[name], name)
            if asked and self.fields[asked] not in [turn["content"] for turn in turns]:
                self.problems.append(f"has both {name!r} and {asked!r}, which differ; give one of them.")
        else:
            turns = [*self.history(), *self.message(asked)]
        if self.fields.get("tools") or self.fields.get("functions"):
            self.problems.append("has tools, which are not read; give records without any.")
        return [*self.system(turns), *turns]

    def message(self, asked: str) -> list[Message]:
        """A user's message out of fields that are texts."""
        if not asked:
            blank = any(name in self.fields for name in (*PROMPTS, *TURNS))
            if not blank:
                self.problems.append(
                    f"has no prompt, neither 'prompt' nor 'messages', only {_names(self.fields)}; known are {SHAPES}."
                )
            elif self.fields.get("messages") == []:
                self.turns([], "messages")
            else:
                self.problems.append(f"has no prompt: it is empty; known are {SHAPES}.")
            return []
        content = self.text(asked, filled=True)
        more = self.one(INPUTS)
        if content is not None and more and more != asked and (added := self.text(more)):
            content = f"{content}\n\n{added}" if added.strip() else content
        return [] if content is None else [{"role": "user", "content": content}]

    def history(self) -> list[Message]:
        """The turns before, in the pairs of question and answer that ``history`` lists."""
        found: list[Message] = []
        given = self.fields.get("history") or []
        for pair in given if isinstance(given, list | tuple) else [given]:
            if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(one, str) for one in pair):
                self.problems.append("'history' must be a list of pairs of texts, a question and its answer.")
                return []
            found += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
        return found

    def system(self, turns: list[Message]) -> list[Message]:
        """The system's message where it stands in a field of its own."""
        name = self.one(SYSTEMS)
        content = self.text(name) if name else None
        if not content or not content.strip():
            return []
        there = [turn["content"] for turn in turns if turn["role"] == "system"]
        if there and content not in there:
            self.problems.append(f"has a system message among its messages and another in {name!r}; leave one out.")
        return [] if there else [{"role": "system", "content": content}]

    def turns(self, turns: Any, name: str) -> list[Message]:
        """Messages in OpenAI's or ShareGPT's keys."""
        keys = "'role' and 'content'" if name != "conversations" else "'from' and 'value'"
        if not isinstance(turns, list) or not turns:
            self.problems.append(f"{name!r} must be a list of objects with {keys}, and not empty.")
            return []
        found = [self.turn(turn, index, keys) for index, turn in enumerate(turns, 1)]
        return [turn for turn in found if turn is not None]

    def turn(self, turn: Any, index: int, keys: str) -> Message | None:
        """One message; None for one that cannot be read."""
        if not isinstance(turn, dict):
            turn = {}
        role = next((turn[key] for key in ("role", "from") if isinstance(turn.get(key), str)), None)
        content = next((turn[key] for key in ("content", "value") if turn.get(key) is not None), None)
        if isinstance(content, list):
            content = _parts(content)
        if role is None or not isinstance(content, str):
            self.problems.append(f"message {index} must be an object with the texts {keys}.")
        elif role.lower() not in ROLES:
            self.problems.append(f"message {index} has the role {role!r}; known are {', '.join(ROLES)}.")
        else:
            return {"role": ROLES[role.lower()], "content": content}
        return None

    def answer(self) -> str | None:
        """The answer in a field of its own: a text, or one message of the assistant."""
        given = self.one(ANSWERS) or next((name for name in ANSWERS if name in self.fields), "")
        value = self.fields.get(given)
        if isinstance(value, list) and len(value) == 1:
            turn = self.turn(value[0], 1, "'role' and 'content'")
            return turn["content"] if turn else None
        return self.text(given) if given else None


def _parts(parts: list[Any]) -> str | None:
    """The text of a content in parts, as OpenAI's protocol has it; None if one is no text."""
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in parts]
    return "".join(texts) if all(isinstance(text, str) for text in texts) else None  # type: ignore[arg-type]


def _answered(record: Record) -> Record:
    """The record with an answer, if it has none: that of its annotation, else its last turn of the assistant, and what
    follows that is left out."""
    roles = [message["role"] for message in record.messages]
    if record.answer is None and record.annotated is not None:
        return replace(record, answer=scan(record.annotated)[0].plain)
    if record.answer is not None or "assistant" not in roles:
        return record
    last = len(roles) - 1 - roles[::-1].index("assistant")
    answer = record.messages[last]["content"]
    return replace(record, messages=record.messages[:last], answer=answer)


def _names(fields: dict[str, Any]) -> str:
    return ", ".join(map(repr, fields)) or "nothing"


def _joined(names: Sequence[str]) -> str:
    return f"both {names[0]!r} and {names[1]!r}" if len(names) == 2 else ", ".join(map(repr, names))


def _digest(fields: Any) -> str:
    """The same 16 characters for the same content, whatever the order of the fields."""
    return sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()[:_ID_LENGTH]
