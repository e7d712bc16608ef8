"""ThreadWeaver: outlines, then threads, flat. The end of a group is its join; ``<think>`` around it is plain text."""

from __future__ import annotations

from pastalm.lang.dialects.outlined import Tags, outlined

THREADWEAVER = outlined(
    "threadweaver",
    "ThreadWeaver",
    Tags(
        group=("<Parallel>", "</Parallel>"),
        plan=("<Outlines>", "</Outlines>"),
        outline=("<Outline>", "</Outline>"),
        thread=("<Thread>", "</Thread>"),
        join=None,
    ),
    nested=False,
)
