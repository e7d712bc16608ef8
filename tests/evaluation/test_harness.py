"""The model of lm-evaluation-harness: the harness's own run over local tasks, answers as the engine gives them, and
log-likelihoods as the dense oracle's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from pastalm import Engine
from pastalm.lang.answer import Answer
from pastalm.lang.positions import position_policy
from pastalm.lang.prompt import RawPrompt
from pastalm.lang.script import compile_script
from pastalm.runtime.oracle import oracle
from pastalm.tasks import sample
from tests.tokenizers import tagged

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install '.[harness]'")

from lm_eval.api.instance import Instance
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from pastalm.evaluation.harness import PastaLM, cut

GENERATED = """
task: short_answers
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["<|prompt|>"], max_gen_toks: 80}
metric_list: [{metric: exact_match}]
"""
CHOSEN = """
task: choices
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: ["{{answer}}", "No.", "Blue, and green"]
doc_to_target: 0
"""


@pytest.fixture(autouse=True)
def without_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness notes every package that is installed, which takes it seconds."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.from_pretrained("bundled", "cpu", "float32")


@pytest.fixture(scope="module")
def documents() -> list[dict[str, str]]:
    """A prompt of a family that forks and one of a family that does not, with their reference answers."""
    found = {}
    for task in sample("held-out", 3, 60):
        if task.family in ("spelling", "short"):
            found.setdefault(task.family, {"prompt": task.prompt, "answer": task.answer.plain})
    return list(found.values())


@pytest.fixture
def tasks(documents: list[dict[str, str]], tmp_path: Path) -> TaskManager:
    """The two tasks over these documents, as the harness reads them from a folder."""
    data = tmp_path / "documents.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in documents))
    for name, text in (("generated", GENERATED), ("chosen", CHOSEN)):
        (tmp_path / f"{name}.yaml").write_text(text.replace("DATA", str(data)))
    return TaskManager(include_path=str(tmp_path), include_defaults=False)


def evaluate(tasks: TaskManager, name: str, **arguments: Any) -> dict[str, Any]:
    """The harness's results of a task with the bundled model."""
    arguments = {"pretrained": "bundled", "device": "cpu", "dtype": "float32", **arguments}
    found = simple_evaluate(
        "pasta", arguments, tasks=[name], task_manager=tasks, apply_chat_template=True, bootstrap_iters=0
    )
    return found


def replies(results: dict[str, Any], name: str) -> list[str]:
    samples = sorted(results["samples"][name], key=lambda one: one["doc_id"])
    return [one["resps"][0][0] for one in samples]


@pytest.mark.parametrize("mode", ["async", "sequential"])
def test_the_harness_scores_what_the_engine_answers(
    mode: str, tasks: TaskManager, documents: list[dict[str, str]], engine: Engine
) -> None:
    results = evaluate(tasks, "short_answers", mode=mode)
    expected = [engine.generate(one["prompt"], mode=mode, max_tokens=80).text for one in documents]
    assert replies(results, "short_answers") == expected
    right = [text == one["answer"] for text, one in zip(expected, documents, strict=True)]
    assert any(right)
    assert results["results"]["short_answers"]["exact_match,none"] == pytest.approx(sum(right) / len(right))


def test_a_choice_is_the_likeliest_by_the_oracle(
    tasks: TaskManager, documents: list[dict[str, str]], engine: Engine
) -> None:
    results = evaluate(tasks, "choices", batch_size=2)
    samples = results["samples"]["choices"]
    assert len(samples) == len(documents)
    for found in samples:
        for one, (((score, greedy),), _) in zip(found["arguments"], zip(found["resps"], range(3)), strict=True):
            context, text = (engine.encode(RawPrompt(part)) for part in (one[0], one[0] + one[1]))
            expected, best = by_oracle(engine, context, text[len(context) :])
            assert score == pytest.approx(expected, abs=2e-3) and greedy == best


def by_oracle(engine: Engine, prompt: Sequence[int], text: Sequence[int]) -> tuple[float, bool]:
    """The log-likelihood of tokens behind a prompt in one dense pass, and whether they are greedy."""
    script = compile_script(Answer((engine.codec.decode(text),)), engine.tags(), position_policy("pred10"), end=False)
    assert script.tokens == list(text)
    logits = oracle(engine.runner, prompt, script, position_policy("pred10"))[()][:-1].log_softmax(-1)
    wanted = torch.tensor(script.tokens)
    return float(logits.gather(-1, wanted[:, None]).sum()), bool((logits.argmax(-1) == wanted).all())


def small(tiny_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> str:
    """A random model with a window of 24, on the disk."""
    model = type(tiny_llama)(deepcopy(tiny_llama.config)).eval()
    model.load_state_dict(tiny_llama.state_dict())
    model.resize_token_embeddings(len(tokenizer))
    model.config.max_position_embeddings = 24
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def plainly(folder: Path) -> LlamaForCausalLM:
    """The same model as transformers runs it, whatever engine another test has made of the fixture's."""
    return LlamaForCausalLM.from_pretrained(folder).eval()


def instance(kind: str, *arguments: Any) -> Instance:
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


def test_a_text_longer_than_the_window_is_scored_in_pieces(
    tiny_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    lm = PastaLM(small(tiny_llama, tokenizer, tmp_path), "sequential", "cpu", "float32", batch_size="auto")
    model, texts = plainly(tmp_path), ["x y z " * 10, "foo", "", "hello world " * 3]
    found = lm.loglikelihood_rolling([instance("loglikelihood_rolling", text) for text in texts])
    for text, score in zip(texts, found, strict=True):
        ids = [lm.prefix_token_id, *lm.engine.codec.encode(text)]
        total = 0.0
        for end in range(1, len(ids), 24):  # the first window, then windows that end where the last did, and 24 on
            last = min(end + 24, len(ids))
            piece = torch.tensor([ids[max(0, last - 25) : last]])
            rows = model(piece[:, :-1]).logits[0].log_softmax(-1)[-(last - end) :]
            total += float(rows.gather(-1, piece[0, -(last - end) :][:, None]).sum().detach())
        assert score == pytest.approx(total, abs=1e-4)


def test_a_pair_longer_than_the_window_loses_its_beginning_and_an_empty_context_gets_one(
    tiny_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    lm = PastaLM(small(tiny_llama, tokenizer, tmp_path), "sequential", "cpu", "float32")
    long, empty = lm.loglikelihood(
        [instance("loglikelihood", "x y z " * 10, " foo x"), instance("loglikelihood", "", "x")]
    )
    model = plainly(tmp_path)
    ids = torch.tensor([lm.engine.encode(RawPrompt("x y z " * 9 + "x y z  foo x"))[-25:]])
    continuation = lm.engine.encode(RawPrompt("x y z  foo x"))[len(lm.engine.encode(RawPrompt("x y z"))) :]
    rows = model(ids[:, :-1]).logits[0].log_softmax(-1)[-len(continuation) :]
    assert long[0] == pytest.approx(
        float(rows.gather(-1, torch.tensor(continuation)[:, None]).sum().detach()), abs=1e-4
    )
    first = model(torch.tensor([[lm.prefix_token_id]])).logits[0, -1].log_softmax(-1)
    assert empty[0] == pytest.approx(float(first.detach()[lm.engine.codec.encode("x")[0]]), abs=1e-4)


def test_a_text_without_a_context_has_the_tokens_that_the_tokenizer_gives(
    tiny_llama: LlamaForCausalLM, tmp_path: Path
) -> None:
    """Such as a space before its first word; what spells a special token of the model's own is that token."""
    tokenizer = tagged("llama2")
    lm = PastaLM(small(tiny_llama, tokenizer, tmp_path), "sequential", "cpu", "float32")
    for text in ("foo the", "foo</s>"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert lm.tok_encode(text, add_special_tokens=False) == ids != lm.engine.codec.encode(text)
    (found,) = lm.loglikelihood([instance("loglikelihood", "", "foo the")])
    (rolled,) = lm.loglikelihood_rolling([instance("loglikelihood_rolling", "foo the")])
    ids = torch.tensor([[lm.prefix_token_id, *tokenizer("foo the", add_special_tokens=False)["input_ids"]]])
    rows = plainly(tmp_path)(ids[:, :-1]).logits[0].log_softmax(-1)
    assert found[0] == rolled == pytest.approx(float(rows.gather(-1, ids[0, 1:, None]).sum().detach()), abs=1e-4)


def test_a_choice_longer_than_the_window_is_refused(
    tiny_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    lm = PastaLM(small(tiny_llama, tokenizer, tmp_path), "sequential", "cpu", "float32")
    fits, long = instance("loglikelihood", "foo", " x" * 12), instance("loglikelihood", "foo", " x y z" * 20)
    assert len(lm.loglikelihood([fits])) == 1
    with pytest.raises(ValueError, match=r"The choice ' x y z.*tokens, and the model's window is 24: leave"):
        lm.loglikelihood([fits, long])


def test_answers_keep_to_what_the_task_sets(
    tiny_llama: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    lm = PastaLM(small(tiny_llama, tokenizer, tmp_path), "sequential", "cpu", "float32", seed=5)
    whole = lm.engine.generate(RawPrompt("foo"), mode="sequential", max_tokens=12).text
    stop = whole[3:5]

    def answers(*settings: dict[str, Any]) -> list[str]:
        return lm.generate_until([instance("generate_until", "foo", one) for one in settings])

    greedy, stopped, short = answers({"max_gen_toks": 12}, {"max_gen_toks": 12, "until": stop}, {"max_tokens": 2})
    assert greedy == whole and stopped == cut(whole, [stop]) != whole and whole.startswith(short) and short != whole
    drawn = {"max_gen_toks": 12, "do_sample": True, "temperature": 1.0, "num_beams": 2}
    first, second = answers(drawn, drawn)
    assert first != second and [first, second] == answers(drawn, drawn)
    assert "leaves out: num_beams" in caplog.text
    assert len(answers({"max_gen_toks": 500})) == 1  # more than the window


def test_an_answer_in_chunks_is_cut_where_a_text_first_stands(engine: Engine) -> None:
    lm = PastaLM("bundled", "async", "cpu", "float32")
    prompt = "Spell these words backwards: river, stone, cloud."
    context = lm.apply_chat_template([{"role": "user", "content": prompt}])
    whole = engine.generate(prompt, max_tokens=300)
    assert len(whole.threads) > 2
    (found,) = lm.generate_until([instance("generate_until", context, {"until": ["stone"], "max_gen_toks": 300})])
    assert found == whole.text[: whole.text.index("stone")]


def test_a_begun_answer_stays_open() -> None:
    lm = PastaLM("bundled", "async", "cpu", "float32")
    turns = [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "The answer"}]
    assert lm.apply_chat_template(turns, add_generation_prompt=False).endswith("The answer")
    assert lm.apply_chat_template(turns[:1]) == lm.engine.prompts.render(turns[:1])


def test_what_it_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="model_args may not set 'width'; an answer's options are top_p, promise_bias"):
        PastaLM("bundled", width=3)
    with pytest.raises(ValueError, match="Unknown mode 'parallel'"):
        PastaLM("bundled", "parallel")
