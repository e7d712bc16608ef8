"""A token is what it decodes to: what an answer teaches is what the grammar allows, with every layout of tokenizers."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pastalm.lang.answer import Answer, Block, Sync
from pastalm.lang.codec import BROKEN
from pastalm.lang.positions import position_policy
from pastalm.lang.recogniser import Promised, Recogniser, first_illegal, require_promises
from pastalm.lang.script import compile_script
from pastalm.lang.tags import MAX_TOPIC_WORDS, is_topic, normal_topic
from pastalm.lang.tokenizer import add_tags
from pastalm.lang.topic import MAX_TOPIC_CHARACTERS, TopicState
from pastalm.lang.vocabulary import Vocabulary
from tests.tokenizers import EXACT, LOSSY, tagged, texts, topics

exact = pytest.mark.parametrize("kind", EXACT)
every = pytest.mark.parametrize("kind", [*EXACT, *LOSSY])
POLICY = position_policy("pred10")


@cache
def vocabulary_of(kind: str) -> Vocabulary:
    return Vocabulary(tagged(kind))


def promised(vocabulary: Vocabulary, tokens: list[int]) -> list[Promised]:
    """What a thread with these tokens promises."""
    reader = Recogniser(vocabulary, main=True, may_promise=True, constrained=True)
    return [mark for token in tokens for mark in reader.read(token) if isinstance(mark, Promised)]


@every
@given(texts, topics, st.integers(1, 999), texts)
def test_what_an_answer_teaches_is_legal(kind: str, text: str, topic: str, tokens: int, body: str) -> None:
    vocabulary = vocabulary_of(kind)
    try:
        script = compile_script(Answer((text, Block(topic, (body,), tokens), Sync(), text)), vocabulary, POLICY)
    except ValueError as error:
        assert kind in LOSSY and "has no tokens for the topic" in str(error)
        assume(False)
    main, child = script.of(0), script.of(1)[1:]  # the runtime writes <async>
    assert first_illegal(vocabulary, main) is None
    assert first_illegal(vocabulary, child, main=False) is None
    (promise,) = promised(vocabulary, main)
    assert promise.tokens == tokens
    if kind in EXACT:
        assert promise.topic == normal_topic(topic)


@exact
@given(texts, st.data())
def test_text_comes_back_and_a_cut_loses_one_character(kind: str, text: str, data: st.DataObject) -> None:
    assume("<0x" not in text or kind != "unigram")  # whose pieces for bytes match such text
    vocabulary = vocabulary_of(kind)
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    part = vocabulary.decode(ids[: data.draw(st.integers(0, len(ids)))])
    whole = part[:-1] if part.endswith(BROKEN) and not text.startswith(part) else part
    assert text.startswith(whole)


@every
@given(st.randoms(use_true_random=False))
def test_whatever_the_grammar_allows_is_a_topic(kind: str, random) -> None:
    vocabulary = vocabulary_of(kind)
    reader = Recogniser(vocabulary, main=True, may_promise=True, constrained=True)
    marks = reader.read(vocabulary.promise_topic)
    while not marks:
        legal = reader.legal()
        assert legal.only and legal.ids
        marks = reader.read(random.choice(legal.ids))
    (promise,) = marks
    assert isinstance(promise, Promised) and 1 <= promise.tokens <= 999
    assert is_topic(promise.topic) and promise.topic == normal_topic(promise.topic)
    assert len(promise.topic.split(" ")) <= MAX_TOPIC_WORDS
    assert len(promise.topic) < MAX_TOPIC_CHARACTERS + max(len(piece or b"") for piece in vocabulary.pieces)


def test_bytes_are_no_text_until_a_character_is_whole() -> None:
    vocabulary = vocabulary_of("llama2")
    first, second, third = vocabulary.encode("서")
    reader = Recogniser(vocabulary, main=True, may_promise=True, constrained=True)
    for token in (vocabulary.promise_topic, first):
        reader.read(token)
    for _ in range(2):
        legal = reader.legal()
        assert vocabulary.promise_tokens not in legal.ids and not set(vocabulary.encode("ab ")) & set(legal.ids)
        assert second in legal.ids
        reader.read(second)
    assert vocabulary.promise_tokens in reader.legal().ids
    assert third not in reader.legal().ids  # nothing to go on with


@pytest.mark.parametrize("kind", ["llama2", "gpt2"])
@pytest.mark.parametrize("text", ['"', "<", ">", "\n", "\t", "\u3000", "\u2028", "\u00a0", "\x85"])
def test_what_would_break_a_promise_cannot_be_spelt_in_bytes(kind: str, text: str) -> None:
    vocabulary, state = vocabulary_of(kind), TopicState(1, True)
    data = [bytes([byte]) for byte in text.encode()]
    for byte in data[:-1]:
        state = state.after(byte)
        assert state is not None
    assert state.after(data[-1]) is None
    tokens = {token for token, piece in enumerate(vocabulary.pieces) if piece == data[-1]}
    assert tokens and not tokens & set(vocabulary.topic_pieces(state.words, state.in_word, state.pending))


def test_pieces_that_hold_quotes_brackets_or_spaced_digits_are_judged_by_their_text() -> None:
    vocabulary = vocabulary_of("unsplit")
    allowed, numbers = set(vocabulary.topic_pieces(1, True)), set(vocabulary.digits(3, True))
    pieces = {token: piece for token, piece in enumerate(vocabulary.pieces) if piece and len(piece) > 1}
    assert any(b'"' in piece for piece in pieces.values()) and any(b" 1" in piece for piece in pieces.values())
    for token, piece in pieces.items():
        if set(b'"<>') & set(piece):
            assert token not in allowed
        if piece.strip(b" ") != piece:
            assert token not in numbers


def test_byte_names_without_byte_fallback_are_text() -> None:
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(48, 58)), *"0123456789ab "]
    backend = Tokenizer(models.BPE({name: place for place, name in enumerate(names)}, [], unk_token="<unk>"))
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="a")
    add_tags(tokenizer)
    vocabulary = Vocabulary(tokenizer)
    assert vocabulary.decode([1]) == "<0x30>" and 1 not in vocabulary.digits(3, False)


def without(letters: str) -> PreTrainedTokenizerFast:
    names = ["<unk>", "</s>", *(one for one in "0123456789abc " if one not in letters)]
    backend = Tokenizer(models.BPE({name: place for place, name in enumerate(names)}, [], unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    add_tags(tokenizer)
    return tokenizer


@pytest.mark.parametrize("letters", ["0123456789", "7", "0", "123"])
def test_a_tokenizer_without_digits_is_refused(letters: str) -> None:
    with pytest.raises(ValueError, match=r"not the number .* so no promise could be completed"):
        require_promises(Vocabulary(without(letters)))
    require_promises(Vocabulary(without("")))


def test_a_tokenizer_of_special_tokens_alone_is_refused() -> None:
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    add_tags(tokenizer)
    with pytest.raises(ValueError, match="no word of a topic"):
        require_promises(Vocabulary(tokenizer))


@every
def test_every_other_tokenizer_passes(kind: str) -> None:
    require_promises(vocabulary_of(kind))
