"""The study of stage 2 on the generated tasks, as a list of the commands that make it; `make study` runs it.

    python -m bench.study --base runs/bundled/base --model runs/bundled/model --out runs/study
    python -m bench.study --only baseline-sft,lambda-1,eval-lambda-1 ..

Every step is a command that can be typed by hand. Steps that are done are skipped; a killed one goes on where it was.
Writes the models, ``eval/NAME/report.json``, and for each of the study's questions a figure of quality against speedup
(``figures/QUESTION``) and a table (``tables.md``).

``--base`` is the model from which Baseline-SFT, APAR and the position policies start, best one that has been trained on
plain answers only; ``--model`` is the stage-1 model.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pastalm.lang.positions import POLICIES
from pastalm.training.config import SPEED_TERMS

LAMBDAS = ("1", "0.25", "2", "4", "8", "inf")  # the first is the one whose samples the others share
SNAPSHOTS = "0.1,0.6"
ROUNDS = {  # the paper's figure: after 10% and 100% of round 1, after 10% and 60% of round 2
    "10": "round1/snapshot-10",
    "100": "round1/model",
    "110": "round2/snapshot-10",
    "160": "round2/snapshot-60",
}
COLUMNS = {  # of a table: where a report has what stands in each
    "theoretical x": ("figures", "theoretical"),
    "where it should fork": ("families", "should fork", "theoretical"),
    "realised x": ("figures", "realised"),
    "efficiency": ("figures", "efficiency"),
    "parallelism": ("figures", "parallelism"),
    "forked": ("figures", "forked"),
    "forked wrongly": ("families", "should not", "forked"),
    "redundancy": ("figures", "redundancy"),
    "length error": ("figures", "length_error"),
    "tokens": ("figures", "tokens"),
}
SIZES = {"tasks": 11000, "steps": 500, "prompts": 330, "samples": 10, "epochs": 2, "tested": 330, "timed": 66}
ROOM = ("--max-tokens", 900)
BATCHED = ("--max-batch", 32)
NEAR = 3  # points below the sequential quality that still count as kept
BIASES = (-3, -2, -1, 0, 1, 2, 3)
MIDDLE = "lambda-4"  # the model whose rounds, speed terms and promise bias are looked at
LEARNT = {name: policy for name, policy in POLICIES.items() if not policy.needs_length}  # those a runtime can follow
PREFERRED = tuple(f"lambda-{weight}" for weight in LAMBDAS)
TIMED = ("apar", "pasta-sft", *PREFERRED)
QUESTIONS = {  # the reports that answer each
    "main": ("baseline-sft", "apar", "pasta-sft", "rounds-100", *PREFERRED),
    "timed": ("timed-skeleton", *(f"timed-{name}" for name in TIMED)),
    "rounds": ("pasta-sft", *(f"rounds-{name}" for name in ROUNDS), MIDDLE),
    "speed terms": ("rounds-100", *(f"speed-{speed}" for speed in SPEED_TERMS[1:])),
    "positions": tuple(f"positions-{policy}" for policy in LEARNT),
    "promise bias": tuple(MIDDLE if bias == 0 else f"{MIDDLE}-promise-bias{bias:+d}" for bias in BIASES),
}


@dataclass(frozen=True)
class Step:
    """One command: its name, and the words after ``pasta``."""

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Sizes:
    """How large the study is: tasks and steps of each stage-1 run, prompts, samples and epochs of a round, held-out
    tasks, and how many of these are answered one by one, for wall times."""

    tasks: int
    steps: int
    prompts: int
    samples: int
    epochs: int
    tested: int
    timed: int
    sft_rate: float
    prefer_rate: float


def step(name: str, *words: object) -> Step:
    """A command of `pasta`."""
    return Step(name, tuple(map(str, words)))


@dataclass(frozen=True)
class Study:
    """The study in the folder ``out``, as commands."""

    out: Path
    base: str
    model: str
    sizes: Sizes

    def plan(self) -> Iterator[Step]:
        """All steps, in an order in which each finds what it needs."""
        yield from (*self.data(), *self.stage1(), *self.stage2(), *self.evaluations(), *self.figures())

    def data(self) -> Iterator[Step]:
        """Tasks to train on, prompts of stage 2, held-out tasks, and APAR's marks on the first."""
        out, sizes = self.out, self.sizes
        yield step("tasks", "tasks", "--number", sizes.tasks, "--seed", 1000, "--out", out / "tasks.jsonl")
        yield step("prompts", "tasks", "--number", sizes.prompts, "--seed", 1001, "--out", out / "prompts.jsonl")
        held = ("--split", "held-out", "--number", sizes.tested, "--out", out / "held.jsonl")
        yield step("held", "tasks", *held)
        marked = (out / "tasks.jsonl", out / "apar.jsonl", "--bullets")
        yield step("apar-data", "baseline", "apar", *marked)

    def stage1(self) -> Iterator[Step]:
        """Baseline-SFT, APAR, and a model of each position policy."""
        yield self._sft("baseline-sft", "tasks.jsonl", "--plain", 1)
        yield self._sft("apar", "apar.jsonl", "--positions", "contiguous")
        for policy in POLICIES:
            yield self._sft(f"positions-{policy}", "tasks.jsonl", "--positions", policy)

    def stage2(self) -> Iterator[Step]:
        """A model of each lambda, and one round of each speed term; the first round's samples are the same for all."""
        first = PREFERRED[0]
        shared = ("--reuse-samples", self.out / first)
        for name, weight in zip(PREFERRED, LAMBDAS, strict=True):
            kept = ("--snapshots", SNAPSHOTS) if name == MIDDLE else ()
            more = ("--rounds", 2, *kept, *(() if name == first else shared))
            yield self._prefer(name, "--lambda", weight, *more)
        for speed in SPEED_TERMS[1:]:
            yield self._prefer(f"speed-{speed}", "--lambda", 4, "--speed-term", speed, "--rounds", 1, *shared)

    def evaluations(self) -> Iterator[Step]:
        """All models on the held-out tasks, in batches; the main ones on fewer, one by one, for wall times."""
        places: dict[str, object] = {name: self.out / name / "round2" / "model" for name in PREFERRED}
        places |= {name: self.out / name / "round1" / "model" for name in QUESTIONS["speed terms"][1:]}
        places |= {name: self.out / name for name in ("apar", *QUESTIONS["positions"])} | {"pasta-sft": self.model}
        places |= {f"rounds-{name}": self.out / MIDDLE / place for name, place in ROUNDS.items()}
        yield self._eval("baseline-sft", self.out / "baseline-sft", *BATCHED, "--mode", "sequential")
        reuse = (*BATCHED, "--reuse-baseline", self.out / "eval" / "baseline-sft")
        for name, place in places.items():
            yield self._eval(name, place, *reuse)
        for bias in filter(None, BIASES):
            yield self._eval(f"{MIDDLE}-promise-bias{bias:+d}", places[MIDDLE], *reuse, "--promise-bias", bias)
        few = ("--limit", self.sizes.timed)
        yield self._eval("timed-skeleton", self.out / "baseline-sft", *few, "--skeleton")
        for name in TIMED:
            yield self._eval(f"timed-{name}", places[name], *few)

    def figures(self) -> Iterator[Step]:
        """Quality against speedup, for each question."""
        for question, names in QUESTIONS.items():
            place = self.out / "figures" / question.replace(" ", "-")
            speed = "realised" if question == "timed" else "theoretical"
            reports = [self.out / "eval" / name for name in names]
            yield step(f"pareto-{place.name}", "pareto", *reports, "--out", place, "--axis", speed)

    def _sft(self, name: str, data: str, *more: object) -> Step:
        places = ("--data", self.out / data, "--eval-data", self.out / "held.jsonl", "--out", self.out / name)
        size = ("--steps", self.sizes.steps, "--row", 640, "--batch-size", 4, "--dtype", "float32", "--beta2", 0.98)
        rate = ("--learning-rate", self.sizes.sft_rate)
        return step(name, "train", "sft", "--model", self.base, *places, *size, *rate, *more)

    def _prefer(self, name: str, *more: object) -> Step:
        sizes, places = self.sizes, ("--data", self.out / "prompts.jsonl", "--out", self.out / name)
        size = ("--samples", sizes.samples, "--epochs", sizes.epochs, "--learning-rate", sizes.prefer_rate)
        size += ("--dtype", "float32")
        baseline = ("--baseline", self.out / "baseline-sft")
        return step(name, "train", "prefer", "--model", self.model, *places, *size, *baseline, *ROOM, *more)

    def _eval(self, name: str, model: object, *more: object) -> Step:
        places = ("--out", self.out / "eval" / name, "--name", name, "--baseline", self.out / "baseline-sft")
        return step(
            f"eval-{name}", "eval", f"tasks:held-out:{self.sizes.tested}", "--model", model, *places, *ROOM, *more
        )


def run(one: Step, done: Path) -> None:
    """Run a step unless it is done. Raises ``SystemExit`` if it fails, or was done with other settings."""
    mark, command = done / one.name, f"pasta {shlex.join(one.words)}"
    if mark.exists():
        if mark.read_text() != command:
            raise SystemExit(f"{one.name} was done as\n{mark.read_text()}\nand not as\n{command}\nTake another --out.")
        return
    print(f"\n$ {command}", flush=True)
    status = subprocess.run([sys.executable, "-m", "pastalm.cli", *one.words], check=False).returncode
    if status:
        raise SystemExit(status)
    mark.write_text(command)


def reports(out: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The reports that are there, by name."""
    places = {name: out / "eval" / name / "report.json" for name in names}
    return {name: json.loads(place.read_text()) for name, place in places.items() if place.exists()}


def tables(out: Path) -> Iterator[str]:
    """The tables of all questions, of the reports that are there; the losses of the policies; the aims."""
    for question, names in QUESTIONS.items():
        yield from (f"## {question}", "", *table(reports(out, names).values()), "")
    yield from ("## loss on held-out tasks, nats a target", "", *losses(out), "", "## aims", "", *aims(out))


def table(found: Iterable[dict[str, Any]]) -> Iterator[str]:
    """A Markdown table, a row a report; without the figures that none of them has."""
    rows = [(one, {head: value(one, *place) for head, place in COLUMNS.items()}) for one in found]
    heads = [head for head in COLUMNS if any(row[head] is not None for _, row in rows)]
    yield f"| {' | '.join(['model', 'accepted %', *heads])} |"
    yield "|---" * (2 + len(heads)) + "|"
    for report, row in rows:
        quality = report["quality"]
        accepted = f"{quality['value']:.1f} ({quality['low']:.1f} to {quality['high']:.1f})" if quality else ""
        cells = ["" if row[head] is None else f"{row[head]:.{0 if head == 'tokens' else 2}f}" for head in heads]
        yield f"| {' | '.join([report['name'], accepted, *cells])} |"


def value(report: dict[str, Any], *place: str) -> float | None:
    """A figure of a report, or None where it has none."""
    found: Any = report
    for name in place:
        found = (found or {}).get(name)
    return found["value"] if isinstance(found, dict) else found


def losses(out: Path) -> Iterator[str]:
    """A row a position policy, the best first."""
    runs = {policy: out / f"positions-{policy}" / "run.json" for policy in POLICIES}
    found = {
        policy: json.loads(run.read_text())["figures"]["eval_loss"] for policy, run in runs.items() if run.exists()
    }
    yield from ("| policy | loss |", "|---|---|")
    yield from (f"| {policy} | {loss:.4f} |" for policy, loss in sorted(found.items(), key=lambda pair: pair[1]))


def aims(out: Path) -> Iterator[str]:
    """What the study was to show, each with what it came to."""
    found = reports(out, QUESTIONS["main"])
    trained = [found[name] for name in PREFERRED if name in found]
    if not trained or not {"baseline-sft", "pasta-sft", "apar", "lambda-inf"} <= set(found):
        return
    sequential, infinite = found["baseline-sft"]["quality"]["value"], found["lambda-inf"]
    near = [one for one in trained if one["quality"]["value"] >= sequential - NEAR]
    yield f"- lambda inf: {_place(infinite)}; sequential {sequential:.1f}%; aim: as good, 1.5 x."
    if near:
        fastest = max(near, key=lambda one: one["figures"]["theoretical"]["value"])
        yield f"- the fastest within {NEAR} points of sequential is {fastest['name']}: {_place(fastest)}; aim: 2.5 x."
    better = [one["name"] for one in trained if _dominates(one, found["apar"])]
    yield f"- faster and at least as good as APAR ({_place(found['apar'])}): {', '.join(better) or 'none'}."
    chains = (f"{one['name']} {100 * one['families']['chain']['forked']:.0f}%" for one in trained)
    yield f"- serial chains that fork: {', '.join(chains)}; aim: none."
    repeated = (f"{one['name']} {100 * (value(one, 'figures', 'redundancy') or 0):.0f}%" for one in trained)
    before = 100 * (value(found["pasta-sft"], "figures", "redundancy") or 0)
    yield f"- redundancy: pasta-sft {before:.0f}%, {', '.join(repeated)}; aim: it falls."


def _place(report: dict[str, Any]) -> str:
    speeds = (value(report, "figures", "theoretical"), value(report, "families", "should fork", "theoretical"))
    return f"{report['quality']['value']:.1f}% at {speeds[0]:.2f} x, {speeds[1]:.2f} x where it should fork"


def _dominates(one: dict[str, Any], other: dict[str, Any]) -> bool:
    places = [(each["figures"]["theoretical"]["value"], each["quality"]["value"]) for each in (one, other)]
    return places[0][0] > places[1][0] and places[0][1] >= places[1][1]


def main() -> None:
    """Run the study, or the part of it that ``--only`` names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="a model trained on plain answers only")
    parser.add_argument("--model", required=True, help="the stage-1 model")
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--only", default="", help="names of steps, with commas between")
    parser.add_argument("--list", action="store_true", help="print the commands and run none")
    for name, value in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--sft-rate", type=float, default=8e-4)
    parser.add_argument("--prefer-rate", type=float, default=1e-4)
    options = parser.parse_args()
    out: Path = options.out
    sizes = Sizes(**{name: getattr(options, name) for name in Sizes.__dataclass_fields__})
    wanted = {name for name in options.only.split(",") if name}
    steps = list(Study(out, options.base, options.model, sizes).plan())
    unknown = wanted - {one.name for one in steps}
    if unknown:
        parser.error(f"--only: no step is called {', '.join(sorted(unknown))}; --list shows the commands.")
    if not options.list:
        (out / "done").mkdir(parents=True, exist_ok=True)
    for one in steps:
        if options.list:
            print(f"{one.name}: pasta {shlex.join(one.words)}")
        elif not wanted or one.name in wanted:
            run(one, out / "done")
    if not options.list:
        (out / "tables.md").write_text("\n".join(tables(out)))
        print(f"Written: {out / 'tables.md'}")


if __name__ == "__main__":
    main()
