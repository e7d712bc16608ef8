"""Stage 2: sample answers, prefer the fast and good ones, train, repeat (SPEC 6). Kill it anywhere and start it
again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from pastalm.data.questions import Question, read_questions
from pastalm.files.atomic import write_text
from pastalm.training.base import SettingsError
from pastalm.training.data import leads
from pastalm.training.fingerprint import fingerprint
from pastalm.training.journal import held
from pastalm.training.prefer_config import PreferConfig
from pastalm.training.record import drop_checkpoints, require_elsewhere, require_equal, require_folder
from pastalm.training.round import Round, draw, rank, wait_until
from pastalm.training.sampling import Sampling
from pastalm.training.score import Quality, checked, require_checks

RECORD = "prefer.json"
# What may differ from one start of a run to the next: it changes how the work is done, not what comes out.
FREE = frozenset(
    {
        "out", "rounds", "lanes", "judge_url", "key_env", "concurrency", "reuse", "save_every", "log_every",
        "snapshots", "gradient_checkpointing",
    }
)  # fmt: skip
# What the baseline's answers and those of round 1 depend on, and so must be equal where these are taken over.
SAMPLED = ("model", "baseline", "samples", "temperature", "max_tokens", "limit", "seed")


def train_prefer(config: PreferConfig, quality: Quality | None = None) -> Path:
    """Run stage 2 and return the folder of the last round's model; an interrupted run goes on where it was.

    ``quality`` replaces the checker or judge that the settings name. Under `accelerate launch` every process calls it.
    Raises ``DataError`` for data that cannot be used, ``SettingsError`` for settings other than those of the run in
    ``config.out`` and for a ``config.out`` that is no folder or where the model itself lies, ``LoadError`` for a model
    that cannot be found, ``EndpointError`` for a judge that does not answer.
    """
    from pastalm.training.optimise import optimise

    require_elsewhere(config.model, _overwritten(config))
    require_folder(config.out)
    questions = read_questions(config.data, config.limit)
    if quality is None and not config.judge:
        require_checks(questions, config.data)
    Path(config.out).mkdir(parents=True, exist_ok=True)
    with held(Path(config.out) / (".lock" if leads() else f".lock{rank()}")):
        if leads():
            _settle(config, questions)
        wait_until((Path(config.out) / RECORD).exists)
        model = config.model
        with _quality(config, questions) if quality is None else nullcontext(quality) as asked:
            for number in range(1, config.rounds + 1):
                current = Round(config, number, model, questions)
                if not current.model.is_dir():
                    if number == 1:
                        _answer_baseline(current)
                    current.make_pairs(asked)
                    optimise(current)
                    if leads():
                        print(current.summary())
                wait_until(current.model.is_dir)
                if leads():
                    drop_checkpoints(current.folder)
                model = str(current.model)
    return Path(model)


def _overwritten(config: PreferConfig) -> list[Path]:
    out = Path(config.out)
    return [out, *(Round(config, number, "", ()).model for number in range(1, config.rounds + 1))]


def _answer_baseline(round_: Round) -> None:
    """The baseline's answers, one a prompt, greedy and sequential."""
    config = round_.config
    if not round_.paired.exists():
        sampling = Sampling(1, 0.0, config.max_tokens, config.seed, lanes=config.lanes, mode="sequential")
        draw(config.baseline or config.model, round_.questions, sampling, round_.baseline, "Baseline")


@contextmanager
def _quality(config: PreferConfig, questions: Sequence[Question]) -> Iterator[Quality]:
    """Where quality comes from: the tasks' checker, or the judge, whose cache lies in the run's folder."""
    if not config.judge or not leads():
        yield checked
        return
    from pastalm.annotation.endpoint import Settings
    from pastalm.annotation.judge import Judge
    from pastalm.training.judged import judged

    key = os.environ.get(config.key_env, "").strip()
    if not key:
        raise SettingsError(
            f"The environment has no {config.key_env}: set it to the judge's key (any text where none is needed)."
        )
    settings = Settings(config.judge, key, config.judge_url or None, concurrency=config.concurrency)
    with Judge(settings, Path(config.out) / "judge.jsonl") as judge:
        yield judged(judge)


def _settle(config: PreferConfig, questions: Sequence[Question]) -> None:
    """Note the settings in the run's folder, or see that they are the ones that it began with."""
    place = Path(config.out) / RECORD
    content = json.dumps([asdict(question) for question in questions], sort_keys=True)
    record = {
        "settings": asdict(config),
        "data_sha256": sha256(content.encode()).hexdigest(),
        "model_print": fingerprint(config.model),
        "baseline_print": fingerprint(config.baseline) if config.baseline else "",
    }
    before = _read(place, "--out")
    if before:
        names = [name for name in record["settings"] if name not in FREE]
        require_equal(config.out, before, record, names, "or another --out")
    elif config.reuse:
        _reuse(config, record)
    write_text(place, json.dumps(record, indent=2) + "\n")


def _reuse(config: PreferConfig, record: dict[str, Any]) -> None:
    """Take over what another run has sampled and judged: runs that differ in lambda, speed term or loss alone need not
    sample their first round again."""
    other, out = Path(config.reuse), Path(config.out)
    before = _read(other / RECORD, "--reuse")
    if not before:
        raise SettingsError(f"{other} holds no run of this command, so there is nothing to --reuse.")
    require_equal(str(other), before, record, SAMPLED, "or another --reuse")
    (out / "round1").mkdir(exist_ok=True)
    for name in ("baseline", "round1/samples", "judge"):
        for path in sorted(other.glob(f"{name}.jsonl")) + sorted(other.glob(f"{name}.rank*.jsonl")):
            shutil.copyfile(path, out / path.relative_to(other))


def _read(place: Path, flag: str) -> dict[str, Any]:
    try:
        return json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise SettingsError(f"{place} was not written by this command; choose another {flag}.") from None
