"""The flags that several commands share, each with one type, one metavar and one meaning; and how a path is read."""

from __future__ import annotations

from os.path import expanduser
from pathlib import Path
from typing import Annotated, Any

import typer

from pastalm.lang.positions import POLICIES
from pastalm.runtime.mode import Mode

BUNDLED = "bundled"
STDOUT = Path("-")


def expanded(text: str | Path) -> str:
    """A path, or a name that may be one, with ``~`` and ``~user`` expanded: a shell leaves them after ``--flag=``."""
    return expanduser(text)


def as_path(text: str | Path) -> Path:
    """A path with ``~`` and ``~user`` expanded."""
    return Path(expanded(text))


def place_option(help: str, metavar: str = "PATH", *names: str, **more: Any) -> Any:
    """An option that takes a path."""
    return typer.Option(*names, parser=as_path, metavar=metavar, help=help, **more)


def place_argument(help: str, metavar: str, **more: Any) -> Any:
    """An argument that takes a path."""
    return typer.Argument(parser=as_path, metavar=metavar, help=help, **more)


def name_option(help: str | None, metavar: str) -> Any:
    """An option that takes a path or a name that is none, such as a hub id."""
    return typer.Option(parser=expanded, metavar=metavar, help=help)


def name_argument(help: str, metavar: str) -> Any:
    """An argument that takes a path or a name that is none, such as a hub id."""
    return typer.Argument(parser=expanded, metavar=metavar, help=help)


# Models and tokenizers
Model = Annotated[
    str,
    name_option(
        "The model: a directory, a GGUF file, a hub id, or a short name such as bundled or assistant.", "MODEL"
    ),
]
Baseline = Annotated[
    str, name_option("The model whose sequential answers speed is measured against. Default: --model.", "MODEL")
]
Tokenizer = Annotated[
    str | None, name_option("The tokenizer that counts: a directory, a hub id, or 'bundled'.", "MODEL")
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="The device: auto, cpu, cuda or cuda:N.")]
DType = Annotated[str, typer.Option(metavar="DTYPE", help="The number type: auto, float32, bfloat16 or float16.")]
Remote = Annotated[
    list[str] | None,
    typer.Option(
        metavar="URL",
        help="A completion server (.../v1) that runs the model; may be given several times.",
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run the Python code that a checkpoint brings along; read that code before you allow it.",
    ),
]
Compile = Annotated[
    bool,
    typer.Option("--compile", help="Compile the model's step: minutes the first time, seconds later; faster steps."),
]
Quantize = Annotated[
    str | None,
    typer.Option(metavar="int8", help="Round the model's weights to int8: faster steps of few threads, on a CPU."),
]
Name = Annotated[
    str, typer.Option(metavar="NAME", help="What to call the model. Default: a folder's name, else all of --model.")
]

# How an answer is decoded. The engine checks these values, so that each has one error, which `as_typed` words.
DecodingMode = Annotated[
    Mode, typer.Option("--mode", help="async decodes chunks in parallel, sequential one token after the other.")
]
MaxTokens = Annotated[int, typer.Option(min=1, help="The most tokens of an answer, all threads together.")]
MaxAsyncTokens = Annotated[int | None, typer.Option(help="The most tokens of one chunk.")]
MaxThreads = Annotated[
    int | None,
    typer.Option(help="The most threads of an answer in one step; more wait. Changes only the time."),
]
MaxBatch = Annotated[int, typer.Option(min=1, help="The most requests decoded at once; more wait in line.")]
MaxModelLen = Annotated[
    int, typer.Option(min=2, help="Cache slots of one request: its prompt and all threads of its answer.")
]
Temperature = Annotated[float, typer.Option(help="The sampling temperature; 0 takes the likeliest token.")]
AnswerTemperature = Annotated[
    float | None,
    typer.Option(
        "--temperature", help="The sampling temperature; 0 takes the likeliest token. Default: the model's own, else 0."
    ),
]
TopP = Annotated[
    float | None, typer.Option(help="Sample from the likeliest tokens of this share. Default: the model's own.")
]
Seed = Annotated[int, typer.Option(help="The seed: the same one gives the same result.")]
PromiseBias = Annotated[
    float,
    typer.Option(help="Nats from -3 to 3 on starting a chunk: above 0 the model starts more, below 0 fewer."),
]
_POLICY = f"The position policy: {', '.join(POLICIES)}."
Positions = Annotated[str | None, typer.Option(metavar="POLICY", help=f"{_POLICY} Default: the model's own.")]
PositionsWithoutModel = Annotated[str, typer.Option("--positions", metavar="POLICY", help=_POLICY)]
MaxDepth = Annotated[int, typer.Option(min=1, help="How deep chunks may nest; 1 is flat.")]

# What is read and written
Limit = Annotated[int | None, typer.Option(min=1, help="Take the first N only.", metavar="N")]
Split = Annotated[str, typer.Option(metavar="SPLIT", help="The split of the data set.")]
Out = Annotated[Path, place_option("Where to write: a folder; an interrupted run goes on there.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]

# A model behind an OpenAI-compatible endpoint that compares answers
JudgeUrl = Annotated[
    str,
    typer.Option(
        metavar="URL",
        help="The judge's OpenAI-compatible endpoint, or 'file' for `pasta judge`. Default: OpenAI's own.",
    ),
]
JudgeModel = Annotated[str, typer.Option(metavar="NAME", help="The model that judges, as its endpoint names it.")]
JudgeKeyEnv = Annotated[
    str, typer.Option(metavar="VARIABLE", help="The environment variable that holds the judge's key.")
]
JudgeConcurrency = Annotated[int, typer.Option(min=1, help="Requests to the judge that are in flight at once.")]

# The options by their parameters' names, for commands that are made of a config's fields.
SHARED = {
    "model": Model,
    "baseline": Baseline,
    "device": Device,
    "dtype": Annotated[str, typer.Option(metavar="DTYPE")],  # what a model is trained in
    "trust_remote_code": TrustRemoteCode,
    "remote": Remote,
    "max_tokens": MaxTokens,
    "max_batch": MaxBatch,
    "temperature": Temperature,
    "seed": Seed,
    "positions": Positions,
    "limit": Limit,
    "out": Out,
    "data": Annotated[str, name_option(None, "DATA")],
    "eval_data": Annotated[str, name_option(None, "DATA")],
    "views": Annotated[str, typer.Option(metavar="VIEW")],
    "lora_targets": Annotated[str, typer.Option(metavar="MODULE,..")],
    "speed_term": Annotated[str, typer.Option(metavar="TERM")],
    "quality": Annotated[str, typer.Option(metavar="FACTOR,..")],
    "loss": Annotated[str, typer.Option(metavar="LOSS")],
    "snapshots": Annotated[str, typer.Option(metavar="SHARE,..")],
    "reuse_samples": Annotated[str, name_option(None, "PATH")],
    "judge_url": JudgeUrl,
    "judge_model": JudgeModel,
    "judge_key_env": JudgeKeyEnv,
    "judge_concurrency": JudgeConcurrency,
}
