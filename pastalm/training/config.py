"""The settings of both training stages; importing them imports no torch.

A setting is one line: its name, which is its flag, its type, its default and its help.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from math import inf
from os.path import expanduser
from typing import Any, ClassVar

from pastalm.lang.positions import CONTIGUOUS, DEFAULT, POLICIES, position_policy

ALL_LINEAR = "all-linear"
DTYPES = ("auto", "float32", "bfloat16")
SEEDS = 2**32  # numpy takes no larger ones
SPEED_TERMS = ("speedup", "parallelism", "harmonic", "arithmetic", "bounded")
QUALITIES = ("checker", "judge", "verdicts", "redundancy", "repetition", "coverage", "likelihood")
LOSSES = ("bonbon", "ipo", "dpo")
VIEWS = ("own", "server")
FLAGS = {"quality_weight": "--lambda"}  # of the settings that are not called like their flag


def required(help: str) -> Any:
    """A setting that must be given."""
    return field(metadata={"help": help})


def setting(default: Any, help: str, *, free: bool = False) -> Any:
    """A setting with a default. A ``free`` one may differ from one start of a run to the next: it changes how the work
    is done, not what comes out."""
    return field(default=default, metadata={"help": help, "free": free})


def helps(config: type) -> dict[str, str]:
    """The help of each setting, by name."""
    return {one.name: one.metadata["help"] for one in fields(config)}


def rate_setting(rates: tuple[float, float]) -> Any:
    """The learning rate, whose default is the first of ``rates``, or the second with low-rank adapters."""
    return setting(None, f"The highest learning rate. Default: {rates[0]:g}, with --lora {rates[1]:g}.")


def fixed(config: Any) -> list[str]:
    """The names of the settings that must stay the same when a run goes on; ``out`` is where it goes on."""
    return [one.name for one in fields(config) if one.name != "out" and not one.metadata.get("free")]


def flag(name: str) -> str:
    """A setting as it is typed on the command line."""
    return FLAGS.get(name, "--" + name.replace("_", "-"))


@dataclass(frozen=True)
class TrainingConfig:
    """What both stages need.

    A step of the optimiser takes ``batch_size`` rows, or pairs in stage 2, on each device, ``accumulate`` times. The
    learning rate warms up over ``warmup`` steps, stays, and falls to zero over the last ``decay`` share of the steps;
    None takes the first of ``RATES``, or the second where ``lora`` is the rank of adapters. ``dtype`` is what the model
    computes in; weights that are trained are float32 in any case. Paths may begin with ``~``.

    Raises ``ValueError``, with the flag, for a value that cannot be used.
    """

    STAGE: ClassVar[str]
    RATES: ClassVar[tuple[float, float]] = (1e-5, 3e-4)  # of all weights, of low-rank adapters

    model: str = required(
        "The model to start from: a directory, a GGUF file, a hub id, or a short name such as bundled."
    )
    data: str = required("")
    out: str = required("")
    epochs: float = setting(4.0, "Passes over the data, if --steps is not given.")
    steps: int = setting(-1, "Steps of the optimizer; -1 goes by --epochs.")
    batch_size: int = setting(8, "Rows of one device in a batch; pairs of answers in stage 2.")
    accumulate: int = setting(1, "Batches whose gradients make one step.")
    learning_rate: float = rate_setting(RATES)
    warmup: int = setting(0, "Steps over which the learning rate rises.")
    decay: float = setting(1.0, "Share of the steps, the last ones, over which the learning rate falls to zero.")
    weight_decay: float = setting(0.0, "Weight decay.")
    beta2: float = setting(0.999, "The decay of AdamW's second moment.")
    lora: int = setting(
        0, "Rank of low-rank adapters; 0 trains all weights. The marks' rows are trained in either case."
    )
    lora_alpha: float = setting(32.0, "Adapters count alpha / rank times.")
    lora_dropout: float = setting(0.0, "Share of the adapters' inputs left out at random.")
    lora_targets: str = setting(
        ALL_LINEAR, f"The modules that get adapters, with commas between; {ALL_LINEAR!r}: all but the head."
    )
    gradient_checkpointing: bool = setting(
        False, "Compute layers again in the backward pass: less memory, more time.", free=True
    )
    dtype: str = setting("auto", f"The number type: {', '.join(DTYPES)}; auto is bfloat16 where the hardware has it.")
    trust_remote_code: bool = setting(
        False, "Run the Python code that a checkpoint brings along; read that code before you allow it.", free=True
    )
    compile: bool = setting(
        False, "Compile the model, in stage 2 also to draw answers: minutes at first, then faster steps.", free=True
    )
    save_every: int = setting(200, "Steps between checkpoints.", free=True)
    log_every: int = setting(
        20, "Steps between lines of the log, at least ten a run; TensorBoard reads OUT/runs.", free=True
    )
    seed: int = setting(0, "The seed of order, initialisation and sampling: the same one gives the same result.")

    def __post_init__(self) -> None:
        for name in ("model", "data", "out"):
            self._set(name, expanduser(getattr(self, name)))
        if self.learning_rate is None:
            self._set("learning_rate", self.RATES[bool(self.lora)])
        shares(self, "decay")
        require(self, ("beta2", "lora_dropout"), lambda share: 0 <= share < 1, "is a share of at least 0 and below 1")
        at_least_one(self, "batch_size", "accumulate", "save_every", "log_every")
        above_zero(self, "learning_rate", "lora_alpha")
        not_negative(self, "warmup", "weight_decay")
        require(self, ("steps",), lambda steps: steps == -1 or steps >= 1, "is -1, to go by --epochs, or at least 1")
        if self.steps == -1:
            above_zero(self, "epochs")
        require(self, ("lora",), lambda rank: rank >= 0, "is a rank, 0 (trains all weights) or more")
        require(self, ("seed",), lambda seed: 0 <= seed < SEEDS, f"must be at least 0 and below {SEEDS}")
        one_of(self, dtype=DTYPES)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


@dataclass(frozen=True)
class SftConfig(TrainingConfig):
    """What a stage-1 run needs. ``plain`` is the share of answers that lose their tags: 1.0 trains Baseline-SFT.

    ``positions`` is a policy of :mod:`pastalm.lang.positions`; empty takes the model's own, else the default.
    ``views`` "server" lays each answer out as :mod:`pastalm.views` does, with contiguous positions. ``row`` is the
    length of a packed row in tokens; without ``pack`` a row holds one example. ``prompt_loss`` trains on prompts
    too, for models from random weights. ``eval_data`` is held-out data whose loss is measured after every
    ``save_every`` steps and at the end.
    """

    STAGE: ClassVar[str] = "sft"

    data: str = required("Annotated JSONL, which `pasta check` validates; or pasta-instruct, which comes along.")
    out: str = required(
        "Where to write: a folder for checkpoints and the finished model; an interrupted run goes on there."
    )
    eval_data: str = setting("", "Held-out annotated JSONL, whose loss is measured with every checkpoint.", free=True)
    positions: str = setting(
        "", f"The position policy: {', '.join(POLICIES)}. Default: the model's own, else {DEFAULT}."
    )
    views: str = setting(
        "own", "What tokens learn to see: own, as this runtime shows it; server, as a plain completion server does."
    )
    plain: float = setting(0.0, "Share of answers that lose their marks; 1 trains Baseline-SFT.")
    tag_learning_rate: float | None = setting(
        None,
        "The highest learning rate of the marks' rows. Default: 1% of the standard deviation of the other rows, or "
        "--learning-rate if that is more or the model knows the marks.",
    )
    row: int = setting(2048, "Tokens of a packed row; longer examples are left out.")
    pack: bool = setting(True, "Several examples in a row, blind to each other; without, one a row.")
    prompt_loss: bool = setting(False, "Train on prompts too; models from random weights need it.")
    resume: bool = setting(True, "Go on from the last checkpoint in --out, if there is one.", free=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("eval_data", expanduser(self.eval_data))
        if self.positions:
            try:
                position_policy(self.positions)
            except ValueError as error:
                raise ValueError(f"--positions: {error}") from error
        one_of(self, views=VIEWS)
        if self.views == "server" and self.positions not in ("", CONTIGUOUS):
            raise ValueError(f"--views server goes with --positions contiguous, not with {self.positions}.")
        if self.views == "server":
            self._set("positions", CONTIGUOUS)
        shares(self, "plain")
        if self.tag_learning_rate is not None:
            above_zero(self, "tag_learning_rate")
        at_least_one(self, "row")


@dataclass(frozen=True)
class PreferConfig(TrainingConfig):
    """What a stage-2 run needs.

    Sampling: ``samples`` answers to each prompt of ``data``, a file or ``tasks:SPLIT:NUMBER:SEED``, at ``temperature``,
    ``max_batch`` at once, of at most ``max_tokens``; ``remote`` are the base URLs of completion servers that run
    ``model`` and draw them, and the model then learns on the servers' views of each answer. ``baseline`` is the model
    whose sequential greedy answers speed and quality are measured against; empty takes ``model``.

    Scoring: speed + ``quality_weight`` * quality. ``speed_term`` is one of ``SPEED_TERMS``. ``quality`` names factors
    with commas between (:mod:`pastalm.training.score`): the data's checker, the model ``judge_model`` at ``judge_url``,
    verdicts that lie under that name in the run's ``judge.jsonl``, and terms that need no judge.

    Training: ``alpha`` is BoNBoN's weight of the chosen answer's likelihood, ``margin`` its margin in nats, 0 for the
    one that belongs to ``samples``; ``beta`` is DPO's beta and IPO's tau. ``snapshots`` are shares of a round after
    which the model is kept, with commas between.
    """

    STAGE: ClassVar[str] = "prefer"
    RATES: ClassVar[tuple[float, float]] = (5e-7, 1e-5)

    model: str = required("The model that stage 1 made: a directory, a hub id, or a short name such as bundled.")
    data: str = required("Prompts as JSONL, or tasks:SPLIT:NUMBER:SEED; for a judge any with 'prompt' or 'messages'.")
    out: str = required(
        "Where to write: a folder for samples, scores, pairs and models; OUT/model is the last round's. An interrupted "
        "run goes on there."
    )
    epochs: float = setting(1.0, "Passes over the pairs of a round, if --steps is not given.")
    steps: int = setting(-1, "Steps of the optimizer in a round; -1 goes by --epochs.")
    learning_rate: float = rate_setting(RATES)
    baseline: str = setting(
        "", "The model whose sequential answers speed and quality are measured against, Baseline-SFT. Default: --model."
    )
    reuse_samples: str = setting(
        "", "Another run's folder, whose samples of round 1 are taken over, and what was found of them.", free=True
    )
    remote: list[str] | None = setting(  # noqa: RUF009 -- the default is None
        None, "A completion server (.../v1) that runs --model and draws its answers; may be given several times."
    )
    rounds: int = setting(2, "How often; the second round samples from the first's model.", free=True)
    samples: int = setting(10, "Answers a prompt.")
    limit: int | None = setting(None, "Take the first N prompts only.")
    temperature: float = setting(1.0, "The sampling temperature of answers.")
    max_tokens: int = setting(1024, "The most tokens of an answer, all threads together.")
    max_batch: int = setting(32, "The most answers decoded at once.", free=True)
    quality_weight: float = setting(4.0, "Lambda in score = speed + lambda * quality; 'inf' goes by quality alone.")
    speed_term: str = setting("speedup", f"What speed is in the score: {', '.join(SPEED_TERMS)}.")
    quality: str = setting(
        "",
        f"What quality is, the product of some of {', '.join(QUALITIES)}, with commas between. Default: judge if "
        "--judge-model is given, else checker.",
    )
    judge_model: str = setting(
        "", "The model that judges quality, as its endpoint names it. Default: the tasks' checker."
    )
    judge_url: str = setting("", "The judge's OpenAI-compatible endpoint. Default: OpenAI's own.", free=True)
    judge_key_env: str = setting("OPENAI_API_KEY", "The environment variable that holds the judge's key.", free=True)
    judge_concurrency: int = setting(8, "Requests to the judge that are in flight at once.", free=True)
    loss: str = setting("bonbon", f"The loss: {', '.join(LOSSES)}.")
    alpha: float = setting(0.005, "BoNBoN's weight of the chosen answer's likelihood.")
    margin: float = setting(0.0, "BoNBoN's margin in nats; 0 takes the one that belongs to --samples.")
    beta: float = setting(0.1, "DPO's beta, IPO's tau.")
    snapshots: str = setting("", "Shares of a round after which the model is kept, such as 0.1,0.5.", free=True)

    @property
    def loading(self) -> dict[str, Any]:
        """How a model is loaded that draws answers, as options of ``Engine.from_pretrained``."""
        return {"trust_remote_code": self.trust_remote_code, "compile": self.compile}

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("baseline", "reuse_samples"):
            self._set(name, expanduser(getattr(self, name)))
        one_of(self, speed_term=SPEED_TERMS, loss=LOSSES)
        at_least_one(self, "rounds", "max_tokens", "max_batch", "judge_concurrency")
        require(self, ("limit",), lambda n: n is None or n >= 1, "must be at least 1")
        require(self, ("samples",), lambda n: n >= 2, "must be at least 2, the best and the worst of a pair")
        above_zero(self, "temperature", "beta")
        require(self, ("quality_weight",), lambda weight: weight >= 0, "must be at least 0, perhaps inf")
        not_negative(self, "margin")
        shares(self, "alpha")
        self.qualities()
        if self.remote and self.rounds != 1:
            raise ValueError(
                "A server behind --remote runs one model, so it draws one round: give --rounds 1, and serve the model "
                "that comes out for the next, in another --out."
            )
        if self.judge_url and not self.judge_model:
            raise ValueError("There is a --judge-url but no judge: name the model with --judge-model.")
        if self.judge_url and not self.judge_url.startswith(("http://", "https://")):
            raise ValueError(
                f"--judge-url {self.judge_url} must begin with http:// or https://; verdicts by file come with "
                "--quality verdicts and no URL."
            )
        self.snapshot_shares()

    def qualities(self) -> tuple[str, ...]:
        """The factors of quality. Raises ``ValueError`` for unknown ones, for one that is named twice, and for a judge
        without a name."""
        default = "judge" if self.judge_model else "checker"
        found = tuple(name.strip() for name in (self.quality or default).split(",") if name.strip())
        unknown = [name for name in found if name not in QUALITIES]
        if unknown or not found:
            raise ValueError(f"Unknown --quality {self.quality!r}; choose some of {', '.join(QUALITIES)}.")
        judging = {"judge", "verdicts"} & set(found)
        if len(set(found)) < len(found) or len(judging) > 1:
            raise ValueError(
                f"--quality {self.quality!r} names a factor twice (judge and verdicts are one): name each once."
            )
        if bool(judging) != bool(self.judge_model):
            raise ValueError(
                "--quality judge or verdicts and --judge-model NAME, whose verdicts count, need each other."
            )
        return found

    def snapshot_shares(self) -> tuple[float, ...]:
        """The shares of a round after which the model is kept, ascending. Raises ``ValueError`` for others than (0,
        1]."""
        try:
            found = sorted({float(share) for share in self.snapshots.split(",") if share.strip()})
        except ValueError:
            raise ValueError(f"--snapshots are shares of a round such as 0.1,0.5, not {self.snapshots!r}.") from None
        if not all(0 < share <= 1 for share in found):
            raise ValueError(f"--snapshots are shares above 0 and at most 1, not {self.snapshots!r}.")
        return tuple(found)


def require(config: object, names: Iterable[str], holds: Callable[[Any], bool], what: str) -> None:
    """Raise ``ValueError`` for the first of some settings for which ``holds`` is not true; ``what`` says how they must
    be."""
    for name in names:
        value = getattr(config, name)
        if not holds(value):
            raise ValueError(f"{flag(name)} {what}, not {value}.")


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


def one_of(config: object, **choices: tuple[str, ...]) -> None:
    """Raise ``ValueError`` for the first of some settings that is none of its choices."""
    for name, known in choices.items():
        if getattr(config, name) not in known:
            raise ValueError(f"Unknown {flag(name)} {getattr(config, name)!r}; choose one of {', '.join(known)}.")
