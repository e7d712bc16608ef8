"""Settings of stage 2; importing them imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields

from pastalm.training.config import ALL_LINEAR, SftConfig, above_zero, at_least_one, not_negative, require, shares

SPEEDS = ("speedup", "parallelism", "harmonic", "arithmetic")
LOSSES = ("bonbon", "ipo", "dpo")


@dataclass(frozen=True)
class PreferConfig:
    """What a stage-2 run needs (SPEC 6).

    Sampling: ``samples`` answers to each prompt of ``data``, a file or ``tasks:SPLIT:NUMBER:SEED``, at ``temperature``,
    ``lanes`` at once, of at most ``max_tokens``. ``baseline`` is the model whose sequential greedy answers speed and
    quality are measured against; empty takes ``model``.

    Scoring: speed + ``quality_weight`` * quality. ``speed`` is one of ``SPEEDS``; quality comes from the data's
    checker, or from the model ``judge`` at ``judge_url``.

    Training: ``batch`` counts pairs in a step of one device. ``alpha`` is BoNBoN's weight of the chosen answer's
    likelihood, ``margin`` its margin in nats, 0 for the one that belongs to ``samples``; ``beta`` is DPO's beta and
    IPO's tau. ``snapshots`` are shares of a round after which the model is kept, with commas between.
    """

    model: str
    data: str
    out: str
    baseline: str = ""
    reuse: str = ""
    rounds: int = 2
    samples: int = 10
    limit: int = 0
    temperature: float = 1.0
    max_tokens: int = 1024
    lanes: int = 32
    quality_weight: float = 4.0
    speed: str = "speedup"
    judge: str = ""
    judge_url: str = ""
    key_env: str = "OPENAI_API_KEY"
    concurrency: int = 8
    loss: str = "bonbon"
    alpha: float = 0.005
    margin: float = 0.0
    beta: float = 0.1
    epochs: float = 1.0
    steps: int = -1
    batch: int = 8
    accumulate: int = 1
    learning_rate: float = 5e-7
    warmup: int = 0
    decay: float = 1.0
    weight_decay: float = 0.0
    beta2: float = 0.999
    lora: int = 0
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    lora_targets: str = ALL_LINEAR
    gradient_checkpointing: bool = False
    bf16: bool = False
    snapshots: str = ""
    save_every: int = 200
    log_every: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("speed", SPEEDS), ("loss", LOSSES)):
            if getattr(self, name) not in known:
                raise ValueError(f"Unknown --{name} {getattr(self, name)!r}; choose one of {', '.join(known)}.")
        at_least_one(self, "rounds", "max_tokens", "lanes", "concurrency")
        require(self, ("samples",), lambda n: n >= 2, "must be at least 2, the best and the worst of a pair")
        above_zero(self, "temperature", "beta")
        require(self, ("quality_weight",), lambda weight: weight >= 0, "must be at least 0, perhaps inf")
        not_negative(self, "margin", "limit")
        shares(self, "alpha")
        if self.judge_url and not self.judge:
            raise ValueError("There is a --judge-url but no judge: name the model with --judge.")
        self.snapshot_shares()
        self.training(self.out, self.model)  # checks the settings that both stages have

    def training(self, out: str, model: str) -> SftConfig:
        """The part that stage 1 has too, for a run that starts from ``model`` and writes to ``out``. Rows mean
        pairs."""
        shared = {field.name for field in fields(SftConfig)} & {field.name for field in fields(self)}
        return SftConfig(**{name: getattr(self, name) for name in shared} | {"out": out, "model": model})

    def snapshot_shares(self) -> tuple[float, ...]:
        """The shares of a round after which the model is kept, ascending. Raises ``ValueError`` for others than (0,
        1]."""
        try:
            shares = sorted({float(share) for share in self.snapshots.split(",") if share.strip()})
        except ValueError:
            raise ValueError(f"--snapshots are shares of a round such as 0.1,0.5, not {self.snapshots!r}.") from None
        if not all(0 < share <= 1 for share in shares):
            raise ValueError(f"--snapshots are shares above 0 and at most 1, not {self.snapshots!r}.")
        return tuple(shares)
