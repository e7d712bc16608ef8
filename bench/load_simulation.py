"""Load against width, simulated: the real scheduler and interpreter decode known answers on a machine that is a law.

    python -m bench.load_simulation pastalm/data/pasta-instruct/assistant/train.jsonl --out simulation

A step takes ``max(weights, rows * row) + slots * slot + fixed`` seconds: reading the weights, or computing the rows of
the step, whichever is longer; reading the cache; what it costs in any case. The constants default to a 7B model on one
H100 as its data sheet has it; `pasta bench` measures those of a real machine. Answers come at random (Poisson) and are
decoded sequentially, in parallel without bound, and in parallel with a bound on the threads of a step.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import mean, quantiles

import torch
from torch import Tensor

from pastalm.data.examples import read_annotated
from pastalm.files.atomic import write_text
from pastalm.lang.answer import Answer
from pastalm.lang.codec import TextCodec
from pastalm.lang.positions import position_policy
from pastalm.lang.script import Script, compile_script
from pastalm.lang.tokenizer import add_tags
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.interpreter import Interpreter
from pastalm.runtime.kv_cache import KVCache
from pastalm.runtime.language import Language
from pastalm.runtime.limits import Limits
from pastalm.runtime.load import load_tokenizer
from pastalm.runtime.replay import Replay
from pastalm.runtime.runner import Launched
from pastalm.runtime.sampler import Chosen, Sampler, SamplerOutput
from pastalm.runtime.scheduler import Scheduler
from pastalm.runtime.sequence import Sequence as RunningSequence
from pastalm.runtime.step_input import Part

POLICY = position_policy("pred10")


@dataclass(frozen=True)
class Machine:
    """Seconds: ``weights`` to read the weights once, ``row`` to compute one token, ``slot`` to read one slot of the
    cache, ``fixed`` a step in any case."""

    weights: float = 4.8e-3
    row: float = 23e-6
    slot: float = 0.14e-6
    fixed: float = 0.3e-3

    def step(self, rows: int, slots: int) -> float:
        """The seconds of a step."""
        return max(self.weights, rows * self.row) + slots * self.slot + self.fixed


@dataclass(frozen=True)
class Outcome:
    """What a policy came to under a load: answers a second that came and that were finished, seconds an answer took
    from its coming, rows of a step on average."""

    policy: str
    offered: float
    finished: float
    mean_seconds: float
    p99_seconds: float
    rows: float


class SimulatedRunner:
    """In the place of a runner: computes nothing, and lets the clock go on as long as a step would take."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.device = machine, torch.device("cpu")
        self.clock = 0.0
        self.sampler = Sampler(1, self.device)
        self.steps = self.rows = 0

    ahead = False

    def make_layers(self, cache: KVCache) -> None:
        """See :class:`pastalm.runtime.runner.Runner`; there are none."""

    def launch(self, cache: KVCache, parts: Sequence[Part]) -> Launched:
        """See :class:`pastalm.runtime.runner.Runner`; the tokens come from the sequences' teachers."""
        tokens, logits = self.step(cache, parts)
        draws = [draw for part in parts for draw in part.draws]
        return Launched(logits, SamplerOutput(self.sampler, Chosen(torch.tensor(tokens)), draws))

    def step(self, cache: KVCache, parts: Sequence[Part]) -> tuple[list[int], Tensor]:
        """The same, as two lists."""
        rows = sum(len(part.queries) for part in parts)
        self.clock += self.machine.step(rows, sum(part.queries[-1].slot for part in parts))
        self.steps, self.rows = self.steps + 1, self.rows + rows
        wanted = sum(len(part.wanted) for part in parts)
        return [0] * wanted, torch.zeros(wanted, 1)


class Load:
    """Known answers that come ``rate`` a second."""

    def __init__(self, scripts: Sequence[Script], vocabulary: Vocabulary, prompt: int, rate: float, seed: int) -> None:
        self.scripts, self.vocabulary, self.prompt = scripts, vocabulary, prompt
        random = Random(seed)
        self.arrivals = [random.expovariate(rate)]
        while len(self.arrivals) < len(scripts):
            self.arrivals.append(self.arrivals[-1] + random.expovariate(rate))
        self.rate = rate

    def sequences(self) -> Iterator[RunningSequence]:
        """The answers, ready for a scheduler. No two prompts share a beginning."""
        eos = frozenset(self.vocabulary.eos)
        language = Language(TextCodec(self.vocabulary.tokenizer), eos, self.vocabulary, True, False, False)
        for number, script in enumerate(self.scripts):
            known = Replay(script, min(eos))
            limits = Limits(max_tokens=known.total)
            interpreter = Interpreter(language, POLICY, limits, self.prompt, lengths=known.length)
            yield RunningSequence([number] * self.prompt, interpreter, teacher=known)

    def run(self, policy: str, machine: Machine, max_batch: int, max_batch_threads: int | None) -> Outcome:
        """Decode all answers as they come."""
        runner = SimulatedRunner(machine)
        scheduler = Scheduler(runner, max_batch, 1 << 14, max_batch_threads)  # type: ignore[arg-type]
        coming = list(zip(self.arrivals, self.sequences(), strict=True))[::-1]
        running: dict[RunningSequence, float] = {}
        seconds: list[float] = []
        while coming or running:
            if not running:
                runner.clock = max(runner.clock, coming[-1][0])
            while coming and coming[-1][0] <= runner.clock:
                arrival, sequence = coming.pop()
                running[sequence] = arrival
                scheduler.add(sequence)
            scheduler.step()
            for sequence in [one for one in running if one.finished]:
                sequence.result()
                seconds.append(runner.clock - running.pop(sequence))
        finished = len(seconds) / (runner.clock - self.arrivals[0])
        slow = quantiles(seconds, n=100)[98] if len(seconds) > 1 else seconds[0]
        return Outcome(policy, self.rate, finished, mean(seconds), slow, runner.rows / runner.steps)


def read_scripts(data: str, number: int, vocabulary: Vocabulary) -> tuple[list[Script], list[Script]]:
    """The first answers of a data set, with their marks and without."""
    answers = [one.answer for one, _ in zip(read_annotated(data), range(number), strict=False)]
    plain = [Answer((answer.plain,)) for answer in answers]
    marked, unmarked = ([compile_script(one, vocabulary, POLICY) for one in kind] for kind in (answers, plain))
    return marked, unmarked


def draw(outcomes: Sequence[Outcome], place: Path) -> None:
    """The mean and the slowest hundredth of seconds an answer, against answers a second."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharex=True)
    for policy in dict.fromkeys(one.policy for one in outcomes):
        own = [one for one in outcomes if one.policy == policy]
        for axis, name in zip(axes, ("mean_seconds", "p99_seconds"), strict=True):
            axis.plot([one.offered for one in own], [getattr(one, name) for one in own], marker="o", label=policy)
    for axis, title in zip(axes, ("mean", "99th percentile"), strict=True):
        axis.set(
            xscale="log", yscale="log", xlabel="answers a second that come", ylabel="seconds an answer", title=title
        )
        axis.legend()
    figure.tight_layout()
    figure.savefig(place, dpi=120)


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("data", help="annotated answers")
    parser.add_argument("--tokenizer", default="bundled", help="counts the tokens")
    parser.add_argument("--answers", type=int, default=300)
    parser.add_argument("--prompt", type=int, default=100, help="tokens of a prompt")
    parser.add_argument("--rates", default="1,2,5,10,20,40,80", help="answers a second")
    parser.add_argument("--max-batch-threads", type=int, default=128, help="the bound of the third policy")
    parser.add_argument("--max-batch", type=int, default=256)
    parser.add_argument("--out", type=Path, required=True)
    for name, value in asdict(Machine()).items():
        parser.add_argument(f"--{name}", type=float, default=value, help="seconds; see the module")
    asked = parser.parse_args(arguments)
    tokenizer = load_tokenizer(asked.tokenizer)
    add_tags(tokenizer)
    vocabulary = Vocabulary(tokenizer, [tokenizer.eos_token_id])
    marked, plain = read_scripts(asked.data, asked.answers, vocabulary)
    machine = Machine(asked.weights, asked.row, asked.slot, asked.fixed)
    bounded = f"parallel, at most {asked.max_batch_threads} rows"
    policies = {"sequential": (plain, None), "parallel": (marked, None), bounded: (marked, asked.max_batch_threads)}
    outcomes = []
    for rate in map(float, asked.rates.split(",")):
        for policy, (scripts, max_batch_threads) in policies.items():
            found = Load(scripts, vocabulary, asked.prompt, rate, seed=0).run(
                policy, machine, asked.max_batch, max_batch_threads
            )
            outcomes.append(found)
            print(
                f"{found.offered:6.1f}/s  {policy:28}  {found.finished:6.2f}/s  mean {found.mean_seconds:7.3f} s  "
                f"p99 {found.p99_seconds:7.3f} s  rows {found.rows:6.1f}",
                flush=True,
            )
    asked.out.mkdir(parents=True, exist_ok=True)
    write_text(asked.out / "simulation.json", json.dumps([asdict(one) for one in outcomes], indent=1))
    draw(outcomes, asked.out / "simulation.png")


if __name__ == "__main__":
    main()
