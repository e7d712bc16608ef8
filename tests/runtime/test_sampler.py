"""Choosing tokens: greedy, nucleus, grammar; a draw is a matter of the seed, the path and the token's number alone."""

from __future__ import annotations

from math import inf, nan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pastalm.lang.recogniser import Legal
from pastalm.runtime import sampler as module
from pastalm.runtime.sampler import Draw, LegalMasks, Sampler, SamplingParams, nucleus, uniform
from pastalm.runtime.thread import Path
from tests.runtime.drawing import CPU, sample

ANY = Legal(("any",), ())
WEIGHTS = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625])


def params(temperature: float = 1.0, top_p: float = 1.0, seed: int = 0) -> SamplingParams:
    return SamplingParams(temperature, top_p, seed)


def draws(how: SamplingParams, path: Path = (), count: int = 40, legal: Legal = ANY) -> list[int]:
    rows = [Draw(how, legal, path, number) for number in range(count)]
    return sample(WEIGHTS.log().repeat(count, 1), rows)


def test_greedy_takes_the_likeliest_legal_token() -> None:
    legal = [ANY, Legal(("not 0",), (0,)), Legal(("only",), (3, 2), only=True)]
    assert sample(WEIGHTS.log().repeat(3, 1), [Draw(params(0.0), one) for one in legal]) == [0, 1, 2]


def test_another_set_is_legal_where_the_best_token_is_not() -> None:
    goes_on = Legal(("not 0 or 1",), (0, 1))
    plain = Legal(("not 0",), (0,), instead=goes_on)
    best_is_0, best_is_1 = WEIGHTS.log(), WEIGHTS[[1, 0, 2, 3, 4]].log()
    logits = torch.stack([best_is_0, best_is_1, best_is_0])
    assert sample(logits, [Draw(params(0.0), one) for one in (plain, plain, Legal(("not 0",), (0,)))]) == [2, 1, 1]
    drawn = sample(best_is_0.repeat(60, 1), [Draw(params(), plain, (), number) for number in range(60)])
    assert set(drawn) == {2, 3, 4}


@given(
    st.lists(st.floats(-20, 20, width=32), min_size=6, max_size=6),
    st.sets(st.integers(0, 5), min_size=1),
    st.booleans(),
    st.sampled_from([0.0, 1e-46, 1e-40, 1.0, 1e30, 3.5e38]),
    st.sampled_from([1.0, 0.5, 1e-46]),
)
def test_never_draws_an_illegal_token(
    logits: list[float], ids: set[int], only: bool, temperature: float, top_p: float
) -> None:
    ids = ids if only or len(ids) < 6 else {0}
    legal = Legal(("some",), tuple(ids), only)
    rows = [Draw(params(temperature, top_p), legal, (), number) for number in range(3)]
    for token in sample(torch.tensor([logits] * 3), rows):
        assert (token in ids) == only


def test_masks_take_ids_beyond_the_models_head() -> None:
    masks = LegalMasks(3, CPU)
    rows = [masks.row(Legal(("x",), (1, 7))), masks.row(ANY), masks.row(Legal(("x",), (1, 7)))]
    assert rows == [0, 1, 0]
    assert masks.illegal.tolist() == [[False, True, False], [False] * 3]


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=8, unique=True),
    st.sampled_from([0.1, 0.33, 0.5, 0.71, 0.97, 1e-46]),
    st.integers(1, 8),
)
def test_top_p_keeps_the_smallest_set_that_suffices(weights: list[int], top_p: float, count: int) -> None:
    kept: set[int] = set()
    while sum(weights[i] for i in kept) < top_p * sum(weights):
        kept.add(max(set(range(len(weights))) - kept, key=weights.__getitem__))
    row, share = torch.tensor([weights], dtype=torch.float64), torch.tensor([top_p], dtype=torch.float64)
    values, ids, found = nucleus(row, share, len(weights))
    assert set(ids[0, : int(found)].tolist()) == kept
    assert values[0].tolist() == [weights[i] for i in ids[0].tolist()]
    few = nucleus(row, share, count)  # of the few likeliest: the same set, or the answer that more are needed
    assert int(few[2]) == (len(kept) if len(kept) < count or count >= len(weights) else 0)


def test_equal_weights_are_kept_in_the_order_of_their_ids() -> None:
    row, share = torch.tensor([[1.0, 2.0, 1.0, 1.0, 1.0]]), torch.tensor([0.6], dtype=torch.float64)
    _, ids, kept = nucleus(row, share, 5)
    assert (ids[0].tolist(), int(kept)) == ([1, 0, 2, 3, 4], 3)
    assert int(nucleus(row, share, 4)[2]) == 0  # the last of the four has an equal that is not there


@given(st.integers(0, 1 << 32), st.sampled_from([0.3, 0.9, 0.999]), st.sampled_from([0.5, 1.0, 8.0]))
def test_a_nucleus_beyond_the_likeliest_few_is_found_too(seed: int, top_p: float, temperature: float) -> None:
    logits = torch.randn(4, 1000, generator=torch.Generator().manual_seed(seed)) * 2
    rows = [Draw(params(temperature, top_p, seed), ANY, (row,), 0) for row in range(4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "NUCLEUS", 8)
        narrow = sample(logits, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "NUCLEUS", 1000)
        assert sample(logits, rows) == narrow


def test_draws_follow_the_probabilities() -> None:
    sampled = draws(params(), count=2000)
    for token, weight in enumerate(WEIGHTS.tolist()):  # within four standard deviations
        assert abs(sampled.count(token) / 2000 - weight) < 4 * (weight * (1 - weight) / 2000) ** 0.5


def test_draws_of_many_tokens_follow_the_probabilities() -> None:
    # 300 tokens make several blocks. Token k weighs k + 1: the mean is (sum of k (k + 1)) / (sum of k + 1).
    weights, count = torch.arange(1.0, 301.0), 4000
    tokens = sample(weights.log().repeat(count, 1), [Draw(params(), ANY, (), number) for number in range(count)])
    mean, sigma = 199.33, 70.7
    assert abs(sum(tokens) / count - mean) < 4 * sigma / count**0.5


def test_draws_of_a_nucleus_follow_its_probabilities() -> None:
    # 0.7 keeps the first two: odds 2 to 1.
    sampled = draws(params(top_p=0.7), count=2000)
    assert set(sampled) == {0, 1}
    assert abs(sampled.count(0) / 2000 - 2 / 3) < 4 * (2 / 9 / 2000) ** 0.5


def test_temperature_sharpens() -> None:
    # At T = 1/2 the weights are squared: 0.25 / (0.25 + 0.0625 + 0.015625 + 2 * 0.00390625) = 0.744
    assert abs(draws(params(0.5), count=2000).count(0) / 2000 - 0.744) < 4 * (0.744 * 0.256 / 2000) ** 0.5


MIXED = [
    params(0.0),
    params(1.0),
    params(1.0, 0.7, 5),
    params(0.3, 1.0, 9),
    params(2.0, 0.9),
    params(1e-9),
    params(1.0, 1e-9),
]


@given(st.permutations(range(len(MIXED))))
def test_a_row_s_token_does_not_depend_on_its_company(order: list[int]) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(len(MIXED), 700, generator=generator).bfloat16()
    rows = [Draw(how, Legal((row,), (row,)), (row,), 11) for row, how in enumerate(MIXED)]
    alone = [sample(logits[row : row + 1], [rows[row]])[0] for row in range(len(rows))]
    together = sample(logits[order], [rows[row] for row in order])
    assert together == [alone[row] for row in order]


def test_threads_and_seeds_draw_differently_and_repeatably() -> None:
    sequences = [draws(params(seed=seed), path) for seed in (0, 1) for path in [(), (0,), (1,), (0, 1)]]
    assert len(set(map(tuple, sequences))) == 8
    assert draws(params(seed=1), (0,)) == sequences[5]


def test_uniform_numbers_are_uniform() -> None:
    found = [uniform(7, (1, 2), number) for number in range(4000)]
    assert all(0 <= one < 1 for one in found) and len(set(found)) == 4000
    assert abs(sum(found) / 4000 - 0.5) < 4 * (1 / 12 / 4000) ** 0.5
    assert uniform(0, (1, 1), 0) != uniform(0, (11,), 0) != uniform(0, (1,), 10)


def test_the_smallest_share_keeps_one_token() -> None:
    assert draws(params(top_p=1e-46), legal=Legal(("not 0",), (0,))) == [1] * 40


def test_logits_stay_as_they_are() -> None:
    logits = torch.randn(2, 100)
    kept = logits.clone()
    rows = [Draw(SamplingParams(0.5, 0.9, 1, 2.0), Legal(("text",), (3,), promise=5), (row,)) for row in range(2)]
    sample(logits, rows)
    assert torch.equal(logits, kept)


def test_masks_are_made_once() -> None:
    sampler = Sampler(5, CPU)
    for number in range(3):
        sample(WEIGHTS.log()[None], [Draw(params(), Legal(("not 0",), (0,)), (), number)], sampler)
    assert sampler.masks.illegal.shape == (1, 5)


@pytest.mark.parametrize("temperature", [-1.0, nan, inf])
def test_refuses_other_temperatures(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be"):
        SamplingParams(temperature=temperature)


@pytest.mark.parametrize("top_p", [0.0, -0.1, 1.1, nan])
def test_refuses_other_shares(top_p: float) -> None:
    with pytest.raises(ValueError, match="top_p is a share above 0"):
        SamplingParams(top_p=top_p)
