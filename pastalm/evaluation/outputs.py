"""What an evaluation leaves in its folder: the report, and the answers in AlpacaEval's form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pastalm.evaluation import report
from pastalm.evaluation.alpaca import model_outputs
from pastalm.evaluation.answers import EvalSettings, Outcome
from pastalm.evaluation.quality import Judgement, Reference, compare, read_reference
from pastalm.files.atomic import write_text

if TYPE_CHECKING:
    from pastalm.annotation.judge import Judge


@dataclass(frozen=True)
class Evaluation:
    """The answers to a set of prompts: what the model is called, how it was asked, on which machine, and which prompts
    could not be asked and why."""

    name: str
    settings: EvalSettings
    machine: dict[str, Any]
    outcomes: Sequence[Outcome]
    refused: Sequence[str]

    @property
    def baseline(self) -> str:
        """What the baseline is called; never like the model, for AlpacaEval's tool would take the two for one."""
        if not self.settings.baseline:
            return f"{self.name} (sequential)"
        called = Path(self.settings.baseline).name
        return called if called != self.name else f"{called} (baseline)"

    def reference(self, path: Path | None) -> Reference:
        """The answers to judge against: those of a file, or the baseline's."""
        if path is not None:
            return read_reference(path, [one.question for one in self.outcomes])
        return Reference(self.baseline, tuple(one.baseline.text for one in self.outcomes))

    def judge(self, judge: Judge, reference: Path | None, calibration: Path | None) -> Judgement:
        """Ask a judge about the answers. Raises what :func:`pastalm.evaluation.quality.compare` raises."""
        return compare(judge, self.outcomes, self.reference(reference), self.name, calibration)

    def write(self, folder: Path, judgement: Judgement | None = None) -> dict[str, Any]:
        """Write ``report.json``, ``model_outputs.json`` and ``baseline_outputs.json``; returns the report."""
        found = self._report(judgement)
        write_text(folder / "model_outputs.json", self._outputs("answer", self.name))
        write_text(folder / "baseline_outputs.json", self._outputs("baseline", self.baseline))
        write_text(folder / report.REPORT, json.dumps(found, ensure_ascii=False, indent=2) + "\n")
        return found

    def _report(self, judgement: Judgement | None) -> dict[str, Any]:
        quality = report.checker_quality(self.outcomes)
        if judgement is not None:
            even = 50.0 if judgement.reference == self.baseline else None
            quality = report.judge_quality(judgement.preferences, judgement.rates, even) or quality
        more: dict[str, Any] = {"settings": asdict(self.settings), "machine": self.machine}
        more |= {"refused": list(self.refused), "judge": judgement and judgement.to_dict(), "baseline": self.baseline}
        return report.report(self.name, self.outcomes, quality, self.settings.max_batch == 1, **more)

    def _outputs(self, side: str, name: str) -> str:
        questions = [one.question for one in self.outcomes]
        texts = [getattr(one, side).text for one in self.outcomes]
        return model_outputs([one.instruction for one in questions], texts, name, [one.dataset for one in questions])
