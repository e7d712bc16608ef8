"""The engine's public face: options, streaming, replay, limits, and one clear sentence for what cannot be done."""

from __future__ import annotations

import re
from copy import deepcopy
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from pastalm import Engine
from pastalm.cli.models import load_tokenizer
from pastalm.lang.parse import parse
from pastalm.lang.positions import POLICIES
from pastalm.lang.tags import TAGS
from pastalm.lang.tokenizer import MissingTagsError, add_tags
from pastalm.runtime.events import DoneEvent, ForkEvent, JoinEvent, TokenEvent
from pastalm.runtime.load import LoadError, load
from pastalm.runtime.request import RequestError
from pastalm.runtime.sequence import Sequence
from tests.conftest import byte_level_tokenizer
from tests.runtime.families import tiny

ANNOTATED = (
    "ab <async topic='x y'>cd hello world</async> foo <async topic='z'>ef bar</async>g<sync/>hello "
    "<async topic='q'>12 34 56</async>end"
)


@pytest.fixture(scope="module")
def engine(tokenizer: PreTrainedTokenizerFast) -> Engine:
    return Engine(tiny("llama", len(tokenizer)), tokenizer)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny("llama", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def untagged() -> PreTrainedTokenizerFast:
    return byte_level_tokenizer()


def test_replay_gives_the_answer_back(engine: Engine) -> None:
    response = engine.replay("hello", ANNOTATED)
    answer = parse(ANNOTATED)
    assert response.text == answer.plain
    assert response.finish_reason == "stop"
    assert [thread.topic for thread in response.threads] == ["", "x y", "z", "q"]
    assert [thread.text for thread in response.threads[1:]] == ["cd hello world", "ef bar", "12 34 56"]
    assert response.metrics.length_errors == (0, 0, 0)
    assert parse(response.annotated).plain == answer.plain


def test_steps_are_the_critical_path_without_a_cap(engine: Engine) -> None:
    wide, narrow = engine.replay("hello", ANNOTATED), engine.replay("hello", ANNOTATED, max_threads=1)
    assert wide.metrics.steps == wide.metrics.critical_path == narrow.metrics.critical_path
    assert narrow.metrics.steps == narrow.metrics.tokens > wide.metrics.steps


def test_a_plain_replay_takes_a_step_a_token(engine: Engine) -> None:
    metrics = engine.replay("hello", "foo bar 12").metrics
    assert metrics.steps == metrics.tokens == metrics.critical_path == len(engine.codec.encode("foo bar 12"))
    assert metrics.parallelism == 1.0


def test_hiding_a_sibling_changes_nothing_and_a_synced_chunk_changes_what_follows(engine: Engine) -> None:
    logits: list[dict] = []
    for first in ("cd", "fo"):
        script = engine.replay(
            "hello", f"<async topic='x'>{first}</async><async topic='y'>bar</async> a<sync/> b"
        ).script
        seen: dict = {}
        policy = POLICIES["pred10"]
        engine.replay_script(
            engine.encode("hello"),
            script,
            policy,
            observe=lambda p, row, t, seen=seen: seen.setdefault(p, []).append(row),
        )
        logits.append(seen)
    one, other = logits
    torch.testing.assert_close(torch.stack(one[(1,)]), torch.stack(other[(1,)]), atol=1e-5, rtol=0)
    assert not torch.allclose(one[()][-1], other[()][-1], atol=1e-3)


def test_the_stream_is_the_answer(engine: Engine) -> None:
    options = {"max_tokens": 80, "temperature": 1.3, "seed": 4, "max_async_tokens": 9}
    events = list(engine.stream("hello world", **options))
    response = events[-1].response
    assert isinstance(events[-1], DoneEvent)
    texts = sorted((event for event in events if isinstance(event, TokenEvent)), key=lambda event: event.place)
    assert "".join(event.text for event in texts) == response.text
    assert response.text == engine.generate("hello world", **options).text


def test_forks_and_joins_are_told(engine: Engine) -> None:
    request = engine.request("hello", eager=True, max_tokens=200)
    v = engine.vocabulary
    promise = [v.promise_topic, *v.encode("x"), v.promise_tokens, *v.encode("1"), v.promise_end]
    script = iter([*promise, *promise, v.sync, *v.encode("end"), min(v.eos)])
    children: dict = {}

    def choose(logits: torch.Tensor, legal: list, paths: list) -> list[int]:
        chosen = []
        for path in paths:
            child = children.setdefault(path, iter([*v.encode("foo"), v.async_end]))
            chosen.append(next(script if path == () else child))
        return chosen

    request.teacher = choose
    response = engine.run(request)
    events = request.interpreter.transcript.drain()
    assert [event.thread for event in events if isinstance(event, ForkEvent)] == [(0,), (1,)]
    assert [event.children for event in events if isinstance(event, JoinEvent)] == [((0,), (1,))]
    assert response.text == "foofooend"


def test_a_stream_tells_forks_and_joins(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    v = engine.vocabulary
    promise = [v.promise_topic, *v.encode("x"), v.promise_tokens, *v.encode("1"), v.promise_end]
    written: dict = {(): iter([*promise, *promise, v.sync, *v.encode("z"), min(v.eos)])}

    def choose(logits: torch.Tensor, legal: list, paths: list) -> list[int]:
        return [next(written.setdefault(path, iter([*v.encode("xyz"), v.async_end]))) for path in paths]

    def scripted(*arguments: Any, **options: Any) -> Sequence:
        request = asked(*arguments, **options)
        request.teacher = choose
        return request

    asked = engine.request
    monkeypatch.setattr(engine, "request", scripted)
    events = list(engine.stream("hello"))
    forks = [event for event in events if isinstance(event, ForkEvent)]
    assert forks == [ForkEvent((0,), (5,), "x", 1), ForkEvent((1,), (11,), "x", 1)]  # behind a promise of five tokens
    joined = events.index(JoinEvent((), (13,), ((0,), (1,))))
    ended = [events.index(DoneEvent(path, (*place, 4))) for path, place in (((0,), (5,)), ((1,), (11,)))]
    assert events.index(forks[0]) < ended[0] and events.index(forks[1]) < ended[1] < joined < len(events) - 1
    response = events[-1].response
    assert response.text == "xyzxyzz" and response.metrics.sync_wait_steps == 3
    tokens = [event for event in events if isinstance(event, TokenEvent) and event.token >= 0]
    assert len(tokens) == response.metrics.tokens == 2 * 5 + 2 * 4 + 2


@pytest.mark.parametrize(("behind", "waits"), [("", 7), ("a", 6), ("xyzxyz", 1), ("xyzxyzx", 0), ("xyzxyzxyz", 0)])
def test_waits_at_a_sync_are_counted(engine: Engine, behind: str, waits: int) -> None:
    response = engine.replay("hello", f"<async topic='x'>xyzxyzx</async>{behind}<sync/>b")
    assert response.metrics.sync_wait_steps == waits


def test_seeds_reproduce_and_differ(engine: Engine) -> None:
    options = {"max_tokens": 30, "temperature": 1.0, "mode": "sequential"}
    first, again, other = (engine.generate("hello", seed=seed, **options).text for seed in (1, 1, 2))
    assert first == again != other


def test_max_tokens_ends_with_length(engine: Engine) -> None:
    response = engine.generate("hello", max_tokens=5, mode="sequential")
    assert response.finish_reason == "length"
    assert response.metrics.tokens == 5


def test_a_stop_string_is_not_shown(engine: Engine) -> None:
    text = engine.generate("hello", max_tokens=30, mode="sequential").text
    stop = text[8:11]
    response = engine.generate("hello", max_tokens=30, mode="sequential", stop=stop)
    assert response.text == text[: text.index(stop)]
    assert response.finish_reason == "stop"


def test_a_pool_too_small_ends_with_length(tokenizer: PreTrainedTokenizerFast) -> None:
    engine = Engine(tiny("llama", len(tokenizer)), tokenizer, max_model_len=12)
    response = engine.generate("hello", max_tokens=100, mode="sequential")
    assert response.finish_reason == "length"
    assert response.prompt_tokens + response.metrics.tokens <= 12 + 1  # the last token needs no slot
    with pytest.raises(ValueError, match="the cache holds 12; raise max_model_len"):
        engine.generate("hello world " * 10)
    with pytest.raises(RequestError, match=r"has more than \d+ tokens, but the model's window is 512"):
        engine.generate("hello world " * 10_000)


def test_the_window_ends_an_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny("gpt2", len(tokenizer))  # learned positions: one too many is an index error
    engine = Engine(model, tokenizer)
    engine.runner.model.config.max_position_embeddings = 40
    response = engine.generate("hello", max_tokens=200, mode="sequential")
    assert response.finish_reason == "length" and response.threads[0].truncated
    with pytest.raises(ValueError, match=r"The prompt has \d+ tokens, but the model's window is 40"):
        engine.generate("hello world " * 40)


def test_messages_go_through_the_template(engine: Engine, tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [{"role": "user", "content": "hello <sync/>"}]
    with pytest.raises(ValueError, match="no chat template"):
        engine.generate(messages)
    tokenizer.chat_template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    try:
        ids = engine.encode(messages)
    finally:
        tokenizer.chat_template = None
    assert engine.vocabulary.sync not in ids
    assert tokenizer.decode(ids) == "[hello <sync/>]"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "parallel"}, "Unknown mode 'parallel'"),
        ({"max_tokens": 0}, "max_tokens must be a whole number of at least 1, not 0"),
        ({"max_tokens": -3}, "max_tokens must be"),
        ({"max_threads": 0}, "max_threads must be"),
        ({"max_async_tokens": -1}, "max_async_tokens must be"),
        ({"temperature": -0.5}, "temperature must be"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"top_p": 0}, "top_p is a share"),
        ({"promise_bias": 3.5}, "promise_bias is a number from -3 (fewer chunks) to 3 (more chunks), not 3.5"),
        ({"positions": "pred7"}, "Unknown position policy 'pred7'; choose one of pred10"),
        ({"positions": "oracle"}, "needs the true length"),
    ],
)
def test_wrong_options_get_a_sentence(engine: Engine, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        engine.generate("hello", **options)


def test_half_a_character_is_refused(engine: Engine) -> None:
    with pytest.raises(RequestError, match="half of a surrogate pair"):
        engine.generate("hello \ud800")


def test_tokens_that_the_tokenizer_has_and_the_model_lacks_are_refused() -> None:
    known = untagged()
    add_tags(known)
    engine = Engine(tiny("llama", len(known), layers=1), known)
    rows = len(known)
    known.add_tokens(["<late>"])
    said = rf"holds the token {rows}, but this model knows {rows} tokens: take the tokenizer that belongs to it\."
    for prompt in ("hello <late>", [1, rows]):
        for ask in (engine.request, lambda prompt: engine.replay(prompt, ANNOTATED)):
            with pytest.raises(RequestError, match=f"^The prompt {said}"):
                ask(prompt)
    with pytest.raises(RequestError, match=f"^The answer {said}"):
        engine.replay("hello", "foo <late>")
    assert engine.generate([1, rows - 1], mode="sequential", max_tokens=3).metrics.tokens


def test_no_stop_strings(engine: Engine) -> None:
    answers = [engine.generate("hello", max_tokens=5, mode="sequential", stop=stop).text for stop in (None, (), "")]
    assert answers[0] == answers[1] == answers[2]


def test_an_empty_prompt_is_refused(engine: Engine) -> None:
    for prompt in ("", []):
        with pytest.raises(RequestError, match="The prompt is empty"):
            engine.generate(prompt)


def test_a_model_without_tags_decodes_sequentially_only() -> None:
    tokenizer = untagged()
    engine = Engine(tiny("llama", len(tokenizer)), tokenizer)
    assert engine.generate("hello", max_tokens=4, mode="sequential").metrics.tokens == 4
    with pytest.raises(MissingTagsError, match="pasta train sft"):
        engine.generate("hello")


def test_a_model_without_rows_for_the_tags_decodes_sequentially_only(tokenizer: PreTrainedTokenizerFast) -> None:
    engine = Engine(tiny("llama", len(tokenizer) - 3), tokenizer)
    assert engine.generate("hello", max_tokens=4, mode="sequential").metrics.tokens == 4
    for start in (engine.generate, lambda prompt: engine.replay(prompt, ANNOTATED)):
        with pytest.raises(MissingTagsError, match=r"pasta train sft.*resize_token_embeddings\(len\(tokenizer\)\)"):
            start("hello")


def test_the_model_says_how_it_is_sampled(tokenizer: PreTrainedTokenizerFast) -> None:
    engine = Engine(tiny("llama", len(tokenizer)), tokenizer)

    def ask(**options: object) -> str:
        return engine.generate("hello", max_tokens=30, seed=3, **options).annotated

    greedy, drawn = ask(), ask(temperature=0.7, top_p=0.8)
    assert greedy == ask(temperature=0) != drawn
    config = engine.runner.model.generation_config
    config.temperature, config.top_p = 0.7, 0.8
    assert ask() == greedy  # it does not ask for sampling
    config.do_sample = True
    assert ask() == ask(temperature=None, top_p=None) == drawn
    assert ask(temperature=0) == greedy


def test_a_replay_needs_no_end_token() -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.eos_token = None
    add_tags(tokenizer)
    model = tiny("llama", len(tokenizer))
    model.generation_config.eos_token_id = None
    engine = Engine(model, tokenizer)
    assert not engine.eos
    for annotated in ("<async topic='a'>hello world foo</async>b", ANNOTATED, "foo bar"):
        response = engine.replay("hello", annotated)
        assert response.text == parse(annotated).plain and response.finish_reason == "stop"


def test_a_cut_answer_can_be_replayed(engine: Engine) -> None:
    whole = engine.replay("hello", ANNOTATED)
    script = deepcopy(whole.script)
    assert engine.vocabulary
    last = max(place for place, token in enumerate(script.tokens) if token == engine.vocabulary.async_end)
    del script.tokens[last], script.block[last]
    again = engine.replay_script(engine.encode("hello"), script, engine.policy())
    assert (again.text, again.annotated) == (whole.text, whole.annotated)


def test_loading_a_directory(saved: Path) -> None:
    response = Engine.from_pretrained(str(saved), device="cpu").generate("hello", max_tokens=3)
    assert response.metrics.tokens == 3


def test_a_directory_below_home(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(saved.parent))
    model, tokenizer = load(f"~/{saved.name}", "cpu")
    assert len(tokenizer) == model.config.vocab_size
    assert len(load_tokenizer(f"~/{saved.name}")) == len(tokenizer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("./nowhere",), "There is no directory ./nowhere"),
        (("~nobody-of-this-name/x",), "There is no directory ~nobody-of-this-name/x"),
        (("nowhere/",), "There is no directory nowhere/"),
        ((".", "gpu"), "Unknown device 'gpu'"),
        ((".", "cpu", "int7"), "Unknown dtype 'int7'"),
        ((".", "xpu:99"), "Device 'xpu:99' was asked for, but it is not there; use 'auto' or 'cpu'."),
        ((".", "cuda:99"), "Device 'cuda:99' was asked for, but "),
    ],
)
def test_what_cannot_be_loaded_gets_a_sentence(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(LoadError, match=re.escape(message)) as caught:
        Engine.from_pretrained(*arguments)
    assert "\n" not in str(caught.value)


def test_a_name_that_the_hub_does_not_know_gets_a_sentence() -> None:
    known = "There is no directory nobody/nothing-of-this-name, and the hub", "Cannot load the model 'nobody/nothing-of"
    with pytest.raises(LoadError, match="|".join(map(re.escape, known))) as caught:  # without the network, and with it
        Engine.from_pretrained("nobody/nothing-of-this-name")
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def bundled() -> str:
    folder = files("pastalm") / "bundled"
    assert (folder / "config.json").is_file(), "the package ships without its model"
    return str(folder)


def test_the_bundled_model_answers_in_parallel(bundled: str) -> None:
    engine = Engine.from_pretrained("bundled")
    prompt = [{"role": "user", "content": "Spell each word, then spell it backwards: river, stone, maple, candle."}]
    response = engine.generate(prompt, max_tokens=600)
    assert response.finish_reason == "stop"
    assert response.metrics.critical_path < engine.generate(prompt, max_tokens=600, mode="sequential").metrics.tokens


def test_the_bundled_files_are_plain_hugging_face(bundled: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bundled)
    model = AutoModelForCausalLM.from_pretrained(bundled)
    assert model.config.pasta_positions == "pred10"
    assert len(tokenizer) == model.config.vocab_size


def test_the_bundled_model_is_small_and_knows_the_tags(bundled: str) -> None:
    weights = Path(bundled) / "model.safetensors"
    assert sum(file.stat().st_size for file in Path(bundled).glob("*.safetensors")) <= 16e6
    with safe_open(weights, "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118  it is no dict
    tokenizer = AutoTokenizer.from_pretrained(bundled)
    for tag in TAGS:
        assert tokenizer(tag, add_special_tokens=False)["input_ids"] == [tokenizer.convert_tokens_to_ids(tag)]
