"""Stage 2: sample answers, prefer the fast and good ones, train, repeat. Kill it anywhere and start it
again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from pastalm.annotation.endpoint import Settings
from pastalm.annotation.judge import VERDICTS, Judge
from pastalm.data.questions import Question, read_questions
from pastalm.files.journal import Journal, ranks, read_journal
from pastalm.files.packages import require
from pastalm.lang.positions import CONTIGUOUS
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.load import load_tokenizer, trained_positions
from pastalm.training.adapters import add_adapters
from pastalm.training.base import SettingsError, load_base, settle_dtype, starting_point
from pastalm.training.checkpoints import (
    STATE,
    drop_checkpoints,
    locked,
    read_state,
    require_elsewhere,
    require_equal,
    require_folder,
    require_same,
    run_state,
    write_state,
)
from pastalm.training.config import PreferConfig
from pastalm.training.optimise import TextNats, optimise
from pastalm.training.processes import leads, wait_until
from pastalm.training.round import Round, draw
from pastalm.training.sampling import FIELDS, Sampling
from pastalm.training.score import (
    QualityFactor,
    checked,
    covered,
    distinct,
    judged,
    likely,
    require_checks,
    score,
    unrepeated,
)

# What the baseline's answers and those of round 1 depend on, and so must be equal where these are taken over. The
# number type may differ, since it changes nothing but how numbers round.
SAMPLED = ("model", "remote", "baseline", "samples", "temperature", "max_tokens", "limit", "seed")
# What their speed and quality depend on besides.
MEASURED = ("speed_term", "quality", "judge_model")


def train_prefer(config: PreferConfig, quality: QualityFactor | None = None) -> Path:
    """Run stage 2 and return ``config.out``'s ``model``, that of the last round; an interrupted run goes on where it
    was.

    ``quality`` replaces what the settings name. Under `accelerate launch` every process calls it.
    Raises ``DataError`` for data that cannot be used and for a ``config.out`` where another run is at work,
    ``SettingsError`` for settings other than those of the run in ``config.out``, for a ``config.out`` that is no folder
    or where the model itself lies, and for training that diverges, ``LoadError`` for a model that cannot be found,
    ``EndpointError`` for a judge that does not answer, ``SaveError`` for a disk that is full.
    """
    config = settle_dtype(config)
    out = Path(config.out)
    require_elsewhere(config.model, _overwritten(config))
    require_folder(config.out)
    _require_contiguous(config)
    questions = read_questions(config.data, config.limit)
    if quality is None and "checker" in config.qualities():
        require_checks(questions, config.data)
    _require_adapters(config)
    with locked(out):
        if leads():
            _begin(config, questions, named=quality is None)
        wait_until((out / STATE).exists)
        with _factors(config) if quality is None else nullcontext({"quality": quality}) as factors:
            model = config.model
            for number in range(1, config.rounds + 1):
                last = Round(config, number, model, questions)
                model = _play(last, factors)
        if leads():
            point(out / "model", last.model)
    return out / "model"


def _require_contiguous(config: PreferConfig) -> None:
    """Raise :class:`SettingsError` for a model that was trained for positions that no server gives it."""
    trained = trained_positions(config.model) if config.remote else None
    if trained not in (None, CONTIGUOUS):
        raise SettingsError(
            f"{config.model} was trained with the positions {trained!r}, but those of a server behind --remote are "
            f"{CONTIGUOUS}: leave --remote out, or take a model of `pasta train sft --views server`."
        )


def _require_adapters(config: PreferConfig) -> None:
    """Raise :class:`SettingsError` for adapters that do not fit the model, before a run begins: they are put on it only
    when all is sampled and scored."""
    if config.lora and not read_state(config.out):
        model, tokenizer = load_base(config, merged=True)
        add_adapters(model, Vocabulary(tokenizer), config)


def _overwritten(config: PreferConfig) -> list[Path]:
    out = Path(config.out)
    return [out, out / "model", *(Round(config, number, "", ()).model for number in range(1, config.rounds + 1))]


def _play(round_: Round, factors: Mapping[str, QualityFactor]) -> str:
    """All of a round that is not done; returns what the next one starts from."""
    if not round_.model.is_dir():
        if round_.number == 1:
            _answer_baseline(round_)
        round_.make_pairs(factors)
        optimise(round_)
        if leads():
            print(round_.summary(), flush=True)
    else:
        round_.report_missed(round_.config.snapshot_shares())
    wait_until(round_.model.is_dir)
    if leads():
        drop_checkpoints(round_.folder)
    goes_on = starting_point(round_.config)[1]  # with one adapter from the first stage to the last round
    return str(round_.model / "adapter" if goes_on else round_.model)


def _answer_baseline(round_: Round) -> None:
    """The baseline's answers, one a prompt, greedy and sequential."""
    config = round_.config
    if not round_.paired.exists():
        sampling = Sampling(
            1, 0.0, config.max_tokens, config.seed, max_batch=config.max_batch, mode="sequential", dtype=config.dtype
        )
        start, remote = config.baseline or config.model, None if config.baseline else config.remote
        draw(start, round_.questions, sampling, round_.baseline, "Baseline", remote=remote, **config.loading)


def point(link: Path, model: Path) -> None:
    """Make ``link`` a link to the model of the last round, a neighbour's folder; a copy where links are not allowed."""
    part = link.with_name(f".{link.name}.part")
    part.unlink(missing_ok=True)
    try:
        part.symlink_to(os.path.relpath(model, link.parent), target_is_directory=True)
        part.replace(link)
    except OSError:
        shutil.copytree(model, link, dirs_exist_ok=True)


@contextmanager
def _factors(config: PreferConfig) -> Iterator[dict[str, QualityFactor]]:
    """What quality is the product of, by name. Only the first process asks it."""
    with ExitStack() as stack:
        yield {name: _factor(name, config, stack) for name in config.qualities()} if leads() else {}


def _factor(name: str, config: PreferConfig, stack: ExitStack) -> QualityFactor:
    if name == "judge":
        require("openai")  # now, not after all answers
        return judged(stack.enter_context(_judge(config, _judge_key(config))))
    if name == "verdicts":
        return judged(stack.enter_context(_judge(config, "none")), waiting=_waiting(config))
    if name == "repetition":
        return unrepeated(Vocabulary(load_tokenizer(config.model, trust_remote_code=config.trust_remote_code)))
    if name == "likelihood":
        return likely(TextNats(config))
    return {"checker": checked, "redundancy": distinct, "coverage": covered}[name]


def _judge(config: PreferConfig, key: str) -> Judge:
    """The judge, whose cache lies in the run's folder."""
    settings = Settings(config.judge_model, key, config.judge_url or None, concurrency=config.judge_concurrency)
    return Judge(settings, Path(config.out) / VERDICTS)


def _judge_key(config: PreferConfig) -> str:
    key = os.environ.get(config.judge_key_env, "").strip()
    if not key:
        raise SettingsError(
            f"The environment has no {config.judge_key_env}: set it to the judge's key (any text where none is needed)."
        )
    return key


def _waiting(config: PreferConfig) -> str:
    return (
        f"`pasta judge export {config.out} items.jsonl --judge-model {config.judge_model}`, have them judged, "
        f"`pasta judge import {config.out} items.jsonl --judge-model {config.judge_model}`, and give the same command "
        "again: all that is sampled is kept."
    )


def _begin(config: PreferConfig, questions: Sequence[Question], *, named: bool) -> None:
    """Write the run state, or see that the settings are those that the run in this folder began with. ``named``: the
    settings say what quality is."""
    state, before = run_state(config, questions), read_state(config.out)
    require_same(config, state, before, "another --out")
    state["quality_named"] = named and before.get("quality_named", True)  # a function's scores may be there already
    if config.reuse_samples and not before:
        _reuse(config, state, named=named)
    write_state(config.out, state)


def _reuse(config: PreferConfig, state: dict[str, Any], *, named: bool) -> None:
    """Take over what another run has sampled and judged, which must agree in all that ``SAMPLED`` names. Where they
    agree in what ``MEASURED`` names, too, and the settings of both say what quality is, also how fast and how good each
    answer was found."""
    other, out = Path(config.reuse_samples), Path(config.out)
    before = read_state(other, "--reuse-samples")
    if not before:
        raise SettingsError(f"{other} holds no run of this command, so there is nothing to --reuse-samples.")
    require_equal(str(other), before, state, SAMPLED, "another --reuse-samples")
    (out / "round1").mkdir(exist_ok=True)
    for name in ("baseline", "round1/samples", "judge"):
        for path in ranks(other / f"{name}.jsonl"):
            shutil.copyfile(path, out / path.relative_to(other))
    named = named and before.get("quality_named", True)
    if named and all(before["settings"].get(name) == state["settings"][name] for name in MEASURED):
        _reuse_scores(other / "round1" / "scores.jsonl", out / "round1" / "scores.jsonl", config.quality_weight)


def _reuse_scores(other: Path, own: Path, quality_weight: float) -> None:
    """Take over the speed and the quality of each answer, with the score that this run's lambda makes of them."""
    with Journal(own, FIELDS) as scores:
        for record in read_journal(other) if other.exists() else ():
            scores.append(record | {"score": score(record["speed"], record["quality"], quality_weight)})
