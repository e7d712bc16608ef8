"""Training in processes of its own: several, sharded weights, a SIGKILL, all against one process in peace."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pastalm import __version__
from pastalm.training.checkpoints import read_state
from tests.processes import SECONDS, environment, errors, finish, launch, output, pasta, start, start_two
from tests.training.fsdp_worker import sharded

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--main_process_port", "0"]

FSDP = [
    "--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP",
    "--fsdp_transformer_layer_cls_to_wrap", "LlamaDecoderLayer", "--fsdp_state_dict_type", "FULL_STATE_DICT",
]  # fmt: skip


def command(base: Path, data: Path, out: Path, batch: int, *more: object) -> list[str]:
    """`pasta train sft` over an epoch of 3 steps and one step more."""
    more = ("--eval-data", data, *more)
    settings = (
        "--row",
        200,
        "--batch-size",
        batch,
        "--steps",
        4,
        "--learning-rate",
        1e-2,
        "--tag-learning-rate",
        3e-2,
        "--log-every",
        1,
        "--dtype",
        "float32",
    )
    return ["train", "sft", "--model", str(base), "--data", str(data), "--out", str(out), *map(str, (*settings, *more))]


def run(log: Path, words: list[str]) -> None:
    """`pasta` with these words in one process."""
    finish(log, start(log, pasta, *words))


def losses(out: Path) -> list[float]:
    state = json.loads((out / "checkpoint-4" / "trainer_state.json").read_text())
    return [line["loss"] for line in state["log_history"] if "loss" in line]


def assert_equal(one: Path, other: Path, file: str) -> None:
    assert losses(one) == pytest.approx(losses(other), abs=1e-4)
    assert len(losses(one)) == 4
    left, right = load_file(one / file), load_file(other / file)
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], atol=1e-4, rtol=1e-4, msg=name)


@pytest.fixture(scope="module")
def alone(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, rows by four."""
    out = tmp_path_factory.mktemp("alone")
    run(out.with_suffix(".log"), command(base, data, out, 4))
    return out


@pytest.mark.slow
def test_two_processes_are_as_one(base: Path, data: Path, alone: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    launch(["--multi_gpu"], log, pasta, *command(base, data, tmp_path, 2))
    assert log.read_text().count("Model written") == 1
    assert read_state(tmp_path)["figures"]["processes"] == 2
    for name in ("steps", "tokens", "targets"):
        assert read_state(tmp_path)["figures"][name] == read_state(alone)["figures"][name]
    held = [read_state(out)["figures"]["eval_loss"] for out in (tmp_path, alone)]
    assert held[0] == pytest.approx(held[1], abs=1e-4)
    assert_equal(alone, tmp_path, "checkpoint-4/model.safetensors")


@pytest.mark.slow
def test_the_launcher_starts_pasta_in_each_process() -> None:
    asked = [*LAUNCH, "--multi_gpu", "-m", "pastalm.cli", "--version"]
    done = subprocess.run(asked, env=environment(), capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.count(__version__) == 2


@pytest.mark.slow
def test_sharded_weights_are_as_whole_ones(base: Path, data: Path, alone: Path, tmp_path: Path) -> None:
    launch(FSDP, tmp_path / "log", sharded, *command(base, data, tmp_path, 2))
    assert (tmp_path / "checkpoint-4" / "pytorch_model_fsdp.bin").is_file()  # it was FSDP indeed
    assert_equal(alone, tmp_path, "checkpoint-4/model.safetensors")
    whole, written = load_file(alone / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert whole.keys() == written.keys()
    for name in whole:
        torch.testing.assert_close(whole[name], written[name], atol=1e-2, rtol=1e-2, msg=name)  # bfloat16


@pytest.mark.slow
def test_sharded_adapters_are_as_whole_ones(base: Path, data: Path, tmp_path: Path) -> None:
    more = ("--lora", 2, "--gradient-checkpointing")
    one, two = tmp_path / "one", tmp_path / "two"
    run(tmp_path / "log", command(base, data, one, 4, *more))
    launch(FSDP, tmp_path / "log", sharded, *command(base, data, two, 2, *more))
    assert_equal(one, two, "adapter/adapter_model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("parts", [False, True])
def test_all_processes_end_a_run_that_diverges(parts: bool, base: Path, data: Path, tmp_path: Path) -> None:
    asked = command(base, data, tmp_path / "out", 2, "--learning-rate", 1e30, "--save-every", 100)
    log, flags, function = tmp_path / "log", FSDP if parts else ["--multi_gpu"], sharded if parts else pasta
    for process in start_two(flags, log, function, *asked):
        process.join(SECONDS)
        assert process.exitcode == 2, output(log)
    assert errors(log).read_text().count("Training diverged: ") == 2
    assert not list((tmp_path / "out").rglob("*.safetensors"))


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_end(base: Path, data: Path, tmp_path: Path) -> None:
    killed, whole, log = tmp_path / "killed", tmp_path / "whole", tmp_path / "log"
    more = ("--steps", 60, "--save-every", 3)
    asked = command(base, data, killed, 4, *more)
    process = start(log, pasta, *asked)
    end = time.monotonic() + SECONDS
    while not (killed / "checkpoint-3").is_dir() and process.is_alive() and time.monotonic() < end:
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, output(log)
    assert "figures" not in read_state(killed)
    run(log, asked)
    run(log, command(base, data, whole, 4, *more))
    one, other = load_file(killed / "model.safetensors"), load_file(whole / "model.safetensors")
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], msg=name)
