"""The training of the assistant from its base and the data set that comes with the package, stage by stage.

    python -m bench.assistant --out runs/assistant

Stages: list marks go out of the chunks (``data``); Pasta-SFT (``sft``); Baseline-SFT, the same on plain answers
(``baseline``); stage 2 with a quality that needs no judge (``prefer``). What is done is skipped, a killed stage goes on
where it was. The adapter that ships went through the same stages, the second on fewer prompts: see its card.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from pastalm.files.atomic import write_text
from pastalm.files.rows import objects
from pastalm.training.config import PreferConfig, SftConfig
from pastalm.training.prefer import train_prefer
from pastalm.training.sft import train_sft

BASE = "smollm2"
SETS = ("assistant", "instruct")
ADAPTER = {"lora": 32, "lora_alpha": 32.0, "dtype": "auto"}
QUALITY = "redundancy,repetition,coverage,likelihood"  # what needs no judge
_MARK = re.compile(r"(<async topic=(?:'[^']*'|\"[^\"]*\")>)(\d+\.|[-*•])(?=[ \t])")


def marks_outside(annotated: str) -> str:
    """The answer with the marks of list items before their chunks, where the thread that sees the whole list counts
    them; the space stays in the chunk."""
    return _MARK.sub(r"\2\1", annotated)


def lines(name: str, split: str) -> Iterator[str]:
    """The records of a part of the data set, as JSON."""
    for _, fields in objects(f"pasta-instruct/{name}", split):
        yield json.dumps(fields | {"annotated": marks_outside(fields["annotated"])}, ensure_ascii=False)


def stages(out: Path, options: argparse.Namespace) -> tuple[SftConfig, SftConfig, PreferConfig]:
    """The settings of Pasta-SFT, Baseline-SFT and stage 2."""
    train, held = (str(out / f"assistant.{split}.jsonl") for split in ("train", "test"))

    def sft(name: str, plain: float) -> SftConfig:
        return SftConfig(
            options.base, train, str(out / name), eval_data=held, plain=plain, row=640, batch_size=4,
            epochs=options.epochs, learning_rate=5e-4, warmup=10, save_every=50, **ADAPTER,
        )  # fmt: skip

    prefer = PreferConfig(
        str(out / "sft"), str(out / "prompts.jsonl"), str(out / "prefer"), baseline=str(out / "baseline"), rounds=1,
        samples=options.samples, limit=options.prompts, temperature=0.8, max_tokens=400, quality_weight=8.0,
        speed_term="bounded", quality=QUALITY, epochs=2, batch_size=4, learning_rate=1e-4, warmup=5, **ADAPTER,
    )  # fmt: skip
    return sft("sft", 0.15), sft("baseline", 1.0), prefer


def make_data(out: Path, most: int | None = None) -> None:
    """Write the records to train on, at most so many, those held out, and the prompts of stage 2, a third of them the
    wider set's."""
    out.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        write_text(
            out / f"assistant.{split}.jsonl", "".join(f"{line}\n" for line in islice(lines("assistant", split), most))
        )
    simple, wide = (list(lines(name, "train")) for name in SETS)
    mixed = [line for k, other in enumerate(wide) for line in (*simple[2 * k : 2 * k + 2], other)]
    write_text(out / "prompts.jsonl", "".join(f"{line}\n" for line in mixed))


def main() -> None:
    """Run the stages that are not done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/assistant"))
    parser.add_argument("--base", default=BASE, help="a folder, a GGUF file or a name")
    parser.add_argument("--records", type=int, help="of stage 1; all by default")
    parser.add_argument("--epochs", type=float, default=2.0, help="of stage 1")
    parser.add_argument("--prompts", type=int, default=300, help="of stage 2")
    parser.add_argument("--samples", type=int, default=10, help="a prompt of stage 2")
    options = parser.parse_args()
    make_data(options.out, options.records)
    pasta, baseline, prefer = stages(options.out, options)
    train_sft(pasta)
    train_sft(baseline)
    train_prefer(prefer)


if __name__ == "__main__":
    main()
