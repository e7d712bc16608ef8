"""Win rates by AlpacaEval's package, on made data, without a hub."""

from __future__ import annotations

import gzip
import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import alpaca as bench
from pastalm.evaluation.alpaca import FULL, MINIMAL, AlpacaError, is_alpaca_eval, model_outputs, win_rates

NUMBER = 120


@pytest.fixture
def package() -> None:
    pytest.importorskip("alpaca_eval", reason="the extra 'eval' is not installed", exc_type=ImportError)


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files in the package's form, for as many made prompts."""
    folder = tmp_path_factory.mktemp("calibration")
    rng = np.random.default_rng(0)
    difficulty = rng.normal(size=NUMBER)
    gamed = ["preference,index,std_delta_len,instruction_difficulty,not_gamed_baseline,model"]
    for name, sign in (("verbose", -1), ("concise", 1)):
        lengths = sign * rng.uniform(0.2, 2, NUMBER)
        shares = 1 / (1 + np.exp(3 * np.tanh(lengths)))
        rows = zip(shares, range(NUMBER), lengths, difficulty, strict=True)
        gamed += [f"{p},{index},{length},{d},False,{name}" for p, index, length, d in rows]
    (folder / "df_gamed.csv").write_text("\n".join(gamed) + "\n")
    rows = [f"{index},{value}" for index, value in enumerate(difficulty)]
    (folder / "instruction_difficulty.csv").write_text("\n".join(["index,instruction_difficulty", *rows]) + "\n")
    return folder


def lengthy(merit: float = 0.0) -> tuple[list[float], list[str], list[str]]:
    """A judge that likes length, and a model that is mostly longer than its reference; ``merit`` is what the judge
    finds in it besides, as the logarithm of its odds."""
    rng = np.random.default_rng(3)
    own, other = rng.integers(500, 1500, NUMBER), rng.integers(200, 1000, NUMBER)
    shares = 1 / (1 + np.exp(-merit - 3 * np.tanh((own - other) / (own - other).std())))
    return list(shares), ["x" * n for n in own], ["x" * n for n in other]


@pytest.mark.parametrize("formula", [FULL, MINIMAL])
def test_length_is_taken_out(package: None, calibration: Path, formula: str):
    shares, own, other = lengthy()
    found = win_rates(shares, own, other, calibration, formula=formula)
    assert found.win_rate == pytest.approx(100 * np.mean(shares)) and found.win_rate > 70
    assert found.discrete == pytest.approx(100 * np.mean(np.array(shares) > 0.5))
    assert found.standard_error == pytest.approx(100 * np.std(shares, ddof=1) / NUMBER**0.5)
    assert found.length_controlled == pytest.approx(50, abs=3)
    assert (found.number, found.formula) == (NUMBER, formula) and found.length_controlled_error >= 0


def test_what_is_better_at_equal_length_stays_better(package: None, calibration: Path):
    shares, own, other = lengthy(merit=np.log(4))
    found = win_rates(shares, own, other, calibration)
    assert found.length_controlled == pytest.approx(80, abs=3) and found.win_rate > 83


def test_the_minimal_formula_needs_no_calibration(package: None):
    shares, own, other = lengthy()
    few = win_rates(shares[:20], own[:20], other[:20], formula=MINIMAL)
    assert few.length_controlled is not None and few.number == 20
    assert few.length_controlled_error == few.standard_error > 1


def test_a_model_against_itself_has_fifty(package: None, calibration: Path):
    shares, own, other = lengthy()
    assert win_rates(shares, own, other, calibration, names=("m", "m")).length_controlled == 50


def test_unjudged_answers_count_nothing(package: None, calibration: Path):
    shares, own, other = lengthy()
    holes = [None if index % 3 == 0 else share for index, share in enumerate(shares)]
    found = win_rates(holes, own, other, calibration)
    assert found.number == NUMBER * 2 // 3
    assert found.win_rate == pytest.approx(100 * np.mean([share for share in holes if share is not None]))
    assert found.length_controlled == pytest.approx(50, abs=4)


def test_nothing_to_fit_gives_the_plain_rate_alone(package: None):
    same = win_rates([1.0, 0.0, 1.0, 1.0, 0.5], ["xx"] * 5, ["x"] * 5, formula=MINIMAL)
    assert (same.win_rate, same.length_controlled) == (70.0, None)
    few = win_rates([1.0, None], ["xx", "x"], ["x", "x"], formula=MINIMAL)
    assert (few.win_rate, few.length_controlled) == (100.0, None)


def test_a_fit_without_weights_gives_the_plain_rate_alone(package: None, capfd: pytest.CaptureFixture[str]):
    """The package would say one half: of a model that loses every comparison, and of small sets."""
    _, own, other = lengthy()
    for number in (6, NUMBER):
        lost = win_rates([0.0] * number, own[:number], other[:number], formula=MINIMAL)
        assert (lost.win_rate, lost.length_controlled, lost.length_controlled_error) == (0, None, None)
    few = win_rates([1.0, 1.0, 1.0, 1.0, 0.0], own[:5], other[:5], formula=MINIMAL)
    assert (few.win_rate, few.length_controlled) == (80, None)
    assert capfd.readouterr() == ("", "")  # liblinear warns of a class without members


def test_a_clean_sweep_can_be_fitted(package: None, calibration: Path):
    _, own, other = lengthy()
    assert win_rates([1.0] * NUMBER, own, other, formula=MINIMAL).length_controlled > 90
    assert win_rates([0.0] * NUMBER, own, other, calibration).length_controlled < 10


def test_nothing_is_left_changed(package: None, calibration: Path):
    import sklearn
    from alpaca_eval.metrics import glm_winrate

    shares, own, other = lengthy()
    fetch, routing = glm_winrate.hf_hub_download, sklearn.get_config()["enable_metadata_routing"]
    win_rates(shares, own, other, calibration)
    assert glm_winrate.hf_hub_download is fetch
    assert sklearn.get_config()["enable_metadata_routing"] is routing


def test_the_package_changes_no_logging(package: None, monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in sys.modules if name.startswith("alpaca_eval")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    win_rates([1.0, None], ["xx", "x"], ["x", "x"], formula=MINIMAL)
    assert logging.root.level == logging.WARNING


def test_without_files_and_hub_the_files_are_asked_for(package: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from alpaca_eval import constants

    monkeypatch.setattr(constants, "DEFAULT_CACHE_DIR", str(tmp_path))  # an empty one; the tests have no network
    shares, own, other = lengthy()
    with pytest.raises(AlpacaError, match="cannot be had from the hub"):
        win_rates(shares, own, other)
    with pytest.raises(AlpacaError, match=r"has no df_gamed\.csv and no instruction_difficulty\.csv"):
        win_rates(shares, own, other, tmp_path)


def test_what_cannot_be_computed_is_said():
    with pytest.raises(AlpacaError, match="2 preferences, 1 and 2 answers"):
        win_rates([1.0, 0.0], ["a"], ["a", "b"])
    with pytest.raises(AlpacaError, match="No answer was judged"):
        win_rates([None], ["a"], ["b"])


def test_the_package_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in sys.modules if name.startswith("alpaca_eval")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "alpaca_eval", None)
    with pytest.raises(AlpacaError, match=r"pastalm\[eval\]"):
        win_rates([1.0], ["a"], ["b"])


def test_outputs_are_in_the_form_of_the_official_tool():
    (row,) = json.loads(model_outputs(["Why?"], ["So."], "m", ["vicuna"]))
    assert row == {"instruction": "Why?", "output": "So.", "generator": "m", "dataset": "vicuna"}
    assert not is_alpaca_eval(["Why?"] * 805)


def test_published_rates_are_recomputed(
    package: None, calibration: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    shares, own, other = lengthy()
    lengths = {"len_model": list(map(len, own)), "len_base": list(map(len, other))}
    found = win_rates(shares, own, other, calibration)
    rates = {"win_rate": found.win_rate, "lc_win_rate": found.length_controlled}
    models = {"m": {"preference": [share + 1 for share in shares], **lengths, **rates}}
    (calibration / "preferences.json.gz").write_bytes(gzip.compress(json.dumps(models).encode()))
    monkeypatch.setattr(sys, "argv", ["bench", str(calibration)])
    with monkeypatch.context() as context:
        context.setattr(logging.root, "level", logging.ERROR)
        bench.main()
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 models. Length-controlled: median error 0.0000, largest 0.0000." in shown
