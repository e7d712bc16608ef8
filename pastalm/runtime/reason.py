"""Why something failed, in one line of a log."""

from __future__ import annotations

LONGEST = 200  # characters


def reason(error: BaseException) -> str:
    """What an error says, on one line and not too long; its kind if it says nothing."""
    return " ".join(str(error).split())[:LONGEST] or type(error).__name__
