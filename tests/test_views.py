"""The views of an answer against sequences written out here, and against a plain causal model."""

from __future__ import annotations

from copy import deepcopy

import torch
from hypothesis import given
from transformers import LlamaForCausalLM

from pastalm.data.collate import Collator
from pastalm.data.examples import AnnotatedAnswer, Example, encode_answers
from pastalm.lang.answer import Answer
from pastalm.lang.parse import parse
from pastalm.lang.positions import position_policy
from pastalm.lang.script import Script, ScriptBlock, compile_script
from pastalm.lang.vocabulary import Vocabulary
from pastalm.layout import IGNORE, layout
from pastalm.runtime.runner import Runner
from pastalm.views import ViewLayout, view_layout
from tests.strategies import answers

CONTIGUOUS = position_policy("contiguous")


def example(*, sync: bool = True) -> Script:
    """The paper's example, each promise shortened to one token: p AaE q BbbeS m, with chunks A..E and B..e."""
    script = Script(blocks=[ScriptBlock(-1, "", 0), ScriptBlock(0, "coordinates", 1), ScriptBlock(0, "formula", 2)])
    for letters, block in (("p", 0), ("AaE", 1), ("q", 0), ("Bbe", 2), ("Sm" if sync else "m", 0)):
        script.append(list(map(ord, letters)), block)
    for block in script.blocks[1:]:
        block.content = 1
        block.release = 8 if sync else block.release
    return script


def views(laid: ViewLayout) -> set[str]:
    """Each target with the sequence it is predicted from."""
    return {
        "".join(map(chr, laid.tokens[row].tolist())) + ">" + chr(target)
        for row, target in zip(laid.mask(), laid.targets.tolist(), strict=True)
        if target != IGNORE
    }


def test_the_papers_example() -> None:
    found = views(view_layout([ord("x")], example()))
    main = {"x>p", "xp>q", "xpq>S", "xpAaEqBbeS>m"}
    assert found == main | {"xpA>a", "xpAa>E", "xpqB>b", "xpqBb>e"}


def test_without_a_sync_nothing_is_read_anew() -> None:
    laid = view_layout([ord("x")], example(sync=False))
    assert "xpq>m" in views(laid)
    assert len(laid.tokens) == 1 + len(example(sync=False).tokens)


def test_positions_are_depths() -> None:
    laid = view_layout([ord("x")], example())
    assert (laid.mask().sum(-1) - 1 == laid.positions).all()


@given(answer=answers())
def test_targets_are_those_of_the_runtime(answer: Answer, vocabulary: Vocabulary) -> None:
    """The same tokens are predicted, each once, whatever the answer."""
    script = compile_script(answer, vocabulary, CONTIGUOUS)
    laid, usual = view_layout([1, 2, 3], script), layout([1, 2, 3], script, CONTIGUOUS)
    assert sorted(laid.targets[laid.targets != IGNORE].tolist()) == sorted(
        usual.targets[usual.targets != IGNORE].tolist()
    )


@given(answer=answers())
def test_each_token_knows_who_predicts_it(answer: Answer, vocabulary: Vocabulary) -> None:
    script = compile_script(answer, vocabulary, CONTIGUOUS)
    laid = view_layout([1, 2, 3], script)
    written = [token for token in script.tokens if token != vocabulary.async_start]
    assert laid.targets[laid.givers[laid.givers >= 0]].tolist() == written
    assert (laid.givers < 0).sum() == len(script.blocks) - 1
    assert len(set(laid.givers[laid.givers >= 0].tolist())) == len(written)


def test_each_view_is_what_a_causal_model_reads(tiny_llama: LlamaForCausalLM, vocabulary: Vocabulary) -> None:
    """One pass over the tree gives every target the logits that a plain causal pass over its own view gives."""
    text = "so <async topic='a b'>one two</async> and <async topic='c'>three</async><sync/> then"
    script = compile_script(parse(text), vocabulary, CONTIGUOUS)
    laid = view_layout(vocabulary.encode("hello world"), script)
    plain = deepcopy(tiny_llama)
    plain.set_attn_implementation("sdpa")
    with torch.inference_mode():
        own = [plain(input_ids=laid.tokens[row][None]).logits[0, -1] for row in laid.mask()]
    found = Runner(deepcopy(tiny_llama)).dense(laid.tokens, laid.positions, laid.mask())
    assert torch.allclose(found, torch.stack(own), atol=1e-5)


TEXTS = ["so <async topic='a b'>one two</async> and <async topic='c'>three</async><sync/> then", "plain 12"]


def examples(vocabulary: Vocabulary) -> list[Example]:
    answers = [AnnotatedAnswer("hello", parse(text)) for text in TEXTS]
    return list(encode_answers(answers, vocabulary, CONTIGUOUS, plain=0, seed=0, in_views=True))


def test_a_packed_batch_holds_the_views_of_each_example(vocabulary: Vocabulary) -> None:
    both = examples(vocabulary)
    batch = Collator(CONTIGUOUS, 0)([both])
    start = 0
    for one in both:
        laid, span = view_layout(one.prompt, one.script), slice(start, start := start + len(one))
        assert torch.equal(batch["input_ids"][0, span], laid.tokens)
        assert torch.equal(batch["labels"][0, span], laid.targets)
        assert torch.equal(batch["position_ids"][0, span], laid.positions)
        assert torch.equal(batch["visible"][0, span, span], laid.mask())
        assert not batch["visible"][0, span, : span.start].any()
    assert batch["input_ids"].shape[1] == start


def test_training_learns_what_a_plain_server_computes(tiny_llama: LlamaForCausalLM, vocabulary: Vocabulary) -> None:
    """The log-probability of every target in a packed training batch is the one that a causal model gives behind the
    prompt that the server is sent."""
    both = examples(vocabulary)
    batch = Collator(CONTIGUOUS, 0)([both])
    logits = Runner(deepcopy(tiny_llama)).dense_rows(batch["input_ids"], batch["position_ids"], batch["visible"])
    learned = logits.log_softmax(-1).gather(-1, batch["labels"].clamp(min=0)[..., None])[..., 0]
    plain = deepcopy(tiny_llama)
    plain.set_attn_implementation("sdpa")
    for index in (batch["labels"][0] != IGNORE).nonzero()[:, 0].tolist():
        ids = batch["input_ids"][0, batch["visible"][0, index]]
        with torch.inference_mode():
            served = plain(input_ids=ids[None]).logits[0, -1].log_softmax(-1)[batch["labels"][0, index]]
        torch.testing.assert_close(learned[0, index], served, atol=1e-5, rtol=1e-5)
