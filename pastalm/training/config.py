"""Settings of the training stages; importing them imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from pastalm.lang.positions import position_policy

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class SftConfig:
    """What a stage-1 run needs. ``plain`` is the share of answers that lose their tags: 1.0 trains Baseline-SFT.

    ``positions`` is a policy of :mod:`pastalm.lang.positions`; empty takes the model's own, else the default. ``row``
    is the length of a packed row in tokens, ``batch`` the number of rows in a step of one device; without ``pack`` a
    row holds one example. The learning rate warms up over ``warmup`` steps, stays, and falls to zero over the last
    ``decay`` share of the steps. ``prompt_loss`` trains on prompts too, for models from random weights.

    ``lora`` is the rank of low-rank adapters on ``lora_targets`` (names of modules with commas between, or
    "all-linear"), 0 trains all weights; the rows of the six tags are trained in either case.
    ``gradient_checkpointing`` keeps only the inputs of each layer for the backward pass and computes the rest again.
    """

    model: str
    data: str
    out: str
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
            position_policy(self.positions)
        for name in ("plain", "decay", "lora_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share between 0 and 1, not {getattr(self, name)}.")
        for name in ("batch", "accumulate", "row", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("learning_rate", "lora_alpha"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}.")
        if self.steps < 1 and not self.epochs > 0:
            raise ValueError(f"epochs must be above 0, not {self.epochs}.")
        if self.lora < 0:
            raise ValueError(f"lora is a rank, 0 or more, not {self.lora}; 0 trains all weights.")
