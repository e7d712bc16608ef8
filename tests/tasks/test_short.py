"""Answers of a few words."""

from __future__ import annotations

from pastalm.tasks import short


def test_paraphrases_pass() -> None:
    assert short.check({"answer": "blue", "allowed": ["Ada", "blue", "lamp"]}, "Ada's lamp? Blue!")
