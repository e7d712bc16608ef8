"""Choosing tokens: greedy, nucleus, grammar; a draw is a matter of the seed, the path and the token's number alone."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, nan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pastalm.lang.recogniser import Legal
from pastalm.runtime.sampler import ROOM, STRIDE, Draw, LegalMasks, Sampler, SamplingParams, likeliest, redraw
from pastalm.runtime.thread import ThreadPath
from tests.runtime.drawing import CPU, sample

ANY = Legal(("any",), ())
WEIGHTS = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625])


def params(temperature: float = 1.0, top_p: float = 1.0, seed: int = 0) -> SamplingParams:
    return SamplingParams(temperature, top_p, seed)


def draws(how: SamplingParams, path: ThreadPath = (), count: int = 40, legal: Legal = ANY) -> list[int]:
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
    never = Legal(("never 0",), (0,))
    assert sample(logits, [Draw(params(0.0), one) for one in (plain, plain, never)]) == [2, 1, 1]
    drawn = sample(best_is_0.repeat(60, 1), [Draw(params(), plain, (), number) for number in range(60)])
    assert set(drawn) == {2, 3, 4}


def test_another_set_is_legal_where_one_token_is_the_best() -> None:
    only_4, not_2 = Legal(("only 4",), (4,), only=True), Legal(("not 2",), (0, 1, 2))
    plain = Legal(("not 0 or 1",), (0, 1), in_place_of={1: only_4, 9: only_4})  # this head has no token 9
    both = Legal(("both",), (0, 1), instead=not_2, in_place_of={1: only_4})
    logits = torch.stack([WEIGHTS.log(), WEIGHTS[[1, 0, 2, 3, 4]].log()])  # the best is 0, then 1
    assert sample(logits, [Draw(params(0.0), plain)] * 2) == [2, 4]
    assert sample(logits, [Draw(params(0.0), both)] * 2) == [3, 4]


def test_there_is_room_for_all_sets_and_what_follows_from_them() -> None:
    sampler = Sampler(5, CPU)
    for number in range(3 * ROOM):
        other = Legal(("other", number), (0, 1 + number % 4))
        draw = Draw(params(0.0), Legal(("set", number), (0,), instead=other))
        assert sample(WEIGHTS.log()[None], [draw], sampler) == [2 if number % 4 == 0 else 1]
    assert len(sampler.masks.table) == len(sampler.masks.following) >= 6 * ROOM


@given(st.integers(0, 1 << 32), st.booleans())
def test_the_likeliest_is_the_first_of_the_highest(seed: int, ties: bool) -> None:
    scores = torch.randn(4, 9, STRIDE, generator=torch.Generator().manual_seed(seed))
    scores = (scores * 2).round() if ties else scores
    flat = scores.flatten(1)
    assert likeliest(scores).tolist() == [row.index(max(row)) for row in flat.tolist()]


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
    rows = [masks.index(Legal(("x",), (1, 7))), masks.index(ANY), masks.index(Legal(("x",), (1, 7)))]
    assert rows == [0, 1, 0]
    assert masks.table[:2].tolist() == [[False, True, False], [False] * 3]


class Interrupted(tuple):
    """Ids whose reading is interrupted the first time."""

    times = iter(range(1000))

    def __iter__(self) -> Iterator[int]:
        if next(self.times) == 0:
            raise KeyboardInterrupt
        return super().__iter__()


def test_a_mask_that_was_not_finished_is_made_anew() -> None:
    masks = LegalMasks(5, CPU)
    masks.index(ANY)
    legal = Legal(("few",), Interrupted((1, 3)), only=True, instead=Legal(("one",), (2,), only=True))
    with pytest.raises(KeyboardInterrupt):
        masks.index(legal)
    number = masks.index(legal)
    assert masks.table[number].tolist() == [True, False, True, False, True]
    other = masks.index(legal.instead)
    assert masks.following[number].tolist() == [other, number, other, number, other]
    assert masks.index(ANY) == 0 and masks.following[0].tolist() == [0] * 5


def blocked(weights: list[int]) -> Tensor:
    """One row in blocks, as the sampler looks at it."""
    row = torch.zeros(1, STRIDE, dtype=torch.float64)
    row[0, : len(weights)] = torch.tensor(weights)
    return row


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=8, unique=True),
    st.sampled_from([0.1, 0.33, 0.5, 0.71, 0.97, 1e-46]),
)
def test_top_p_keeps_the_smallest_set_that_suffices(weights: list[int], top_p: float) -> None:
    kept: set[int] = set()
    while sum(weights[i] for i in kept) < top_p * sum(weights):
        kept.add(max(set(range(len(weights))) - kept, key=weights.__getitem__))
    how, share = Draw(params(top_p=top_p), ANY), top_p * sum(weights)
    for token in range(len(weights)):
        found = redraw(blocked(weights), share, token, how)
        assert found == token if token in kept else found in kept


def test_equal_weights_are_kept_in_the_order_of_their_ids() -> None:
    found = [redraw(blocked([1, 2, 1, 1, 1]), 0.6 * 6, token, Draw(params(), ANY)) for token in range(5)]
    assert [found[token] == token for token in range(5)] == [True, True, True, False, False]
    logits = torch.zeros(400, 5)
    assert set(sample(logits, [Draw(params(top_p=0.59), ANY, (), number) for number in range(400)])) == {0, 1, 2}


@pytest.mark.parametrize("seed", range(3))
def test_draws_of_a_large_nucleus_follow_its_probabilities(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(1, 300, generator=generator) * 1.5).bfloat16()  # with equal ones
    weights = torch.softmax(logits.double()[0], -1)
    order = weights.sort(descending=True, stable=True).indices
    kept = order[: int((weights[order].cumsum(0) - weights[order] < 0.8).sum())]
    count = 4000
    rows = [Draw(params(top_p=0.8, seed=seed), ANY, (), number) for number in range(count)]
    tokens = torch.tensor(sample(logits.expand(count, -1), rows))
    assert set(tokens.tolist()) <= set(kept.tolist()) and len(kept) > 4
    expected = weights[kept] / weights[kept].sum()
    found = torch.bincount(tokens, minlength=300)[kept] / count
    assert ((found - expected).abs() < 4.5 * (expected * (1 - expected) / count).sqrt() + 1e-9).all()


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
    how = params(seed=7)
    found = [Draw(how, ANY, (1, 2), number).uniform(attempt) for number in range(2000) for attempt in (0, 1)]
    assert all(0 <= one < 1 for one in found) and len(set(found)) == 4000
    assert abs(sum(found) / 4000 - 0.5) < 4 * (1 / 12 / 4000) ** 0.5
    assert len({Draw(how, ANY, *one).uniform() for one in (((1, 1), 0), ((11,), 0), ((1,), 10))}) == 3


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
    assert sampler.masks.table.shape[1] == 5 and sampler.masks.index(Legal(("new",), ())) == 1


def test_a_step_leaves_nothing_to_the_next() -> None:
    sampler, rows = Sampler(5, CPU), [Draw(params(), ANY, (), number) for number in range(40)]
    logits = WEIGHTS.log().repeat(40, 1)
    first = sample(logits, rows, sampler)
    assert sample(logits * 0 + torch.tensor([0.0, 0, 0, 0, 9]), [Draw(params(0.0), ANY)] * 40, sampler) == [4] * 40
    assert sample(logits, rows, sampler) == first == sample(logits, rows)


@pytest.mark.parametrize("temperature", [-1.0, nan, inf])
def test_refuses_other_temperatures(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be"):
        SamplingParams(temperature=temperature)


@pytest.mark.parametrize("top_p", [0.0, -0.1, 1.1, nan])
def test_refuses_other_shares(top_p: float) -> None:
    with pytest.raises(ValueError, match="top_p is a share above 0"):
        SamplingParams(top_p=top_p)
