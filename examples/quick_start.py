"""Answer one prompt in parallel, and the same prompt sequentially: `python examples/quick_start.py`."""

from pastalm import Engine

PROMPT = "Spell these words backwards: river, stone, cloud, bread, paper."


def main() -> None:
    """Print the answer, its marks, and how many decode steps the parallel one saves."""
    engine = Engine.from_pretrained("bundled")  # or a directory, or a hub id
    answer = engine.generate(PROMPT)
    baseline = engine.generate(PROMPT, mode="sequential")
    print(answer.text)
    print()
    print(answer.annotated)
    print()
    print(f"{answer.metrics.tokens} tokens in {answer.metrics.critical_path} steps, by {len(answer.threads)} threads")
    print(f"sequential: {baseline.metrics.tokens} tokens in {baseline.metrics.critical_path} steps")
    print(f"theoretical speedup: {baseline.metrics.tokens / answer.metrics.critical_path:.2f}")


if __name__ == "__main__":
    main()
