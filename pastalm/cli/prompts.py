"""Where the prompt of `pasta run` comes from."""

from __future__ import annotations

import sys
from pathlib import Path

from pastalm.lang.tags import is_whole

# In the wording of the generated tasks, so that the bundled model knows it: five chunks.
DEFAULT_PROMPT = """\
Write a short profile of each of these 5 people. Use bullets.
Jane: job baker, age 29, home Turin
Omar: job pilot, age 41, home Kyoto
Kira: job nurse, age 35, home Lima
Ben: job writer, age 52, home Oslo
Tess: job judge, age 23, home Accra"""


class PromptError(ValueError):
    """A prompt that cannot be read, and why."""


def read_prompt(prompt: str | None, file: Path | None) -> str:
    """The prompt's text: given, from a file, from stdin ("-", or nothing given and something comes from there), or the
    built-in example. One line break at the end of a file or of stdin is not part of it.

    Raises :class:`PromptError`, or ``OSError`` for the file.
    """
    if prompt is not None and file is not None:
        raise PromptError("Give either a prompt or --file, not both.")
    if file is not None:
        text = _text(file.read_bytes(), str(file))
    elif prompt == "-":
        text = _text(sys.stdin.buffer.read(), "stdin")
    elif prompt is None:
        piped = b"" if sys.stdin.isatty() else sys.stdin.buffer.read()
        text = _text(piped, "stdin") if piped else DEFAULT_PROMPT
    else:
        text = prompt
    if not is_whole(text):
        raise PromptError("The prompt is not UTF-8 text; write it in UTF-8.")
    if not text.strip():
        raise PromptError("The prompt is empty: give a text, --file or something on stdin.")
    return text


def _text(data: bytes, source: str) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PromptError(f"{source} is not UTF-8 text (byte {error.start + 1}); save it as UTF-8.") from error
    return text.removesuffix("\n").removesuffix("\r")
