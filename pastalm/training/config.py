"""Settings of the training stages; importing them imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from pastalm.lang.positions import DEFAULT, position_policy


@dataclass(frozen=True)
class SftConfig:
    """What a stage-1 run needs. ``plain`` is the share of answers that lose their tags: 1.0 trains Baseline-SFT.

    ``row`` is the length of a packed row in tokens, ``batch`` the number of rows in a step of one device. The learning
    rate warms up over ``warmup`` steps, stays, and falls to zero over the last ``decay`` share of the steps.
    ``prompt_loss`` trains on prompts too, for models from random weights.
    """

    model: str
    data: str
    out: str
    positions: str = DEFAULT
    plain: float = 0.0
    epochs: float = 4.0
    steps: int = -1
    batch: int = 8
    accumulate: int = 1
    row: int = 2048
    learning_rate: float = 1e-5
    warmup: int = 0
    decay: float = 1.0
    weight_decay: float = 0.0
    beta2: float = 0.999
    prompt_loss: bool = False
    bf16: bool = False
    save_every: int = 200
    seed: int = 0
    resume: bool = True

    def __post_init__(self) -> None:
        position_policy(self.positions)
        for name in ("plain", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share between 0 and 1, not {getattr(self, name)}.")
        for name in ("batch", "accumulate", "row", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0, not {self.learning_rate}.")
