"""The bench: steps whose threads all run, a law, parts that add up, known answers, peers that decode the same text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from pastalm import Engine
from pastalm.data.examples import AnnotatedAnswer
from pastalm.evaluation.bench.answers import measure_load, replay_answers
from pastalm.evaluation.bench.breakdown import PARTS, measure_breakdown
from pastalm.evaluation.bench.peers import PeerError, PeerTimes, llama_cpp_times, server_times, transformers_times
from pastalm.evaluation.bench.report import BenchReport, describe_machine, markdown
from pastalm.evaluation.bench.shapes import SHAPES, Shape, UnknownShapeError, random_model, shape_of
from pastalm.evaluation.bench.steps import (
    StepPoint,
    copy_bandwidth,
    fit_law,
    measure_step,
    measure_steps,
    running,
    weight_bytes,
)
from pastalm.lang.parse import parse
from pastalm.runtime import attention
from pastalm.runtime.graphs import Graphs, StepOutput

ANNOTATED = "Well: <async topic='one'>hello world foo</async> <async topic='two'>bar 12 34 foo bar</async><sync/> end"
ANSWERS = [AnnotatedAnswer("hello", parse(ANNOTATED)), AnnotatedAnswer("foo bar", parse("hello world"))]


@pytest.fixture(scope="module")
def engine(tokenizer: PreTrainedTokenizerFast) -> Engine:
    shape = Shape(layers=1, width=32, heads=4, kv_heads=2, inner=64, vocabulary=len(tokenizer))
    return Engine(random_model(shape, torch.device("cpu"), torch.float32), tokenizer)


@pytest.mark.parametrize("sequences, threads", [(1, 1), (1, 5), (3, 1), (2, 4)])
def test_all_threads_of_all_sequences_run_in_every_step_that_is_measured(
    engine: Engine, sequences: int, threads: int
) -> None:
    scheduler = running(engine, sequences, threads, 20, 6)
    for _ in range(6):
        scheduler.step()
        assert scheduler.threads == sequences * threads
    assert scheduler.slots_used >= sequences * (20 + 6 * threads)


def test_a_point_says_what_a_step_reads(engine: Engine) -> None:
    point = measure_step(engine, 1, 2, 40, 3)
    slot = 2 * 1 * 2 * 8 * 4  # keys and values, a layer, two heads of eight float32 numbers; and a position
    assert point.rows == 2 and point.slots > 40 and point.milliseconds > 0
    assert slot * point.slots <= point.needed <= (slot + 8) * point.slots <= point.held * 2
    assert point.bytes == weight_bytes(engine) + point.needed
    assert point.bandwidth == pytest.approx(1000 * point.bytes / point.milliseconds)
    embedding = engine.runner.model.get_input_embeddings().weight
    assert weight_bytes(engine) == sum(4 * one.numel() for one in engine.runner.model.parameters())  # tied: it is read
    assert embedding is engine.runner.model.get_output_embeddings().weight


def test_points_vary_one_thing_at_a_time(tiny_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    points = list(measure_steps(Engine(tiny_llama, tokenizer), [1, 2], [1, 3], [16, 32, 5000], 2))
    found = {(point.sequences, point.threads, point.context) for point in points}
    assert found == {(1, 1, 16), (1, 3, 16), (2, 1, 16), (1, 1, 32), (1, 3, 32)}  # the window has no 5000 positions


def made(rows: int, slots: int, milliseconds: float) -> StepPoint:
    return StepPoint(rows, 1, slots, milliseconds, slots, 1.0, 1, 1.0)


def test_the_law_is_found_again_and_has_no_term_below_zero() -> None:
    places = [(1, 100), (2, 100), (8, 300), (4, 4000), (16, 2000)]
    law = fit_law([made(rows, slots, 3 + 0.5 * rows + 0.2 * slots / 1000) for rows, slots in places])
    assert law and (law.fixed, law.row, law.kiloslot) == pytest.approx((3, 0.5, 0.2))
    assert law.explained == pytest.approx(1)
    falling = fit_law([made(rows, slots, 9 - 0.1 * rows + slots / 1000) for rows, slots in places])
    assert falling and falling.row == 0 and falling.kiloslot > 0
    assert fit_law([made(1, 1, 1), made(2, 2, 2)]) is None


def test_the_parts_of_a_step_are_all_of_it_and_the_code_is_as_before(engine: Engine) -> None:
    before, attend = engine.runner.run_model, attention.attend
    found = list(measure_breakdown(engine, [(1, 1), (2, 2)], 16, 3))
    assert [(one.sequences, one.threads) for one in found] == [(1, 1), (2, 2)]
    for one in found:
        values = [getattr(one, part) for part in PARTS]
        assert all(value >= 0 for value in values) and one.model > 0 < one.attention
        assert one.sampling > 0 < one.input and one.total == pytest.approx(sum(values))
        assert one.wall > 0 and one.ahead == one.dropped == 0
    assert engine.runner.run_model == before and attention.attend is attend


def test_what_the_window_has_no_room_for_is_left_out(engine: Engine) -> None:
    assert engine.runner.window is not None
    many = engine.runner.window // 100
    found = list(measure_breakdown(engine, [(1, 1), (1, many)], 16, 3))
    assert [(one.sequences, one.threads) for one in found] == [(1, 1)]


def test_a_choice_that_is_a_graph_of_its_own_is_sampling(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, calls = engine.runner, []
    replayed = Graphs(lambda function: function)
    run = replayed.run

    def slow(*arguments: Any) -> StepOutput:
        sleep(0.05)
        calls.append(arguments[0])
        return run(*arguments)

    monkeypatch.setattr(replayed, "run", slow)
    monkeypatch.setattr(runner, "ahead", True)
    monkeypatch.setattr(runner, "choices", replayed)
    (found,) = measure_breakdown(engine, [(1, 1)], 16, 2)
    assert calls and found.sampling >= 50 > found.model


def test_steps_that_are_launched_ahead_are_counted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.runner, "ahead", True)
    assert [(one.ahead, one.dropped) for one in measure_breakdown(engine, [(1, 1), (2, 2)], 16, 3)] == [(1, 0), (1, 0)]
    (ahead,) = measure_load(engine, ANSWERS, [2])
    monkeypatch.setattr(engine.runner, "ahead", False)
    (waiting,) = measure_load(engine, ANSWERS, [2])
    assert 0.7 * ahead.steps < ahead.ahead < ahead.steps and ahead.dropped > 0 == waiting.ahead == waiting.dropped
    assert ahead.steps >= waiting.steps > 0


def test_known_answers_alone_and_many_at_once(engine: Engine) -> None:
    pairs = list(replay_answers(engine, ANSWERS))
    assert [pair.answer.text for pair in pairs] == [pair.baseline.text for pair in pairs]
    assert len(pairs[0].answer.threads) == 3 and len(pairs[1].answer.threads) == 1
    points = list(measure_load(engine, ANSWERS, [1, 3]))
    assert [point.sequences for point in points] == [1, 3]
    for point in points:
        assert point.speedup == pytest.approx(point.sequential_seconds / point.seconds)
        tokens = point.seconds * point.tokens_per_second, point.sequential_seconds * point.sequential_tokens_per_second
        assert tokens[0] == pytest.approx(tokens[1], abs=12)  # seams between chunks may cut a text otherwise


def test_transformers_decodes_the_very_text(engine: Engine, tokenizer: PreTrainedTokenizerFast) -> None:
    shape = Shape(layers=1, width=32, heads=4, kv_heads=2, inner=64, vocabulary=len(tokenizer))
    times = transformers_times(engine, random_model(shape, torch.device("cpu"), torch.float32), ANSWERS)
    assert times.tokens == tuple(len(engine.codec.encode(one.answer.plain)) for one in ANSWERS)
    assert all(seconds > 0 for seconds in times.seconds) and times.milliseconds > 0


class Desk(BaseHTTPRequestHandler):
    """A completion server that counts; it listens here, so that the real client asks it."""

    asked: list[dict[str, Any]] = []  # noqa: RUF012 -- what all requests of a test have asked

    def do_GET(self) -> None:
        self._send({"data": [{"id": "theirs"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        self._send({"usage": {"completion_tokens": body["max_tokens"]}})

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _send(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def desk() -> Iterator[str]:
    Desk.asked.clear()
    with HTTPServer(("127.0.0.1", 0), Desk) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def test_a_server_is_asked_for_as_many_tokens(engine: Engine, desk: str) -> None:
    times = server_times(desk, engine, ANSWERS)
    assert times.tokens == tuple(len(engine.codec.encode(one.answer.plain)) for one in ANSWERS)
    assert times.name.startswith("theirs at http") and "own tokens" in times.note
    assert [body["prompt"] for body in Desk.asked[1:]] == [engine.encode(one.prompt) for one in ANSWERS]
    assert all(body["ignore_eos"] and body["model"] == "theirs" for body in Desk.asked)


def test_peers_that_are_not_there_are_one_sentence(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="does not answer /models"):
        server_times("http://127.0.0.1:9/v1", engine, ANSWERS)
    try:
        import llama_cpp  # noqa: F401
    except ImportError:
        with pytest.raises(PeerError, match="pip install llama-cpp-python"):
            llama_cpp_times(tmp_path / "x.gguf", ANSWERS, 1)


def test_the_report_is_worked_out_from_what_was_measured(engine: Engine, tmp_path: Path) -> None:
    report = BenchReport("mine", describe_machine(engine), bandwidth=copy_bandwidth(engine))
    report.pairs = list(replay_answers(engine, ANSWERS))
    own = tuple(2 * pair.answer.metrics.wall_seconds for pair in report.pairs)
    report.peers = [PeerTimes("slow one", own, (5, 5))]
    report.steps = [made(1, 100, 2.0), made(2, 100, 2.5)]
    assert report.against(report.peers[0])["parallel"] == pytest.approx(2)
    text = "\n".join(markdown(report))
    assert "| slow one |" in text and "| 2.00 |" in text and "## Known answers" in text
    assert "## Many answers at once" not in text  # what was not measured has no table
    report.write(tmp_path)
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["bandwidth"] > 0 and found["replay_means"]["number"] == 2 and found["law"] is None
    assert found["machine"]["parameters"] == sum(one.numel() for one in engine.runner.model.parameters())
    assert (tmp_path / "bench.md").read_text().startswith("# Bench of mine")


def test_shapes_are_those_of_the_models_they_are_called_after() -> None:
    assert shape_of("llama-7b") == SHAPES["llama-7b"]
    with pytest.raises(UnknownShapeError, match="choose one of tiny"):
        shape_of("llama-70t")
    sizes = {"smollm2-135m": 134.5, "qwen2.5-0.5b": 494, "llama-1b": 1236, "qwen2.5-1.5b": 1543, "llama-7b": 6738}
    for name, millions in sizes.items():
        model = random_model(SHAPES[name], torch.device("meta"), torch.bfloat16)
        assert sum(one.numel() for one in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)
