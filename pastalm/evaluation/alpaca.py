"""AlpacaEval: outputs in its form, and win rates, length-controlled among them, computed by its own package.

The package is the extra ``eval``. It fits, over all prompts, how much of a preference is owed to the answers' lengths,
and predicts the preferences at equal length. For its own 805 prompts it knows how hard each is, from two calibration
files; they come from a folder, so that no hub is needed, or else from the hub.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from math import nan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

GAMED, DIFFICULTY = "df_gamed.csv", "instruction_difficulty.csv"
FULL, MINIMAL = "length_controlled_v1", "length_controlled_minimal"
FOLDS = 5  # of the package's cross-validation
_PROMPTS_DIGEST = "c5770d532bf3f697768ed9a57a05d8b58b2617321ca65070620f059676e7c99a"


class AlpacaError(ValueError):
    """Win rates that cannot be computed, and what to do."""


@dataclass(frozen=True)
class WinRates:
    """Win rates of a model against a reference, all in percent.

    ``number`` answers were judged. ``standard_error`` belongs to ``win_rate``, and with the minimal formula, whose
    predictions are all the same, to ``length_controlled`` too; ``discrete`` counts each preference as won, lost or
    half. ``length_controlled`` is None where nothing was fitted: fewer than five judged answers, all of the same
    difference, or a fit whose penalty has left no weight but zero; it would say one half of any model, of one that
    loses every comparison too. ``formula``: ``length_controlled_v1``, or for prompts that are not AlpacaEval's
    ``length_controlled_minimal``, which knows nothing of their difficulty.
    """

    number: int
    win_rate: float
    standard_error: float
    discrete: float
    length_controlled: float | None
    length_controlled_error: float | None
    formula: str


def win_rates(
    preferences: Sequence[float | None],
    model_outputs: Sequence[str],
    reference_outputs: Sequence[str],
    calibration: Path | None = None,
    *,
    formula: str = FULL,
    names: tuple[str, str] = ("model", "reference"),
) -> WinRates:
    """Win rates from preferences: shares in [0, 1] that the model's answer is better, None for unjudged ones.

    The full formula takes answers in the order of AlpacaEval's prompts. ``calibration`` is a folder with
    ``df_gamed.csv`` and ``instruction_difficulty.csv``; None lets the package ask the hub. ``names``: a model that is
    named like its reference has 50 by definition. Raises :class:`AlpacaError`.
    """
    if not len(preferences) == len(model_outputs) == len(reference_outputs):
        counts = f"{len(preferences)} preferences, {len(model_outputs)} and {len(reference_outputs)} answers"
        raise AlpacaError(f"Each prompt needs a preference and two answers; there are {counts}.")
    judged = [share for share in preferences if share is not None]
    if not judged:
        raise AlpacaError("No answer was judged, so there is no win rate.")
    itself = names[0] == names[1]
    generators = {"generator_1": "reference", "generator_2": "reference" if itself else "model"}
    rows: list[dict[str, Any]] = [
        {"preference": nan if share is None else share + 1, "output_1": reference, "output_2": own} | generators
        for share, own, reference in zip(preferences, model_outputs, reference_outputs, strict=True)
    ]
    glm = _package()
    plain = glm.get_winrate(rows)
    differences = {len(row["output_1"]) - len(row["output_2"]) for row in rows}
    length: dict[str, float] = {}
    if (len(judged) >= FOLDS and len(differences) > 1) or itself:
        with _calibrated(glm, calibration, formula, len(rows)):
            length, weights = _fit(glm, rows, formula)
        if not itself and not any(weights):
            length = {}
    if length and formula == MINIMAL and not itself:  # the package's is the spread of the predictions: none
        length["lc_standard_error"] = plain["standard_error"]
    return WinRates(
        len(judged),
        float(plain["win_rate"]),
        float(plain["standard_error"]),
        float(plain["discrete_win_rate"]),
        float(length["length_controlled_winrate"]) if length else None,
        float(length["lc_standard_error"]) if length else None,
        formula,
    )


def is_alpaca_eval(instructions: Sequence[str]) -> bool:
    """Whether these are AlpacaEval's 805 prompts, in its order."""
    return sha256(json.dumps(list(instructions)).encode()).hexdigest() == _PROMPTS_DIGEST


def model_outputs(instructions: Sequence[str], answers: Sequence[str], generator: str, datasets: Sequence[str]) -> str:
    """The JSON file that ``alpaca_eval --model_outputs`` takes."""
    rows = zip(instructions, answers, datasets, strict=True)
    fields = [{"instruction": i, "output": a, "generator": generator, "dataset": d} for i, a, d in rows]
    return json.dumps(fields, ensure_ascii=False, indent=2) + "\n"


def _fit(glm: Any, rows: list[dict[str, Any]], formula: str) -> tuple[dict[str, float], list[float]]:
    """The package's length-controlled win rate, and the weights of its fit, which it only writes into a file."""
    with TemporaryDirectory() as made, _quiet(), _no_stderr():
        rates = glm.get_length_controlled_winrate(
            rows, glm_name=formula, save_weights_dir=made, is_warn_extreme_changes=False
        )
        (path,) = Path(made).glob("*/*.csv")
        _, (_, *weights) = csv.reader(path.read_text().splitlines())  # under their names, behind the model's
    return rates, list(map(float, weights))


def _package() -> Any:
    """The package's module of length control."""
    with _quiet():
        level = logging.root.level
        try:
            from alpaca_eval.metrics import glm_winrate
        except ModuleNotFoundError as error:
            if error.name == "pkg_resources":
                raise AlpacaError(
                    "alpaca_eval needs setuptools below version 82: pip install 'setuptools<82'."
                ) from error
            if (error.name or "").partition(".")[0] != "alpaca_eval":
                raise
            raise AlpacaError(
                "Length control needs the package alpaca_eval: install it with  pip install 'pastalm[eval]'"
            ) from error
        finally:
            logging.root.setLevel(level)  # the package has every library's remarks printed
    return glm_winrate


@contextmanager
def _calibrated(glm: Any, folder: Path | None, formula: str, number: int) -> Iterator[None]:
    """Have the package read its calibration from a folder. The minimal formula uses none, but the package reads one."""
    if formula != MINIMAL and folder is None:
        try:
            yield
        except (OSError, ConnectionError) as error:  # the hub's errors are of these
            raise AlpacaError(
                f"The calibration files cannot be had from the hub; give a folder with {GAMED} and {DIFFICULTY}."
            ) from error
        return
    with TemporaryDirectory() as made:
        if formula == MINIMAL or folder is None:
            folder = Path(made)
            _stand_in(folder, number)
        elif missing := [name for name in (GAMED, DIFFICULTY) if not (folder / name).is_file()]:
            raise AlpacaError(f"{folder} has no {' and no '.join(missing)}; AlpacaEval's calibration is both.")
        fetch = glm.hf_hub_download
        glm.hf_hub_download = lambda *_, filename, **__: str(folder / filename)
        try:
            yield
        finally:
            glm.hf_hub_download = fetch


def _stand_in(folder: Path, number: int) -> None:
    head = "preference,index,std_delta_len,instruction_difficulty,not_gamed_baseline,model\n"
    (folder / GAMED).write_text(head + "".join(f"0.5,{index},0.0,0.0,False,none\n" for index in range(number)))


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings about versions from the packages below; and scikit-learn's settings as they were."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import sklearn
        except ModuleNotFoundError:
            yield
            return
        with sklearn.config_context():
            yield


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Nothing on stderr: liblinear, which is C, writes its warnings there past Python."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
