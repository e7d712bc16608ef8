"""Text as it streams: whole characters, stop strings that span tokens, nothing ever taken back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pastalm.lang.codec import BROKEN
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.text_run import TextRun
from tests.tokenizers import EXACT, LOSSY, tagged, texts


def pushed(run: TextRun, tokens: list[int]) -> list[str]:
    return [*(run.push([token]) for token in tokens), run.flush()]


@given(st.text("xyé€😀\n ", max_size=12))
def test_gives_whole_characters_as_they_complete(vocabulary: Vocabulary, text: str) -> None:
    shown = pushed(TextRun(vocabulary.text), vocabulary.encode(text))
    assert "".join(shown) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in shown)
    assert shown[-1] == ""  # all of it was shown before the end


def test_a_character_comes_with_its_last_byte(vocabulary: Vocabulary) -> None:
    assert pushed(TextRun(vocabulary.text), vocabulary.encode("x€y")) == ["x", "", "", "€", "y", ""]


def test_broken_bytes_do_not_hold_the_text_for_ever(vocabulary: Vocabulary) -> None:
    first_byte = vocabulary.encode("€")[0]
    shown = pushed(TextRun(vocabulary.text), [first_byte] * 9)
    assert any(shown[:-1])


@pytest.mark.parametrize("kind", [*EXACT, *LOSSY])
@given(texts, st.data())
def test_any_cut_gives_the_text_that_decoding_all_tokens_gives(kind: str, text: str, data: st.DataObject) -> None:
    codec = Vocabulary(tagged(kind)).text
    ids = codec.encode(text)
    ids = ids[: data.draw(st.integers(0, len(ids)))]
    ids.insert(data.draw(st.integers(0, len(ids))), data.draw(st.integers(0, len(codec.tokenizer) - 1)))
    for eager in (True, False):
        assert "".join(pushed(TextRun(codec, eager=eager), ids)) == codec.decode(ids)
    assert "".join(pushed(TextRun(codec, ["no such text"]), ids)) == codec.decode(ids)


def test_only_the_unfinished_character_is_lost() -> None:
    codec = Vocabulary(tagged("llama2")).text
    ids = codec.encode("날씨 東京")
    assert "".join(pushed(TextRun(codec), ids[:-1])) == "날씨 東" + BROKEN
    assert codec.tokenizer.decode(ids[:-1]).count(BROKEN) > 1  # what the library makes of such an end


def test_without_streaming_all_comes_at_the_end(vocabulary: Vocabulary) -> None:
    assert pushed(TextRun(vocabulary.text, eager=False), vocabulary.encode("xyé")) == ["", "", "", "", "xyé"]


def test_what_may_begin_a_stop_string_is_kept(vocabulary: Vocabulary) -> None:
    run = TextRun(vocabulary.text, ["xyz"])
    assert pushed(run, vocabulary.encode("zxyxyyx")) == ["z", "", "", "xy", "", "xyy", "", "x"]
    assert not run.stopped


@given(st.text("xyz", max_size=14), st.lists(st.text("xyz", min_size=1, max_size=4), max_size=3))
def test_ends_before_the_first_complete_stop_string(vocabulary: Vocabulary, text: str, stops: list[str]) -> None:
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    read = text[: min(ends, default=len(text))]  # up to the token that completes the first stop string
    expected = min((read.find(stop) for stop in stops if stop in read), default=len(text))
    run = TextRun(vocabulary.text, stops)
    assert "".join(pushed(run, vocabulary.encode(text))) == text[:expected]
    assert run.stopped == bool(ends)


def test_after_a_stop_nothing_comes(vocabulary: Vocabulary) -> None:
    run = TextRun(vocabulary.text, ["x"])
    assert [run.push(vocabulary.encode("x")), run.push_text("<sync/>"), run.flush()] == ["", "", ""]


def test_a_stop_string_is_found_before_an_unfinished_character(vocabulary: Vocabulary) -> None:
    run = TextRun(vocabulary.text, ["xy"])
    run.push([*vocabulary.encode("xy"), vocabulary.encode("€")[0]])
    assert run.stopped


@pytest.mark.parametrize("eager", [True, False])
def test_tags_as_text_keep_their_place(vocabulary: Vocabulary, eager: bool) -> None:
    run = TextRun(vocabulary.text, eager=eager)
    assert run.push(vocabulary.encode("x")) + run.push_text("<async>") + run.flush() == "x<async>"
