"""Prompts as ids: strings, conversations, raw text; tags are text in them, and no message is dropped in silence."""

from __future__ import annotations

from functools import cache
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, processors
from transformers import PreTrainedTokenizerFast

from pastalm.lang.codec import TextCodec
from pastalm.lang.prompt import LongPromptError, PromptEncoder, RawPrompt
from pastalm.lang.tags import TAGS
from pastalm.lang.tokenizer import add_tags
from pastalm.lang.vocabulary import Vocabulary
from tests import tokenizers
from tests.conftest import byte_level_tokenizer
from tests.lang.test_vocabulary import every_kind, pieces, sentencepiece_tokenizer, tagged


@cache
def untagged(kind: str) -> PreTrainedTokenizerFast:
    return byte_level_tokenizer() if kind == "bytes" else sentencepiece_tokenizer(kind)


@every_kind
@given(st.lists(pieces | st.sampled_from([*TAGS, "</s>", "<eos>"]), max_size=5).map("".join))
def test_a_prompt_is_what_it_is_without_tags_in_the_vocabulary(kind: str, text: str) -> None:
    assert tagged(kind).prompts.encode(text) == untagged(kind)(text)["input_ids"]


def test_a_prompt_knows_tokens_that_were_added_after_the_tags() -> None:
    tokenizer = byte_level_tokenizer()
    add_tags(tokenizer)
    tokenizer.add_tokens(["<later>"], special_tokens=True)
    plain = untagged("bytes")
    expected = [*plain("a <br /> ")["input_ids"], tokenizer.convert_tokens_to_ids("<later>"), *plain("b")["input_ids"]]
    assert PromptEncoder(tokenizer).encode("a <br /> <later>b") == expected


def test_a_prompt_keeps_other_special_tokens(vocabulary: Vocabulary) -> None:
    assert vocabulary.prompts.encode("x<eos>y").count(vocabulary.tokenizer.eos_token_id) == 1


def test_a_chat_needs_a_template_that_takes_it(tokenizer: PreTrainedTokenizerFast) -> None:
    codec, prompts = TextCodec(tokenizer), PromptEncoder(tokenizer)
    messages = [{"role": "user", "content": "x<sync/>"}]
    with pytest.raises(ValueError, match="no chat template"):
        prompts.encode(messages)
    try:
        tokenizer.chat_template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}>"
        assert codec.decode(prompts.encode(messages)) == "[x<sync/>]>"
        tokenizer.chat_template = "{{ raise_exception('no roles') }}"
        with pytest.raises(ValueError, match="refuses these messages: no roles"):
            prompts.encode(messages)
    finally:
        tokenizer.chat_template = None


@pytest.mark.parametrize("start", ["{{ bos_token }}", ""])
def test_a_chat_is_encoded_as_transformers_does(start: str) -> None:
    tokenizer = sentencepiece_tokenizer("first")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.chat_template = start + "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
    messages = [{"role": "user", "content": "foo b"}]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert PromptEncoder(tokenizer).encode(messages) == expected
    assert expected.count(1) == bool(start) and PromptEncoder(tokenizer).encode(RawPrompt("foo"))[0] == 1


CHATML = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}\n{% endfor %}<|assistant|>"
KNOWS_THREE = (
    "{% for m in messages %}{% if m.role in ('system', 'user', 'assistant') %}"
    "<|{{ m.role }}|>{{ m.content }}\n{% endif %}{% endfor %}<|assistant|>"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ m.content }}{% endfor %}"
)
FIRST_USER = "{% for m in messages if m.role == 'user' %}[{{ m.content }}]{% endfor %}"
PARTS = (
    "{% for m in messages %}<|{{ m.role }}|>{% for part in m.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}>"
)
PARTS_BY_NUMBER = "{% for m in messages %}[{{ m.content[0]['text'] }}]{% endfor %}"
THREE_IN_PARTS = (
    "{% for m in messages if m.role in ('system', 'user', 'assistant') %}"
    "<|{{ m.role }}|>{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}>"
)
SYSTEM_IN_THE_LAST = (
    "{% if messages[0].role == 'system' %}{% set said = messages[0].content %}{% endif %}"
    "{% for m in messages if m.role != 'system' %}"
    "[{% if loop.last and said %}{{ said }} {% endif %}{{ m.content }}]{% endfor %}"
)
DROPS_THINKING = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] | trim }}{% endfor %}<|assistant|>"
)
TURNS = [
    {"role": "developer", "content": "be user"},
    {"role": "user", "content": " hello\n"},
    {"role": "assistant", "content": "<think>foo</think>bar"},
    {"role": "user", "content": "12"},
]


def chat(template: str) -> PromptEncoder:
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = template
    return PromptEncoder(tokenizer)


def decoded(prompts: PromptEncoder, prompt: Any) -> str:
    return TextCodec(prompts.tokenizer).decode(prompts.encode(prompt))


@pytest.mark.parametrize("template", [CHATML, KNOWS_THREE, PARTS, PARTS_BY_NUMBER, THREE_IN_PARTS])
def test_every_message_stands_in_the_prompt(template: str) -> None:
    text = decoded(chat(template), TURNS)
    places = [text.find(turn["content"].strip()) for turn in TURNS]
    assert -1 not in places and places == sorted(places)
    assert "\ue000" not in text


@pytest.mark.parametrize("template", [KNOWS_THREE, THREE_IN_PARTS])
def test_a_developer_counts_as_system_where_the_template_does_not_know_one(template: str) -> None:
    as_system = [{**TURNS[0], "role": "system"}, *TURNS[1:]]
    assert chat(template).encode(TURNS) == chat(template).encode(as_system)


def test_a_developer_stays_one_where_the_template_knows_it() -> None:
    assert "<|developer|>be user" in decoded(chat(CHATML), TURNS)


@pytest.mark.parametrize(
    ("template", "role", "text"),
    [
        (FIRST_USER, "system", "be brief"),
        (FIRST_USER, "developer", "hello"),  # which stands in another message
        (KNOWS_THREE, "tool", "user"),  # which the template itself writes
        (KNOWS_THREE, "critic", "12"),
    ],
)
def test_a_message_that_the_template_leaves_out_is_an_error(template: str, role: str, text: str) -> None:
    messages = [{"role": "user", "content": "hello"}, {"role": role, "content": text}]
    with pytest.raises(ValueError, match=f"leaves out message 2 .role '{role}'"):
        chat(template).encode(messages)


def test_a_template_that_refuses_a_role_says_so() -> None:
    with pytest.raises(ValueError, match="refuses these messages: no system"):
        chat(NO_SYSTEM).encode([{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}])


def test_a_template_may_order_texts_anew_and_drop_the_thinking_of_earlier_turns() -> None:
    messages = [{"role": "system", "content": "brief"}, *TURNS[1:]]
    assert decoded(chat(SYSTEM_IN_THE_LAST), messages).endswith("[brief 12]")
    assert "<|assistant|>bar<|user|>" in decoded(chat(DROPS_THINKING), TURNS)


def test_content_may_come_in_parts_of_text() -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]}]
    for template in (CHATML, PARTS):
        assert chat(template).encode(parts) == chat(template).encode([{"role": "user", "content": "hello"}])


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user"},
        {"role": "user", "content": None},
        {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
        {"content": "x"},
        {"role": 3, "content": "x"},
        "x",
    ],
)
def test_what_is_no_message_of_text_is_refused(message: Any) -> None:
    with pytest.raises(ValueError, match="Message 2 of the prompt must"):
        chat(CHATML).encode([{"role": "user", "content": "x"}, message])


def test_a_string_is_a_users_message_where_there_is_a_template() -> None:
    prompts = chat(CHATML)
    assert prompts.encode("hello") == prompts.encode([{"role": "user", "content": "hello"}])
    assert prompts.encode(RawPrompt("hello")) == PromptEncoder(byte_level_tokenizer()).encode("hello")


def test_ids_stay_what_they_are_if_the_tokenizer_has_them(vocabulary: Vocabulary) -> None:
    size = len(vocabulary.tokenizer)
    assert vocabulary.prompts.encode([3, vocabulary.sync, size - 1]) == [3, vocabulary.sync, size - 1]
    for wrong in ([1, size], [1, -1], [1, "x"], [1, True]):
        with pytest.raises(ValueError, match="is no token id"):
            vocabulary.prompts.encode(wrong)


@pytest.mark.parametrize("kind", ["bytes", "first", "legacy"])
@pytest.mark.parametrize("text", ["foo", "", " foo", "<s>foo", "foo<s>", "<sync/>foo"])
def test_the_special_token_that_begins_a_text_comes_once(kind: str, text: str) -> None:
    tokenizer = byte_level_tokenizer() if kind == "bytes" else sentencepiece_tokenizer(kind)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    bos = tokenizer.bos_token_id
    template = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", bos)])
    add_tags(tokenizer)
    tokenizer.backend_tokenizer.post_processor = template
    prompts = PromptEncoder(tokenizer)
    ids = prompts.encode(RawPrompt(text))
    assert ids[0] == bos and ids[1:2] != [bos]
    if text.startswith("<s>"):
        assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_prompt_does_not_ask_for_all_added_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    tokenizer = byte_level_tokenizer()
    add_tags(tokenizer)
    own = tokenizer.get_added_vocab
    monkeypatch.setattr(tokenizer, "get_added_vocab", lambda: asked.append(1) or own())
    vocabulary = Vocabulary(tokenizer)
    for text in ("hello", "x <br />", "hello") * 3:
        vocabulary.prompts.encode(text)
    assert len(asked) <= 2  # once for the vocabulary, once for its prompts


def test_a_text_may_hold_the_mark_that_messages_are_told_by() -> None:
    prompts = chat("{% for m in messages if m.role == 'user' %}[{{ m.content }}]{% endfor %}")
    text = "\ue000\ue0002\ue0005"  # the mark of another message, and half of one before its own
    assert prompts.render([{"role": "user", "content": text}]) == f"[{text}]"


def test_many_messages_take_the_time_of_their_template() -> None:
    prompts, messages = chat(CHATML), [{"role": "user", "content": f"foo {number}"} for number in range(20_000)]
    started = process_time()
    text = prompts.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    once = process_time() - started
    assert prompts.render(messages) == text
    assert process_time() - started < 20 * once  # 5, and 40 where each mark is looked for in the whole text


RUNS = [" ", "\n", "☃", f"{'x' * 150} ", f"foo{' ' * 60}", "foo 12 "]  # some are few tokens, of some tokenizers


@pytest.mark.parametrize("kind", tokenizers.EXACT | tokenizers.LOSSY)
@pytest.mark.parametrize("run", RUNS)
def test_what_fits_is_never_too_long(kind: str, run: str) -> None:
    prompts = PromptEncoder(tokenizers.tagged(kind))
    prompt = RawPrompt((run * 20_000)[:20_000] + "foo")
    ids = prompts.encode(prompt)
    assert prompts.encode(prompt, max(1, len(ids))) == ids


def test_a_token_may_take_many_spaces() -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens([AddedToken("<|user|>", rstrip=True)])
    prompt = RawPrompt(f"<|user|>{' ' * 100_000}foo")
    assert len(PromptEncoder(tokenizer).encode(prompt, room=20)) < 20


@every_kind
@pytest.mark.parametrize("text", ["foo 12 ", "a", "<sync/>"])
def test_what_is_far_too_long_is_not_encoded_whole(kind: str, text: str) -> None:
    prompts, many = tagged(kind).prompts, text * 30_000
    with pytest.raises(LongPromptError) as caught:
        prompts.encode(RawPrompt(many), room=10)
    assert 20 < caught.value.tokens < len(prompts.encode(RawPrompt(many))) / 2


def test_the_rendered_text_of_messages_is_what_must_fit() -> None:
    messages = [{"role": "user", "content": "foo 12 " * 3000}]
    prompts = chat(CHATML)
    assert prompts.encode(messages, room=len(prompts.encode(messages))) == prompts.encode(messages)
    with pytest.raises(LongPromptError, match=r"has more than \d+ tokens"):
        prompts.encode(messages, room=10)
