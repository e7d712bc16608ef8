"""Stage 2: what is refused before anything is decoded, and where quality comes from."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from pastalm.annotation.endpoint import Settings as JudgeSettings
from pastalm.annotation.judge import Judge
from pastalm.cli import app
from pastalm.data.questions import Question
from pastalm.files.packages import MissingPackageError
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.load import LoadError, load
from pastalm.tasks import sample as tasks
from pastalm.tasks import to_json
from pastalm.training.base import SettingsError
from pastalm.training.config import PreferConfig, flag
from pastalm.training.optimise import TextNats
from pastalm.training.prefer import train_prefer
from pastalm.training.score import Candidate, judged
from tests.annotation.judge_server import JudgeDesk
from tests.annotation.openai_server import serving
from tests.training.prefer_model import settings, variety, write_model, write_prompts

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), tokenizer)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("data") / "prompts.jsonl", 6)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def begun(config: PreferConfig) -> Path:
    """The folder of a run that has noted its settings, and then found no model."""
    with pytest.raises(LoadError):
        train_prefer(config, variety)
    return Path(config.out)


def test_another_run_that_does_not_fit_is_told_by_its_flag(data: Path, tmp_path: Path):
    nothing = tmp_path / "no-model"
    other = begun(settings(nothing, data, tmp_path / "a"))
    with pytest.raises(
        SettingsError, match=r"--samples 3, but this one asks for 4: give the same, or another --reuse-samples"
    ):
        train_prefer(settings(nothing, data, tmp_path / "b", reuse_samples=str(other), samples=4), variety)
    (other / "run.json").write_text("{")
    with pytest.raises(SettingsError, match=r"is no run state of `pasta train`; give another --reuse-samples"):
        train_prefer(settings(nothing, data, tmp_path / "c", reuse_samples=str(other)), variety)


def test_an_address_that_is_none_is_refused_at_once(model: Path, data: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"--judge-url file must begin with http://.*--quality verdicts and no URL"):
        settings(model, data, tmp_path / "out", judge_model="people", judge_url="file")
    settings(model, data, tmp_path / "out", judge_model="people", judge_url="https://localhost/v1")


@pytest.mark.parametrize("changed", ["data", "model", "baseline"])
def test_other_contents_under_the_same_name_are_refused(changed: str, tmp_path: Path):
    own = {"data": write_prompts(tmp_path / "prompts.jsonl", 2)}
    for name in ("model", "baseline"):
        own[name] = tmp_path / name
        own[name].mkdir()
        (own[name] / "config.json").write_text("{}")
    config = settings(own["model"], own["data"], tmp_path / "out", baseline=str(own["baseline"]))
    out = begun(config)
    begun(config)  # nothing has changed: it goes on
    if changed == "data":
        write_prompts(own["data"], 3)
    else:
        (own[changed] / "config.json").write_text("{ }")
    with pytest.raises(SettingsError, match=f"holds a run with --{changed} .* which has changed since: .* --out"):
        train_prefer(config, variety)
    with pytest.raises(
        SettingsError, match=f"holds a run with --{changed} .* which has changed since: .* --reuse-samples"
    ):
        train_prefer(replace(config, out=str(tmp_path / "again"), reuse_samples=str(out)), variety)


def test_a_run_neither_writes_where_its_model_lies_nor_into_a_file(data: Path, tmp_path: Path):
    for model in (tmp_path, tmp_path / "round2" / "model"):
        with pytest.raises(SettingsError, match=r"is also where this run writes, .*give another --out\.$"):
            train_prefer(settings(model, data, tmp_path), variety)
    with pytest.raises(SettingsError, match=r"is a file, so --out .* cannot be a folder"):
        train_prefer(settings(tmp_path, data, data), variety)
    assert not list(tmp_path.iterdir())


def test_the_command_with_the_tasks_checker(model: Path, tmp_path: Path):
    data = tmp_path / "tasks.jsonl"
    data.write_text("\n".join(map(to_json, tasks("train", 0, 4))) + "\n")
    flags = ["--samples=3", "--max-tokens=40", "--rounds=1", "--steps=1", "--lambda=2", "--learning-rate=1e-3"]
    command = ["train", "prefer", "--model", str(model), "--data", str(data), "--out", str(tmp_path / "out"), *flags]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "Model written to" in done.output
    assert done.output.count("Round 1: ") == 1 and "of 4 prompts; all / chosen / rejected" in done.output
    assert {one["quality"] for one in lines(tmp_path / "out" / "round1" / "scores.jsonl")} <= {0.0, 1.0}
    changed = CliRunner().invoke(app, [*command, "--speed-term", "parallelism"])
    assert changed.exit_code == 2 and "holds a run with --speed-term 'speedup'" in " ".join(changed.output.split())


def test_quality_from_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("openai")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    question = Question("p", answer="good good good")
    candidates = [
        Candidate(question, "good good", "good"),
        Candidate(question, "good good good good", "good"),
        Candidate(question, "bad", "good"),
        Candidate(Question("p", index=1), "good good", "good"),
    ]
    with (
        serving(JudgeDesk(plan=lambda shown, nth: "stated")) as desk,
        Judge(JudgeSettings("m", "key", desk.url), tmp_path / "cache.jsonl") as judge,
    ):
        found = judged(judge)(candidates)
    win = 0.8 + 0.8  # in both orders, each with a confidence of 0.8
    assert found == pytest.approx([(win + 1) / (win + 1), 2 * win + 1, 1 / (2 * win + 1), win + 1])


def test_nats_of_a_text_are_those_of_the_model(model: Path, data: Path, tmp_path: Path):
    """Token by token in one causal pass of transformers' own, the end of the answer included."""
    loaded, tokenizer = load(str(model), "cpu", "float32")
    vocabulary = Vocabulary(tokenizer)
    texts = [(Question("add 1"), "foo bar"), (Question("x", index=1), "12"), (Question("add 1"), "")]
    found = TextNats(settings(model, data, tmp_path))(texts)
    for (question, text), nats in zip(texts, found, strict=True):
        prompt = vocabulary.prompts.encode(question.prompt)
        answer = [*vocabulary.encode(text), tokenizer.eos_token_id]
        with torch.no_grad():
            logp = torch.log_softmax(loaded(torch.tensor([[*prompt, *answer]])).logits[0], -1)
        each = [logp[len(prompt) - 1 + k, token].item() for k, token in enumerate(answer)]
        assert nats == pytest.approx(-sum(each) / len(each), rel=1e-4)


def test_nats_of_a_text_are_those_of_what_the_window_holds(
    model: Path, data: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
):
    """A baseline of 24 learned positions."""
    config = AutoConfig.for_model("gpt2", vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=4, n_positions=24)
    baseline = AutoModelForCausalLM.from_config(config).eval()
    baseline.save_pretrained(tmp_path / "baseline")
    tokenizer.save_pretrained(tmp_path / "baseline")
    texts = [(Question("add 1"), "foo bar"), (Question("add 1"), "foo bar " * 20)]
    found = TextNats(settings(model, data, tmp_path, baseline=str(tmp_path / "baseline")))(texts)
    vocabulary = Vocabulary(tokenizer)
    for (question, text), nats in zip(texts, found, strict=True):
        prompt = vocabulary.prompts.encode(question.prompt)
        both = [*prompt, *vocabulary.encode(text), tokenizer.eos_token_id][:24]
        with torch.no_grad():
            logp = torch.log_softmax(baseline(torch.tensor([both])).logits[0], -1)
        each = [logp[k - 1, both[k]].item() for k in range(len(prompt), len(both))]
        assert nats == pytest.approx(-sum(each) / len(each), rel=1e-4)


OWN_CODE = """
from transformers import PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast

class OwnConfig(PhiConfig):
    model_type = "of-our-own"

class OwnModel(PhiForCausalLM):
    config_class = OwnConfig

class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


def change(file: Path, **fields: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_repetition_is_measured_with_a_tokenizer_of_its_own_code(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    own = Path(shutil.copytree(model, tmp_path / "own"))
    (own / "own.py").write_text(OWN_CODE)
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    change(own / "config.json", model_type="of-our-own", architectures=["OwnModel"], auto_map=classes)
    classes = {"AutoTokenizer": [None, "own.OwnTokenizer"]}
    change(own / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=classes)
    asked = {"quality": "repetition", "rounds": 1, "steps": 1, "trust_remote_code": True}
    out = train_prefer(settings(own, data, tmp_path / "out", **asked))
    assert (out / "model.safetensors").is_file()


def test_the_command_without_checker_or_judge(model: Path, data: Path, tmp_path: Path):
    command = ["train", "prefer", "--model", str(model), "--data", str(data), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2 and "name a judge with --judge-model" in " ".join(done.output.split())
    assert not (tmp_path / "out").exists()


def test_a_judge_without_its_package_is_refused_before_any_answer(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    with pytest.raises(MissingPackageError, match=r"pip install 'pastalm\[annotate\]'"):
        train_prefer(settings(model, data, tmp_path, judge_model="m"))
    assert not (tmp_path / "baseline.jsonl").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("samples", 1), ("speed_term", "far"), ("loss", "best"), ("rounds", 0), ("alpha", 2), ("snapshots", "0.5,2"),
        ("snapshots", "half"), ("quality_weight", float("nan")), ("judge_url", "http://x"), ("batch_size", 0),
        ("lora", -1),
    ],
)  # fmt: skip
def test_wrong_settings_get_a_sentence(field: str, value: object):
    with pytest.raises(ValueError, match=rf"{flag(field)}\b.*\.$"):
        PreferConfig("m", "d", "o", **{field: value})


def test_a_round_that_diverges_leaves_no_model(model: Path, data: Path, tmp_path: Path):
    diverging = settings(model, data, tmp_path, learning_rate=1e30, save_every=100, snapshots="0.5")
    with pytest.raises(SettingsError, match=r"^Training diverged: .*smaller --learning-rate and another --out\.$"):
        train_prefer(diverging, variety)
    assert not list(tmp_path.rglob("*.safetensors"))
