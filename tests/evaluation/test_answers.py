"""The journal of answers with a tiny model: every answer once, whatever ends a run."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from pastalm import Engine
from pastalm.data.questions import Question
from pastalm.evaluation.answers import Answers, DecodedAnswer, EvalSettings, Outcome
from pastalm.files.fingerprint import fingerprint
from pastalm.files.lines import DataError

SETTINGS = EvalSettings("tiny", "set", max_tokens=6)
QUESTIONS = [Question(f"hello {k}") for k in range(4)]


@pytest.fixture(scope="module")
def engine(tiny_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Engine:
    return Engine(tiny_llama, tokenizer)


class CountingEngine(Engine):
    """Counts the prompts it was asked."""

    asked = 0

    def generate_batch(self, prompts, **options):
        self.asked += len(prompts)
        return super().generate_batch(prompts, **options)


def outcomes(folder: Path, settings: EvalSettings) -> list[Outcome]:
    with Answers(folder, settings) as answers:
        return answers.outcomes(QUESTIONS)


def measure(folder: Path, engine: Engine, questions: list[Question] = QUESTIONS, most: int = 99) -> int:
    """DecodedAnswer what is missing, at most so many; how many were answered."""
    with Answers(folder, SETTINGS) as answers:
        done = 0
        for _ in answers.measure(questions, engine, engine):
            done += 1
            if done == most:
                break
    return done


def test_answers_are_those_of_the_engine(tmp_path: Path, engine: Engine):
    assert measure(tmp_path, engine) == 4
    with Answers(tmp_path, SETTINGS) as answers:
        found = answers.outcomes(QUESTIONS)
    for one in found:
        own = engine.generate(one.question.prompt, max_tokens=6)
        plain = engine.generate(one.question.prompt, max_tokens=6, mode="sequential")
        assert (one.answer.text, one.answer.annotated) == (own.text, own.annotated)
        assert one.baseline.text == plain.text and one.baseline.metrics.tokens == plain.metrics.tokens
        assert one.pair.theoretical == plain.metrics.tokens / own.metrics.critical_path
        assert one.answer.metrics.wall_seconds > 0 and not one.answer.finished  # six tokens end nothing


def test_a_batch_gives_the_answers_of_one_at_a_time(tmp_path: Path, engine: Engine):
    questions = [*QUESTIONS, Question("xyz " * 600)]  # the last fits nowhere, which costs the others nothing
    for folder, settings in (("one", SETTINGS), ("batch", dataclasses.replace(SETTINGS, max_batch=2))):
        with Answers(tmp_path / folder, settings) as answers:
            assert len(list(answers.measure(questions[:4], engine, engine))) == 4
            assert len(list(answers.measure(questions, engine, engine))) == 1
            assert len(answers.refused(questions)) == 1

    def untimed(name: str) -> list[dict]:
        records = [json.loads(line) for line in (tmp_path / name / "answers.jsonl").read_text().splitlines()]
        for metrics in (record[side]["metrics"] for record in records[:4] for side in ("answer", "baseline")):
            del metrics["wall_seconds"], metrics["tokens_per_second"]
        return records

    assert untimed("one") == untimed("batch") and len(untimed("one")) == 5


def test_answers_of_a_batch_are_written_as_they_come(tmp_path: Path, engine: Engine):
    with Answers(tmp_path, dataclasses.replace(SETTINGS, max_batch=2)) as answers:
        for number, _ in enumerate(answers.measure(QUESTIONS, engine, engine), 1):
            assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == number
            if number == 3:
                break  # as if it were killed here
    with Answers(tmp_path, dataclasses.replace(SETTINGS, max_batch=2)) as answers:
        assert len(list(answers.measure(QUESTIONS, engine, engine))) == len(QUESTIONS) - 3


def test_the_baselines_answers_of_another_folder_are_taken(
    tmp_path: Path, tiny_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, engine: Engine
):
    settings = dataclasses.replace(SETTINGS, baseline="tiny", max_batch=2)
    for folder, reuse, number in (("first", None, 3), ("fresh", None, 4), ("taken", tmp_path / "first", 4)):
        asked = CountingEngine(tiny_llama, tokenizer)
        with Answers(tmp_path / folder, settings, reuse) as answers:
            assert len(list(answers.measure(QUESTIONS[:number], engine, asked))) == number
            assert asked.asked == (number if reuse is None else 1)
    found = [[one.baseline.text for one in outcomes(tmp_path / name, settings)] for name in ("fresh", "taken")]
    assert found[0] == found[1] and all(found[0])
    for change, said in (
        ({"baseline": "other"}, "has baseline 'tiny'"),
        ({"max_tokens": 7}, "has max_tokens 6"),
        ({"max_batch": 1}, "--max-batch"),
        ({"baseline": ""}, "the same --baseline"),
    ):
        with pytest.raises(DataError, match=said):
            Answers(tmp_path / "another", dataclasses.replace(settings, **change), tmp_path / "first")
    with pytest.raises(DataError, match="no folder of `pasta eval`"):
        Answers(tmp_path / "another", settings, tmp_path / "nowhere")


def test_a_prompt_that_cannot_be_asked_costs_no_other_its_taken_answer(tmp_path: Path, engine: Engine):
    settings = dataclasses.replace(SETTINGS, baseline="tiny", max_batch=2)
    with Answers(tmp_path / "first", settings) as answers:
        list(answers.measure(QUESTIONS, engine, engine))
    path = tmp_path / "first" / "answers.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["baseline"]["text"] = "taken"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    questions = [*QUESTIONS, Question("xyz " * 600)]
    with Answers(tmp_path / "second", settings, tmp_path / "first") as answers:
        list(answers.measure(questions, engine, engine))
        assert [one.baseline.text for one in answers.outcomes(questions)] == ["taken"] * len(QUESTIONS)
        assert len(answers.refused(questions)) == 1


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match="at least 1 prompt"):
        EvalSettings("tiny", "set", max_batch=0)
    with pytest.raises(ValueError, match="one prompt at a time"):
        EvalSettings("tiny", "set", skeleton=True, max_batch=2)


def test_an_answer_survives_json(engine: Engine):
    response = engine.replay("a", "<async topic='x'>foo bar foo</async> <async topic='y'>12 34 12</async>")
    kept = DecodedAnswer.of(response)
    assert kept.topics == ("x", "y") and len(kept.metrics.length_errors) == 2
    assert DecodedAnswer.read(json.loads(json.dumps(asdict(kept)))) == kept


def test_a_run_goes_on_where_it_was(tmp_path: Path, engine: Engine):
    assert measure(tmp_path, engine, most=2) == 2
    first = (tmp_path / "answers.jsonl").read_bytes()
    (tmp_path / "answers.jsonl").write_bytes(first + b'{"id": "to')  # torn by a kill
    assert measure(tmp_path, engine) == 2
    assert (tmp_path / "answers.jsonl").read_bytes().startswith(first)
    assert measure(tmp_path, engine) == 0
    more = [*QUESTIONS, Question("more"), Question("more")]
    assert measure(tmp_path, engine, more) == 1  # a longer set takes the old answers; the same prompt is answered once
    with Answers(tmp_path, SETTINGS) as answers:
        assert len(answers.outcomes(more)) == 6 and len(answers.outcomes(QUESTIONS[:2])) == 2


def test_a_prompt_that_cannot_be_asked_stops_nothing(tmp_path: Path, engine: Engine):
    questions = [Question("xyz " * 600), QUESTIONS[0]]
    assert measure(tmp_path, engine, questions) == 2
    with Answers(tmp_path, SETTINGS) as answers:
        assert [one.question for one in answers.outcomes(questions)] == QUESTIONS[:1]
        (said,) = answers.refused(questions)
        assert "window" in said and answers.missing(questions) == []


def test_tokens_are_drawn_as_the_settings_say(tmp_path: Path, engine: Engine):
    drawn = {"temperature": 2.0, "top_p": 0.9}
    found = []
    for name, settings in (("greedy", SETTINGS), ("drawn", dataclasses.replace(SETTINGS, **drawn))):
        with Answers(tmp_path / name, settings) as answers:
            list(answers.measure(QUESTIONS, engine, engine))
            found.append([(one.answer.text, one.baseline.text) for one in answers.outcomes(QUESTIONS)])

    def asked(prompt: str, mode: str) -> str:
        return engine.generate(prompt, mode=mode, max_tokens=6, **drawn).text

    assert found[1] == [tuple(asked(one.prompt, mode) for mode in ("async", "sequential")) for one in QUESTIONS]
    assert all(one != other for pairs in zip(*found, strict=True) for one, other in zip(*pairs, strict=True))


def test_a_folder_of_an_earlier_version_goes_on(tmp_path: Path, engine: Engine):
    measure(tmp_path, engine, QUESTIONS[:1])
    path = tmp_path / "settings.json"
    kept = json.loads(path.read_text())
    for name in ("temperature", "top_p", "compile"):
        del kept["settings"][name]
    path.write_text(json.dumps(kept))
    assert measure(tmp_path, engine, QUESTIONS[:2]) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": 7},
        {"model": "other"},
        {"mode": "sequential"},
        {"model_print": "x"},
        {"temperature": 0.5},
        {"compile": True},
    ],
)
def test_a_folder_holds_answers_of_one_kind(tmp_path: Path, engine: Engine, change: dict[str, object]):
    measure(tmp_path, engine, QUESTIONS[:1])
    with pytest.raises(DataError, match="choose another --out") as error:
        Answers(tmp_path, dataclasses.replace(SETTINGS, **change))
    (name,) = change
    assert name.removesuffix("_print") in str(error.value)
    assert measure(tmp_path, engine, QUESTIONS[:1]) == 0  # and nothing is lost


def test_wall_times_of_two_machines_do_not_mix(tmp_path: Path, engine: Engine):
    measure(tmp_path, engine, QUESTIONS[:1])
    kept = json.loads((tmp_path / "settings.json").read_text())
    kept["machine"]["threads"] += 1
    (tmp_path / "settings.json").write_text(json.dumps(kept))
    with pytest.raises(DataError, match="threads"):
        measure(tmp_path, engine)


def test_foreign_folders_are_left_alone(tmp_path: Path, engine: Engine):
    (tmp_path / "answers.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(DataError, match=r"no settings\.json"):
        Answers(tmp_path, SETTINGS)
    (tmp_path / "settings.json").write_text("[]")
    with pytest.raises(DataError, match="not written by"):
        Answers(tmp_path, SETTINGS)
    with Answers(tmp_path / "new", SETTINGS), pytest.raises(DataError, match="another run"):
        Answers(tmp_path / "new", SETTINGS)


@pytest.mark.parametrize("wrong", [{"mode": "fast"}, {"max_tokens": 0}])
def test_settings_are_checked(wrong: dict[str, object]):
    with pytest.raises(ValueError, match=r"mode|at least 1"):
        EvalSettings("m", "p", **wrong)


def test_other_weights_have_another_fingerprint(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"1" * 100)
    first = fingerprint(str(tmp_path))
    assert first == fingerprint(str(tmp_path)) != ""
    weights.write_bytes(b"2" * 100)
    assert fingerprint(str(tmp_path)) != first and fingerprint("some/hub-id") == ""


def test_skeletons_are_answered_too(tmp_path: Path, engine: Engine):
    settings = dataclasses.replace(SETTINGS, skeleton=True, max_tokens=8)
    with Answers(tmp_path, settings) as answers:
        assert len(list(answers.measure(QUESTIONS[:1], engine, engine))) == 1
        (one,) = answers.outcomes(QUESTIONS[:1])
    assert one.answer.metrics.tokens > 0
