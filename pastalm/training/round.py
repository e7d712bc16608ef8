"""One round of stage 2: sample, score, pair, reference log-probabilities, training. Each part goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from pastalm.annotation.judge import TO_JUDGE
from pastalm.data.questions import Question
from pastalm.files.atomic import write_json, write_text
from pastalm.files.journal import Journal
from pastalm.files.lines import DataError
from pastalm.progress import track
from pastalm.runtime.engine import Engine
from pastalm.training.config import PreferConfig
from pastalm.training.processes import leads, own_device, processes, rank, wait_until
from pastalm.training.sampling import FIELDS, SampleKey, Sampling, sample
from pastalm.training.score import Answered, QualityFactor, Scored, best_and_worst, candidates, score_all

PROMPTS_AT_ONCE = 16  # whose answers are scored together: enough for a judge to have its hands full, few to lose
GROUPS = ("all", "chosen", "rejected")  # of answers, whose means are shown


def draw(
    model: str,
    questions: Sequence[Question],
    sampling: Sampling,
    path: Path,
    what: str,
    *,
    remote: Sequence[str] | None = None,
    **options: Any,
) -> None:
    """Have ``model`` answer, every process its share; returns in the first process when all answers are there.
    With ``remote`` it answers at these completion servers, else here, loaded with the ``options`` of
    :meth:`Engine.from_pretrained`."""
    with Journal(path, FIELDS, rank()) as journal:
        if remote:
            engine = Engine.remote(remote, None, model)
        else:
            engine = Engine.from_pretrained(model, own_device(), sampling.dtype, **options)
        total = sample(engine, questions, sampling, journal, (rank(), processes()), what)
        engine.release()

        def complete() -> bool:
            journal.refresh()
            return len(journal) >= total

        if leads():
            wait_until(complete)


@dataclass(frozen=True)
class Round:
    """Round ``number``, whose answers are sampled from the model ``start`` and which trains that model on.

    Its folder: ``samples.jsonl``, ``scores.jsonl`` and ``reference.jsonl``, which grow; ``to_judge.jsonl``, where
    verdicts come by file; ``pairs.jsonl``, ``figures.json``, snapshots and ``model``, each there only when it is whole;
    ``runs``, what TensorBoard shows; checkpoints while it is trained.
    """

    config: PreferConfig
    number: int
    start: str
    questions: Sequence[Question]

    @property
    def folder(self) -> Path:
        """Where everything of this round lies."""
        return Path(self.config.out) / f"round{self.number}"

    @property
    def baseline(self) -> Path:
        """The journal of the baseline's answers, the same in all rounds."""
        return Path(self.config.out) / "baseline.jsonl"

    @property
    def model(self) -> Path:
        """The model that the round ends with."""
        return self.folder / "model"

    def snapshot(self, share: float) -> Path:
        """The model as it is after a share of the round."""
        return self.folder / f"snapshot-{100 * share:g}"

    def report_missed(self, passed: Iterable[float]) -> None:
        """Say which snapshots there will not be, of those at the shares of the round that training has ``passed``."""
        missed = [f"{share:g}" for share in passed if not self.snapshot(share).is_dir()]
        if missed and leads():
            named = ", ".join(missed)
            print(f"Round {self.number} has no snapshot at {named}: it was past that already.", flush=True)

    @property
    def paired(self) -> Path:
        """The pairs of the round, JSON lines."""
        return self.folder / "pairs.jsonl"

    def make_pairs(self, factors: Mapping[str, QualityFactor]) -> None:
        """Sample, score and pair, all that is not done. ``factors`` are asked in the first process only."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.paired.exists():
            self._sample()
            if leads():
                self._score(factors)
                self._pair()
        wait_until(self.paired.exists)

    def pairs(self) -> list[dict[str, Any]]:
        """The pairs, one for each prompt that has one."""
        return [json.loads(line) for line in self.paired.read_text(encoding="utf-8").splitlines()]

    def _sample(self) -> None:
        config = self.config
        sampling = Sampling(
            config.samples,
            config.temperature,
            config.max_tokens,
            config.seed,
            self.number,
            config.max_batch,
            dtype=config.dtype,
        )
        path, what = self.folder / "samples.jsonl", f"Round {self.number}, sampling"
        draw(self.start, self.questions, sampling, path, what, remote=config.remote, **config.loading)

    def _score(self, factors: Mapping[str, QualityFactor]) -> None:
        with (
            Journal(self.folder / "samples.jsonl", FIELDS) as samples,
            Journal(self.baseline, FIELDS) as baseline,
            Journal(self.folder / "scores.jsonl", FIELDS) as scores,
        ):
            if "verdicts" in factors:
                self._export(samples, baseline)
                waiting = [one for groups in self._unscored(samples, baseline, scores) for one in groups]
                factors["verdicts"](candidates(waiting))  # of all prompts, so that it says how many are missing
            found = (
                one
                for groups in self._unscored(samples, baseline, scores)
                for one in score_all(self.config.speed_term, self.config.quality_weight, factors, groups)
            )
            what = f"Round {self.number}, scoring"
            for one in track(found, what, len(samples), done=len(scores), unit="answers"):
                scores.append(asdict(one))

    def _export(self, samples: Journal, baseline: Journal) -> None:
        """Write what is to be judged: prompts, each with the texts of the answers, once each, and of those that they
        are judged ``against``, the baseline's and the data set's."""
        lines = []
        for one in self.questions:
            own = [samples[one.index, k] for k in range(self.config.samples) if (one.index, k) in samples]
            others = [baseline[one.index, 0]["text"], one.answer] if (one.index, 0) in baseline else []
            against = list(dict.fromkeys(text for text in others if text is not None))
            answers = list(dict.fromkeys(answer["text"] for answer in own if answer["finished"]))
            lines.append({"id": one.key, "prompt": one.prompt, "against": against, "answers": answers})
        write_text(self.folder / TO_JUDGE, "".join(json.dumps(line) + "\n" for line in lines))

    def _unscored(self, samples: Journal, baseline: Journal, scores: Journal) -> Iterator[list[Answered]]:
        """The answers without a score, with their prompt and the baseline's answer to it, some prompts at a time."""
        wanted: dict[int, list[SampleKey]] = {}
        for key in samples:
            if key not in scores:
                wanted.setdefault(key[0], []).append(key)
        # A prompt that fills the baseline's window and not the model's has nothing to be measured against.
        asked = [one for one in self.questions if one.index in wanted and (one.index, 0) in baseline]
        for start in range(0, len(asked), PROMPTS_AT_ONCE):
            chunk = asked[start : start + PROMPTS_AT_ONCE]
            yield [(one, [samples[key] for key in wanted[one.index]], baseline[one.index, 0]) for one in chunk]

    def _pair(self) -> None:
        with Journal(self.folder / "scores.jsonl", FIELDS) as scores:
            every = [Scored(**record) for record in scores.values()]
        pairs = list(_pairs(every))
        write_json(self.folder / "figures.json", figures(every, pairs))
        if not pairs:
            raise DataError(
                f"{self.folder}: the answers to each prompt all have the same score, so there is nothing to prefer; "
                + self._advice(sum(not one.finished for one in every), len(every))
            )
        lines = [{"prompt": best.prompt, "chosen": asdict(best), "rejected": asdict(worst)} for best, worst in pairs]
        write_text(self.paired, "".join(json.dumps(line) + "\n" for line in lines))

    def _advice(self, cut: int, total: int) -> str:
        """What to do about a round without pairs, ``cut`` of whose ``total`` answers a limit ended."""
        before = self.number - 1
        kept = "what round 1 has sampled" if before else "what is sampled"
        reuse = f"another --lambda or --speed-term, with --reuse-samples {self.config.out} to keep {kept}"
        end = f" Or give --rounds {before}: the run then ends with the model of round {before}." if before else ""
        if not cut:
            return f"take {reuse}, or other prompts or more --samples, each in another --out.{end}"
        advice = (
            f"{cut} of {total} answers were ended by --max-tokens {self.config.max_tokens} or the model's window, and "
            "such answers score 0: take a larger --max-tokens, or a --model that ends its answers"
        )
        others = "" if cut == total else f", or {reuse}, or more --samples"
        return f"{advice}{others}, each in another --out.{end}"

    def summary(self) -> str:
        """A line that says what the answers of the round came to, from its figures."""
        numbers = json.loads((self.folder / "figures.json").read_text(encoding="utf-8"))

        def three(what: str, form: str) -> str:
            return " / ".join(f"{numbers[f'{group}_{what}']:{form}}" for group in GROUPS)

        return (
            f"Round {self.number}: pairs from {numbers['pairs']} of {numbers['prompts']} prompts; "
            f"{' / '.join(GROUPS)} answers: finished {three('finished', '.0%')}, speed {three('speed', '.2f')}, "
            f"quality {three('quality', '.2f')}."
        )


def _pairs(every: Iterable[Scored]) -> Iterator[tuple[Scored, Scored]]:
    """The pair of each prompt that has one."""
    prompts: dict[int, list[Scored]] = {}
    for one in every:
        prompts.setdefault(one.prompt, []).append(one)
    yield from filter(None, map(best_and_worst, prompts.values()))


def figures(every: Sequence[Scored], pairs: Sequence[tuple[Scored, Scored]]) -> dict[str, float]:
    """What a round's answers came to: means over all of them, over the chosen and over the rejected."""
    groups = dict(zip(GROUPS, (every, [best for best, _ in pairs], [worst for _, worst in pairs]), strict=True))
    numbers: dict[str, float] = {
        "prompts": len({one.prompt for one in every}),
        "answers": len(every),
        "pairs": len(pairs),
    }
    for name, group in groups.items():
        for what in ("finished", "speed", "quality", "score"):
            numbers[f"{name}_{what}"] = round(mean([getattr(one, what) for one in group] or [0.0]), 4)
        complete = [one.parts for one in group if one.parts]
        for part in complete[0] if complete else ():
            numbers[f"{name}_quality_{part}"] = round(mean(parts[part] for parts in complete), 4)
    return numbers
