"""The drills: every sum in them holds, what they say again stands in the prompt, and a seed gives the same ones."""

from __future__ import annotations

import json
import re
from itertools import islice
from random import Random

import pytest

from bench import drills
from pastalm.tasks import ranking


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


def named_numbers(text: str) -> dict[str, int]:
    """What ``Ada 12``, ``Ada has 12`` or ``12 for Ada`` say, in order."""
    found = re.findall(r"(\d+) for (\w+)|(\w+) (?:has )?(\d+)", text)
    return {late or name: int(number or last) for number, late, name, last in found}


def test_ends_are_the_ends():
    for prompt, answer in drawn(drills.ends):
        totals = named_numbers(prompt)
        way, word, name = re.search(r" first: (.*)\. So the (\w+) is (\w+)\.$", answer).groups()
        down = word not in ranking.WORDING["low"]
        assert list(named_numbers(way).items()) == sorted(totals.items(), key=lambda pair: pair[1], reverse=down)
        assert totals[name] == (max if down else min)(totals.values())


def test_owners_own_what_is_asked_for():
    for prompt, answer in drawn(drills.owners):
        told, asked = prompt.rsplit(". ", 1)
        found = named_numbers(answer)
        assert found.items() <= named_numbers(told).items()
        assert [str(number) for number in found.values()] == asked.rstrip("?").split(", ")


def test_facts_are_found_again():
    for prompt, answer in drawn(drills.facts):
        *lines, asked = prompt.split("\n")
        known, found = "\n".join(lines), answer.split(", ")
        assert all(re.search(rf"\b{word}\b", known) for word in found)
        assert asked.count("?") + asked.count("Tell me") == len(found) <= 7
