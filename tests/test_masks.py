"""The drawing of a mask, and that the one in the documentation is what is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from pastalm.lang.parse import parse
from pastalm.lang.positions import POLICIES
from pastalm.lang.script import compile_script
from pastalm.lang.vocabulary import Vocabulary
from pastalm.layout import layout
from pastalm.masks import draw

DOCS = Path(__file__).parents[1] / "docs"


def test_the_documented_mask_is_what_is_drawn(tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary) -> None:
    policy = POLICIES["pred10"]
    script = compile_script(parse("a<async topic='x'>b</async>c<sync/>d"), vocabulary, policy, end=False)
    laid = layout(vocabulary.encode("P"), script, policy)
    names = tokenizer.convert_ids_to_tokens(laid.tokens.tolist())
    assert draw(laid, names) in (DOCS / "language.md").read_text()
    with pytest.raises(ValueError, match="13 tokens, but 1 names"):
        draw(laid, ["P"])
