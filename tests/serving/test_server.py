"""`pasta serve`'s server over HTTP, asked by the client that people have: same answers, and every refusal."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import openai
import pytest

from pastalm import Engine
from pastalm.lang.prompt import RawPrompt
from pastalm.serving import server
from pastalm.serving.middleware import MAX_BODY_BYTES
from tests.serving.conftest import RunningServer, serving

SPELL = "Spell each word, then spell it backwards: river, stone, maple, candle."
PROMPTS = [
    SPELL,
    "Spell each word, then spell it backwards: lamp, glass.",
    "Sort each list from smallest to largest. List A: 4, 9, 1. List B: 8, 2, 5.",
    "Describe Oslo, Lima and Kyoto.",
    "Start with 5, add 3, then double the result. What do you get?",
]


def ask(server: RunningServer, prompt: str = SPELL, **fields: Any) -> Any:
    """A chat completion; PASTA's own fields go where the client wants them."""
    own = {name: fields.pop(name) for name in ("mode", "promise_bias", "max_threads", "annotated") if name in fields}
    messages = [{"role": "user", "content": prompt}]
    return server.client().chat.completions.create(model="bundled", messages=messages, extra_body=own, **fields)


def alone(engine: Engine, prompt: str = SPELL, **options: Any) -> Any:
    return engine.generate([{"role": "user", "content": prompt}], **{"max_tokens": 70, **options})


@pytest.mark.parametrize("mode", ["async", "sequential"])
def test_an_answer_is_the_engine_s(served: RunningServer, bundled: Engine, mode: str) -> None:
    expected, got = alone(bundled, mode=mode), ask(served, mode=mode, annotated=True)
    assert got.choices[0].message.content == expected.text
    assert got.choices[0].finish_reason == expected.finish_reason == "length"
    assert got.object == "chat.completion" and got.model == "bundled"
    tokens = (expected.prompt_tokens, expected.metrics.tokens)
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == tokens
    assert got.usage.total_tokens == sum(tokens)
    figures, metrics = got.pasta, expected.metrics
    assert figures["annotated"] == expected.annotated
    assert (figures["steps"], figures["critical_path"]) == (metrics.steps, metrics.critical_path)
    assert (figures["mode"], figures["threads"]) == (mode, len(expected.threads))
    assert figures["parallelism"] == metrics.parallelism and (figures["threads"] > 1) == (mode == "async")


def test_an_answer_that_ends_by_itself(served: RunningServer, bundled: Engine) -> None:
    got = ask(served, PROMPTS[1], max_completion_tokens=200)
    assert got.choices[0].finish_reason == "stop"
    assert got.choices[0].message.content == alone(bundled, PROMPTS[1], max_tokens=200).text
    assert "annotated" not in got.pasta


@pytest.mark.parametrize("fields", [{}, {"mode": "sequential"}, {"temperature": 1.0, "seed": 5}, {"stop": ["tone"]}])
def test_a_stream_is_the_answer(served: RunningServer, fields: dict[str, Any]) -> None:
    whole = ask(served, **fields)
    chunks = list(ask(served, stream=True, stream_options={"include_usage": True}, **fields))
    *texts, last, usage = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in texts) == whole.choices[0].message.content
    assert texts[0].choices[0].delta.role == "assistant" and len(texts) > 3
    assert last.choices[0].finish_reason == whole.choices[0].finish_reason
    assert last.pasta["critical_path"] == whole.pasta["critical_path"]
    assert usage.choices == [] and usage.usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1 and texts[0].object == "chat.completion.chunk"


def test_seeds(served: RunningServer) -> None:
    fields = {"temperature": 1.0, "mode": "sequential", "max_tokens": 40}
    first = ask(served, **fields)
    again = ask(served, seed=first.pasta["seed"], **fields)
    assert again.choices[0].message.content == first.choices[0].message.content
    assert ask(served, **fields).pasta["seed"] != first.pasta["seed"]


@pytest.mark.slow
def test_many_clients_get_what_each_would_get_alone(served: RunningServer, bundled: Engine) -> None:
    asked = [(prompt, mode) for prompt in PROMPTS for mode in ("async", "sequential")]
    expected = [alone(bundled, prompt, mode=mode, max_tokens=40).text for prompt, mode in asked]

    def get(one: tuple[str, str]) -> str:
        return ask(served, one[0], mode=one[1], max_tokens=40).choices[0].message.content

    with ThreadPoolExecutor(len(asked)) as clients:
        assert list(clients.map(get, asked)) == expected
    served.wait(served.is_clean)


def test_completions_go_on_with_a_prompt(served: RunningServer, bundled: Engine) -> None:
    prompt = f"<|prompt|>{SPELL}<|answer|>"
    create, fields = served.client().completions.create, {"model": "bundled", "prompt": prompt, "max_tokens": 40}
    got = create(**fields)
    assert got.object == "text_completion" and got.choices[0].finish_reason == "length"
    assert got.choices[0].text == bundled.generate(RawPrompt(prompt), max_tokens=40).text
    assert got.usage.prompt_tokens == len(bundled.encode(RawPrompt(prompt)))
    chunks = list(create(**fields, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == got.choices[0].text


def test_messages_in_parts_and_fields_without_effect(served: RunningServer) -> None:
    parts = [{"type": "text", "text": SPELL[:20]}, {"type": "text", "text": SPELL[20:]}]
    messages = [{"role": "user", "content": parts, "name": "somebody"}]
    create = served.client().chat.completions.create
    got = create(model="bundled", messages=messages, max_tokens=20, n=1, user="somebody", frequency_penalty=0)
    assert got.choices[0].message.content == ask(served, max_tokens=20).choices[0].message.content


def test_models_and_health(served: RunningServer) -> None:
    assert [card.id for card in served.client().models.list()] == ["bundled"]
    assert served.client().models.retrieve("bundled").id == "bundled"
    with pytest.raises(openai.NotFoundError, match="no model 'meta/llama' here"):
        served.client().models.retrieve("meta/llama")
    connection = served.post({})
    connection.getresponse().read()
    connection.request("GET", "/health")
    assert json.load(connection.getresponse()) == {"status": "ok", "open": 0}
    connection.close()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"max_tokens": -1}, "max_tokens must be a whole number of at least 1, not -1."),
        ({"max_tokens": "5"}, "max_tokens: input should be a valid integer."),
        ({"max_threads": 0}, "max_threads must be"),
        ({"max_async_tokens": 0}, "max_async_tokens must be"),
        ({"temperature": -1}, "temperature must be"),
        ({"top_p": 0}, "top_p is a share"),
        ({"promise_bias": 4}, "promise_bias is a number from -3"),
        ({"mode": "both"}, "Unknown mode 'both'; choose 'async' or 'sequential'."),
        ({"n": 0}, "n must be at least 1, and a request gets at most 64 answers."),
        ({"n": 65}, "n must be at least 1, and a request gets at most 64 answers."),
        ({"best_of": 2}, "best_of is not supported: leave it out; answers are not ranked here"),
        ({"presence_penalty": 3}, "presence_penalty is a number from -2 to 2"),
        ({"logit_bias": {"x": 1}}, "logit_bias: give an object of token ids"),
        ({"logit_bias": {"99999": 1}}, "logit_bias names the token 99999, which this model does not have."),
        ({"response_format": {"type": "json_object"}}, "response_format is not supported: leave it out; chunks are"),
        ({"tools": [{}]}, "tools is not supported"),
        ({"n": True}, "n: input should be a valid integer."),
        ({"logprobs": 0}, "logprobs: input should be a valid boolean."),
        ({"stop": ["x"] * 17}, "stop takes at most 16 strings, not 17."),
        ({"top_logprobs": 3}, "top_logprobs needs logprobs: true"),
        ({"logit_bias": {"5": "x"}}, "logit_bias: give an object of token ids with numbers from -100 to 100."),
        ({"stop": 5}, "stop: input should be a valid string."),
        ({"max_token": 5}, "Unknown field 'max_token'."),
        ({"stream_options": {"usage": True}}, "Unknown field 'stream_options.usage'."),
        ({"messages": []}, "messages: list should have at least 1 item"),
        ({"messages": [{"role": "user"}]}, "The field 'messages.0.content' is missing."),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "half of a surrogate pair"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "input should be 'text'."),
        ({"messages": [{"role": "user", "content": "river " * 3000}]}, "but the model's window is 2048; shorten it."),
        ({"messages": [{"role": "user", "content": "river " * 900}]}, "but the cache holds 700; raise max_model_len."),
    ],
)
def test_wrong_fields_get_a_sentence(served: RunningServer, fields: dict[str, Any], said: str) -> None:
    for stream in (False, True):
        body = {"model": "bundled", "messages": [{"role": "user", "content": "hello"}], "stream": stream, **fields}
        connection = served.post(body, "/v1/chat/completions")
        answer = connection.getresponse()
        error = json.load(answer)["error"]
        connection.close()
        assert answer.status == 400 and said in error["message"] and "\n" not in error["message"]
        assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/v1/completions", '{"model":', 400, "The body is not JSON"),
        ("/v1/completions", "[]", 400, "The body must be a JSON object"),
        ("/v1/completions", '{"prompt": "\xe9"}', 400, "The body cannot be read as JSON in UTF-8."),  # in Latin-1
        ("/v1/completions", '{"model": "bundled"}', 400, "The field 'prompt' is missing."),
        ("/v1/completions", '{"model": "bundled", "prompt": ""}', 400, "The prompt is empty"),
        ("/v1/embeddings", "{}", 404, "POST /v1/embeddings is not served here."),
        ("/v1/models", "{}", 405, "POST /v1/models is not served here."),
    ],
)
def test_bodies_and_paths(served: RunningServer, path: str, body: str, status: int, said: str) -> None:
    connection = served.post(body, path)
    answer = connection.getresponse()
    assert answer.status == status and said in json.load(answer)["error"]["message"]
    connection.close()


def test_errors_are_the_client_s_own(served: RunningServer, tiny: Engine) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        served.client().completions.create(model="gpt-5", prompt="hello")
    assert caught.value.code == "model_not_found" and "this server has 'bundled'" in str(caught.value)
    with pytest.raises(openai.BadRequestError, match="at most 64 answers"):
        ask(served, n=100)
    with serving(tiny) as running, pytest.raises(openai.BadRequestError, match="no chat template"):
        running.client().chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hello"}])


def test_the_key(tiny: Engine) -> None:
    with serving(tiny, api_key="open sesame", mode="sequential") as running:
        for key in ("wrong", "open sesam"):
            with pytest.raises(openai.AuthenticationError) as caught:
                running.client(key).models.list()
            assert caught.value.code == "invalid_api_key"
        connection = running.post("not even JSON")
        assert connection.getresponse().status == 401
        connection.close()
        connection = running.post("")
        connection.getresponse().read()
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        connection.close()
        client = running.client("open sesame")
        assert client.completions.create(model="tiny", prompt="hello", max_tokens=3).usage.completion_tokens == 3


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_place(tiny: Engine, stream: bool) -> None:
    expected = tiny.generate("world", max_tokens=30, mode="sequential").text
    with serving(tiny, max_batch=1, max_waiting=2, mode="sequential") as running:
        scheduler = running.worker.scheduler
        long = {"model": "tiny", "prompt": "hello", "max_tokens": 900, "stream": stream}
        leaver = running.post(long)
        running.wait(lambda: bool(scheduler.running))
        request = scheduler.running[0]
        waiter = running.post({"model": "tiny", "prompt": "world", "max_tokens": 30})
        impatient = running.post(long)
        running.wait(lambda: running.worker.open == 3)
        with pytest.raises(openai.RateLimitError) as caught:
            running.client().completions.create(model="tiny", prompt="hello")
        assert caught.value.code == "overloaded" and 1 <= int(caught.value.response.headers["Retry-After"]) <= 60
        leaver.close()
        impatient.close()
        assert json.load(waiter.getresponse())["choices"][0]["text"] == expected
        waiter.close()
        running.wait(running.is_clean)
        assert request.response is None, "it was over before its client left"


def test_a_failure_of_ours_is_one_sentence_and_the_next_answer_comes(tiny: Engine) -> None:
    with serving(tiny, mode="sequential") as running:
        broken = tiny.codec.tokenizer
        tiny.codec.tokenizer = None
        try:
            with pytest.raises(openai.InternalServerError) as caught:
                running.client().completions.create(model="tiny", prompt="hello")
        finally:
            tiny.codec.tokenizer = broken
        assert caught.value.status_code == 500 and "Traceback" not in str(caught.value)
        assert running.client().completions.create(model="tiny", prompt="hello", max_tokens=3).choices[0].text


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_without_memory_gets_a_503_and_the_others_go_on(tiny: Engine, stream: bool) -> None:
    roomy = Engine(tiny.runner.model, tiny.tokenizer, max_model_len=1 << 44)
    expected = tiny.generate("hello", max_tokens=300, mode="sequential").text
    with serving(roomy, mode="sequential") as running:
        beside = running.post({"model": "tiny", "prompt": "hello", "max_tokens": 300})
        running.wait(lambda: bool(running.worker.scheduler.running))
        with pytest.raises(openai.InternalServerError) as caught:  # the client's name for all from 500 on
            fields = {"model": "tiny", "prompt": "hello", "max_tokens": 1 << 42}  # more slots than any machine has
            running.client().completions.create(**fields, stream=stream)
        assert caught.value.status_code == 503 and caught.value.code == "out_of_memory"
        assert int(caught.value.response.headers["Retry-After"]) >= 1
        assert json.load(beside.getresponse())["choices"][0]["text"] == expected
        beside.close()
        assert (
            running.client().completions.create(model="tiny", prompt="hello", max_tokens=300).choices[0].text
            == expected
        )
        running.wait(running.is_clean)


@pytest.mark.parametrize(
    ("header", "value", "status", "said"),
    [
        ("Transfer-Encoding", "chunked", 411, "send a Content-Length."),
        ("Content-Length", str(MAX_BODY_BYTES + 1), 413, "The body is larger than 16 MiB."),
    ],
)
def test_bodies_are_measured_before_they_are_read(
    served: RunningServer, header: str, value: str, status: int, said: str
) -> None:
    connection = HTTPConnection("127.0.0.1", served.port)
    connection.putrequest("POST", "/v1/completions")
    connection.putheader(header, value)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == status and said in json.load(answer)["error"]["message"]
    connection.close()


def test_half_a_body_does_not_keep_the_server(tiny: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "GRACE_SECONDS", 1.0)
    with serving(tiny, mode="sequential") as running:
        connection = HTTPConnection("127.0.0.1", running.port)
        connection.putrequest("POST", "/v1/completions")
        connection.putheader("Content-Length", "100")
        connection.endheaders(b'{"model":')
        running.wait(lambda: bool(running.server.server_state.tasks))
    connection.close()


def test_the_end_of_the_server_is_told(tiny: Engine) -> None:
    with serving(tiny, max_batch=1, mode="sequential") as running:
        late = running.post({"model": "tiny", "prompt": "hello", "max_tokens": 900})
        running.wait(lambda: bool(running.worker.scheduler.running))
        running.worker.close()
        answer = late.getresponse()
        assert answer.status == 503 and json.load(answer)["error"]["code"] == "stopped"
        late.request("GET", "/health")
        assert late.getresponse().status == 503
        late.close()
