"""Speedups of pairs and their means, against arithmetic by hand."""

from __future__ import annotations

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from pastalm import Engine
from pastalm.evaluation.comparison import Pair, summarise, timed

ANNOTATED = "<async topic='x'>foo bar foo</async><async topic='y'>12 34 12</async>"


def test_pairs_and_their_means(tiny_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    engine = Engine(tiny_llama, tokenizer)
    fork, plain = engine.replay("a", ANNOTATED), engine.replay("a", "foo bar foo12 34 12")
    one, other = Pair(fork, plain), Pair(plain, plain)
    assert one.theoretical == plain.metrics.tokens / fork.metrics.critical_path
    assert one.realised == plain.metrics.wall_seconds / fork.metrics.wall_seconds
    assert other.theoretical == other.realised == other.efficiency == 1
    means = summarise([one, other])
    assert means.theoretical == pytest.approx((one.theoretical * 1) ** 0.5)
    assert means.theoretical_arithmetic == pytest.approx((one.theoretical + 1) / 2)
    assert means.efficiency == pytest.approx(means.realised / means.theoretical)
    assert means.number == 2


def test_timed_decodes_both_ways(tiny_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    pair = timed(Engine(tiny_llama, tokenizer), "hello", max_tokens=9, mode="async")
    assert pair.baseline.metrics.tokens == 9
    assert pair.realised > 0


def test_what_speedups_do_not_say_is_said(tiny_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    engine = Engine(tiny_llama, tokenizer)
    long, short, loop = (engine.replay("a", text) for text in ("foo bar foo 12 34", "foo", "ab" * 40))
    assert list(Pair(long, long).remarks()) == []
    assert "differ" in next(Pair(short, long).remarks()) and len(list(Pair(short, long).remarks())) == 1
    assert "much shorter" in [*Pair(long, short).remarks()][1]
    assert loop.metrics.circles and "in circles" in [*Pair(long, loop).remarks()][1]
