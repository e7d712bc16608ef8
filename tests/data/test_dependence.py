"""What hiding siblings costs a block: against masks written out by hand and the model's own attention."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from transformers import PreTrainedModel

from pastalm.data.dependence import ScoredLayout, log_probabilities, open_before, scored, show_siblings
from pastalm.lang.parse import parse
from pastalm.lang.positions import POLICIES
from pastalm.lang.script import Script, compile_script
from pastalm.lang.vocabulary import Vocabulary
from pastalm.layout import Layout, layout
from pastalm.runtime.runner import Runner
from tests.runtime.families import tiny
from tests.strategies import answers

POLICY = POLICIES["pred10"]
GROUPS = (
    "Hi <async topic='a'>hello world foo</async> and <async topic='b'>bar foo hello</async>, "
    "<async topic='c'>world bar</async><sync/> so <async topic='d'>foo bar</async> x <async topic='e'>12 34</async> end"
)
NESTED = (
    "<async topic='a'>one <async topic='b'>two</async></async><async topic='c'>three <async topic='d'>four</async> five"
    "<async topic='e'>six</async><sync/> seven</async> eight"
)


def laid_out(text: str, vocabulary: Vocabulary, depth: int = 1) -> tuple[Layout, Script]:
    script = compile_script(parse(text, max_depth=depth), vocabulary, POLICY)
    return layout(vocabulary.encode("hello?"), script, POLICY), script


def score(runner: Runner, laid: Layout, block: int) -> torch.Tensor:
    return log_probabilities(runner, [ScoredLayout(laid, scored(laid, block))])[0]


@pytest.fixture(scope="module")
def runner(vocabulary: Vocabulary) -> Runner:
    return Runner(tiny("llama", len(vocabulary.tokenizer)))


def test_which_siblings_are_open(vocabulary: Vocabulary):
    _, script = laid_out(GROUPS, vocabulary)
    assert [open_before(script, block) for block in range(1, 6)] == [[], [1], [1, 2], [], [4]]
    _, script = laid_out(NESTED, vocabulary, 2)
    assert [open_before(script, block) for block in range(1, 6)] == [[], [], [1], [], [4]]


def test_the_seen_mask_differs_in_nothing_but_what_the_block_sees_of_its_siblings(vocabulary: Vocabulary):
    laid, script = laid_out(GROUPS, vocabulary)
    shown = show_siblings(laid, script, 3)
    hidden, seen, block = laid.mask(), shown.mask(), laid.block
    expected = hidden | ((block[:, None] == 3) & ((block[None, :] == 1) | (block[None, :] == 2)))
    assert torch.equal(seen, expected) and not torch.equal(seen, hidden)
    assert shown.positions is laid.positions and shown.targets is laid.targets


def test_what_is_nested_in_a_sibling_is_shown_with_it(vocabulary: Vocabulary):
    laid, script = laid_out(NESTED, vocabulary, 2)
    block = laid.block
    gained = show_siblings(laid, script, 3).mask() & ~laid.mask()
    assert torch.equal(gained, (block[:, None] == 3) & ((block[None, :] == 1) | (block[None, :] == 2)))


@given(answers(depth=2))
@settings(max_examples=50, deadline=None)
def test_a_block_never_loses_a_view_and_nobody_else_gains_one(vocabulary: Vocabulary, answer):
    script = compile_script(answer, vocabulary, POLICY)
    laid = layout([5, 6], script, POLICY)
    for block in range(1, len(script.blocks)):
        hidden, seen = laid.mask(), show_siblings(laid, script, block).mask()
        assert not (hidden & ~seen).any()
        assert set(laid.block[(seen & ~hidden).any(1)].tolist()) == ({block} if open_before(script, block) else set())
        assert not (seen & ~torch.ones_like(seen).tril()).any()


def test_what_is_scored_is_the_content_and_the_end_of_the_block(vocabulary: Vocabulary):
    laid, _ = laid_out(GROUPS, vocabulary)
    targets = laid.targets[scored(laid, 2)].tolist()
    assert targets == [*vocabulary.encode("bar foo hello"), vocabulary.async_end]


def stock(model: PreTrainedModel, laid: Layout, visible: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [n, V] of a plain forward: the model's own eager attention and an additive mask."""
    model.set_attn_implementation("eager")
    bias = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)[None, None]
    with torch.no_grad():
        logits = model(
            laid.tokens[None], attention_mask=bias, position_ids=laid.positions[None], use_cache=False
        ).logits
    return logits[0].float().log_softmax(-1)


def test_both_passes_equal_the_models_own_attention_under_masks_written_out(vocabulary: Vocabulary):
    laid, script = laid_out(GROUPS, vocabulary)
    n, block, index = len(laid.tokens), laid.block.tolist(), laid.tokens.tolist()
    sync = index.index(vocabulary.sync)
    runner = Runner(tiny("llama", len(vocabulary.tokenizer)))
    rows = [ScoredLayout(laid, scored(laid, 3)), ScoredLayout(show_siblings(laid, script, 3), scored(laid, 3))]
    hidden, seen = log_probabilities(runner, rows)
    for found, extra in ((hidden, set()), (seen, {1, 2})):
        visible = torch.zeros(n, n, dtype=torch.bool)
        for i in range(n):
            for j in range(i + 1):
                synced = block[j] in (1, 2, 3) and i >= sync
                visible[i, j] = block[j] in (0, block[i]) or synced or (block[i] == 3 and block[j] in extra)
        logp = stock(tiny("llama", len(vocabulary.tokenizer)), laid, visible)
        at = scored(laid, 3)
        torch.testing.assert_close(found, logp[at, laid.targets[at]], atol=1e-5, rtol=1e-5)
    assert (hidden - seen).abs().max() > 1e-3


def test_for_the_second_of_two_the_seen_pass_is_a_plain_causal_forward(vocabulary: Vocabulary):
    """Its only sibling sees no other: nothing is hidden any more but the sibling from main."""
    text = "<async topic='a'>hello world foo</async><async topic='b'>bar foo hello</async>"
    laid, script = laid_out(text, vocabulary)
    runner = Runner(tiny("qwen3", len(vocabulary.tokenizer)))
    (found,) = log_probabilities(runner, [ScoredLayout(show_siblings(laid, script, 2), scored(laid, 2))])
    causal = torch.ones(len(laid.tokens), len(laid.tokens), dtype=torch.bool).tril()
    promise = (laid.block[:, None] == 0) & (
        laid.block[None, :] == 1
    )  # main is blind to the first block while it writes
    logp = stock(tiny("qwen3", len(vocabulary.tokenizer)), laid, causal & ~promise)
    torch.testing.assert_close(found, logp[scored(laid, 2), laid.targets[scored(laid, 2)]], atol=1e-5, rtol=1e-5)


def test_without_siblings_nothing_changes_to_the_bit(runner: Runner, vocabulary: Vocabulary):
    laid, script = laid_out(
        "one <async topic='a'>hello world foo</async><sync/> <async topic='b'>bar</async>", vocabulary
    )
    for block in (1, 2):
        same = show_siblings(laid, script, block)
        assert torch.equal(same.mask(), laid.mask())
        assert torch.equal(score(runner, same, block), score(runner, laid, block))


def test_rows_of_a_batch_do_not_see_each_other(runner: Runner, vocabulary: Vocabulary):
    laid, script = laid_out(GROUPS, vocabulary)
    other, _ = laid_out("short <async topic='a'>bar</async>", vocabulary)
    rows = [
        ScoredLayout(other, scored(other, 1)),
        ScoredLayout(show_siblings(laid, script, 2), scored(laid, 2)),
        ScoredLayout(laid, scored(laid, 5)),
    ]
    for row, found in zip(rows, log_probabilities(runner, rows)):
        torch.testing.assert_close(found, log_probabilities(runner, [row])[0], atol=1e-5, rtol=1e-5)
