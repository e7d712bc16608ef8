"""The one place where expected errors become one sentence and an exit code; bugs keep their traceback."""

from __future__ import annotations

from typing import Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

FAILED, INTERRUPTED = 2, 130
RESUMED = ("annotate", "audit", "eval", "train")  # commands that keep what they have done


class Guarded(TyperGroup):
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
        except (ValueError, OSError) as error:
            if not expected(error):
                raise
            complain(sentence(error))
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


def complain(message: str) -> None:
    """Print a message in red on stderr."""
    Console(stderr=True).print(Text(message, style="red"), soft_wrap=True)
