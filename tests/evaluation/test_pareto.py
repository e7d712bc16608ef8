"""Who is dominated, and the figure."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pastalm.evaluation.pareto import draw, read_models
from pastalm.files.lines import DataError


def made(
    name: str, speed: float, quality: float, kind: str = "win rate", baseline: float | None = 50
) -> dict[str, Any]:
    """A report with no more than the figure needs."""
    speeds = {"value": speed, "low": speed - 0.1, "high": speed + 0.1}
    quality_fields = {"kind": kind, "value": quality, "low": quality - 1, "high": quality + 2, "baseline": baseline}
    figures = {"realised": speeds, "theoretical": speeds}
    settings = {"prompts": "set.json", "max_tokens": 100}
    return {"name": name, "number": 3, "settings": settings, "figures": figures, "quality": quality_fields}


def test_the_frontier():
    found = read_models(
        [
            made("slow", 1.0, 50),
            made("good", 1.2, 52),
            made("fast", 2.0, 43),
            made("bad", 1.9, 43),
            made("twin", 2.0, 43),
        ]
    )
    assert [model.name for model in found.frontier()] == ["good", "fast", "twin"]  # equals do not dominate each other
    by = {model.name: found.dominator(model) for model in found.models}
    assert by["slow"].name == "good" and by["bad"].name in ("fast", "twin") and by["good"] is None
    assert found.baseline == 50


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_frontier_dominates_all_others(places: list[tuple[int, int]]):
    found = read_models([made(str(index), speed, quality) for index, (speed, quality) in enumerate(places)])
    front = found.frontier()
    pairs = [(model.speedup.value, model.quality.value) for model in front]
    for (speed, quality), (faster, other) in pairwise(pairs):
        assert (speed < faster and quality > other) or (speed, quality) == (faster, other)
    for model in found.models:
        better = [
            other
            for other in front
            if other.speedup.value >= model.speedup.value and other.quality.value >= model.quality.value
        ]
        assert better and (model in front) == (found.dominator(model) is None)


@pytest.mark.parametrize(
    "reports, says",
    [
        ([made("a", 1, 1), made("a", 2, 2)], "Several reports are of a"),
        ([made("a", 1, 1), {**made("b", 1, 1), "quality": None}], "b has no quality"),
        ([made("a", 1, 1), made("b", 1, 1, kind="accepted")], r"win rate \(a\), accepted \(b\)"),
    ],
)
def test_what_cannot_stand_together_is_refused(reports: list[dict[str, Any]], says: str):
    with pytest.raises(DataError, match=says):
        read_models(reports)
    with pytest.raises(ValueError, match="Unknown axis"):
        read_models([made("a", 1, 1)], "wall")


def test_win_rates_are_plain_where_some_alone_were_controlled_for_length():
    controlled = made("a", 1, 60, kind="length-controlled win rate")
    judge = {"model": "j", "reference": "r"}
    controlled["judge"] = judge | {"rates": {"win_rate": 70.0, "standard_error": 10.0}}
    plain = made("b", 2, 40) | {"judge": judge | {"rates": {"win_rate": 40.0, "standard_error": 10.0}}}
    alone, both = read_models([controlled]), read_models([controlled, plain])
    assert (alone.kind, alone.models[0].quality.value) == ("length-controlled win rate", 60)
    assert (both.kind, [model.quality.value for model in both.models]) == ("win rate", [70, 40])
    first, second = (model.quality for model in both.models)
    assert (first.low, first.high) == pytest.approx((70 - 19.6, 70 + 19.6)) and (second.low, second.high) == (39, 42)


def test_the_figure(tmp_path: Path):
    pytest.importorskip("matplotlib")
    names = ["slow", "good", "fast", "near the good"]
    places = [(1.1, 45), (1.3, 52), (2.0, 43), (1.3001, 51.99)]
    found = read_models([made(name, *place) for name, place in zip(names, places, strict=True)])
    png, svg = draw(found, tmp_path / "new")
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    first = svg.read_bytes()
    texts = {
        "".join(text.itertext()).strip() for text in ElementTree.fromstring(first).iter() if text.tag.endswith("text")
    }
    shown = {*names, "win rate (%)", "realised speedup (geometric mean, baseline = 1)"}
    assert shown | {"dominated", "not dominated", "baseline, sequential"} <= texts
    draw(found, tmp_path / "new")
    assert svg.read_bytes() == first  # the same figure, byte for byte
    alone = read_models([made("one", 1.5, 60, baseline=None)], "theoretical")
    text = draw(alone, tmp_path)[1].read_text()
    assert "theoretical speedup" in text and "sequential" not in text and ">dominated" not in text


def test_a_name_is_no_formula_and_no_control_character(tmp_path: Path):
    pytest.importorskip("matplotlib")
    names = ["costs $1", r"\frac$$", "a\x1b[0mb\x00", "half \ud800"]
    found = read_models([made(name, 1 + number, 40) for number, name in enumerate(names)])
    _, svg = draw(found, tmp_path)
    texts = {"".join(one.itertext()).strip() for one in ElementTree.parse(svg).iter() if one.tag.endswith("text")}
    assert {"costs $1", r"\frac$$", "a[0mb", "half"} <= texts


@pytest.mark.parametrize(
    "other, says",
    [
        ({"number": 4}, "a has number of prompts 3, b 4"),
        ({"settings": {"prompts": "set.json", "max_tokens": 20}}, "a has max_tokens 100, b 20"),
        ({"settings": {"prompts": "other.json", "max_tokens": 100}}, "a has prompts 'set.json', b 'other.json'"),
        (
            {"settings": {"prompts": "set.json", "max_tokens": 100, "baseline_print": "12"}},
            "a has baseline None, b '12'",
        ),
        (
            {"settings": {"prompts": "set.json", "max_tokens": 100, "baseline_print": "", "baseline": "org/x"}},
            "a has baseline None, b 'org/x'",
        ),
        ({"judge": {"model": "j", "reference": "r"}}, "a has judge's model None, b 'j'"),
    ],
)
def test_other_prompts_or_room_do_not_compare(other: dict[str, Any], says: str):
    with pytest.raises(DataError, match=says):
        read_models([made("a", 1, 50), made("b", 2, 40) | other])


@pytest.mark.parametrize(
    "weights, alike",
    [
        ({"model": "m", "model_print": "7"}, True),  # the curve of a promise bias: one model, called by its value
        ({"model": "m", "baseline": "sft"}, True),
        ({"model": "m", "baseline": "org/x", "baseline_print": "9"}, True),
        ({}, False),
    ],
)
def test_a_judge_s_reference_is_what_the_baseline_is_not_what_it_is_called(weights: dict[str, Any], alike: bool):
    def report(name: str, called: str) -> dict[str, Any]:
        one = made(name, 1, 50) | {"baseline": called, "judge": {"model": "j", "reference": called}}
        one["settings"] |= weights or {"model": name}
        return one

    reports = [report("m -1", "m -1 (sequential)"), report("m +1", "m +1 (sequential)")]
    if alike:
        assert len(read_models(reports).models) == 2
    else:
        with pytest.raises(DataError, match=r"m -1 has judge's reference 'm -1', m \+1 'm \+1'"):
            read_models(reports)


def test_without_times_there_is_no_realised_speedup():
    report = made("a", 1, 50)
    report["figures"]["realised"] = None
    with pytest.raises(DataError, match="with --max-batch 1"):
        read_models([report])
    assert read_models([report], "theoretical")
