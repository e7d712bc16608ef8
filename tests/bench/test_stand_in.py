"""The stand-in endpoint through the client that users annotate with."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from openai import BadRequestError, OpenAI

from bench.stand_in import known, server
from pastalm.annotation.annotate import Tally, annotate
from pastalm.annotation.endpoint import Settings
from pastalm.data.check import check_file
from pastalm.data.records import read_answers
from pastalm.lang.parse import parse
from pastalm.tasks import sample, to_json


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(to_json(task) + "\n" for task in sample("train", 5, 11)))
    return path


@pytest.fixture
def url(tasks: Path):
    with server(known(tasks), 0) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/v1"
        running.shutdown()
        thread.join()


def test_it_gives_tasks_their_own_annotations(tasks: Path, url: str, tmp_path: Path) -> None:
    out = tmp_path / "annotated.jsonl"
    annotate(read_answers(str(tasks)), out, Settings("stand-in", "none", url), Tally())
    asked = {fields["prompt"]: fields for fields in map(json.loads, tasks.read_text().splitlines())}
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(written) > 8  # answers whose noise breaks a rule of the annotator are rejected
    for fields in written:
        assert parse(fields["annotated"]) == parse(asked[fields["prompt"]]["annotated"])
    assert not any(record.findings for record in check_file(out))


def test_an_answer_it_does_not_know_stays_as_it_is(url: str) -> None:
    client = OpenAI(api_key="none", base_url=url)
    text = "<question>\nq\n</question>\n\n<answer>\nnever seen\n</answer>"
    reply = client.chat.completions.create(model="stand-in", messages=[{"role": "user", "content": text}])
    assert reply.choices[0].message.content == "never seen"
    assert [model.id for model in client.models.list()] == ["stand-in"]
    with pytest.raises(BadRequestError, match="holds an answer"):
        client.chat.completions.create(model="stand-in", messages=[{"role": "user", "content": "hello"}])
