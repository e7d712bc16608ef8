"""Profiles of several people or things."""

from __future__ import annotations

from pastalm.tasks import profiles


def test_paraphrases_pass() -> None:
    person = {"Ada": {"job": "baker", "age": "34", "pet": "owl"}, "Ben": {"job": "judge", "age": "19", "pet": "cat"}}
    text = "Ada, 34 years old, is a baker with an owl. Ben bakes nothing: he is a judge aged 19 and has a cat."
    assert profiles.check({"kind": "people", "layout": None, "records": person}, text)
