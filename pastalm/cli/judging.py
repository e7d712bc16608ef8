"""The judge of a command: its flags checked before anything is done, and its progress shown."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pastalm.annotation.judge import BY_FILE
from pastalm.progress import Progress

if TYPE_CHECKING:
    from pastalm.annotation.judge import Judge


class JudgeFlagsError(ValueError):
    """Flags of a judge that do not go together, and what to do."""


@dataclass(frozen=True)
class JudgeFlags:
    """What is typed of a judge. ``reference`` holds the answers to judge against, ``calibration`` AlpacaEval's files.

    Raises :class:`JudgeFlagsError` for what would be found out only after all answers.
    """

    model: str
    url: str
    key_env: str
    concurrency: int
    cache: Path | None
    reference: Path | None
    calibration: Path | None

    def __post_init__(self) -> None:
        from pastalm.evaluation.alpaca import DIFFICULTY, GAMED

        if not self.model and (self.url or self.reference or self.calibration):
            raise JudgeFlagsError(
                "--judge-url, --reference and --calibration serve a judge: name it with --judge-model."
            )
        if self.reference is not None and not self.reference.is_file():
            raise JudgeFlagsError(f"There is no file {self.reference}.")
        if self.calibration is not None and not all(
            (self.calibration / file).is_file() for file in (GAMED, DIFFICULTY)
        ):
            raise JudgeFlagsError(f"{self.calibration} must hold both {GAMED} and {DIFFICULTY}.")
        if self.model and self.url != BY_FILE:
            self._require_key()

    @property
    def wanted(self) -> bool:
        """Whether there is a judge."""
        return bool(self.model)

    def _require_key(self) -> None:
        from pastalm.annotation.endpoint import Settings
        from pastalm.files.packages import require

        require("openai")
        if not self._key:
            raise JudgeFlagsError(
                f"The environment has no {self.key_env}: set it to your key (any text where none is needed)."
            )
        Settings(self.model, self._key, self.url or None)  # refuses a malformed address now, not after all answers

    @property
    def _key(self) -> str:
        return os.environ.get(self.key_env, "").strip()

    @contextmanager
    def open(self, cache: Path) -> Iterator[Judge]:
        """The judge, with a bar on a terminal. ``cache`` keeps its verdicts where no other file is asked for."""
        from pastalm.annotation.endpoint import Settings
        from pastalm.annotation.judge import FileJudge, Judge

        if self.url == BY_FILE:
            with FileJudge(self.model, self.cache or cache) as by_file:
                yield by_file
            return
        with Progress("Judging", unit="verdicts") as progress:

            def show() -> None:
                tally = asked.tally
                trouble = f"waiting: {tally.trouble}" if tally.trouble else None
                progress.update(tally.known + tally.asked, trouble, total=tally.total)

            settings = Settings(self.model, self._key, self.url or None, concurrency=self.concurrency)
            with Judge(settings, self.cache or cache, show) as asked:
                yield asked
