"""Stage 2 as users run it: the model moves, rounds follow each other, a kill loses nothing, settings are kept."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from math import prod
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from pastalm import Engine
from pastalm.annotation.judge import read_pairs
from pastalm.annotation.verdict import JudgePrompt
from pastalm.cli import app
from pastalm.data.questions import read_questions
from pastalm.files.fingerprint import fingerprint
from pastalm.files.journal import Journal
from pastalm.files.lines import DataError
from pastalm.lang.positions import POLICIES
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.attention import attach
from pastalm.runtime.load import load
from pastalm.training.base import SettingsError
from pastalm.training.config import PreferConfig, SftConfig
from pastalm.training.losses import margin
from pastalm.training.optimise import reference_log_probabilities
from pastalm.training.pairs import PairCollator, Pairs
from pastalm.training.prefer import train_prefer
from pastalm.training.round import Round
from pastalm.training.sampling import FIELDS, Sampling
from pastalm.training.sft import train_sft
from tests.annotation.judge_server import JudgeDesk
from tests.annotation.openai_server import serving
from tests.processes import launch, output, start
from tests.training.prefer_model import prefer, settings, variety, write_model, write_prompts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), tokenizer)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("data") / "prompts.jsonl", 6)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, model: Path, data: Path) -> Path:
    """The folder of two rounds that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole")
    train_prefer(settings(model, data, out, snapshots="0.5"), variety)
    return out


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    left, right = weights(one), weights(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_a_run_leaves_its_work(whole: Path, model: Path):
    for number in (1, 2):
        folder = whole / f"round{number}"
        names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        assert names == {
            "samples.jsonl", "scores.jsonl", "pairs.jsonl", "reference.jsonl", "figures.json", "runs",
            "snapshot-50", "model",
        }  # fmt: skip
        assert len(lines(folder / "samples.jsonl")) == len(lines(folder / "scores.jsonl")) == 18
        scores = {(one["prompt"], one["sample"]): one["score"] for one in lines(folder / "scores.jsonl")}
        for pair in lines(folder / "pairs.jsonl"):
            own = [score for (prompt, _), score in scores.items() if prompt == pair["prompt"]]
            assert pair["chosen"]["score"] == max(own) > min(own) == pair["rejected"]["score"]
        assert not same(folder / "model", folder / "snapshot-50")
    assert not same(whole / "round1" / "model", model)
    assert not same(whole / "round2" / "model", whole / "round1" / "model")
    assert (whole / "model").resolve() == (whole / "round2" / "model").resolve()


def test_the_folder_of_a_run_is_its_last_model(whole: Path, model: Path):
    """On every verb `--model stage2` means the model of the last round."""
    prompts = [f"add {n}" for n in range(4)]

    def answers(place: Path) -> list[list[int]]:
        engine = Engine.from_pretrained(str(place), device="cpu", dtype="float32")
        return [engine.generate(prompt, temperature=1.0, seed=3, max_tokens=30).script.tokens for prompt in prompts]

    last = answers(whole / "round2" / "model")
    assert answers(whole) == answers(whole / "model") == last
    assert last != answers(model)
    assert fingerprint(str(whole)) == fingerprint(str(whole / "round2" / "model")) != fingerprint(str(model))


def test_a_snapshot_leaves_training_as_it_was(model: Path, data: Path, whole: Path, tmp_path: Path):
    trained = train_prefer(settings(model, data, tmp_path, reuse_samples=str(whole), rounds=1), variety)
    assert same(trained, whole / "round1" / "model")


def test_scores_are_of_speed_and_quality(whole: Path):
    answers = {(one["prompt"], one["sample"]): one for one in lines(whole / "round1" / "samples.jsonl")}
    baseline = {one["prompt"]: one for one in lines(whole / "baseline.jsonl")}
    for one in lines(whole / "round1" / "scores.jsonl"):
        answer = answers[one["prompt"], one["sample"]]
        speed = max(1, baseline[one["prompt"]]["tokens"]) / max(1, answer["critical_path"])
        expected = speed + 4 * len(set(answer["text"])) / 10 if answer["finished"] else 0.0
        assert one["score"] == pytest.approx(expected)


def test_the_second_round_samples_from_the_firsts_model(whole: Path, model: Path, data: Path):
    first, second = (lines(whole / f"round{number}" / "samples.jsonl") for number in (1, 2))
    assert [one["script"] for one in first] != [one["script"] for one in second]
    sampling = Sampling(3, 1.0, 40, 0, 2)

    def draws(folder: Path, one: dict) -> bool:
        seed = sampling.seed_of((one["prompt"], one["sample"]))
        answer = engines[folder].generate(prompts[one["prompt"]], temperature=1.0, max_tokens=40, seed=seed)
        return answer.script.tokens == one["script"]["tokens"]

    prompts = [one["prompt"] for one in lines(data)]
    engines = {
        path: Engine.from_pretrained(str(path), "cpu", "float32") for path in (whole / "round1" / "model", model)
    }
    assert all(draws(whole / "round1" / "model", one) for one in second)
    assert not all(draws(model, one) for one in second)


def gained(config: PreferConfig, number: int, model: Path) -> torch.Tensor:
    """How many nats the chosen answers of a round have gained on the rejected ones under ``model``."""
    questions = read_questions(config.data)
    round_ = Round(config, number, "", questions)
    loaded, tokenizer = load(str(model), "cpu")
    with Journal(round_.folder / "samples.jsonl", FIELDS) as samples:
        pairs = Pairs(round_.pairs(), {one.index: one.prompt for one in questions}, samples, Vocabulary(tokenizer))
        batch = PairCollator(POLICIES["pred10"], 0)([pairs[k] for k in range(len(pairs))])
    found = torch.tensor(reference_log_probabilities(loaded, attach(loaded), batch, dtype="float32"))
    told = torch.tensor([[one["chosen"], one["rejected"]] for one in lines(round_.folder / "reference.jsonl")])
    return (found - told) @ torch.tensor([1.0, -1.0])


def test_the_reference_is_the_stage_one_model_in_every_round(whole: Path, model: Path, data: Path):
    config = settings(model, data, whole)
    assert gained(config, 1, model).abs().max() < 1e-3
    assert gained(config, 2, model).abs().max() < 1e-3
    assert gained(config, 2, whole / "round1" / "model").abs().max() > 0.1


@pytest.mark.parametrize("lora", [0, 4])
def test_training_moves_the_model_to_its_margin(model: Path, data: Path, whole: Path, tmp_path: Path, lora: int):
    """Thirty steps over the same pairs: the advantage is nearly the margin then, from either side."""
    config = settings(
        model,
        data,
        tmp_path,
        reuse_samples=str(whole),
        rounds=1,
        steps=30,
        batch_size=6,
        learning_rate=3e-3,
        lora=lora,
        save_every=100,
    )
    trained = train_prefer(config, variety)
    distance = (gained(config, 1, trained) - margin(config.samples)).abs()
    assert margin(config.samples) == 3 and distance.mean() < 1.0


def test_a_pair_counts_the_same_in_every_batch(model: Path, data: Path, whole: Path, tmp_path: Path):
    """The last step of the epoch has fewer pairs than four: in pieces it is what it is at once."""
    found = []
    for name, size in (("pieces", {"batch_size": 1, "accumulate": 4}), ("once", {"batch_size": 4})):
        config = settings(
            model, data, tmp_path / name, reuse_samples=str(whole), rounds=1, steps=-1, epochs=1.0, **size
        )
        trained = train_prefer(config, variety)
        found.append(load(str(trained))[0](torch.arange(20)[None]).logits)
    assert len(lines(tmp_path / "once" / "round1" / "pairs.jsonl")) % 4
    torch.testing.assert_close(*found, atol=1e-3, rtol=1e-3)


def test_adapters_are_merged_into_float32(model: Path, data: Path, whole: Path, tmp_path: Path):
    """bfloat16 would round most of such small steps away."""
    config = settings(
        model, data, tmp_path, reuse_samples=str(whole), rounds=1, lora=4, dtype="bfloat16", snapshots="1"
    )
    trained = train_prefer(replace(config, learning_rate=2e-5), variety)
    kept, start = weights(tmp_path / "round1" / "snapshot-100"), weights(model)
    for name, weight in weights(trained).items():
        torch.testing.assert_close(weight, kept[name], atol=1e-8, rtol=0)
    moved = [name for name, weight in kept.items() if not torch.equal(weight, start[name])]
    assert any("proj" in name or "dense" in name for name in moved)


def test_both_rounds_go_on_with_the_adapter_of_stage_one(model: Path, data: Path, tmp_path: Path):
    """What comes out is an adapter on the base of stage 1; the reference is the model that stage 1 left."""
    (tmp_path / "sft.jsonl").write_text(
        json.dumps({"prompt": "add 1", "annotated": "a <async topic='x'>b</async> c"}) + "\n"
    )
    shared = {"lora": 4, "dtype": "float32", "learning_rate": 1e-2, "steps": 2, "batch_size": 2}
    stage1 = train_sft(SftConfig(str(model), str(tmp_path / "sft.jsonl"), str(tmp_path / "sft"), row=128, **shared))
    config = settings(stage1 / "adapter", data, tmp_path / "out", lora=4, steps=2)
    for wrong, message in (({"lora": 8}, "trained with --lora 4"), ({"lora_targets": "query"}, "no module query")):
        with pytest.raises(SettingsError, match=message):
            train_prefer(replace(config, **wrong), variety)
        assert not (tmp_path / "out").exists()  # the command may be given again, put right
    trained = train_prefer(config, variety)
    assert gained(config, 1, stage1 / "adapter").abs().max() < 1e-3
    assert gained(config, 2, stage1 / "adapter").abs().max() < 1e-3
    assert gained(config, 2, trained).abs().max() > 0.01
    adapter = tmp_path / "out" / "round2" / "model" / "adapter"
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == str(model)
    left, right = (load(str(place), "cpu", "float32")[0].state_dict() for place in (adapter, trained))
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], atol=1e-5, rtol=1e-4, msg=name)


def test_a_finished_run_does_nothing_and_other_settings_are_refused(model: Path, data: Path, whole: Path):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")}
    config = settings(model, data, whole, snapshots="0.5")
    assert train_prefer(config, variety) == whole / "model"
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")} == before
    with pytest.raises(SettingsError, match=r"holds a run with --lambda 4\.0, but this one asks for 2.0"):
        train_prefer(settings(model, data, whole, quality_weight=2.0), variety)
    other = write_prompts(data.with_name("other.jsonl"), 3)
    with pytest.raises(SettingsError, match="--data"):
        train_prefer(settings(model, other, whole), variety)


def test_answers_that_are_all_alike_give_a_sentence(model: Path, data: Path, whole: Path, tmp_path: Path):
    config = settings(model, data, tmp_path, reuse_samples=str(whole), quality_weight=float("inf"))
    with pytest.raises(DataError, match="all have the same score"):
        train_prefer(config, lambda candidates: [0.0] * len(candidates))


def stop_when(ready: Callable[[], bool], process: ForkServerProcess, log: Path) -> None:
    """SIGKILL a run as soon as ``ready``."""
    until = time.monotonic() + 240
    while not ready():
        assert process.is_alive() and time.monotonic() < until, f"not to be killed: {output(log)}"
        time.sleep(0.002)
    process.kill()
    process.join()


@pytest.mark.slow
def test_two_processes_are_as_one(model: Path, data: Path, whole: Path, tmp_path: Path):
    """Each samples its share and trains on half of a step's pairs; what comes out is what one process makes."""
    launch(["--multi_gpu"], tmp_path / "log", prefer, model, data, tmp_path, 1)
    first = tmp_path / "round1"
    own, other = lines(first / "samples.jsonl"), lines(first / "samples.rank1.jsonl")
    alone = {(one["prompt"], one["sample"]): one for one in lines(whole / "round1" / "samples.jsonl")}
    assert own and other and {(one["prompt"], one["sample"]): one for one in own + other} == alone
    assert lines(first / "pairs.jsonl") == lines(whole / "round1" / "pairs.jsonl")
    assert (tmp_path / "round2" / "model").is_dir()
    # Logits, not weights: nothing depends on the bias of keys, so Adam moves it by what rounding leaves.
    places = (model, *(out / "round1" / "model" for out in (tmp_path, whole)))
    start, found, expected = (load(str(place))[0](torch.arange(20)[None]).logits for place in places)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    assert (start - expected).abs().max() > 0.02  # far more than the two may differ by


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_comes_to_the_same_end(
    model: Path, data: Path, whole: Path, tmp_path: Path
):
    """Killed while it samples, in the middle of training, and once the second round has begun."""
    samples, first = tmp_path / "round1" / "samples.jsonl", tmp_path / "round1"
    moments = [
        lambda: samples.exists() and samples.read_bytes().count(b"\n") >= 5,
        lambda: (first / "checkpoint-2" / "trainer_state.json").exists(),
        lambda: (tmp_path / "round2" / "samples.jsonl").exists(),
    ]
    for moment in moments:
        stop_when(moment, start(tmp_path / "log", prefer, model, data, tmp_path), tmp_path / "log")
        if moment is moments[0]:
            kept = samples.read_bytes().rpartition(b"\n")[0]
            assert not (first / "pairs.jsonl").exists()
        elif moment is moments[1]:
            assert not (first / "model").exists()
    train_prefer(settings(model, data, tmp_path, snapshots="0.5"), variety)
    assert samples.read_bytes().startswith(kept), "what was sampled before the kill stays"
    for name in (
        "baseline.jsonl",
        "round1/samples.jsonl",
        "round1/pairs.jsonl",
        "round2/samples.jsonl",
        "round2/pairs.jsonl",
    ):
        assert lines(tmp_path / name) == lines(whole / name), name
    for name in ("round1/model", "round1/snapshot-50", "round2/model", "round2/snapshot-50"):
        assert same(tmp_path / name, whole / name), name


def test_a_judge_is_the_quality(model: Path, data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each answer against the baseline's in both orders; what the judge has said is not asked again."""
    pytest.importorskip("openai")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("JUDGE_KEY", "key")
    with serving(JudgeDesk(plan=lambda shown, nth: "stated")) as desk:
        told = {"judge_model": "m", "judge_url": desk.url, "judge_key_env": "JUDGE_KEY"}
        config = settings(model, data, tmp_path / "a", reuse_samples=str(whole), rounds=1, steps=1, **told)
        train_prefer(config)
        asked = len(desk.asks)
        whole_answers = [one for one in lines(whole / "round1" / "samples.jsonl") if one["finished"]]
        baseline = {one["prompt"]: one["text"] for one in lines(whole / "baseline.jsonl")}
        assert asked == 2 * len(
            {(one["prompt"], one["text"]) for one in whole_answers if one["text"] != baseline[one["prompt"]]}
        )
        train_prefer(
            settings(
                model,
                data,
                tmp_path / "b",
                reuse_samples=config.out,
                rounds=1,
                steps=1,
                speed_term="parallelism",
                **told,
            )
        )
        assert len(desk.asks) == asked
    # this judge counts 'good', finds none, and prefers what is shown first, by 0.8: a win and a loss of 0.8 each
    finished = {(one["prompt"], one["sample"]) for one in whole_answers}
    for one in lines(tmp_path / "a" / "round1" / "scores.jsonl"):
        assert one["quality"] == (1.0 if (one["prompt"], one["sample"]) in finished else 0.0)


def test_verdicts_that_are_brought_later(
    model: Path, data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The run stops with what is to be judged, asks nobody, and goes on when the verdicts are there."""
    monkeypatch.setattr("pastalm.training.round.PROMPTS_AT_ONCE", 1)
    asked = {"judge_model": "people", "quality": "verdicts,redundancy", "rounds": 1, "steps": 1}
    config = settings(model, data, tmp_path / "a", reuse_samples=str(whole), **asked)
    needed = r"^(\d+) verdicts are missing: `pasta judge export .*--judge-model people`.* kept\.$"
    with pytest.raises(DataError, match=needed) as stopped:
        train_prefer(config)
    out, verdicts = tmp_path / "a", {}
    finished = [one for one in lines(whole / "round1" / "samples.jsonl") if one["finished"]]
    baseline = {one["prompt"]: one["text"] for one in lines(whole / "baseline.jsonl")}
    waiting = lines(out / "round1" / "to_judge.jsonl")
    assert [one["prompt"] for one in waiting] == [one["prompt"] for one in lines(data)]
    for index, one in enumerate(waiting):
        texts = {answer["text"] for answer in finished if answer["prompt"] == index}
        assert one["against"] == [baseline[index]] and sorted(one["answers"]) == sorted(texts)
        for first, second in permutations(texts | {baseline[index]}, 2):  # the longer is better, by 0.9
            share = 0.9 if (len(first), first) > (len(second), second) else 0.1
            verdicts[JudgePrompt(one["prompt"], first, second).key("people")] = share
    pairs = read_pairs(out / "judge.jsonl")
    assert len(pairs) == sum(len({*one["answers"]} - {*one["against"]}) for one in waiting)
    assert str(2 * len(pairs)) == re.match(needed, str(stopped.value))[1]  # each in both orders
    with Journal(out / "judge.jsonl") as cache:
        for key, share in verdicts.items():
            cache.append({"id": key, "share": share})
    train_prefer(config)
    for one in lines(out / "round1" / "scores.jsonl"):
        if one["finished"]:
            text = next(a["text"] for a in finished if (a["prompt"], a["sample"]) == (one["prompt"], one["sample"]))
            other = baseline[one["prompt"]]
            expected = 1.0 if text == other else 1 + 1.8 if (len(text), text) > (len(other), other) else 1 / (1 + 1.8)
            assert one["parts"]["verdicts"] == pytest.approx(expected)
            assert one["quality"] == pytest.approx(expected * one["parts"]["redundancy"])
    assert (out / "round1" / "samples.jsonl").read_bytes() == (whole / "round1" / "samples.jsonl").read_bytes()
    agreed = CliRunner().invoke(app, ["judge", "agree", str(out), "people"])
    assert agreed.exit_code == 0 and "Terms of quality and people" in agreed.stdout and "redundancy" in agreed.stdout


def test_quality_without_a_judge(model: Path, data: Path, whole: Path, tmp_path: Path):
    terms = "redundancy,repetition,coverage,likelihood"
    config = settings(model, data, tmp_path, reuse_samples=str(whole), rounds=1, steps=1, quality=terms)
    train_prefer(config)
    figures = json.loads((tmp_path / "round1" / "figures.json").read_text())
    for name in terms.split(","):
        assert 0 <= figures[f"all_quality_{name}"] <= 1
    scored = [one for one in lines(tmp_path / "round1" / "scores.jsonl") if one["finished"]]
    assert len({round(one["parts"]["likelihood"], 6) for one in scored}) > 1
    for one in scored:
        assert one["quality"] == pytest.approx(prod(one["parts"].values()))
