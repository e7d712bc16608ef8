"""Settings of the training stages; importing them imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import Any

from pastalm.lang.positions import position_policy

ALL_LINEAR = "all-linear"
SEEDS = 2**32  # numpy takes no larger ones


def option(name: str) -> str:
    """A setting as it is typed on the command line."""
    return "--lambda" if name == "quality_weight" else "--" + name.replace("_", "-")


def require(config: object, names: Iterable[str], holds: Callable[[Any], bool], what: str) -> None:
    """Raise ``ValueError`` for the first of some settings for which ``holds`` is not true; ``what`` says how they must
    be."""
    for name in names:
        value = getattr(config, name)
        if not holds(value):
            raise ValueError(f"{option(name)} {what}, not {value}.")


def at_least_one(config: object, *names: str) -> None:
    """Raise ``ValueError`` for the first of some settings that is below 1."""
    require(config, names, lambda value: value >= 1, "must be at least 1")


def above_zero(config: object, *names: str) -> None:
    """Raise ``ValueError`` for the first of some settings that is not above 0, or not finite."""
    require(config, names, lambda value: 0 < value < inf, "must be a finite number above 0")


def not_negative(config: object, *names: str) -> None:
    """Raise ``ValueError`` for the first of some settings that is below 0, or not finite."""
    require(config, names, lambda value: 0 <= value < inf, "must be a finite number of at least 0")


def shares(config: object, *names: str) -> None:
    """Raise ``ValueError`` for the first of some settings that is no share."""
    require(config, names, lambda value: 0 <= value <= 1, "is a share between 0 and 1")


@dataclass(frozen=True)
class SftConfig:
    """What a stage-1 run needs. ``plain`` is the share of answers that lose their tags: 1.0 trains Baseline-SFT.

    ``positions`` is a policy of :mod:`pastalm.lang.positions`; empty takes the model's own, else the default. ``row``
    is the length of a packed row in tokens, ``batch`` the number of rows in a step of one device; without ``pack`` a
    row holds one example. The learning rate warms up over ``warmup`` steps, stays, and falls to zero over the last
    ``decay`` share of the steps. ``prompt_loss`` trains on prompts too, for models from random weights.

    ``eval_data`` is held-out data whose loss is measured after every ``save_every`` steps and at the end.

    ``lora`` is the rank of low-rank adapters on ``lora_targets`` (names of modules with commas between, or
    "all-linear"), 0 trains all weights; the rows of the six tags are trained in either case.
    ``gradient_checkpointing`` keeps only the inputs of each layer for the backward pass and computes the rest again.
    """

    model: str
    data: str
    out: str
    eval_data: str = ""
    positions: str = ""
    plain: float = 0.0
    epochs: float = 4.0
    steps: int = -1
    batch: int = 8
    accumulate: int = 1
    row: int = 2048
    pack: bool = True
    learning_rate: float = 1e-5
    warmup: int = 0
    decay: float = 1.0
    weight_decay: float = 0.0
    beta2: float = 0.999
    prompt_loss: bool = False
    lora: int = 0
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    lora_targets: str = ALL_LINEAR
    gradient_checkpointing: bool = False
    bf16: bool = False
    save_every: int = 200
    log_every: int = 20
    seed: int = 0
    resume: bool = True

    def __post_init__(self) -> None:
        if self.positions:
            try:
                position_policy(self.positions)
            except ValueError as error:
                raise ValueError(f"--positions: {error}") from error
        shares(self, "plain", "decay")
        require(self, ("beta2", "lora_dropout"), lambda share: 0 <= share < 1, "is a share of at least 0 and below 1")
        at_least_one(self, "batch", "accumulate", "row", "save_every", "log_every")
        above_zero(self, "learning_rate", "lora_alpha")
        not_negative(self, "warmup", "weight_decay")
        require(self, ("steps",), lambda steps: steps == -1 or steps >= 1, "is -1, to go by --epochs, or at least 1")
        if self.steps == -1:
            above_zero(self, "epochs")
        require(self, ("lora",), lambda rank: rank >= 0, "is a rank, 0 (trains all weights) or more")
        require(self, ("seed",), lambda seed: 0 <= seed < SEEDS, f"must be at least 0 and below {SEEDS}")
