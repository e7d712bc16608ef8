"""Chunks hidden in flowing text."""

from __future__ import annotations

import re

from pastalm.tasks import prose
from tests.tasks.drafts import drafts, joined


def test_prose_has_no_line_break_or_list_mark() -> None:
    for draft in drafts(prose.draw):
        assert not re.search(r"\n|[0-9][.)] |[-*] ", joined(draft.parts))
