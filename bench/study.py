"""The study of stage 2 on the generated tasks, as a list of the commands that make it; `make study` runs it.

    python -m bench.study --base runs/bundled/base --model bundled --out runs/study
    python -m bench.study --only sft,lambda-4,eval-lambda-4 ..

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
from pastalm.training.prefer_config import SPEEDS

LAMBDAS = ("1", "2", "4", "8", "inf")
SNAPSHOTS = "0.1,0.6"
ROUNDS = {  # the paper's figure: after 10% and 100% of round 1, after 10% and 60% of round 2
    "10": "round1/snapshot-10",
    "100": "round1/model",
    "110": "round2/snapshot-10",
    "160": "round2/snapshot-60",
}
COLUMNS = {
    "theoretical x": "theoretical",
    "realised x": "realised",
    "efficiency": "efficiency",
    "parallelism": "parallelism",
    "forked": "forked",
    "redundancy": "redundancy",
    "length error": "length_error",
}
SIZES = {"tasks": 11000, "steps": 500, "prompts": 330, "samples": 10, "tested": 330, "timed": 66}
BIASES = (-3, -2, -1, 0, 1, 2, 3)
MIDDLE = "lambda-4"  # the model whose rounds, speed terms and run-time knob are looked at
LEARNT = {name: policy for name, policy in POLICIES.items() if not policy.needs_length}  # those a runtime can follow
MAIN = ("baseline-sft", "apar", "pasta-sft", *(f"lambda-{weight}" for weight in LAMBDAS))
QUESTIONS = {  # the reports that answer each
    "main": MAIN,
    "timed": ("timed-skeleton", *(f"timed-{name}" for name in MAIN[1:])),
    "rounds": ("pasta-sft", *(f"rounds-{name}" for name in ROUNDS), MIDDLE),
    "speed terms": (MIDDLE, *(f"speed-{speed}" for speed in SPEEDS[1:])),
    "positions": tuple(f"positions-{policy}" for policy in LEARNT),
    "knob": tuple(MIDDLE if bias == 0 else f"{MIDDLE}-speed{bias:+d}" for bias in BIASES),
}


@dataclass(frozen=True)
class Step:
    """One command: its name, and the words after ``pasta``."""

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Sizes:
    """How large the study is: tasks and steps of each stage-1 run, prompts and samples of a round, held-out tasks,
    and how many of these are answered one by one, for wall times."""

    tasks: int
    steps: int
    prompts: int
    samples: int
    tested: int
    timed: int
    sft_rate: float
    prefer_rate: float


def plan(out: Path, base: str, model: str, sizes: Sizes) -> Iterator[Step]:
    """All steps, in an order in which each finds what it needs."""

    def step(name: str, *words: object) -> Step:
        return Step(name, tuple(map(str, words)))

    tasks, prompts, held, plain = (
        out / name for name in ("tasks.jsonl", "prompts.jsonl", "held.jsonl", "baseline-sft")
    )
    yield step("tasks", "tasks", "--number", sizes.tasks, "--seed", 1000, "--out", tasks)
    yield step("prompts", "tasks", "--number", sizes.prompts, "--seed", 1001, "--out", prompts)
    yield step("held", "tasks", "--split", "held-out", "--number", sizes.tested, "--out", held)
    yield step("apar-data", "baseline", "apar", tasks, out / "apar.jsonl", "--bullets", "--as-is")

    def sft(name: str, data: Path, *more: object) -> Step:
        size = ("--steps", sizes.steps, "--row", 640, "--batch", 4, "--learning-rate", sizes.sft_rate, "--beta2", 0.98)
        places = ("--model", base, "--data", data, "--eval-data", held, "--out", out / name)
        return step(name, "train", "sft", *places, *size, *more)

    yield sft("baseline-sft", tasks, "--plain", 1)
    yield sft("apar", out / "apar.jsonl", "--positions", "contiguous")
    for policy in POLICIES:
        yield sft(f"positions-{policy}", tasks, "--positions", policy)

    def prefer(name: str, weight: str, *more: object) -> Step:
        size = ("--samples", sizes.samples, "--learning-rate", sizes.prefer_rate, "--max-tokens", 900)
        kept = ("--rounds", 2, "--snapshots", SNAPSHOTS, "--baseline", plain)
        words = ("--model", model, "--data", prompts, "--out", out / name, "--lambda", weight)
        return step(name, "train", "prefer", *words, *size, *kept, *more)

    first = f"lambda-{LAMBDAS[0]}"
    for weight in LAMBDAS:
        name = f"lambda-{weight}"
        yield prefer(name, weight, *(() if name == first else ("--reuse", out / first)))
    for speed in SPEEDS[1:]:
        yield prefer(f"speed-{speed}", "4", "--speed", speed, "--reuse", out / first)

    def evaluate(name: str, where: str | Path, *more: object) -> Step:
        place = ("--out", out / "eval" / name, "--name", name, "--baseline", plain, "--max-tokens", 900)
        return step(f"eval-{name}", "eval", where, f"tasks:held-out:{sizes.tested}", *place, *more)

    def timed(name: str, where: str | Path, *more: object) -> Step:
        return evaluate(f"timed-{name}", where, "--limit", sizes.timed, *more)

    def whole(name: str, where: str | Path, *more: object) -> Step:
        return evaluate(name, where, "--batch", 32, *more)

    last = {name: out / name / "round2" / "model" for name in QUESTIONS["main"] + QUESTIONS["speed terms"]}
    places: dict[str, str | Path] = last | {"baseline-sft": plain, "apar": out / "apar", "pasta-sft": model}
    yield whole("baseline-sft", plain, "--mode", "sequential")
    for name in (*MAIN[1:], *QUESTIONS["speed terms"][1:]):
        yield whole(name, places[name])
    for policy in LEARNT:
        yield whole(f"positions-{policy}", out / f"positions-{policy}")
    for name, place in ROUNDS.items():
        yield whole(f"rounds-{name}", out / MIDDLE / place)
    for bias in filter(None, BIASES):
        yield whole(f"{MIDDLE}-speed{bias:+d}", places[MIDDLE], "--speed", bias)
    yield timed("skeleton", plain, "--mode", "skeleton")
    for name in MAIN[1:]:
        yield timed(name, places[name])
    for question, names in QUESTIONS.items():
        reports = [out / "eval" / name for name in names]
        place = out / "figures" / question.replace(" ", "-")
        speed = "realised" if question == "timed" else "theoretical"
        yield step(f"pareto-{place.name}", "pareto", *reports, "--out", place, "--speed", speed)


def run(step: Step, done: Path) -> None:
    """Run a step unless it is done. Raises ``SystemExit`` with its status if it fails."""
    mark = done / step.name
    if mark.exists():
        return
    print(f"\n$ pasta {shlex.join(step.words)}", flush=True)
    status = subprocess.run([sys.executable, "-m", "pastalm.cli", *step.words], check=False).returncode
    if status:
        raise SystemExit(status)
    mark.touch()


def tables(out: Path) -> Iterator[str]:
    """The tables of all questions, of the reports that are there."""
    for question, names in QUESTIONS.items():
        places = [out / "eval" / name / "report.json" for name in names]
        yield from (
            f"## {question}",
            "",
            *table(json.loads(place.read_text()) for place in places if place.exists()),
            "",
        )


def table(reports: Iterable[dict[str, Any]]) -> Iterator[str]:
    """A Markdown table, a row a report."""
    yield f"| model | accepted % | {' | '.join(COLUMNS)} |"
    yield "|---" * (2 + len(COLUMNS)) + "|"
    for report in reports:
        quality, figures = report["quality"], report["figures"]
        accepted = f"{quality['value']:.1f} ({quality['low']:.1f} to {quality['high']:.1f})" if quality else ""
        cells = [f"{figures[name]['value']:.2f}" if figures.get(name) else "" for name in COLUMNS.values()]
        yield f"| {' | '.join([report['name'], accepted, *cells])} |"


def main() -> None:
    """Run the study, or the part of it that ``--only`` names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="a model trained on plain answers only")
    parser.add_argument("--model", default="bundled", help="the stage-1 model")
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--only", default="", help="names of steps, with commas between")
    parser.add_argument("--list", action="store_true", help="print the commands and run none")
    for name, value in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--sft-rate", type=float, default=1e-3)
    parser.add_argument("--prefer-rate", type=float, default=5e-5)
    options = parser.parse_args()
    out: Path = options.out
    sizes = Sizes(**{name: getattr(options, name) for name in Sizes.__dataclass_fields__})
    wanted = {name for name in options.only.split(",") if name}
    (out / "done").mkdir(parents=True, exist_ok=True)
    for step in plan(out, options.base, options.model, sizes):
        if options.list:
            print(f"pasta {shlex.join(step.words)}")
        elif not wanted or step.name in wanted:
            run(step, out / "done")
    if not options.list:
        (out / "tables.md").write_text("\n".join(tables(out)))
        print(f"Written: {out / 'tables.md'}")


if __name__ == "__main__":
    main()
