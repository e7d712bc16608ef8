"""What an annotation run has come to: counts, reasons, tokens that were paid for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class TokenUsage:
    """Tokens that were paid for."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, fields: Any) -> None:
        """Count the ``usage`` of a reply or of a written line; one that is missing counts nothing."""
        for name in vars(self):
            value = fields.get(name) if isinstance(fields, dict) else None
            setattr(self, name, getattr(self, name) + (value if isinstance(value, int) else 0))


@dataclass
class Tally:
    """What a run has come to. ``skipped`` items were finished before; the other counts are of the files as a whole."""

    total: int | None = None
    skipped: int = 0
    done: int = 0  # by this run
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    retried: Counter[str] = field(default_factory=Counter)  # invalid replies of this run, by reason
    usage: TokenUsage = field(default_factory=TokenUsage)
    trouble: str = ""  # the last failure of the endpoint, until it answers again
