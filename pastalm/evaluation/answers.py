"""Answers of a model and of its baseline, each kept on disk the moment it is there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pastalm.data.questions import Question
from pastalm.evaluation.comparison import Pair
from pastalm.files.atomic import write_text
from pastalm.files.journal import Journal, read_journal
from pastalm.files.lines import DataError
from pastalm.runtime.mode import Mode
from pastalm.runtime.response import Metrics

if TYPE_CHECKING:
    from pastalm.runtime.engine import Engine
    from pastalm.runtime.response import Response

WARM_UP_TOKENS = 64
BATCHES_AT_ONCE = 4  # prompts that wait for each place in a batch: the last ones, decoded in a thin batch, count less


@dataclass(frozen=True)
class EvalSettings:
    """What the answers of one folder have in common; ``promise_bias`` and ``max_threads`` are the engine's options.

    ``mode``: ``async`` or ``sequential``; with ``skeleton`` the model answers by Skeleton-of-Thought instead.
    ``baseline`` answers in sequential mode; empty is the model itself. ``quantize`` rounds the weights of both.
    ``max_batch`` prompts are answered at once; with more than one, wall times tell nothing. ``temperature`` and
    ``top_p`` are those of both; None: as each model wants it, else greedy. ``compile``: both run as graphs.
    ``model_print`` and ``baseline_print`` are fingerprints of the two, so that other weights under the same name are
    noticed.
    """

    model: str
    prompts: str
    baseline: str = ""
    mode: str = Mode.ASYNC
    max_tokens: int = 1024
    promise_bias: float = 0.0
    max_threads: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    model_print: str = ""
    baseline_print: str = ""
    max_batch: int = 1
    skeleton: bool = False
    quantize: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        if self.mode not in tuple(Mode):
            raise ValueError(f"Unknown mode {self.mode!r}; choose one of {', '.join(Mode)}.")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; an answer needs at least 1.")
        if self.max_batch < 1:
            raise ValueError(f"max_batch is {self.max_batch}; at least 1 prompt is answered at once.")
        if self.skeleton and (self.max_batch > 1 or self.mode != Mode.ASYNC):
            raise ValueError(
                "Skeleton-of-Thought answers one prompt at a time and in its own way: leave mode and max_batch out."
            )


@dataclass(frozen=True)
class DecodedAnswer:
    """A decoded answer. ``text`` is without tags, ``annotated`` with; ``topics`` are the chunks'; ``finished``: no
    limit ended it or a chunk of it."""

    text: str
    annotated: str
    topics: tuple[str, ...]
    finished: bool
    metrics: Metrics

    @classmethod
    def of(cls, response: Response) -> DecodedAnswer:
        """What is kept of a response."""
        finished = response.finish_reason == "stop" and not any(thread.truncated for thread in response.threads)
        topics = tuple(thread.topic for thread in response.threads[1:])
        return cls(response.text, response.annotated, topics, finished, response.metrics)

    @classmethod
    def read(cls, fields: dict[str, Any]) -> DecodedAnswer:
        """The answer that ``asdict`` gave, back from JSON."""
        metrics = {**fields["metrics"], "length_errors": tuple(fields["metrics"]["length_errors"])}
        return cls(**{**fields, "topics": tuple(fields["topics"]), "metrics": Metrics(**metrics)})


@dataclass(frozen=True)
class Outcome:
    """A prompt, the model's answer to it and the baseline's."""

    question: Question
    answer: DecodedAnswer
    baseline: DecodedAnswer

    @property
    def pair(self) -> Pair[DecodedAnswer]:
        """The speedups, by the definitions of :mod:`pastalm.evaluation.comparison`."""
        return Pair(self.answer, self.baseline)


class Answers:
    """The answers in a folder: ``answers.jsonl``, a line a prompt, and ``settings.json``. A context manager.

    ``reuse`` is another such folder, whose baseline's answers are taken for the prompts that both have; then wall times
    cannot be compared, so it is for ``max_batch`` above 1 only. Raises ``DataError`` for a folder in use, or with
    answers of other settings, and for a ``reuse`` of another baseline.
    """

    def __init__(self, folder: Path, settings: EvalSettings, reuse: Path | None = None) -> None:
        self.folder, self.settings = folder, settings
        self.known = _baseline_answers(reuse, settings) if reuse else {}
        folder.mkdir(parents=True, exist_ok=True)
        self.lines = Journal(folder / "answers.jsonl")
        try:
            self.machine = self._agree()
        except BaseException:
            self.lines.close()
            raise

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: Any) -> None:
        self.lines.close()

    def missing(self, questions: Sequence[Question]) -> list[Question]:
        """Those without an answer, each once."""
        return [one for one in {one.key: one for one in questions}.values() if one.key not in self.lines]

    def outcomes(self, questions: Sequence[Question]) -> list[Outcome]:
        """What was answered, in the order of the questions. Those that could not be asked are left out."""
        found = [(one, self.lines[one.key]) for one in questions if one.key in self.lines]
        return [
            Outcome(one, DecodedAnswer.read(line["answer"]), DecodedAnswer.read(line["baseline"]))
            for one, line in found
            if "error" not in line
        ]

    def refused(self, questions: Sequence[Question]) -> list[str]:
        """Why questions could not be asked, a sentence each."""
        lines = (self.lines[one.key] for one in questions if one.key in self.lines)
        return [line["error"] for line in lines if "error" in line]

    def measure(self, questions: Sequence[Question], model: Engine, baseline: Engine) -> Iterator[Question]:
        """Answer what is missing, and yield each question once its answers are written. One at a time, which of the two
        ways goes first alternates, so that neither always finds the machine warm."""
        missing = self.missing(questions)
        if not missing:
            return
        self._on(machine_of(model))
        asked = self._batched if self.settings.max_batch > 1 else self._one_by_one
        for question, both in asked(missing, model, baseline):
            self.lines.append({"id": question.key, "prompt": question.prompt, **both})
            yield question

    def _one_by_one(
        self, missing: Sequence[Question], model: Engine, baseline: Engine
    ) -> Iterator[tuple[Question, dict[str, Any]]]:
        from pastalm.runtime.engine import RequestError

        for index, question in enumerate([missing[0], *missing]):  # the first once more: it warms both up
            few = {"max_tokens": min(WARM_UP_TOKENS, self.settings.max_tokens)} if index == 0 else {}
            try:
                answers = self._both(question, model, baseline, swap=index % 2 == 1, **few)
                both: dict[str, Any] = {"answer": asdict(answers[0]), "baseline": asdict(answers[1])}
            except RequestError as error:  # this prompt's trouble, say its length; the others may be good
                both = {"error": str(error)}
            if index:
                yield question, both

    def _batched(
        self, missing: Sequence[Question], model: Engine, baseline: Engine
    ) -> Iterator[tuple[Question, dict[str, Any]]]:
        from pastalm.runtime.engine import RequestError

        many = self.settings.max_batch * BATCHES_AT_ONCE
        for group in (missing[start : start + many] for start in range(0, len(missing), many)):
            own, other = self._options
            answers = self._all(model, group, own)
            baselines = self._all(baseline, [one for one in group if one.key not in self.known], other)
            done = 0
            try:
                for one in group:  # each as soon as it is there: nothing that was decoded waits to be written
                    answer = asdict(next(answers))
                    yield one, {"answer": answer, "baseline": self.known.get(one.key) or asdict(next(baselines))}
                    done += 1
            except RequestError:  # one of them cannot be asked; alone, each has its own answer or its own error
                yield from self._one_by_one(group[done:], model, baseline)

    def _all(self, engine: Engine, group: Sequence[Question], options: dict[str, Any]) -> Iterator[DecodedAnswer]:
        prompts = [question.prompt for question in group]
        return map(DecodedAnswer.of, engine.generate_batch(prompts, max_batch=self.settings.max_batch, **options))

    @property
    def _options(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the model's engine is asked with, and the baseline's."""
        settings = self.settings
        both = {name: getattr(settings, name) for name in ("max_tokens", "temperature", "top_p")}
        own = {name: getattr(settings, name) for name in ("promise_bias", "max_threads", "mode")}
        return both | own, both | {"mode": Mode.SEQUENTIAL}

    def _both(
        self, question: Question, model: Engine, baseline: Engine, *, swap: bool, **few: int
    ) -> tuple[DecodedAnswer, DecodedAnswer]:
        own, others = ({**options, **few} for options in self._options)

        def one() -> DecodedAnswer:
            asked = _skeleton(model) if self.settings.skeleton else model
            return DecodedAnswer.of(asked.generate(question.prompt, **own))

        def other() -> DecodedAnswer:
            if question.key in self.known:
                return DecodedAnswer.read(self.known[question.key])
            return DecodedAnswer.of(baseline.generate(question.prompt, **others))

        if swap:
            last = other()
            return one(), last
        return one(), other()

    def _agree(self) -> dict[str, Any]:
        """Compare the settings with the folder's; returns the machine it was answered on, empty before the first
        time."""
        path = self.folder / "settings.json"
        if not path.exists():
            if self.lines:
                raise DataError(f"{self.folder} has answers but no settings.json; choose another --out.")
            return {}
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            # what an earlier version did not know has its default
            machine, kept = kept["machine"], asdict(EvalSettings("", "")) | kept["settings"]
        except (ValueError, LookupError, TypeError):
            raise DataError(f"{path} was not written by this command; choose another --out.") from None
        for name, value in asdict(self.settings).items():
            if kept.get(name) != value and self.lines:
                raise DataError(_differs(self.folder, name, kept.get(name), value))
        return machine

    def _on(self, machine: dict[str, Any]) -> None:
        if self.lines and self.machine and machine != self.machine:
            name = next(name for name in machine if machine[name] != self.machine.get(name))
            raise DataError(_differs(self.folder, name, self.machine.get(name), machine[name]))
        self.machine = machine
        write_text(self.folder / "settings.json", json.dumps({"settings": asdict(self.settings), "machine": machine}))


def _baseline_answers(folder: Path, settings: EvalSettings) -> dict[str, dict[str, Any]]:
    """The baseline's answers in ``folder`` by the prompts' keys."""
    if settings.max_batch == 1 or not settings.baseline:
        raise DataError(
            "--reuse-baseline takes another evaluation's answers: it needs the same --baseline here, and --max-batch "
            "above 1, since wall times of different runs do not compare."
        )
    try:
        kept = json.loads((folder / "settings.json").read_text(encoding="utf-8"))["settings"]
        lines = read_journal(folder / "answers.jsonl")
    except (OSError, ValueError, LookupError, TypeError):
        raise DataError(f"{folder} is no folder of `pasta eval`, so there are no answers to take.") from None
    for name in ("baseline", "baseline_print", "max_tokens", "device", "dtype", "quantize", "temperature", "top_p"):
        if kept.get(name) != getattr(settings, name):
            raise DataError(f"{folder} has {name} {kept.get(name)!r}, not {getattr(settings, name)!r}; take another.")
    return {line["id"]: line["baseline"] for line in lines if "baseline" in line}


def _skeleton(engine: Engine) -> Any:
    from pastalm.evaluation.baselines.skeleton import Skeleton

    return Skeleton(engine)


def _differs(folder: Path, name: str, kept: Any, value: Any) -> str:
    if name.endswith("_print"):
        return f"{folder} holds answers of other weights of the {name.removesuffix('_print')}; choose another --out."
    return f"{folder} holds answers with {name} {kept!r}, not {value!r}; choose another --out."


def machine_of(engine: Engine) -> dict[str, Any]:
    """What wall times depend on."""
    import torch

    device = torch.cuda.get_device_name(engine.device) if engine.device.startswith("cuda") else engine.device
    return {
        "device": device,
        "dtype": engine.dtype,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }
