"""The timeline: the clock of metrics.critical_path, token by token, and its drawing."""

from __future__ import annotations

from random import Random
from xml.etree import ElementTree

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pastalm.evaluation.timeline import Doing, Span, Timeline, timeline
from pastalm.evaluation.timeline_svg import draw
from pastalm.lang.answer import Answer, Block, Node, Sync
from pastalm.lang.clock import critical_path, token_clock
from pastalm.lang.parse import parse
from pastalm.lang.positions import POLICIES
from pastalm.lang.script import Script, compile_script
from pastalm.lang.tokenizer import add_tags
from pastalm.lang.vocabulary import Vocabulary

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    """One token a character."""
    alphabet = {char: index for index, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE({**alphabet, "<eos>": len(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>")
    add_tags(tokenizer)
    return Vocabulary(tokenizer)


def script(text: str, vocabulary: Vocabulary) -> Script:
    return compile_script(parse(text, max_depth=4), vocabulary, POLICIES["pred10"])


def lines(text: str, vocabulary: Vocabulary) -> Timeline:
    return timeline(script(text, vocabulary), vocabulary)


def random_nodes(rng: Random, depth: int) -> tuple[Node, ...]:
    kinds = ["text", "sync"] + ["block"] * (2 if depth else 0)
    nodes: list[Node] = []
    for kind in rng.choices(kinds, k=rng.randint(0, 5)):
        if kind == "text":
            nodes.append("x" * rng.randint(1, 30))
        else:
            nodes.append(Sync() if kind == "sync" else Block("t", random_nodes(rng, depth - 1)))
    return tuple(nodes)


def test_the_clock_ends_at_the_critical_path(vocabulary: Vocabulary):
    rng, nested = Random(1), 0
    for _ in range(300):
        answer = Answer(random_nodes(rng, 3))
        nested += answer.depth > 1
        known = compile_script(answer, vocabulary, POLICIES["pred10"])
        path = critical_path(known, vocabulary)
        assert max(tick.end for tick in token_clock(known, vocabulary)) == path
        drawn = timeline(known, vocabulary)
        assert drawn.steps == path == max(row.end for row in drawn.rows)
    assert nested > 50


def test_a_written_out_example(vocabulary: Vocabulary):
    # main: "ab", promise (5 tokens: two tags, "t", "1", the end), "c", sync, "d"; the chunk: 7 letters and </async>
    drawn = lines("ab<async topic='t'>seven__</async>c<sync/>d", vocabulary)
    main, chunk = drawn.rows
    assert (chunk.start, chunk.end, chunk.promised, chunk.content) == (7, 15, 1, 7)
    assert chunk.spans == [Span(Doing.TEXT, 7, 15)]
    spans = [(0, 2, Doing.TEXT), (2, 7, Doing.PROMISE), (7, 9, Doing.TEXT), (9, 15, Doing.WAIT), (15, 16, Doing.TEXT)]
    assert main.spans == [Span(doing, start, end) for start, end, doing in spans]
    assert [(sync.step, sync.resume, sync.blocks) for sync in main.syncs] == [(9, 15, (1,))]
    assert drawn.steps == 16


def test_a_sync_does_not_wait_for_what_is_over(vocabulary: Vocabulary):
    main, _ = lines("<async topic='t'>a</async>a long text after it<sync/>d", vocabulary).rows
    assert all(span.doing is not Doing.WAIT for span in main.spans)
    assert main.syncs[0].step == main.syncs[0].resume


def test_only_new_blocks_join(vocabulary: Vocabulary):
    text = "<async topic='a'>one</async><sync/>x<async topic='b'>two</async><async topic='c'>two</async><sync/>"
    assert [sync.blocks for sync in lines(text, vocabulary).rows[0].syncs] == [(1,), (2, 3)]


@pytest.mark.parametrize("text", ["", "plain", "a<async topic='R&D \x07'>x</async><async topic='u'>yy</async><sync/>z"])
def test_the_drawing_is_xml_inside_its_frame(vocabulary: Vocabulary, text: str):
    drawn = lines(text, vocabulary)
    svg = ElementTree.fromstring(draw(drawn, 10))
    width, height = float(svg.attrib["width"]), float(svg.attrib["height"])
    for rect in svg.iter(f"{SVG}rect"):
        x, y, w, h = (float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        assert x >= 0 and x + w <= width + 0.1 and y >= 0 and y + h <= height + 0.1
    threads = [group for group in svg.iter(f"{SVG}g") if group.attrib["class"] == "thread"]
    assert len(threads) == len(drawn.rows)
    bars = sum(rect.attrib["class"] != "page" for group in threads for rect in group.iter(f"{SVG}rect"))
    assert bars == sum(len(row.spans) for row in drawn.rows)
    if len(drawn.rows) > 1:
        assert "R&D" in "".join(svg.itertext())
        assert "prefers-color-scheme: dark" in "".join(svg.itertext())
