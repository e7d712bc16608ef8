"""The recipe of the shipped assistant, from its base and the data set that comes with the package to the evaluation
beside the paper's table, as a list of commands.

    python -m bench.assistant --out runs/assistant
    python -m bench.assistant --base qwen-coder-0.5b --lambda 1 4 inf --samples 10 --prompts alpaca_eval.json --list

List marks go out of the chunks. Pasta-SFT, Baseline-SFT (the same on plain answers) and APAR are trained, then stage 2
with a quality that needs no judge, once for each lambda. All of them, and Skeleton-of-Thought on Baseline-SFT, answer
the prompts; speed is measured against Baseline-SFT's answers. Steps that are done are skipped; a killed one goes on
where it was. The defaults are those of the adapter that ships; its card says what was done otherwise.

Writes the models, ``eval/NAME`` with ``report.json`` and ``model_outputs.json`` of each, the curve of the promise bias
(``eval/promise-bias``) and ``table.md``. With ``--judge-model``, also win rates and ``figures/pareto.png``; with
``--judge-url file`` it ends when the answers are there, and goes on when their verdicts have been imported (`pasta
judge`).
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.study import Step, reports, run, step, value
from pastalm.annotation.judge import BY_FILE
from pastalm.files.atomic import write_text
from pastalm.files.rows import objects

SETS = ("assistant", "instruct")
QUALITY = "redundancy,repetition,coverage,likelihood"  # what needs no judge
SEQUENTIAL = "baseline-sft"
PROMISE_BIASES = "-2,-1,0,1,2"
PAPER = {  # length-controlled win rate, realised, theoretical, efficiency, parallelism: SPEC 8
    SEQUENTIAL: (50, 1.00, 1.00, None, 1.00),
    "pasta-sft": (32.7, 1.31, 1.90, 0.69, 2.36),
    "lambda-inf": (52.3, 1.21, 1.40, 0.86, 1.57),
    "lambda-8": (48.7, 1.46, 1.78, 0.82, 1.80),
    "lambda-4": (47.5, 1.54, 1.90, 0.81, 1.91),
    "lambda-2": (45.6, 1.62, 2.08, 0.78, 2.08),
    "lambda-1": (42.9, 1.93, 2.44, 0.79, 2.33),
    "apar": (41.2, 1.60, 1.79, 0.90, 1.70),
    "skeleton": (38.4, 0.73, 0.90, 0.81, 1.14),
}
SPEEDS = ("realised", "theoretical", "efficiency", "parallelism")
_MARK = re.compile(r"(<async topic=(?:'[^']*'|\"[^\"]*\")>)(\d+\.|[-*•])(?=[ \t])")


def marks_outside(annotated: str) -> str:
    """The answer with the marks of list items before their chunks, where the thread that sees the whole list counts
    them; the space stays in the chunk."""
    return _MARK.sub(r"\2\1", annotated)


def lines(name: str, split: str) -> Iterator[str]:
    """The records of a part of the data set, as JSON."""
    for _, fields in objects(f"pasta-instruct/{name}", split):
        yield json.dumps(fields | {"annotated": marks_outside(fields["annotated"])}, ensure_ascii=False)


def make_data(out: Path, records: int | None = None) -> None:
    """Write the records to train on, at most so many, those held out, and the prompts of stage 2, a third of them the
    wider set's."""
    out.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        part = list(lines("assistant", split))[:records]
        write_text(out / f"assistant.{split}.jsonl", "".join(f"{line}\n" for line in part))
    simple, wide = (list(lines(name, "train")) for name in SETS)
    mixed = [line for k, other in enumerate(wide) for line in (*simple[2 * k : 2 * k + 2], other)]
    write_text(out / "prompts.jsonl", "".join(f"{line}\n" for line in mixed))


@dataclass(frozen=True)
class Recipe:
    """The commands, in the folder ``options.out``; ``options`` are those of the command line."""

    options: argparse.Namespace

    @property
    def out(self) -> Path:
        """Where everything lies."""
        return self.options.out

    @property
    def preferred(self) -> tuple[str, ...]:
        """The models of stage 2."""
        return tuple(f"lambda-{weight}" for weight in self.options.lambdas)

    def plan(self) -> Iterator[Step]:
        """All steps but those that need a judge, in an order in which each finds what it needs."""
        yield from (*self.stage1(), *self.stage2(), *self.evaluations())

    def stage1(self) -> Iterator[Step]:
        """Pasta-SFT, Baseline-SFT, and APAR on the marks that its regular expressions find."""
        marked = self.out / "apar.jsonl"
        yield step("apar-data", "baseline", "apar", self.out / "assistant.train.jsonl", marked, "--bullets")
        yield self._sft("pasta-sft", self.out / "assistant.train.jsonl", "--plain", 0.15)
        yield self._sft(SEQUENTIAL, self.out / "assistant.train.jsonl", "--plain", 1)
        yield self._sft("apar", marked, "--positions", "contiguous")

    def stage2(self) -> Iterator[Step]:
        """A model of each lambda; the samples of the first round are the same for all."""
        first = self.out / self.preferred[0]
        for name, weight in zip(self.preferred, self.options.lambdas, strict=True):
            shared = ("--reuse-samples", first) if name != first.name else ()
            yield self._prefer(name, "--lambda", weight, *shared)

    def evaluations(self) -> Iterator[Step]:
        """All models on all prompts, in batches; on fewer, one by one, for wall times; and the promise bias."""
        yield from self._evals()
        for name in self._parallel:
            yield self._eval(f"timed-{name}", self.out / name, "--limit", self.options.timed)
        middle = self.preferred[len(self.preferred) // 2]
        yield self._eval("promise-bias", self.out / middle, "--promise-biases", PROMISE_BIASES, *self._batched)

    def judgements(self) -> Iterator[Step]:
        """The same evaluations again, with the judge; all ask it through one cache."""
        judge = ("--judge-model", self.options.judge_model, "--judge-cache", self.out / "judge.jsonl")
        judge += ("--judge-url", self.options.judge_url) if self.options.judge_url else ()
        for one in self._evals():
            yield step(f"judge-{one.name}", *one.words, *judge)

    def pareto(self) -> Step:
        """Quality against speedup; Baseline-SFT, which the others are judged against, stands at 50% and 1 x."""
        folders = [self.out / "eval" / name for name in self.names if name != SEQUENTIAL]
        return step("pareto", "pareto", *folders, "--out", self.out / "figures", "--axis", "theoretical")

    @property
    def names(self) -> tuple[str, ...]:
        """All models that answer the prompts."""
        return (SEQUENTIAL, "skeleton", *self._parallel)

    @property
    def _parallel(self) -> tuple[str, ...]:
        return ("apar", "pasta-sft", *self.preferred)

    def _evals(self) -> Iterator[Step]:
        """Skeleton-of-Thought answers one prompt at a time."""
        yield self._eval(SEQUENTIAL, self.out / SEQUENTIAL, "--mode", "sequential", *self._many)
        yield self._eval("skeleton", self.out / SEQUENTIAL, "--skeleton", "--limit", self.options.tested)
        for name in self._parallel:
            yield self._eval(name, self.out / name, *self._batched)

    @property
    def _many(self) -> tuple[object, ...]:
        return ("--limit", self.options.tested, "--max-batch", self.options.max_batch)

    @property
    def _batched(self) -> tuple[object, ...]:
        return (*self._many, "--reuse-baseline", self.out / "eval" / SEQUENTIAL)

    def _sft(self, name: str, data: Path, *more: object) -> Step:
        options = self.options
        places = ("--model", options.base, "--data", data, "--out", self.out / name)
        length = ("--steps", options.steps) if options.steps else ("--epochs", options.epochs)
        rate = ("--row", options.row, "--batch-size", 4, "--learning-rate", 5e-4, "--warmup", 10, "--save-every", 50)
        held = ("--eval-data", self.out / "assistant.test.jsonl")
        return step(name, "train", "sft", *places, *held, *length, *rate, "--lora", options.lora, *more)

    def _prefer(self, name: str, *more: object) -> Step:
        options = self.options
        # From the adapter, where there is one, so that a single one on the base comes out.
        start = self.out / "pasta-sft" / ("adapter" if options.lora else "")
        places = ("--model", start, "--data", self.out / "prompts.jsonl", "--out", self.out / name)
        drawn = ("--samples", options.samples, "--limit", options.sampled, "--temperature", 0.8)
        drawn += ("--max-tokens", options.max_tokens, "--max-batch", options.max_batch)
        score = ("--speed-term", "bounded", "--quality", QUALITY, "--baseline", self.out / SEQUENTIAL)
        length = ("--steps", options.steps) if options.steps else ("--epochs", 1)
        rate = ("--rounds", options.rounds, "--batch-size", 4, "--learning-rate", 1e-4, "--warmup", 5)
        return step(name, "train", "prefer", *places, *drawn, *score, *length, *rate, "--lora", options.lora, *more)

    def _eval(self, name: str, model: Path, *more: object) -> Step:
        places = ("--out", self.out / "eval" / name, "--name", name, "--baseline", self.out / SEQUENTIAL)
        room = ("--max-tokens", self.options.max_tokens, "--temperature", 0.6, "--top-p", 0.9)
        prompts = self.options.prompts or self.out / "assistant.test.jsonl"
        return step(f"eval-{name}", "eval", prompts, "--model", model, *places, *room, *more)


def judge(steps: Iterable[Step], done: Path, *, by_file: bool) -> None:
    """Run the steps that ask a judge. One by file is told all that is wanted before any answer is awaited."""
    waiting: SystemExit | None = None
    for one in steps:
        try:
            run(one, done)
        except SystemExit as stop:
            if not by_file:
                raise
            waiting = stop
    if waiting is not None:
        raise waiting


def table(out: Path, names: Iterable[str]) -> Iterator[str]:
    """A Markdown table of the reports that are there, each figure with the paper's behind it."""
    heads = ("win %", *SPEEDS)
    yield f"| model | {' | '.join(f'{head} (paper)' for head in heads)} |"
    yield "|---" * (len(heads) + 1) + "|"
    found, timed = reports(out, names), reports(out, [f"timed-{name}" for name in names])
    for name, report in found.items():
        own = figures(report, timed.get(f"timed-{name}", report))
        paper = PAPER.get(name, (None,) * len(heads))
        yield f"| {name} | {' | '.join(map(_cell, own, paper))} |"


def figures(report: dict[str, Any], timed: dict[str, Any]) -> list[float | None]:
    """The win rate and the speeds of a model; what needs wall times is from the prompts answered one by one."""
    quality = report["quality"]
    speeds = [value(timed if key in ("realised", "efficiency") else report, "figures", key) for key in SPEEDS]
    return [quality and quality["value"], *speeds]


def _cell(own: float | None, paper: float | None) -> str:
    return f"{'-' if own is None else f'{own:.2f}'} ({'-' if paper is None else f'{paper:g}'})"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--out", type=Path, default=Path("runs/assistant"))
    found.add_argument("--base", default="smollm2", help="any name of a model")
    found.add_argument("--lora", type=int, default=32, help="rank of the adapters; 0 trains all weights")
    found.add_argument("--records", type=int, help="to train on in stage 1 (all)")
    found.add_argument("--row", type=int, default=640, help="tokens of a packed row; longer records are left out")
    found.add_argument("--epochs", type=float, default=2.0, help="of stage 1")
    found.add_argument("--steps", type=int, help="of each training, instead of epochs")
    found.add_argument("--lambda", nargs="+", default=["4"], dest="lambdas", metavar="L", help="such as 1 4 inf (4)")
    found.add_argument("--rounds", type=int, default=2, help="of stage 2")
    found.add_argument("--sampled", type=int, default=300, help="prompts of stage 2")
    found.add_argument("--samples", type=int, default=6, help="answers a prompt of stage 2")
    found.add_argument("--max-tokens", type=int, default=400, help="of an answer")
    found.add_argument("--max-batch", type=int, default=96, help="answers at once")
    found.add_argument("--prompts", help="a file of prompts to evaluate on (the held-out part of the data set)")
    found.add_argument("--tested", type=int, default=805, help="prompts to evaluate on, at most")
    found.add_argument("--timed", type=int, default=60, help="those answered one by one, for wall times")
    found.add_argument("--judge-model", default="", help="the judge, as its endpoint names it")
    found.add_argument("--judge-url", default="", help="its endpoint, or 'file' for `pasta judge`")
    found.add_argument("--only", default="", help="names of steps, with commas between")
    found.add_argument("--list", action="store_true", help="print the commands and run none")
    return found


def main(words: Sequence[str] | None = None) -> None:
    """Run the steps that are not done."""
    options = parser().parse_args(words)
    recipe, out = Recipe(options), options.out
    plan, wanted = list(recipe.plan()), {name for name in options.only.split(",") if name}
    if unknown := wanted - {one.name for one in plan}:
        parser().error(f"--only: no step is called {', '.join(sorted(unknown))}; --list shows the commands.")
    plan = [one for one in plan if one.name in wanted or not wanted]
    judged = list(recipe.judgements()) if options.judge_model and not wanted else []
    drawn = [recipe.pareto()] if judged else []
    if options.list:
        print("\n".join(f"{one.name}: pasta {shlex.join(one.words)}" for one in (*plan, *judged, *drawn)))
        return
    make_data(out, options.records)
    (out / "done").mkdir(exist_ok=True)
    for one in plan:
        run(one, out / "done")
    judge(judged, out / "done", by_file=options.judge_url == BY_FILE)
    for one in drawn:
        run(one, out / "done")
    text = "\n".join(table(out, recipe.names))
    write_text(out / "table.md", text + "\n")
    print(text)


if __name__ == "__main__":
    main()
