"""Answer several prompts at once; each answer is the one it would be alone: `python examples/batch.py`."""

from pastalm import Engine

PROMPTS = [
    "Spell these words backwards: river, stone, cloud, bread, paper.",
    "Spell these words backwards: stone, paper, river.",
    "Yara keeps a camel; Omar lives in Accra; Omar keeps a cat; Eli keeps a mouse.\nWho has the mouse?",
]


def main() -> None:
    """Print each answer with the number of its chunks; the last prompt needs none."""
    engine = Engine.from_pretrained("bundled")
    for prompt, answer in zip(PROMPTS, engine.generate_batch(PROMPTS), strict=True):
        print(f"> {prompt}")
        print(answer.text.strip())
        print(
            f"({len(answer.threads) - 1} chunks, {answer.metrics.tokens} tokens, {answer.metrics.critical_path} steps)"
        )
        print()


if __name__ == "__main__":
    main()
