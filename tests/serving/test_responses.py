"""/v1/responses as openai-python's responses.create calls it: whole, streamed, refused."""

from __future__ import annotations

from typing import Any, get_type_hints

import openai
import pytest
from openai.types.responses import response_create_params as types

from pastalm import Engine
from pastalm.serving.responses import ResponsesRequest
from pastalm.serving.unsupported import RESPONSES_UNSUPPORTED, WITHOUT_EFFECT
from tests.serving.conftest import RunningServer
from tests.serving.test_protocol import post
from tests.serving.test_server import SPELL, alone

PATH = "/v1/responses"


def create(server: RunningServer, **fields: Any) -> Any:
    return server.client().responses.create(**({"model": "bundled", "input": SPELL} | fields))


def test_an_answer_is_the_engine_s(served: RunningServer, bundled: Engine) -> None:
    got, expected = create(served), alone(bundled)
    assert got.output_text == expected.text and got.status == "incomplete"
    assert got.incomplete_details.reason == "max_output_tokens"
    assert (got.usage.input_tokens, got.usage.output_tokens) == (expected.prompt_tokens, expected.metrics.tokens)
    assert got.pasta["threads"] == len(expected.threads) and got.output[0].role == "assistant"
    short = create(served, input="Spell each word, then spell it backwards: lamp, glass.", max_output_tokens=200)
    assert short.status == "completed" and short.incomplete_details is None


def test_shapes_of_the_input(served: RunningServer) -> None:
    text = create(served, max_output_tokens=20).output_text
    parts = [{"type": "input_text", "text": SPELL[:9]}, {"type": "input_text", "text": SPELL[9:]}]
    for content in (SPELL, parts):
        message: Any = [{"role": "user", "content": content}]
        assert create(served, input=message, max_output_tokens=20).output_text == text


def test_a_stream_is_the_answer(served: RunningServer) -> None:
    whole = create(served)
    events = list(create(served, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == events[-4].text == whole.output_text and len(deltas) > 3
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].response.usage == whole.usage and events[-1].response.output_text == whole.output_text


def test_the_client_s_own_stream_helper(served: RunningServer) -> None:
    fields: Any = {"input": "Spell each word, then spell it backwards: lamp, glass.", "max_output_tokens": 200}
    with served.client().responses.stream(model="bundled", **fields) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    assert final.output_text == create(served, **fields).output_text and final.status == "completed"


def test_thread_events_come_with_the_deltas(served: RunningServer) -> None:
    events = list(create(served, stream=True, extra_body={"pasta": {"events": True}}))
    told = [one for event in events for one in (getattr(event, "pasta", None) or {}).get("events", [])]
    assert "".join(one["text"] for one in sorted(told, key=lambda one: one["place"])) == events[-4].text


def test_padded_deltas_hide_the_length_of_their_text(served: RunningServer) -> None:
    events = list(create(served, stream=True, extra_body={"stream_options": {"include_obfuscation": True}}))
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert {len(event.delta + event.obfuscation) % 32 for event in deltas} == {0} and len(deltas) > 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reasoning", {"effort": "none", "summary": None}),
        ("reasoning", {"effort": None, "summary": None}),
        ("text", {"format": None}),
        ("text", {"format": {"type": "text", "schema": None}, "verbosity": None}),
        ("text", {"verbosity": "medium"}),
        ("text", {"format": {"type": "text"}, "verbosity": "medium"}),
    ],
)
def test_objects_that_ask_for_nothing_are_accepted(served: RunningServer, name: str, value: Any) -> None:
    body = {"model": "bundled", "input": "Reverse: stone", "max_output_tokens": 2, name: value}
    status, answer = post(served, PATH, body)
    assert status == 200, answer


@pytest.mark.parametrize("name", sorted(set(get_type_hints(types.ResponseCreateParamsNonStreaming)) | {"stream"}))
def test_every_field_of_the_protocol_is_known(served: RunningServer, name: str) -> None:
    supported = name in ResponsesRequest.model_fields
    assert supported + (name in RESPONSES_UNSUPPORTED) + (name in WITHOUT_EFFECT) == 1
    if name not in ("model", "input"):
        body = {"model": "bundled", "input": "Reverse: stone", "max_output_tokens": 2}
        status, answer = post(served, PATH, body | {name: None})
        assert status == 200, answer


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"previous_response_id": "resp-1"}, "answers are not stored; send the whole conversation as input"),
        ({"tools": [{"type": "web_search"}]}, "tools is not supported"),
        ({"text": {"format": {"type": "json_object"}}}, "text is not supported"),
        ({"reasoning": {"effort": "high"}}, "reasoning is not supported"),
        ({"reasoning": {"effort": "none", "summary": "auto"}}, "reasoning is not supported"),
        ({"text": {"verbosity": "low"}}, "the model has not learned lengths on request"),
        ({"background": True}, "background is not supported"),
        ({"input": []}, "input: list should have at least 1 item"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input should be 'input_text'"),
        ({"n": 2}, "n must be 1"),
        ({"max_output_tokens": 0}, "max_tokens must be a whole number of at least 1"),
    ],
)
def test_what_is_refused(served: RunningServer, fields: dict[str, Any], said: str) -> None:
    status, answer = post(served, PATH, {"model": "bundled", "input": "hello", **fields})
    assert status == 400 and said in answer["error"]["message"], answer
    with pytest.raises(openai.BadRequestError):
        create(served, extra_body=fields)
