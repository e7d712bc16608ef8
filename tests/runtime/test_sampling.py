"""Choosing tokens: greedy, nucleus, grammar; every thread draws for itself."""

from __future__ import annotations

from math import inf, nan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pastalm.lang.recogniser import Legal
from pastalm.runtime.sampling import LegalMasks, Sampler, SamplingOptions
from pastalm.runtime.thread import Path

ANY = Legal(("any",), ())
WEIGHTS = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625])


def sampler(temperature: float = 1.0, top_p: float = 1.0, seed: int = 0, size: int = 5) -> Sampler:
    return Sampler(SamplingOptions(temperature, top_p, seed), LegalMasks(size, torch.device("cpu")))


def draws(sampler: Sampler, path: Path = (), count: int = 40, legal: Legal = ANY) -> list[int]:
    return [sampler(WEIGHTS.log()[None], [legal], [path])[0] for _ in range(count)]


def test_greedy_takes_the_likeliest_legal_token() -> None:
    legal = [ANY, Legal(("not 0",), (0,)), Legal(("only",), (3, 2), only=True)]
    assert sampler(0.0)(WEIGHTS.log().repeat(3, 1), legal, [(), (0,), (1,)]) == [0, 1, 2]


@given(
    st.lists(st.floats(-20, 20, width=32), min_size=6, max_size=6),
    st.sets(st.integers(0, 5), min_size=1),
    st.booleans(),
    st.sampled_from([0.0, 1e-46, 1e-40, 1.0, 1e30, 3.5e38]),
    st.sampled_from([1.0, 0.5]),
)
def test_never_draws_an_illegal_token(
    logits: list[float], ids: set[int], only: bool, temperature: float, top_p: float
) -> None:
    ids = ids if only or len(ids) < 6 else {0}
    legal = Legal(("some",), tuple(ids), only)
    one = sampler(temperature, top_p, size=6)
    for _ in range(3):
        assert (one(torch.tensor([logits]), [legal], [()])[0] in ids) == only


def test_masks_take_ids_beyond_the_models_head() -> None:
    assert LegalMasks(3, torch.device("cpu")).illegal(Legal(("x",), (1, 7))).tolist() == [False, True, False]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8, unique=True), st.sampled_from([0.1, 0.33, 0.5, 0.71, 0.97]))
def test_top_p_keeps_the_smallest_set_that_suffices(weights: list[int], top_p: float) -> None:
    probabilities = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    kept: set[int] = set()
    while sum(weights[i] for i in kept) < top_p * sum(weights):
        kept.add(max(set(range(len(weights))) - kept, key=weights.__getitem__))
    nucleus = sampler(top_p=top_p)._nucleus(probabilities[None])[0]
    assert set(nucleus.nonzero().flatten().tolist()) == kept
    assert all(nucleus[i] == probabilities[i] for i in kept)


def test_draws_follow_the_probabilities() -> None:
    sampled = draws(sampler(), count=2000)
    for token, weight in enumerate(WEIGHTS.tolist()):  # within four standard deviations
        assert abs(sampled.count(token) / 2000 - weight) < 4 * (weight * (1 - weight) / 2000) ** 0.5


def test_temperature_sharpens() -> None:
    # At T = 1/2 the weights are squared: 0.25 / (0.25 + 0.0625 + 0.015625 + 2 * 0.00390625) = 0.744
    assert abs(draws(sampler(0.5), count=2000).count(0) / 2000 - 0.744) < 4 * (0.744 * 0.256 / 2000) ** 0.5


def test_a_threads_draws_do_not_depend_on_its_company() -> None:
    alone, together = sampler(), sampler()
    paths: list[Path] = [(), (0,), (1, 0)]
    rows = [together(WEIGHTS.log().repeat(3, 1), [ANY] * 3, paths) for _ in range(40)]
    for column in (2, 0, 1):
        assert [row[column] for row in rows] == draws(alone, paths[column])


def test_threads_and_seeds_draw_differently_and_repeatably() -> None:
    sequences = [draws(sampler(seed=seed), path) for seed in (0, 1) for path in [(), (0,), (1,), (0, 1)]]
    assert len(set(map(tuple, sequences))) == 8
    assert draws(sampler(seed=1), (0,)) == sequences[5]


def test_the_smallest_share_keeps_one_token() -> None:
    assert draws(sampler(top_p=1e-46), legal=Legal(("not 0",), (0,))) == [1] * 40


@pytest.mark.parametrize("temperature", [-1.0, nan, inf])
def test_refuses_other_temperatures(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be"):
        SamplingOptions(temperature=temperature)


@pytest.mark.parametrize("top_p", [0.0, -0.1, 1.1, nan])
def test_refuses_other_shares(top_p: float) -> None:
    with pytest.raises(ValueError, match="top_p is a share above 0"):
        SamplingOptions(top_p=top_p)
