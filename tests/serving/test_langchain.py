"""LangChain's client, as people point it at a server: chat, streams, batches of prompts."""

from __future__ import annotations

import pytest

from pastalm import Engine
from tests.serving.conftest import RunningServer
from tests.serving.test_server import PROMPTS, SPELL, alone

langchain_openai = pytest.importorskip("langchain_openai")


def settings(server: RunningServer) -> dict[str, object]:
    return {"base_url": f"http://127.0.0.1:{server.port}/v1", "api_key": "none", "model": "bundled", "max_tokens": 30}


def test_chat(served: RunningServer, bundled: Engine) -> None:
    chat = langchain_openai.ChatOpenAI(**settings(served), temperature=0)
    expected = alone(bundled, max_tokens=30).text
    assert chat.invoke(SPELL).content == expected
    assert "".join(piece.content for piece in chat.stream(SPELL)) == expected


def test_pasta_s_own_fields(served: RunningServer, bundled: Engine) -> None:
    chat = langchain_openai.ChatOpenAI(**settings(served), extra_body={"mode": "sequential"})
    assert chat.invoke(SPELL).content == alone(bundled, max_tokens=30, mode="sequential").text


def test_completions_of_several_prompts(served: RunningServer) -> None:
    completion = langchain_openai.OpenAI(**settings(served), temperature=0)
    several = completion.generate(PROMPTS[:3])
    assert [one[0].text for one in several.generations] == [completion.invoke(prompt) for prompt in PROMPTS[:3]]
