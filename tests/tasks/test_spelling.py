"""Words spelt letter by letter."""

from __future__ import annotations

from pastalm.tasks import spelling


def test_a_layout_that_was_asked_for_is_required() -> None:
    facts = {"words": ["river", "melo", "stone"], "count": False, "layout": "numbered"}
    lines = [f"{word}: {', '.join(word)} / {', '.join(word[::-1])} / {word[::-1]}" for word in facts["words"]]
    numbered = "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))
    assert spelling.check(facts, numbered)
    assert not spelling.check(facts, "\n".join(lines))
    assert not spelling.check(facts, numbered.replace("3. ", "4. "))
    assert spelling.check(facts | {"layout": None}, "\n".join(lines))
