"""Skeleton-of-Thought with a real engine whose choices are written down, or random."""

from __future__ import annotations

import re

import pytest
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from pastalm import Engine, RequestError
from pastalm.evaluation.baselines.outline import points
from pastalm.evaluation.baselines.skeleton import Skeleton
from pastalm.evaluation.comparison import Pair
from pastalm.lang.prompt import Prompt, RawPrompt
from pastalm.lang.recogniser import Legal
from pastalm.runtime.sequence import Sequence
from pastalm.runtime.thread import ThreadPath
from tests.conftest import byte_level_tokenizer

QUESTION = "foo?"
OUTLINE = " hello world\n2. foo\n3. bar\n"
EXPANSIONS = {1: " one xyzx", 2: " two xyzx hello xyzx", 3: " three"}
ANSWER = "1. hello world: one xyzx\n2. foo: two xyzx hello xyzx\n3. bar: three"


class Written(Engine):
    """A real engine that says what is written down: the outline, or the text of the point that a prompt ends with."""

    outline = OUTLINE
    asked: list[str]

    def request(self, prompt: Prompt, **options: object) -> Sequence:
        request = super().request(prompt, **options)  # type: ignore[arg-type]
        text = prompt.text if isinstance(prompt, RawPrompt) else str(prompt)
        self.asked = [*getattr(self, "asked", []), text]
        number = re.search(r"[\n\]]([0-9])\. [^\n]+:$", text)
        said = EXPANSIONS[int(number[1])] if number else self.outline if text.endswith("1.") else "all at once"
        tokens = iter([*self.codec.encode(said), min(self.eos)])

        def choose(logits: Tensor, legal: list[Legal], paths: list[ThreadPath]) -> list[int]:
            return [next(tokens) for _ in paths]

        request.teacher = choose
        return request

    def length(self, text: str) -> int:
        return len(self.codec.encode(text))


@pytest.fixture
def written(tiny_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Written:
    return Written(tiny_llama, tokenizer)


def test_points_are_expanded_and_joined(written: Written) -> None:
    response = Skeleton(written).generate(QUESTION)
    assert response.text == response.annotated == response.answer.plain == ANSWER
    assert [thread.topic for thread in response.threads] == ["", "hello world", "foo", "bar"]
    assert [thread.path for thread in response.threads] == [(), (0,), (1,), (2,)]
    assert "\n".join(thread.text for thread in response.threads[1:]) == ANSWER
    assert (response.threads[0].text, response.finish_reason) == (OUTLINE, "stop")
    assert response.prompt_tokens == written.length(QUESTION)


def test_its_figures_are_those_of_the_requests(written: Written) -> None:
    metrics = Skeleton(written).generate(QUESTION).metrics
    outline, lengths = written.length(OUTLINE), [written.length(text) for text in EXPANSIONS.values()]
    assert metrics.tokens == outline + sum(lengths)
    assert metrics.critical_path == outline + max(lengths)
    assert metrics.content_tokens == written.length(ANSWER)
    assert metrics.parallelism == metrics.content_tokens / metrics.critical_path
    # The outline's steps; a prefill for each point; what the longest still writes after its first token.
    assert metrics.steps == outline + len(lengths) + max(lengths) - 1
    assert metrics.tokens_per_second == metrics.tokens / metrics.wall_seconds > 0
    assert 0 < metrics.redundancy < 1  # two points have xyzx, four letters that stay four tokens


def test_a_cap_on_threads_changes_only_steps_and_time(written: Written) -> None:
    wide, narrow = (Skeleton(written).generate(QUESTION, max_threads=width) for width in (3, 1))
    assert (narrow.text, narrow.threads, narrow.metrics.critical_path) == (
        wide.text,
        wide.threads,
        wide.metrics.critical_path,
    )
    assert narrow.metrics.steps == narrow.metrics.tokens > wide.metrics.steps


def test_limits(written: Written) -> None:
    outline = written.length(OUTLINE)
    most = 2 * outline
    response = Skeleton(written).generate(QUESTION, max_tokens=most)
    assert response.finish_reason == "length" and response.metrics.tokens <= most
    assert max(thread.content for thread in response.threads[1:]) == (most - outline) // 3
    response = Skeleton(written).generate(QUESTION, max_async_tokens=4)
    assert [thread.content for thread in response.threads[1:]] == [4, 4, 4]
    assert all(thread.truncated for thread in response.threads[1:])


@pytest.mark.parametrize("outline", ["", " only one point", " \n2. \n3. ...", "\n" * 3])
def test_without_a_skeleton_it_answers_sequentially_and_pays_for_the_attempt(written: Written, outline: str) -> None:
    written.outline = outline
    response = Skeleton(written).generate(QUESTION)
    plain, spent = written.length("all at once"), written.length(outline)
    assert response.text == "all at once" and len(response.threads) == 1
    assert response.metrics.tokens == response.metrics.critical_path == response.metrics.steps == plain + spent
    assert response.metrics.content_tokens == plain
    assert response.prompt_tokens == written.length(QUESTION)


def test_a_random_model_without_tags_falls_back(tiny_llama: LlamaForCausalLM) -> None:
    engine = Engine(tiny_llama, byte_level_tokenizer())
    skeleton = Skeleton(engine)
    response = skeleton.generate(QUESTION, max_tokens=24)
    plain = engine.generate(QUESTION, max_tokens=12, mode="sequential")
    assert response.text == plain.text and response.script == plain.script
    assert response.metrics.tokens == 24  # half of them for the attempt
    assert next(skeleton.generate_batch([QUESTION], max_tokens=24)).text == plain.text


def test_it_stands_where_an_engine_does(written: Written) -> None:
    skeleton = Skeleton(written)
    pair = Pair(skeleton.generate(QUESTION, mode="async"), skeleton.generate(QUESTION, mode="sequential"))
    assert pair.baseline.text == "all at once"
    assert pair.theoretical == written.length("all at once") / pair.answer.metrics.critical_path


def test_messages_keep_their_turns_and_begin_the_answer(
    tiny_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "foo?"},
        {"role": "assistant", "content": "bar"},
        {"role": "user", "content": "and {then}?"},
    ]
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}: {{ m.content }}]{% endfor %}"
    try:
        engine = Written(tiny_llama, tokenizer)
        response = Skeleton(engine).generate(messages)
        assert response.prompt_tokens == len(engine.encode(messages))
    finally:
        tokenizer.chat_template = None
    assert response.text == ANSWER
    first, *others = engine.asked
    before = "[system: be brief][user: foo?][assistant: bar][user: You plan"
    assert first.startswith(before) and first.endswith("The skeleton:]1.") and "\nand {then}?\n" in first
    assert [prompt.rsplit("]", 1)[1] for prompt in others] == ["1. hello world:", "2. foo:", "3. bar:"]
    assert all("1. hello world\n2. foo\n3. bar\n" in prompt and "and {then}?" in prompt for prompt in others)


def test_a_content_in_parts_is_asked_as_its_text(
    tiny_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    parts = [{"type": "text", "text": "foo"}, {"type": "text", "text": "?"}]
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}: {{ m.content }}]{% endfor %}"
    try:
        engine = Written(tiny_llama, tokenizer)
        for content in (parts, "foo?"):
            assert Skeleton(engine).generate([{"role": "user", "content": content}]).text == ANSWER
    finally:
        tokenizer.chat_template = None
    assert engine.asked[:4] == engine.asked[4:]


def test_circles_are_those_of_any_point(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Skeleton(written).generate(QUESTION).metrics.circles
    monkeypatch.setitem(EXPANSIONS, 2, " xyzx" * 40)
    assert Skeleton(written).generate(QUESTION).metrics.circles


def test_none_is_the_default_of_an_option(written: Written) -> None:
    nothing = dict.fromkeys(("mode", "max_tokens", "seed", "logprobs", "max_threads"))
    assert Skeleton(written).generate(QUESTION, **nothing).text == ANSWER


def test_what_it_cannot_do_it_refuses(written: Written) -> None:
    with pytest.raises(RequestError, match="give a text or messages in place of token ids"):
        Skeleton(written).generate(written.encode(QUESTION))
    with pytest.raises(RequestError, match="has no logprobs"):
        Skeleton(written).generate(QUESTION, logprobs=0)
    with pytest.raises(ValueError, match="max_tokens must be a whole number"):
        Skeleton(written).generate(QUESTION, max_tokens="5")


def test_messages_without_a_template_are_refused(written: Written) -> None:
    with pytest.raises(ValueError, match="no chat template"):
        Skeleton(written).generate([{"role": "user", "content": "foo?"}])


def test_the_beginning_token_comes_once(tiny_llama: LlamaForCausalLM) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_level_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
    )
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}[{{ m.content }}]{% endfor %}"
    prompt = [{"role": "user", "content": "foo"}]
    engine = Engine(tiny_llama, tokenizer)
    begun = Skeleton(engine)._begun(prompt, "bar", "1.")
    assert engine.encode(begun) == [*engine.encode([{"role": "user", "content": "bar"}]), *engine.codec.encode("1.")]


def test_a_skeleton_is_read_line_by_line() -> None:
    assert points("1. Take **care**:\n2.two\nno point\n 3.  **Three** \n3. again\n4.\n5. .") == {
        1: "Take **care",
        2: "two",
        3: "Three",
    }
    assert list(points("\n".join(f"{k}. point" for k in range(1, 15)))) == list(range(1, 11))
