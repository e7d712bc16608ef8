"""The simulation of load: the real scheduler over a clock."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.load_simulation import Load, Machine, main
from pastalm.lang.answer import Answer
from pastalm.lang.parse import parse
from pastalm.lang.positions import position_policy
from pastalm.lang.script import Script, compile_script
from pastalm.lang.vocabulary import Vocabulary

CHUNK = "foo bar " * 20 + "foo"
TEXT = f"a <async topic='one'>{CHUNK}</async> b <async topic='two'>{CHUNK}</async><sync/> c"


def scripts(vocabulary: Vocabulary, number: int) -> tuple[list[Script], list[Script]]:
    policy = position_policy("pred10")
    marked = compile_script(parse(TEXT), vocabulary, policy)
    plain = compile_script(Answer((parse(TEXT).plain,)), vocabulary, policy)
    return [marked] * number, [plain] * number


def test_alone_an_answer_takes_its_critical_path(vocabulary: Vocabulary) -> None:
    machine = Machine(weights=1.0, row=0.0, slot=0.0, fixed=0.0)
    _, plain = scripts(vocabulary, 1)
    found = Load(plain, vocabulary, 4, 1.0, 0).run("sequential", machine, 1, None)
    assert found.mean_seconds == pytest.approx(len(plain[0].tokens))  # the prompt's step gives the first of them


def test_few_answers_at_once_gain_and_many_lose_little(vocabulary: Vocabulary) -> None:
    """A step has room for five rows. One answer at a time is faster in parallel; twenty at once have nothing to gain,
    and with a bound on the rows they are about as fast as sequential ones."""
    machine = Machine(weights=1.0, row=0.2, slot=0.0, fixed=0.0)
    marked, plain = scripts(vocabulary, 20)
    for rate, bound in ((0.001, 0.9), (100.0, 1.35)):  # marks are tokens too, and cost a third more here
        parallel = Load(marked, vocabulary, 4, rate, 0).run("parallel", machine, 20, 5)
        sequential = Load(plain, vocabulary, 4, rate, 0).run("sequential", machine, 20, None)
        assert parallel.mean_seconds < bound * sequential.mean_seconds


def test_the_command(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    line = {"prompt": "say it", "annotated": TEXT}
    data.write_text("\n".join(json.dumps(line) for _ in range(3)) + "\n")
    main([str(data), "--answers", "3", "--rates", "1,10", "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "simulation.json").read_text())
    assert len(found) == 6
    assert (tmp_path / "out" / "simulation.png").stat().st_size > 1000
