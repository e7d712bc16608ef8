"""The drills: every sum in them holds, what they say again stands in the prompt, and a seed gives the same ones."""

from __future__ import annotations

import json
import re
from itertools import islice
from random import Random

import pytest

from bench import drills
from pastalm.data.tasks import ranking


def drawn(drill, number: int = 200):
    return [drill(Random(f"{drill.__name__} {seed}")) for seed in range(number)]


def test_a_seed_gives_the_same_lines():
    for grade in drills.GRADES:
        first, again, other = (list(islice(drills.drills(grade, seed), 20)) for seed in (1, 1, 2))
        assert first == again != other
        assert all(set(json.loads(line)) == {"prompt", "annotated"} for line in first)
    with pytest.raises(ValueError, match="copying, looking up, skills"):
        next(drills.drills("reading", 1))


@pytest.mark.parametrize("drill", [drills.sums, drills.running])
def test_sums_hold(drill):
    found = [part for _, answer in drawn(drill) for part in answer.split(", ")]
    assert len(found) > 600
    for part in found:
        asked, *results = part.split(" = ")
        assert all(eval(asked) == eval(result) for result in results), part


@pytest.mark.parametrize("drill", [drills.words_again, drills.anything_again, drills.rows_again])
def test_what_is_said_again_stands_in_the_prompt(drill):
    for prompt, answer in drawn(drill):
        assert all(line in prompt for line in answer.strip().split("\n"))


def test_cells_stand_in_their_rows():
    for prompt, answer in drawn(drills.cells):
        rows = prompt.split("\n")[:-1]
        for line in answer.split("\n") if "Names?" not in prompt else []:
            first, label, last = line.split(" ") if line != "nothing" else ("", "", "")
            for name, value in ((first, last), (last, first)):  # by the row, or by the cell
                found = [row for row in rows if re.search(rf"^\W*{name}\b.*\b{label}\W+(is )?{value}\b", row)]
                if found:
                    break
            assert len(found) == 1 or line == "nothing"


def test_ends_are_the_ends():
    for prompt, answer in drawn(drills.ends):
        totals = {name: int(total) for name, total in re.findall(r"(\w+) (\d+)", prompt)}
        word, name, total = re.search(r"\. The (\w+) is (\w+) with (\d+)\.$", answer).groups()
        end = min if word in ranking.WORDING["low"] else max
        assert totals[name] == int(total) == end(totals.values())


def test_of_each_pair_the_right_one_is_told():
    for prompt, answer in drawn(drills.pairs):
        word, asked = prompt.split(": ", 1)
        end = min if word in ranking.WORDING["low"] else max
        for two, told in zip(asked.split("; "), answer.split("; "), strict=True):
            totals = {name: int(total) for name, total in re.findall(r"(\w+) (\d+)", two)}
            name, total = told.split(" with ")
            assert totals[name] == int(total) == end(totals.values())


def test_facts_are_found_again():
    for prompt, answer in drawn(drills.facts):
        *lines, asked = prompt.split("\n")
        known, found = "\n".join(lines), answer.split(", ")
        assert all(re.search(rf"\b{word}\b", known) for word in found)
        assert asked.count("?") + asked.count("Tell me") == len(found) <= 7
