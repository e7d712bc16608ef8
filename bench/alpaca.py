"""Length-controlled win rates recomputed from published preferences, beside the published ones.

    python -m bench.alpaca FOLDER

FOLDER holds ``preferences.json.gz`` ({model: {preference in [1, 2], len_base, len_model, win_rate, lc_win_rate}})
and the calibration files ``df_gamed.csv`` and ``instruction_difficulty.csv``.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from pastalm.evaluation.alpaca import WinRates, win_rates

REFERENCE = "gpt4_1106_preview"


def recompute(name: str, published: dict[str, Any], folder: Path) -> WinRates:
    """The win rates of one model. Of the answers only the lengths count, so any text of that length will do."""
    shares = [preference - 1 for preference in published["preference"]]
    own, reference = (["x" * length for length in published[key]] for key in ("len_model", "len_base"))
    return win_rates(shares, own, reference, folder, names=(name, REFERENCE))


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    with gzip.open(folder / "preferences.json.gz", "rt", encoding="utf-8") as file:
        models = json.load(file)
    shown = Table("model", "win %", "published", "LC %", "published", "error", title="AlpacaEval 2")
    plain, controlled = [], []
    for name, published in track(models.items(), description="Fitting", console=Console(stderr=True)):
        found = recompute(name, published, folder)
        plain.append(abs(found.win_rate - published["win_rate"]))
        controlled.append(abs((found.length_controlled or 0.0) - published["lc_win_rate"]))
        rates = (found.win_rate, published["win_rate"], found.length_controlled or 0.0, published["lc_win_rate"])
        shown.add_row(name, *(f"{rate:.3f}" for rate in rates), f"{controlled[-1]:.4f}")
    console = Console()
    console.print(shown)
    console.print(
        f"{len(models)} models. Length-controlled: median error {median(controlled):.4f}, largest "
        f"{max(controlled):.4f}. Plain win rate: largest error {max(plain):.1e}."
    )


if __name__ == "__main__":
    main()
