"""Every field that openai-python can send: supported, accepted while it asks for nothing, or refused with a reason."""

from __future__ import annotations

import json
import re
from http.client import HTTPConnection
from typing import Any, get_type_hints

import pytest
from openai.types import completion_create_params as completion_types
from openai.types.chat import completion_create_params as chat_types
from openai.types.chat.chat_completion_stream_options_param import ChatCompletionStreamOptionsParam
from pydantic import ValidationError

from pastalm import Engine
from pastalm.lang.prompt import RawPrompt
from pastalm.serving.requests import ChatRequest, CommonRequest, CompletionRequest, StreamOptions
from pastalm.serving.responses import ResponsesRequest
from pastalm.serving.unsupported import UNSUPPORTED, WITHOUT_EFFECT
from tests.serving.conftest import RunningServer, serving

SENT = {
    "/v1/chat/completions": (
        ChatRequest,
        {"model": "bundled", "messages": [{"role": "user", "content": "Reverse: stone"}], "max_tokens": 4},
        (chat_types.CompletionCreateParamsNonStreaming, chat_types.CompletionCreateParamsStreaming),
    ),
    "/v1/completions": (
        CompletionRequest,
        {"model": "bundled", "prompt": "Reverse: stone", "max_tokens": 4},
        (completion_types.CompletionCreateParamsNonStreaming, completion_types.CompletionCreateParamsStreaming),
    ),
}
FIELDS = [
    (path, name)
    for path, (_, _, types) in SENT.items()
    for name in sorted({n for one in types for n in get_type_hints(one)})
]
SHOWN = ("/", "/docs", "/health")  # what a browser or a probe opens
ASKS = {  # a value that asks for something, of each field that is refused then
    "audio": {"format": "wav", "voice": "alloy"},
    "best_of": 3,
    "echo": True,
    "function_call": {"name": "f"},
    "functions": [{"name": "f"}],
    "modalities": ["text", "audio"],
    "moderation": {"mode": "block"},
    "prediction": {"type": "content", "content": "x"},
    "reasoning_effort": "high",
    "response_format": {"type": "json_object"},
    "suffix": "end",
    "tool_choice": "required",
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "verbosity": "low",
    "web_search_options": {},
}


def post(server: RunningServer, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    connection = server.post(body, path)
    answer = connection.getresponse()
    status, sent = answer.status, answer.read()
    connection.close()
    return status, json.loads(sent) if sent.startswith(b"{") else sent.decode()


def test_the_types_are_those_of_the_protocol() -> None:
    assert {"audio", "verbosity", "messages", "stream"} <= {name for path, name in FIELDS if "chat" in path}
    assert {"prompt", "best_of", "suffix"} <= {name for path, name in FIELDS if "chat" not in path}


@pytest.mark.parametrize(("path", "name"), FIELDS)
def test_every_field_of_the_protocol_is_known(served: RunningServer, path: str, name: str) -> None:
    model, body, _ = SENT[path]
    supported = name in model.model_fields
    assert supported + (name in UNSUPPORTED) + (name in WITHOUT_EFFECT) == 1
    if name not in ("model", "messages", "prompt"):
        status, answer = post(served, path, body | {name: None})
        assert status == 200 and answer["choices"], answer
    if name in UNSUPPORTED:
        status, answer = post(served, path, body | {name: ASKS[name]})
        assert status == 400 and answer["error"]["message"].startswith(f"{name} ")
        assert UNSUPPORTED[name].reason in answer["error"]["message"]


def test_stream_options_are_those_of_the_protocol() -> None:
    assert set(get_type_hints(ChatCompletionStreamOptionsParam)) == set(StreamOptions.model_fields)


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_values_that_ask_for_nothing_are_accepted(served: RunningServer, name: str) -> None:
    path = "/v1/chat/completions"
    for value in (None, *UNSUPPORTED[name].harmless):
        status, answer = post(served, path, SENT[path][1] | {name: value})
        assert status == 200, answer


def test_all_fields_without_effect_at_once(served: RunningServer) -> None:
    path = "/v1/chat/completions"
    plain = post(served, path, SENT[path][1])[1]["choices"]
    more = {"user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "safety_identifier": "x"}
    more |= {"prompt_cache_key": "k", "prompt_cache_retention": "24h", "prompt_cache_options": {"a": 1}}
    more |= {"parallel_tool_calls": False, "tools": ASKS["tools"], "tool_choice": "none"}
    assert post(served, path, SENT[path][1] | more)[1]["choices"] == plain


def test_only_known_names_are_supported() -> None:
    """What is neither the protocol's nor vLLM's is PASTA's own, and documented."""
    own = {"mode", "promise_bias", "max_threads", "max_async_tokens", "annotated", "pasta"}
    protocol = {name for _, name in FIELDS}
    assert set(CommonRequest.model_fields) - protocol == own


def test_the_shapes_of_a_prompt(served: RunningServer, bundled: Engine) -> None:
    path, (_, body, _) = "/v1/completions", SENT["/v1/completions"]
    text = body["prompt"]
    expected = post(served, path, body)[1]
    ids = bundled.encode(RawPrompt(text))
    for prompt in ([text], ids, [ids]):
        status, answer = post(served, path, body | {"prompt": prompt})
        assert status == 200 and answer["choices"] == expected["choices"] and answer["usage"] == expected["usage"]


@pytest.mark.parametrize("prompt", [[], [[]], "", [""], [-1], [1 << 40], [1.5], [True], [["a"]], {"a": 1}, [[1, "a"]]])
def test_shapes_that_are_no_prompt(served: RunningServer, prompt: Any) -> None:
    status, answer = post(served, "/v1/completions", SENT["/v1/completions"][1] | {"prompt": prompt})
    assert status == 400 and "\n" not in answer["error"]["message"]


def test_several_prompts_get_an_answer_each(served: RunningServer) -> None:
    path, body = "/v1/completions", SENT["/v1/completions"][1]
    prompts = ["Reverse: stone", "Spell: river", "Sort: 3, 1, 2"]
    alone = [post(served, path, body | {"prompt": prompt, "seed": 1})[1] for prompt in prompts]
    several = post(served, path, body | {"prompt": prompts, "seed": 1})[1]
    for index, (choice, one) in enumerate(zip(several["choices"], alone, strict=True)):
        assert choice["index"] == index and choice["text"] == one["choices"][0]["text"]
        assert choice["pasta"] == one["pasta"]
    assert several["usage"] == {name: sum(one["usage"][name] for one in alone) for name in several["usage"]}
    create = served.client().completions.create
    texts = ["", "", ""]
    for chunk in create(**(body | {"prompt": prompts}), stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [one["choices"][0]["text"] for one in alone]


def test_one_wrong_prompt_among_several_refuses_the_request(served: RunningServer) -> None:
    status, _ = post(served, "/v1/completions", SENT["/v1/completions"][1] | {"prompt": ["Reverse: stone", ""]})
    assert status == 400
    served.wait(served.is_clean)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"include_stop_str_in_output": True, "stop": "x"}, "include_stop_str_in_output is not done for stop"),
        ({"skip_special_tokens": False}, "skip_special_tokens: false goes with return_token_ids"),
        ({"include_stop_str_in_output": False, "stop": "x"}, ""),
        ({"skip_special_tokens": True}, ""),
        ({"include_stop_str_in_output": True, "skip_special_tokens": False, "return_token_ids": True}, ""),
    ],
)
def test_what_a_completion_would_drop_in_silence(served: RunningServer, fields: dict[str, Any], said: str) -> None:
    status, answer = post(served, "/v1/completions", SENT["/v1/completions"][1] | fields)
    assert (status, said in str(answer)) == (400 if said else 200, True)


WRONG = [
    (ChatRequest, {"messages": [1] * 1000}),
    (ChatRequest, {"messages": [{"role": "user", "content": [{"type": "image_url"}] * 1000}]}),
    (ChatRequest, {"messages": [{"role": "user", "content": "x", **{f"f{n}": 1 for n in range(1000)}}]}),
    (ChatRequest, {"messages": [], **{f"f{n}": 1 for n in range(1000)}}),
    (ChatRequest, {"messages": [], "stream_options": {f"f{n}": 1 for n in range(1000)}}),
    (ChatRequest, {"messages": [], "stop": [1] * 1000}),
    (ChatRequest, {"messages": [], "logit_bias": {str(n): "x" for n in range(1000)}}),
    (CompletionRequest, {"prompt": "x", "stop_token_ids": ["x"] * 1000}),
    (CompletionRequest, {"prompt": [[1, "x"]] * 60}),
    (ResponsesRequest, {"input": [1] * 1000}),
    (ResponsesRequest, {"input": [{"role": "user", "content": [1] * 1000}]}),
]


@pytest.mark.parametrize(("model", "fields"), WRONG)
def test_a_thousand_errors_are_not_collected_for_one_sentence(
    model: type[CommonRequest], fields: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate({"model": "bundled", **fields})
    assert caught.value.error_count() <= 3


def test_padded_chunks_hide_the_length_of_their_text(served: RunningServer) -> None:
    body = SENT["/v1/completions"][1] | {
        "stream": True,
        "stream_options": {"include_obfuscation": True},
        "max_tokens": 30,
    }
    lines = [line for line in post(served, "/v1/completions", body)[1].split("\n\n") if line and "[DONE]" not in line]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    lengths = {len(chunk["choices"][0]["text"] + chunk["obfuscation"]) % 32 for chunk in chunks}
    assert lengths == {0} and len(chunks) > 3


MESSAGES: list[Any] = [
    {"role": "assistant", "content": "x", "tool_calls": [{"id": "1", "type": "function"}]},
    {"role": "assistant", "content": None},
    {"role": "assistant", "content": "x", "refusal": "no"},
    {"role": "assistant", "content": "x", "audio": {"id": "1"}},
    {"role": "tool", "content": "x", "tool_call_id": "1"},
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
    {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "input_audio", "input_audio": {}}]},
]


@pytest.mark.parametrize("message", MESSAGES)
def test_no_part_of_a_message_is_dropped_in_silence(served: RunningServer, message: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": "hello"}, message, {"role": "user", "content": "hello"}]
    status, answer = post(served, "/v1/chat/completions", {"model": "bundled", "messages": messages, "max_tokens": 2})
    assert status == 400 and "\n" not in answer["error"]["message"]


def test_an_answer_can_be_sent_back(served: RunningServer) -> None:
    create, asked = served.client().chat.completions.create, SENT["/v1/chat/completions"][1]
    answer = create(**asked).choices[0].message
    messages = [asked["messages"][0], answer, {"role": "user", "content": "Again."}]
    try:
        assert create(model="bundled", messages=messages, max_tokens=2).usage.completion_tokens == 2
    except Exception as error:  # the bundled model's template may know one turn only
        assert "chat template" in str(error)


def head(server: RunningServer, method: str, path: str, headers: dict[str, str]) -> Any:
    connection = HTTPConnection("127.0.0.1", server.port)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


def test_health_can_be_asked_without_a_body(served: RunningServer) -> None:
    answer = head(served, "HEAD", "/health", {})
    assert answer.status == 200 and int(answer.headers["Content-Length"]) > 0


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/v1/models", "GET"), ("/v1/completions", "POST"), ("/v1/responses", "POST"), *((p, "GET, HEAD") for p in SHOWN)],
)
def test_a_method_that_is_not_served_names_those_that_are(served: RunningServer, path: str, allowed: str) -> None:
    answer = head(served, "DELETE", path, {})
    assert answer.status == 405 and sorted(answer.headers["Allow"].split(", ")) == allowed.split(", ")


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_nothing_from_elsewhere(served: RunningServer, path: str) -> None:
    connection = HTTPConnection("127.0.0.1", served.port)
    connection.request("GET", path)
    answer = connection.getresponse()
    page = answer.read().decode()
    asked = re.findall(r"""(?:src|href)="([^"#]+)""", page)
    assert answer.status == 200 and "default-src 'self'" in answer.headers["Content-Security-Policy"]
    for url in asked:
        assert "//" not in url and url.split(":")[0] in {url, "data"}, url
        if url.startswith("page/"):
            connection.request("GET", f"/{url}")
            file = connection.getresponse()
            assert file.status == 200 and b"//cdn" not in (text := file.read())
            assert {*re.findall(rb"https?://[^\s\"'`]+", text)} <= {b"http://www.w3.org/2000/svg"}
    connection.close()
    assert not re.search("https?://", page) and any(url.startswith("page/") for url in asked)


ORIGIN = {"Origin": "https://chat.example.org"}
PREFLIGHT = {
    **ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


def test_pages_of_other_origins_may_ask_only_where_that_is_allowed(served: RunningServer, tiny: Engine) -> None:
    assert "Access-Control-Allow-Origin" not in head(served, "GET", "/v1/models", ORIGIN).headers
    assert head(served, "OPTIONS", "/v1/chat/completions", PREFLIGHT).status == 405
    with serving(tiny, mode="sequential", api_key="k", cors=(ORIGIN["Origin"],)) as running:
        allowed = head(running, "OPTIONS", "/v1/chat/completions", PREFLIGHT)
        assert allowed.status == 200 and "authorization" in allowed.headers["Access-Control-Allow-Headers"].lower()
        refused = head(running, "GET", "/v1/models", ORIGIN)
        assert refused.status == 401 and refused.headers["Access-Control-Allow-Origin"] == ORIGIN["Origin"]
        other = head(running, "GET", "/health", {"Origin": "https://other.example.org"})
        assert "Access-Control-Allow-Origin" not in other.headers


def test_an_origin_is_no_address_of_a_page(tiny: Engine) -> None:
    with pytest.raises(ValueError, match="A web origin is written"), serving(tiny, cors=("example.org",)):
        pass


def test_each_request_is_a_line_in_the_log(tiny: Engine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pastalm.serving")
    with serving(tiny, mode="sequential", access_log=True) as running:
        client = running.client()
        client.completions.create(model="tiny", prompt="hello", max_tokens=3)
        list(client.completions.create(model="tiny", prompt="hello", max_tokens=4, stream=True))
        post(running, "/v1/completions", {})
        head(running, "GET", "/health%0Aforged", {})
    whole, stream, refused, forged = [record.message for record in caplog.records if record.name.endswith("middleware")]
    assert whole.startswith("127.0.0.1 POST /v1/completions 200 ") and whole.endswith(
        "3 tokens, 1 threads, critical path 3"
    )
    assert stream.endswith("4 tokens, 1 threads, critical path 4")
    assert " 400 " in refused and refused.endswith(" s") and "\n" not in forged
