"""Help that can be read in a narrow terminal: flags are never cut, no word is broken, examples can be copied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from shutil import get_terminal_size
from textwrap import TextWrapper
from typing import Any

WIDEST, NARROWEST = 100, 40  # columns of a page
FLAGS = 28  # columns of the flags; a longer one has its help below it
EXAMPLE = 58  # columns of an example; a longer one goes on in the next line


def page(command: Any, ctx: Any) -> str:
    """The help of a command or of a group of commands."""
    width = max(NARROWEST, min(get_terminal_size().columns, WIDEST))
    usage = _fill(" ".join([ctx.command_path, *map(_bare, command.collect_usage_pieces(ctx))]), width - 7)
    parts = [f"Usage: {usage}".replace("\n", "\n       "), *_wrapped(command.help or "", width)]
    for title, rows in sections(command, ctx):
        if rows:
            parts.append("\n".join([f"{title}:", *(line for row in rows for line in _row(*row, width))]))
    if command.epilog:
        parts.append(command.epilog.strip())
    return "\n\n".join(parts) + "\n"


def sections(command: Any, ctx: Any) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The rows of each section: how a thing is typed, and what it does."""
    arguments = [param for param in command.get_params(ctx) if param.param_type_name == "argument"]
    options = [param for param in command.get_params(ctx) if param.param_type_name == "option"]
    yield "Arguments", [record for param in arguments if (record := param.get_help_record(ctx))]
    yield "Options", [record for param in options if (record := param.get_help_record(ctx))]
    names = command.list_commands(ctx) if hasattr(command, "list_commands") else ()
    verbs = [(name, command.get_command(ctx, name)) for name in names]
    yield "Commands", [(name, _first_sentence(verb.help or "")) for name, verb in verbs if not verb.hidden]


def examples(*lines: str) -> str:
    """The examples under a command's help, each at most 58 columns wide."""
    return "\n".join(["Examples:", *(f"  {line}" for example in lines for line in _continued(example))])


def _first_sentence(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split()).split(". ")[0].rstrip(".")


def _bare(piece: str) -> str:
    """A piece of a usage line without the braces around what is required."""
    return piece.replace("{", "").replace("}", "")


def _wrapped(text: str, width: int) -> list[str]:
    return [_fill(" ".join(part.split()), width) for part in text.split("\n\n") if part.strip()]


def _row(left: str, right: str, width: int) -> Sequence[str]:
    """A flag and its help, side by side if the flag is short enough."""
    left = f"  {left}".replace(" range>", ">").replace(" <str>", "")
    right = _fill(" ".join(right.split()), width, FLAGS + 2)
    if len(left) > FLAGS:
        return [left, *right.split("\n")] if right.strip() else [left]
    return (left.ljust(FLAGS + 2) + right.lstrip()).rstrip().split("\n")


def _fill(text: str, width: int, indent: int = 0) -> str:
    margin = " " * indent
    wrapper = TextWrapper(
        width, initial_indent=margin, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False
    )
    return wrapper.fill(text)


def _continued(example: str) -> list[str]:
    """An example in lines that a shell reads as one; what stands in quotes stays together."""
    if len(example) <= EXAMPLE:
        return [example]
    words, lines = _words(example), [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + 1 + len(word) > EXAMPLE - 2:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return lines


def _words(example: str) -> list[str]:
    """The words of a command as they are typed, a flag with its value and a quoted text in one piece."""
    pieces: list[str] = []
    for word in example.split(" "):
        opened = pieces and pieces[-1].count("'") % 2
        valued = pieces and pieces[-1].startswith("--") and " " not in pieces[-1] and not word.startswith("-")
        if opened or valued:
            pieces[-1] += f" {word}"
        else:
            pieces.append(word)
    return pieces
