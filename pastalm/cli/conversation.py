"""A conversation with a model: its turns, its settings, and the commands that change them. Draws nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pastalm.runtime.mode import Mode

if TYPE_CHECKING:
    from pastalm.runtime.response import Response

HELP = """\
/promise-bias N  -3 to 3: above 0 the model starts more chunks, below 0 fewer
/mode MODE       async writes chunks in parallel, sequential token after token
/clear           forget the conversation
/help            show this
/quit            leave; Ctrl-D does the same, Ctrl-C stops an answer"""

Answering = Callable[[list[dict[str, str]], dict[str, Any]], "Response"]


class CommandError(ValueError):
    """A command that is not known, or a value that it does not take."""


@dataclass
class Conversation:
    """``options`` are those that answers are decoded with; ``messages`` the turns so far."""

    options: dict[str, Any]
    messages: list[dict[str, str]] = field(default_factory=list)
    ended: bool = False

    def ask(self, text: str, answer: Answering) -> Response:
        """Take a turn. One that fails, or is stopped, is as if it had not been asked."""
        asked = [*self.messages, {"role": "user", "content": text}]
        response = answer(asked, self.options)
        self.messages = [*asked, {"role": "assistant", "content": response.text}]
        return response

    def command(self, line: str) -> str:
        """Carry out a command, and say what it did. Raises :class:`CommandError`."""
        name, _, value = line[1:].strip().partition(" ")
        action = {
            "promise-bias": self._promise_bias,
            "mode": self._mode,
            "clear": self._clear,
            "help": self._help,
            "quit": self._quit,
        }
        if name not in action:
            raise CommandError(f"There is no command /{name}; /help shows those that there are.")
        return action[name](value.strip())

    def _promise_bias(self, value: str) -> str:
        try:
            bias = float(value)
        except ValueError:
            raise CommandError(f"/promise-bias takes a number from -3 to 3, not {value!r}.") from None
        if not -3 <= bias <= 3:
            raise CommandError(f"/promise-bias takes a number from -3 to 3, not {value}.")
        self.options["promise_bias"] = bias
        return f"The promise bias is {bias:g}."

    def _mode(self, value: str) -> str:
        if value not in list(Mode):
            raise CommandError(f"/mode takes {' or '.join(Mode)}, not {value!r}.")
        self.options["mode"] = value
        return f"The mode is {value}."

    def _clear(self, _: str) -> str:
        self.messages = []
        return "The conversation is forgotten."

    def _help(self, _: str) -> str:
        return HELP

    def _quit(self, _: str) -> str:
        self.ended = True
        return ""
