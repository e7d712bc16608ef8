"""Teach the marks to a model of your own: `pip install '.[train]'`, then `python examples/train_your_own.py`.

The model is tiny and random and the training short, so that it runs in a minute: it shows the path, and its answer is
noise. Put a real model and real answers in their places.
"""

from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import LlamaConfig, LlamaForCausalLM

from pastalm import Engine, load
from pastalm.tasks import tasks, to_json
from pastalm.training.config import SftConfig
from pastalm.training.sft import train_sft


def write_base(place: Path) -> None:
    """A base model: any causal language model of transformers with its tokenizer."""
    _, tokenizer = load("bundled")
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "pad_token_id": tokenizer.pad_token_id}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **size, **ends)).save_pretrained(place)
    tokenizer.save_pretrained(place)


def write_data(place: Path) -> None:
    """Answers with marks, one JSON object a line: `prompt` or `messages`, and `annotated`."""
    drawn = islice(tasks("train", seed=0), 40)
    place.write_text("".join(f"{to_json(task)}\n" for task in drawn), encoding="utf-8")


def main() -> None:
    """Train for ten steps, then answer with the trained model in both modes."""
    with TemporaryDirectory() as folder:
        here = Path(folder)
        write_base(here / "base")
        write_data(here / "data.jsonl")
        config = SftConfig(
            model=str(here / "base"),
            data=str(here / "data.jsonl"),
            out=str(here / "tuned"),
            steps=10,
            row=1024,
            batch_size=2,
            learning_rate=1e-3,
            prompt_loss=True,
        )
        engine = Engine.from_pretrained(str(train_sft(config)))
        for mode in ("async", "sequential"):
            answer = engine.generate("Describe Oslo, Lima and Kyoto.", max_tokens=40, mode=mode)
            print(f"{mode}: {answer.metrics.tokens} tokens in {answer.metrics.critical_path} steps")


if __name__ == "__main__":
    main()
