"""The one place where expected errors become one sentence and an exit code; bugs keep their traceback."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from pastalm.cli.verbs import FLAGS, Group

FAILED, INTERRUPTED = 2, 130
RESUMED = ("annotate", "audit", "distil", "eval", "train")  # commands that keep what they have done


class Guarded(Group):
    """The group of all commands. What the user can put right ends with one red sentence on stderr and status 2,
    Ctrl-C with status 130."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            goes_on = " The same command goes on where it was." if ctx.invoked_subcommand in RESUMED else ""
            complain(f"Interrupted.{goes_on}")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:  # the reader of our output has left; that is its right, and typer ends quietly
            raise
        except (ValueError, OSError, MemoryError) as error:
            if not expected(error):
                raise
            complain(as_typed(sentence(error), ctx.meta.get(FLAGS, {})))
            raise typer.Exit(FAILED) from error


def expected(error: Exception) -> bool:
    """Whether an error tells of the user's input or files.

    All our refusals are ``ValueError``s that our own code raises; one from inside a library is a bug.
    """
    if isinstance(error, OSError):
        return True
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and place.tb_frame.f_globals.get("__name__", "").startswith("pastalm.")


def sentence(error: Exception) -> str:
    """The error in one sentence, without a library's pages of advice."""
    if isinstance(error, FileExistsError | NotADirectoryError) and error.filename is not None:
        return f"{error.filename} is in the way: a folder is needed there, and it is a file or lies below one."
    if isinstance(error, OSError):
        if error.filename is not None and error.strerror:
            return f"{error.filename}: {error.strerror}."
        return str(error).strip().split("\n")[0]
    return str(error)


def as_typed(message: str, flags: Mapping[str, str]) -> str:
    """A message of the library with the parameters as they are typed: ``mode='sequential'`` is ``--mode sequential``.

    A parameter whose name is an ordinary word counts only where it is given a value, or begins the message.
    """
    for name, flag in flags.items():
        message = re.sub(rf"(?<![\w./-]){name}=(['\"]?)([\w.-]+)\1", rf"{flag} \2", message)
        word = rf"(?<![\w./-]){name}(?![\w./=-])" if "_" in name else rf"^{name}(?= (must|is) )"
        message = re.sub(word, flag, message)
    return message


def complain(message: str) -> None:
    """Print a message in red on stderr."""
    Console(stderr=True).print(Text(message, style="red"), soft_wrap=True)
