"""What is drawn in stage 2, and what another run takes over of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from pastalm import Engine
from pastalm.data.questions import Question, read_questions
from pastalm.files.journal import Journal
from pastalm.files.lines import DataError
from pastalm.training.base import SettingsError
from pastalm.training.prefer import train_prefer
from pastalm.training.sampling import FIELDS, Sampling, sample
from tests.training.prefer_model import WINDOW, settings, write_model, write_prompts

ONE = {"rounds": 1, "steps": 1, "quality": "redundancy,repetition,coverage"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), tokenizer)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("data") / "prompts.jsonl", 6)


@pytest.fixture
def first(model: Path, data: Path, tmp_path: Path) -> Path:
    """The folder of a run of lambda 4."""
    train_prefer(settings(model, data, tmp_path / "first", **ONE))
    return tmp_path / "first"


def scores(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "round1" / "scores.jsonl").read_text().splitlines()]


def test_another_lambda_takes_over_samples_and_what_was_found_of_them(
    model: Path, data: Path, first: Path, tmp_path: Path
):
    found = scores(first)
    changed = next(one for one in found if one["finished"])
    changed["quality"] = 0.123  # nothing here would measure this
    (first / "round1" / "scores.jsonl").write_text("".join(json.dumps(one) + "\n" for one in found))

    other = tmp_path / "inf"
    train_prefer(settings(model, data, other, reuse_samples=str(first), quality_weight=float("inf"), **ONE))
    for name in ("baseline.jsonl", "round1/samples.jsonl"):
        assert (other / name).read_bytes() == (first / name).read_bytes()
    assert scores(other) == [one | {"score": one["quality"]} for one in found]


@pytest.mark.parametrize("change", [{"speed_term": "parallelism"}, {"quality": "redundancy,repetition"}])
def test_another_measure_measures_anew(model: Path, data: Path, first: Path, tmp_path: Path, change: dict[str, object]):
    kept = scores(first)
    spoilt = [one | {"quality": 0.123} for one in kept]
    (first / "round1" / "scores.jsonl").write_text("".join(json.dumps(one) + "\n" for one in spoilt))
    train_prefer(settings(model, data, tmp_path / "other", reuse_samples=str(first), **ONE | change))
    assert len(scores(tmp_path / "other")) == len(kept)
    assert 0.123 not in [one["quality"] for one in scores(tmp_path / "other")]


@pytest.mark.parametrize("went_on", [False, True])
def test_what_a_function_found_is_measured_anew(model: Path, data: Path, tmp_path: Path, went_on: bool):
    """Its settings name a quality, too, which nobody asked. ``went_on``: the run goes on without the function."""
    own = settings(model, data, tmp_path / "own", **ONE)
    train_prefer(own, lambda candidates: [0.123 + len(one.text) for one in candidates])
    if went_on:
        train_prefer(own)
    train_prefer(settings(model, data, tmp_path / "other", reuse_samples=own.out, **ONE))
    assert max(one["quality"] for one in scores(tmp_path / "own")) > 1
    assert max(one["quality"] for one in scores(tmp_path / "other")) <= 1
    samples = [tmp_path / name / "round1" / "samples.jsonl" for name in ("own", "other")]
    assert samples[0].read_bytes() == samples[1].read_bytes()


def test_what_differs_is_not_taken_over(model: Path, data: Path, first: Path, tmp_path: Path):
    with pytest.raises(
        SettingsError, match=r"holds a run with --max-tokens 40, but this one asks for 30: .*another --reuse-samples"
    ):
        train_prefer(settings(model, data, tmp_path / "other", reuse_samples=str(first), max_tokens=30, **ONE))
    others = write_prompts(tmp_path / "others.jsonl", 3)
    with pytest.raises(
        SettingsError,
        match=r"with --data '.*prompts\.jsonl', but this one asks for '.*others\.jsonl', which holds something else: ",
    ):
        train_prefer(settings(model, others, tmp_path / "other", reuse_samples=str(first), **ONE))
    with pytest.raises(SettingsError, match="nothing to --reuse-samples"):
        train_prefer(settings(model, data, tmp_path / "another", reuse_samples=str(tmp_path), **ONE))


def test_prompts_that_cannot_be_asked_are_counted(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    engine, chat = Engine.from_pretrained(str(model), "cpu", "float32"), [{"role": "user", "content": "add 1"}]
    prompts = [Question(chat, index=0), Question("add 1", index=1), Question("x" * WINDOW, index=2)]
    with Journal(tmp_path / "a.jsonl", FIELDS) as journal:
        assert sample(engine, prompts, Sampling(2, 1.0, 20, 0), journal, what="Baseline") == 2
        assert {key[0] for key in journal} == {1}
    told = "Baseline: 2 of 3 prompts could not be asked; the first: This tokenizer has no chat template: "
    assert told in capsys.readouterr().out
    with (
        Journal(tmp_path / "b.jsonl", FIELDS) as journal,
        pytest.raises(DataError, match=r"^No prompt could be asked, .* the first: .* the model's window is 16384; "),
    ):
        sample(engine, prompts[2:], Sampling(2, 1.0, 20, 0), journal)


def test_the_models_own_top_p_is_not_drawn_by(model: Path, data: Path, tmp_path: Path):
    engine, questions = Engine.from_pretrained(str(model), "cpu", "float32"), read_questions(str(data))
    config = engine.runner.model.generation_config
    drawn = []
    for name, top_p in (("free", None), ("narrow", 1e-3)):
        config.do_sample, config.top_p = top_p is not None, top_p
        with Journal(tmp_path / f"{name}.jsonl", FIELDS) as journal:
            sample(engine, questions, Sampling(2, 1.0, 20, 0), journal)
            drawn.append([one["script"] for one in journal.values()])
    assert drawn[0] == drawn[1]
