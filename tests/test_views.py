"""The views of an answer against sequences written out here, and against a plain causal model."""

from __future__ import annotations

import torch
from hypothesis import given
from transformers import LlamaForCausalLM

from pastalm.lang.answer import Answer
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


def test_each_view_is_what_a_causal_model_reads(tiny_llama: LlamaForCausalLM, vocabulary: Vocabulary) -> None:
    """One pass over the tree gives every target the logits that a plain causal pass over its own view gives."""
    text = "so <async topic='a b'>one two</async> and <async topic='c'>three</async><sync/> then"
    from pastalm.lang.parse import parse

    script = compile_script(parse(text), vocabulary, CONTIGUOUS)
    laid = view_layout(vocabulary.encode("hello world"), script)
    with torch.inference_mode():
        own = [tiny_llama(input_ids=laid.tokens[row][None]).logits[0, -1] for row in laid.mask()]
    found = Runner(tiny_llama).dense(laid.tokens, laid.positions, laid.mask())
    assert torch.allclose(found, torch.stack(own), atol=1e-5)
