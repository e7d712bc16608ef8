"""Layout against drawings and rules written out here: mask, positions, targets, packing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from transformers import PreTrainedTokenizerFast

from pastalm.data.collate import Collator
from pastalm.data.examples import Example
from pastalm.lang.answer import Answer
from pastalm.lang.parse import parse
from pastalm.lang.positions import position_policy
from pastalm.lang.script import Script, ScriptBlock, compile_script
from pastalm.lang.vocabulary import Vocabulary
from pastalm.layout import IGNORE, draw, layout
from tests.strategies import answers

PRED10 = position_policy("pred10")
TOKENS = "xpAaEqBbeSm"
# x: the prompt. p, q: the ends of two promises. A a E, B b e: the chunks with their tags. S: sync. m: the conclusion.
MASK = """
x #..........
p ##.........
A ###........
a ####.......
E #####......
q ##...#.....
B ##...##....
b ##...###...
e ##...####..
S ##########.
m ###########
"""


def example(*, sync: bool = True) -> Script:
    """The paper's example behind a prompt of one token, each promise shortened to one token."""
    script = Script(blocks=[ScriptBlock(-1, "", 0), ScriptBlock(0, "coordinates", 1), ScriptBlock(0, "formula", 2)])
    script.append([ord("p")], 0)
    script.append([ord(letter) for letter in "AaE"], 1)
    script.append([ord("q")], 0)
    script.append([ord(letter) for letter in "Bbe"], 2)
    for block in script.blocks[1:]:
        block.content = 1
        block.release = 8 if sync else block.release  # the sync's index in the script, without the prompt
    script.append([ord("S"), ord("m")], 0)
    return script


def drawn(mask: torch.Tensor) -> str:
    rows = ["".join("#" if seen else "." for seen in row) for row in mask.tolist()]
    return "\n" + "".join(f"{name} {row}\n" for name, row in zip(TOKENS, rows, strict=True))


def test_the_papers_example() -> None:
    assert drawn(layout([ord("x")], example(), PRED10).mask()) == MASK


def test_without_a_sync_main_never_sees_a_chunk() -> None:
    blind = MASK.replace("S ##########.", "S ##...#...#.").replace("m ###########", "m ##...#...##")
    assert drawn(layout([ord("x")], example(sync=False), PRED10).mask()) == blind


# With p at 1, q stands at 1 + 1 + jump; the first chunk at 2, 3, 4; the second behind q; S at q + 1 + jump.
POSITIONS = {
    "pred10": [0, 1, 2, 3, 4, 12, 13, 14, 15, 33, 34],  # jumps 10 * 1 and 10 * 2
    "pred1": [0, 1, 2, 3, 4, 3, 4, 5, 6, 6, 7],  # jumps 1 and 2: too small, so they overlap
    "const40": [0, 1, 2, 3, 4, 42, 43, 44, 45, 83, 84],  # jumps 40 and 40
    "const80": [0, 1, 2, 3, 4, 82, 83, 84, 85, 163, 164],
    "oracle": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10],  # jumps 3 and 3, the chunks with their tags: no gap
    "contiguous": [0, 1, 2, 3, 4, 2, 3, 4, 5, 3, 4],  # no jumps
}


@pytest.mark.parametrize("name", POSITIONS)
def test_positions(name: str) -> None:
    assert layout([ord("x")], example(), position_policy(name)).positions.tolist() == POSITIONS[name]


def test_targets_are_the_next_token_of_the_own_thread() -> None:
    # The prompt's last -> p; p -> q behind its chunk; A -> a, a -> E, E -> nothing; m is the last.
    expected = ["p", "q", "a", "E", None, "S", "b", "e", None, "m", None]
    targets = layout([ord("x")], example(), PRED10).targets.tolist()
    assert [None if target == IGNORE else chr(target) for target in targets] == expected


def test_prompt_tokens_have_no_targets_but_the_last() -> None:
    targets = layout([1, 2, 3], example(), PRED10).targets.tolist()
    assert targets[:4] == [IGNORE, IGNORE, ord("p"), ord("q")]


def test_without_a_prompt_the_first_token_is_no_target() -> None:
    assert layout([], example(), PRED10).targets.tolist()[:2] == [ord("q"), ord("a")]


def enclosing_blocks(tokens: list[int], vocabulary: Vocabulary) -> list[tuple[int, ...]]:
    """For each token the blocks around it from outside in, named by the index of their <async>."""
    stack: tuple[int, ...] = ()
    found = []
    for index, token in enumerate(tokens):
        stack = (*stack, index) if token == vocabulary.async_start else stack
        found.append(stack)
        stack = stack[:-1] if token == vocabulary.async_end else stack
    return found


def visible(i: int, j: int, around: list[tuple[int, ...]], tokens: list[int], sync: int) -> bool:
    """The rule of nested chunks: the outermost block of j not shared with i is released by a sync of its parent."""
    unshared = [block for block in around[j] if block not in around[i]]
    if j > i or not unshared:
        return j <= i
    parent = around[unshared[0]][:-1]
    end = max(k for k, blocks in enumerate(around) if unshared[0] in blocks)
    return any(tokens[k] == sync and around[k] == parent for k in range(end + 1, i + 1))


@given(answers(3))
def test_nested_blocks_follow_the_rule(vocabulary: Vocabulary, answer: Answer) -> None:
    script = compile_script(answer, vocabulary, PRED10)
    around = enclosing_blocks(script.tokens, vocabulary)
    size = range(len(script.tokens))
    expected = [[visible(i, j, around, script.tokens, vocabulary.sync) for j in size] for i in size]
    mask = layout([5, 6], script, PRED10).mask()
    assert mask[2:, 2:].tolist() == expected
    assert mask[2:, :2].all() and not mask[:2, 2:].any()
    assert mask[:2, :2].tolist() == [[True, False], [True, True]]


def test_nested_blocks_keep_their_own_positions() -> None:
    # Main p at 0; outer A 1, promise q 2; inner B 3, b 4, E 5; outer jumps to 2 + 1 + 10 = 13: y 13, E 14.
    # Main jumps over the outer, promised as 3 tens: m at 0 + 1 + 30 = 31.
    outer, inner = ScriptBlock(0, "o", 3, content=5), ScriptBlock(1, "i", 1, content=1)
    script = Script(blocks=[ScriptBlock(-1, "", 0), outer, inner])
    for tokens, block in (([1], 0), ([2, 3], 1), ([4, 5, 6], 2), ([7, 8], 1), ([9], 0)):
        script.append(tokens, block)
    assert layout([], script, PRED10).positions.tolist() == [0, 1, 2, 3, 4, 5, 13, 14, 31]


def test_packed_examples_are_blind_to_each_other() -> None:
    one, two = Example([ord("x")], example()), Example([7, 8], example(sync=False))
    batch = Collator(PRED10, pad=99)([[one, two], [two]])
    alone = [layout(each.prompt, each.script, PRED10) for each in (one, two)]
    assert batch["input_ids"].shape == (2, 23) and batch["visible"].shape == (2, 23, 23)
    expected = torch.block_diag(*(each.mask().int() for each in alone)).bool()
    assert torch.equal(batch["visible"][0], expected)
    for name, part in (("input_ids", "tokens"), ("position_ids", "positions"), ("labels", "targets")):
        assert torch.equal(batch[name][0], torch.cat([getattr(each, part) for each in alone]))
        assert torch.equal(batch[name][1, :12], getattr(alone[1], part))


def test_padding_sees_itself_only_and_predicts_nothing() -> None:
    one, two = Example([ord("x")], example()), Example([7, 8], example())
    batch = Collator(PRED10, pad=99)([[one, two], [two]])
    assert batch["input_ids"][1, 12:].tolist() == [99] * 11
    assert batch["labels"][1, 12:].tolist() == [IGNORE] * 11
    assert torch.equal(batch["visible"][1, 12:, 12:], torch.eye(11, dtype=torch.bool))
    assert not batch["visible"][1, :12, 12:].any() and not batch["visible"][1, 12:, :12].any()


def test_the_documented_mask_is_what_is_drawn(tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary) -> None:
    script = compile_script(parse("a<async topic='x'>b</async>c<sync/>d"), vocabulary, PRED10, end=False)
    laid = layout(vocabulary.encode("P"), script, PRED10)
    names = tokenizer.convert_ids_to_tokens(laid.tokens.tolist())
    assert draw(laid, names) in (Path(__file__).parents[1] / "docs" / "language.md").read_text()
    with pytest.raises(ValueError, match="13 tokens, but 1 names"):
        draw(laid, ["P"])
