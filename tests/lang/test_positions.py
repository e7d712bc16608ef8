"""Position policies against the table of docs/language.md."""

from __future__ import annotations

import pytest

from pastalm.lang.positions import DEFAULT, POLICIES, position_policy


@pytest.mark.parametrize(("content", "tokens"), [(0, 1), (1, 1), (8, 1), (9, 2), (18, 2), (19, 3), (98, 10), (99, 11)])
def test_the_label_counts_tens_of_the_content_with_its_two_tags(content: int, tokens: int) -> None:
    assert position_policy("pred10").label(content) == tokens


@pytest.mark.parametrize("content", [0, 1, 9, 10])
def test_pred1_counts_ones(content: int) -> None:
    assert position_policy("pred1").label(content) == content + 2


@pytest.mark.parametrize(
    ("name", "jump"),
    [("pred10", 30), ("pred1", 3), ("const40", 40), ("const80", 80), ("oracle", 27), ("contiguous", 0)],
)
def test_jumps_over_a_block_of_25_tokens_promised_as_3(name: str, jump: int) -> None:
    assert position_policy(name).jump(3, 25) == jump


def test_only_the_oracle_needs_the_truth_and_pred10_is_the_default() -> None:
    assert [name for name, policy in POLICIES.items() if policy.needs_length] == ["oracle"]
    assert DEFAULT == "pred10"


def test_an_unknown_policy_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'pred11'; choose one of pred10, pred1, const40, oracle, contiguous, const80"):
        position_policy("pred11")
