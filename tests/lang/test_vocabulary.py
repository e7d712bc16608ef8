"""Tags and seams with tokenizers that treat the first space of a text in different ways."""

from __future__ import annotations

import gc
import string
import weakref
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pastalm.lang.codec import TextCodec
from pastalm.lang.prompt import PromptEncoder
from pastalm.lang.tags import TAGS
from pastalm.lang.tokenizer import MissingTagsError, add_tags, has_tags
from pastalm.lang.vocabulary import Vocabulary
from tests.conftest import byte_level_tokenizer

KINDS = ["bytes", "first", "always", "never", "legacy"]
every_kind = pytest.mark.parametrize("kind", KINDS)
pieces = st.text('ab7 \n<>/fo"=', max_size=10) | st.sampled_from(["foo foo", "  x", " <br />", "\n\n", " 12"])


def sentencepiece_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Unigram pieces with '▁' for a space, written before a text as ``kind`` says."""
    table = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -1.0), ("▁foo", -1.5), ("foo", -1.5)]
    table += [(letter, -2.0) for letter in string.printable if letter != " "]
    backend = Tokenizer(models.Unigram(table, unk_id=0))
    if kind == "legacy":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=False)
        backend.decoder = decoders.Metaspace(prepend_scheme=kind)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@cache
def tagged(kind: str) -> Vocabulary:
    """The vocabulary of a tokenizer of this kind with tags."""
    tokenizer = byte_level_tokenizer() if kind == "bytes" else sentencepiece_tokenizer(kind)
    assert add_tags(tokenizer) == 6
    return Vocabulary(tokenizer)


@every_kind
def test_tags_stay_single_tokens_when_saved(kind: str, tmp_path: Path) -> None:
    tagged(kind).tokenizer.save_pretrained(tmp_path)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert has_tags(loaded)
    assert add_tags(loaded) == 0
    assert Vocabulary(loaded).tags == tagged(kind).tags
    for tag in TAGS:
        assert loaded(tag, add_special_tokens=False)["input_ids"] == [loaded.convert_tokens_to_ids(tag)]


@every_kind
@given(st.lists(pieces, max_size=4))
def test_pieces_join_without_a_seam(kind: str, parts: list[str]) -> None:
    vocabulary = tagged(kind)
    encoded = [vocabulary.encode(part) for part in parts]
    assert [vocabulary.decode(ids) for ids in encoded] == parts
    assert vocabulary.decode([i for ids in encoded for i in ids]) == "".join(parts)


@every_kind
@given(st.lists(pieces | st.sampled_from(TAGS), max_size=5).map("".join))
def test_text_never_makes_a_tag(kind: str, text: str) -> None:
    vocabulary = tagged(kind)
    assert not set(vocabulary.tags) & {*vocabulary.encode(text), *vocabulary.prompts.encode(text)}
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_tags_are_no_text(vocabulary: Vocabulary) -> None:
    assert vocabulary.decode([*vocabulary.encode("a"), *vocabulary.tags, *vocabulary.encode("b")]) == "ab"


def test_eos_holds_the_tokenizers_own_and_more(tokenizer: PreTrainedTokenizerFast) -> None:
    assert Vocabulary(tokenizer, eos=[5]).eos == {tokenizer.eos_token_id, 5}


def test_digits_have_no_leading_zero_and_fit(vocabulary: Vocabulary) -> None:
    def texts(room: int, first: bool) -> set[str]:
        return {vocabulary.decode([i]) for i in vocabulary.digits(room, first)}

    assert texts(1, True) == set("123456789")
    assert texts(1, False) == set("0123456789")
    assert texts(2, True) == {*"123456789", "12", "34"}


@every_kind
def test_topic_pieces_keep_a_topic_within_three_words(kind: str) -> None:
    vocabulary = tagged(kind)

    def follows(words: int, in_word: bool, text: str) -> bool:
        return set(vocabulary.encode(text)[:1]) <= set(vocabulary.topic_pieces(words, in_word))

    assert follows(0, False, "x") and follows(1, True, "x") and follows(3, True, "x")
    assert follows(2, True, " ") and follows(2, False, "x")
    assert not follows(0, False, " ") and not follows(3, True, " ") and not follows(1, False, " ")
    assert not any(follows(1, True, text) for text in ("<", ">", '"', "\n"))


def test_a_slow_tokenizer_is_refused() -> None:
    for build in (add_tags, Vocabulary, TextCodec, PromptEncoder):
        with pytest.raises(ValueError, match="SimpleNamespace is not a fast tokenizer"):
            build(SimpleNamespace(is_fast=False))


def test_a_tokenizer_without_tags_is_refused_but_can_still_read_prompts() -> None:
    tokenizer = byte_level_tokenizer()
    with pytest.raises(MissingTagsError, match="does not know PASTA's tags"):
        Vocabulary(tokenizer)
    codec = TextCodec(tokenizer)
    assert codec.decode(PromptEncoder(tokenizer).encode("x <br />")) == "x <br />"


def test_a_vocabulary_does_not_outlive_its_user() -> None:
    vocabulary = Vocabulary(tagged("bytes").tokenizer)
    assert vocabulary.digits(3, True) is vocabulary.digits(3, True) and vocabulary.topic_pieces(0, False)
    gone = weakref.ref(vocabulary)
    del vocabulary
    gc.collect()
    assert gone() is None


def test_encoding_and_the_tokenizers_own_calls_leave_each_other_alone(vocabulary: Vocabulary) -> None:
    tokenizer, text = vocabulary.tokenizer, "hello world <sync/> hello world"
    own, tagged_ids = vocabulary.encode(text), tokenizer(text)["input_ids"]
    assert vocabulary.sync not in own and vocabulary.sync in tagged_ids
    assert len(tokenizer(text, truncation=True, max_length=3)["input_ids"]) == 3
    assert vocabulary.encode(text) == own and tokenizer(text)["input_ids"] == tagged_ids
    assert own == tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
