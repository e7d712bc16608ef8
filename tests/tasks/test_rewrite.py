"""Words rewritten step by step."""

from __future__ import annotations

import re
from random import Random

from pastalm.tasks import rewrite
from tests.tasks.drafts import drafts, joined


def test_wrong_letter_fails() -> None:
    for seed, draft in enumerate(drafts(rewrite.draw)):
        text = joined(draft.parts)
        spelled = list(re.finditer(r"(?<![A-Za-z])[a-z](?=(?:-|, |/)[a-z]\b)", text))
        place = Random(seed).choice(spelled).start()
        other = "q" if text[place] != "q" else "x"
        assert not rewrite.check(draft.facts, text[:place] + other + text[place + 1 :]), text
