"""What a model loses in a server's views: nothing before a sync, where only positions could differ."""

from __future__ import annotations

from copy import deepcopy

import pytest
from transformers import LlamaForCausalLM

from bench.views_loss import measure
from pastalm.data.examples import AnnotatedAnswer
from pastalm.lang.parse import parse
from pastalm.lang.positions import CONTIGUOUS
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.runner import Runner

TEXT = (
    "so <async topic='a b'>one two</async> and <async topic='c'>three</async><sync/> then <async topic='d'>x</async>."
)


def test_contiguous_positions_lose_nothing_before_a_sync(tiny_llama: LlamaForCausalLM, vocabulary: Vocabulary) -> None:
    model = deepcopy(tiny_llama)
    model.config.pasta_positions = CONTIGUOUS
    answers = [AnnotatedAnswer("hello world", parse(TEXT.partition("<sync/>")[0])), AnnotatedAnswer("x", parse("y z"))]
    found = measure(Runner(model), vocabulary, answers)
    for kind in ("main thread", "chunks"):
        assert found[kind].own and found[kind].served == pytest.approx(found[kind].own, abs=1e-5)
    assert not found["behind a sync"].own


def test_the_joined_text_is_read_anew(tiny_llama: LlamaForCausalLM, vocabulary: Vocabulary) -> None:
    model = deepcopy(tiny_llama)
    model.config.pasta_positions = CONTIGUOUS
    found = measure(Runner(model), vocabulary, [AnnotatedAnswer("hello world", parse(TEXT))])
    behind = found["behind a sync"]
    assert len(behind.own) == len(behind.served) > 0 and behind.served != pytest.approx(behind.own, abs=1e-5)
    assert found["main thread"].served == pytest.approx(found["main thread"].own, abs=1e-5)
