"""No family is given away by how its prompts are worded: not by a piece of text, not by the shape of one."""

import re
from collections import Counter

import pytest

from pastalm.tasks import FAMILIES, sample

LONGEST = 6


def pieces(prompt: str) -> set[str]:
    """All pieces of a prompt, with numbers as ``0``; those of its shape, with letters as ``a``, are marked by ``~``."""
    text = re.sub("[0-9]+", "0", prompt.lower())
    shape = re.sub("[a-z]", "a", text)
    return {
        mark + whole[start : start + length]
        for mark, whole in (("", text), ("~", shape))
        for length in range(1, LONGEST + 1)
        for start in range(len(whole) - length + 1)
    }


@pytest.fixture(scope="module")
def shares() -> dict[str, tuple[int, Counter[str]]]:
    """For each family how many prompts were drawn, and in how many of them each piece stands."""
    drawn = {name: (0, Counter()) for name in FAMILIES}
    for task in sample("train", 5, 120 * len(FAMILIES)):
        count, pieces_of = drawn[task.family]
        pieces_of.update(pieces(task.prompt))
        drawn[task.family] = count + 1, pieces_of
    return drawn


@pytest.mark.parametrize("family", FAMILIES)
def test_no_piece_of_text_marks_a_family(shares, family):
    """A piece that most prompts of a family have stands in those of others too."""
    count, own = shares[family]
    total = sum(number for number, _ in shares.values())
    everywhere = Counter()
    for _, counted in shares.values():
        everywhere.update(counted)
    assert count >= 100
    telling = {
        piece: (share, rest)
        for piece, number in own.items()
        if (share := number / count) - (rest := (everywhere[piece] - number) / (total - count)) > 0.8
    }
    assert not telling
