"""/metrics: what Prometheus reads is what has happened."""

from __future__ import annotations

import re
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pastalm import Engine
from tests.serving.conftest import RunningServer, serving
from tests.serving.test_protocol import head, post

VLLM = (  # what vLLM has under the same names behind its own prefix
    *("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "request_success_total"),
    *("prompt_tokens_total", "generation_tokens_total", "time_to_first_token_seconds"),
    *("inter_token_latency_seconds", "e2e_request_latency_seconds"),
)
OWN = {"steps", "threads_per_step", "critical_path_steps", "parallelism", "kv_cache_slots_used"}
BODY: dict[str, Any] = {"model": "tiny", "prompt": "hello", "max_tokens": 7}


def read(server: RunningServer, name: str = "tiny") -> dict[str, float]:
    connection = server.post({})
    connection.getresponse().read()
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    assert answer.headers["Content-Type"].startswith("text/plain")
    families = text_string_to_metric_families(answer.read().decode())
    samples = [sample for family in families for sample in family.samples if "le" not in sample.labels]
    connection.close()
    assert {sample.labels["model_name"] for sample in samples} == {name}
    return {sample.name + sample.labels.get("finished_reason", ""): sample.value for sample in samples}


def test_requests_and_tokens_are_counted(tiny: Engine) -> None:
    with serving(tiny, mode="sequential") as running:
        for body in (BODY, BODY, BODY | {"stream": True}, BODY | {"max_tokens": -1}):
            post(running, "/v1/completions", body)
        leaver = running.post(BODY | {"max_tokens": 900})
        running.wait(lambda: bool(running.worker.scheduler.running))
        during = read(running)
        leaver.close()
        running.wait(running.is_clean)
        found = read(running)
    assert during["pasta:num_requests_running"] == 1 and during["pasta:kv_cache_slots_used"] > 0
    assert found["pasta:num_requests_running"] == found["pasta:kv_cache_slots_used"] == 0
    assert found["pasta:request_success_totallength"] == 3
    assert found["pasta:request_success_totalrefused"] == found["pasta:request_success_totalabort"] == 1
    prompt = len(tiny.encode("hello"))
    assert found["pasta:prompt_tokens_total"] == 3 * prompt
    assert found["pasta:generation_tokens_total"] > 3 * 7  # and those of the client that left
    assert found["pasta:time_to_first_token_seconds_count"] == 4
    assert found["pasta:e2e_request_latency_seconds_count"] == 3
    assert found["pasta:critical_path_steps_sum"] == 3 * 7
    assert found["pasta:parallelism_sum"] == pytest.approx(3.0)
    assert found["pasta:steps_total"] == found["pasta:threads_per_step_sum"] > 3 * 6


def test_a_full_line_is_counted(tiny: Engine) -> None:
    with serving(tiny, max_batch=1, max_waiting=0, mode="sequential") as running:
        long = running.post(BODY | {"max_tokens": 900})
        running.wait(lambda: bool(running.worker.scheduler.running))
        status, _ = post(running, "/v1/completions", BODY)
        assert status == 429 and read(running)["pasta:request_success_totaloverloaded"] == 1
        long.close()


def test_more_answers_than_there_is_ever_room_for_are_refused(tiny: Engine) -> None:
    with serving(tiny, max_batch=2, max_waiting=1, mode="sequential") as running:
        assert post(running, "/v1/completions", BODY | {"n": 3})[0] == 200
        status, answer = post(running, "/v1/completions", BODY | {"n": 4})
        assert status == 400 and "takes at most 3 answers at a time, not 4" in answer["error"]["message"]
        assert read(running)["pasta:request_success_totalrefused"] == 1


def test_metrics_need_no_key(tiny: Engine) -> None:
    with serving(tiny, mode="sequential", api_key="k") as running:
        assert head(running, "GET", "/metrics", {}).status == 200


def test_names_are_vllm_s_where_they_mean_the_same(served: RunningServer) -> None:
    post(served, "/v1/completions", BODY | {"model": "bundled"})
    found = read(served, "bundled")
    for name in VLLM:
        assert any(key.startswith(f"pasta:{name}") for key in found), name
    names = {key.removeprefix("pasta:") for key in found if "_created" not in key}
    assert {re.sub("_(sum|count|total)$", "", name) for name in names if not name.startswith(VLLM)} == OWN
