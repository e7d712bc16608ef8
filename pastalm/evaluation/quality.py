"""Answers against a reference by a pairwise judge: preferences, and win rates where AlpacaEval's package is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pastalm.annotation.judge import Judge
from pastalm.annotation.verdict import AnswerPair
from pastalm.data.questions import Question
from pastalm.evaluation.alpaca import FULL, MINIMAL, AlpacaError, WinRates, is_alpaca_eval, win_rates
from pastalm.evaluation.answers import Outcome
from pastalm.files.lines import DataError
from pastalm.files.rows import objects


@dataclass(frozen=True)
class Reference:
    """The answers that the model's are judged against, one a prompt, and whose they are."""

    name: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Judgement:
    """Preferences for the model's answers, shares in [0, 1] or None, in the order of the prompts; and win rates, or the
    sentence that says why there are none."""

    judge: str
    reference: str
    preferences: tuple[float | None, ...]
    rates: WinRates | None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """What goes into a report: without the single preferences."""
        judged = sum(share is not None for share in self.preferences)
        counts = {"judged": judged, "unjudged": len(self.preferences) - judged}
        rates = asdict(self.rates) if self.rates else None
        return {"model": self.judge, "reference": self.reference, **counts, "rates": rates, "note": self.note}


def read_reference(path: Path, questions: Sequence[Question]) -> Reference:
    """The answers of a file to these prompts: objects with ``instruction`` and ``output``, as AlpacaEval has them.

    Raises ``DataError`` for another form or a prompt without an answer, ``OSError`` for no file.
    """
    answers: dict[str, str] = {}
    name = path.name.split(".")[0]
    for place, row in objects(path):
        if not all(isinstance(row.get(key), str) for key in ("instruction", "output")):
            raise DataError(f"{place}: a reference needs texts for 'instruction' and 'output'.")
        answers[row["instruction"]] = row["output"]
        name = str(row.get("generator") or name)
    lacking = [one.instruction for one in questions if one.instruction not in answers]
    if lacking:
        raise DataError(f"{path} answers {len(lacking)} of the prompts not; the first is {lacking[0][:60]!r}.")
    return Reference(name, tuple(answers[one.instruction] for one in questions))


def compare(
    judge: Judge, outcomes: Sequence[Outcome], reference: Reference, name: str, calibration: Path | None
) -> Judgement:
    """Have the judge compare each answer with the reference's. ``calibration``: see :func:`win_rates`.

    Raises ``EndpointError`` when the judge cannot be asked; what it judged until then is in its cache.
    """
    pairs = zip(outcomes, reference.texts, strict=True)
    verdicts = judge.compare(AnswerPair(one.question.prompt, one.answer.text, other) for one, other in pairs)
    preferences = tuple(verdict.preference for verdict in verdicts)
    formula = FULL if is_alpaca_eval([one.question.instruction for one in outcomes]) else MINIMAL
    texts = [one.answer.text for one in outcomes]
    names = (name, reference.name if reference.name != name else f"{name} (reference)")
    rates, note = None, ""
    try:
        rates = win_rates(preferences, texts, reference.texts, calibration, formula=formula, names=names)
    except AlpacaError as error:
        note = str(error)
    return Judgement(judge.settings.model, reference.name, preferences, rates, note)
