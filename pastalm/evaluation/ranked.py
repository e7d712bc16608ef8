"""The answers of several evaluations to the same prompts, to be ranked together, their one baseline's among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from pastalm.annotation.verdict import AnswerPair
from pastalm.evaluation.bootstrap import Estimate, estimate_mean
from pastalm.files.journal import read_journal
from pastalm.files.lines import DataError
from pastalm.lang.prompt import as_text

ANSWERS = "answers.jsonl"  # in the folder of an evaluation
BASELINE = "the baseline"
_Both = dict[str, tuple[str, str]]  # the model's answer and the baseline's, by prompt


@dataclass(frozen=True)
class HeadToHead:
    """The share of ``prompts`` on which a judge prefers the answer of ``one`` to that of ``other``, with its 95%
    interval; a tie counts half, and so do equal answers, which need no judge."""

    one: str
    other: str
    prompts: int
    share: Estimate


@dataclass(frozen=True)
class RankedAnswers:
    """``answers``: by model, :data:`BASELINE` the last, and by prompt, of which all models have the same."""

    answers: Mapping[str, Mapping[str, str]]

    @property
    def pairs(self) -> list[AnswerPair]:
        """Each two different answers to a prompt, once."""
        prompts = self.answers[BASELINE]
        texts = {prompt: dict.fromkeys(of[prompt] for of in self.answers.values()) for prompt in prompts}
        return [AnswerPair(prompt, *two) for prompt in prompts for two in combinations(texts[prompt], 2)]

    def head_to_head(self, shares: Mapping[str, float | None], judge: str) -> list[HeadToHead]:
        """Each model against the baseline, then each two models, over what the judge has read in both orders.
        ``shares`` are its cache's, by key. Two of which it has read nothing are left out."""
        read = {pair.prompt for pair in self.pairs if pair.verdict(shares, judge).preference is not None}
        unread = {pair.prompt for pair in self.pairs} - read  # there even equal answers do not count
        twos = sorted(combinations(self.answers, 2), key=lambda two: two[1] != BASELINE) if read else []
        found = []
        for one, other in twos:
            pairs = [
                AnswerPair(prompt, text, self.answers[other][prompt]) for prompt, text in self.answers[one].items()
            ]
            preferences = [pair.verdict(shares, judge).preference for pair in pairs if pair.prompt not in unread]
            counted = [preference for preference in preferences if preference is not None]
            if share := estimate_mean(counted):
                found.append(HeadToHead(one, other, len(counted), share))
        return found


def read_ranked(folders: Sequence[Path], limit: int | None = None) -> RankedAnswers:
    """The answers in folders of `pasta eval` to their first ``limit`` prompts, all if it is None.

    Raises ``DataError`` for a folder that is none or stands twice, and, with the first difference, for folders of other
    prompts or with other answers of the baseline.
    """
    read = [_read(folder) for folder in folders]
    prompts = list(read[0])[:limit]
    for folder, both in zip(folders[1:], read[1:], strict=True):
        _require_same(folders[0], read[0], folder, both, limit)
    answers = {
        name: {prompt: both[prompt][0] for prompt in prompts} for name, both in zip(_names(folders), read, strict=True)
    }
    return RankedAnswers(answers | {BASELINE: {prompt: read[0][prompt][1] for prompt in prompts}})


def _names(folders: Sequence[Path]) -> list[str]:
    """What the evaluations are called: by their folders' names, or by their paths where names are the same."""
    places = [folder.resolve() for folder in folders]
    twice = [str(folder) for folder, place in zip(folders, places, strict=True) if places.count(place) > 1]
    if twice:
        raise DataError(f"{twice[-1]} is given twice; name each evaluation once.")
    names = [place.name for place in places]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _read(folder: Path) -> _Both:
    try:
        lines = [line for line in read_journal(folder / ANSWERS) if "error" not in line]
        found = {as_text(line["prompt"]): (line["answer"]["text"], line["baseline"]["text"]) for line in lines}
    except (OSError, ValueError, LookupError, TypeError):
        raise DataError(f"{folder} is no folder of `pasta eval`: it has no {ANSWERS} that can be read.") from None
    if not found:
        raise DataError(f"{folder} has no answers yet; let `pasta eval` write them first.")
    return found


def _require_same(first: Path, wanted: _Both, folder: Path, both: _Both, limit: int | None) -> None:
    for prompt in list(wanted)[:limit]:
        if prompt not in both:
            raise DataError(_lacks(folder, first, prompt))
        if both[prompt][1] != wanted[prompt][1]:
            raise DataError(
                f"The baseline's answer to {prompt[:60]!r} is another in {folder} than in {first}; evaluate both "
                "against the same one (--baseline, and --reuse-baseline to take its answers over)."
            )
    for prompt in both if limit is None else ():
        if prompt not in wanted:
            raise DataError(_lacks(first, folder, prompt))


def _lacks(folder: Path, other: Path, prompt: str) -> str:
    return (
        f"{folder} does not answer {prompt[:60]!r}, as {other} does; give evaluations of the same prompts, or --limit "
        "for the first that all answer."
    )
