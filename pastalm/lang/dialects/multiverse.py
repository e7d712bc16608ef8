"""Multiverse, and NPR (Native Parallel Reasoner), which says the same with other names and no tag around a group."""

from __future__ import annotations

from pastalm.lang.dialects.outlined import Tags, outlined

MULTIVERSE = outlined(
    "multiverse",
    "Multiverse",
    Tags(
        group=("<Parallel>", "</Parallel>"),
        plan=("<Goal>", "</Goal>"),
        outline=("<Outline>", "</Outline>"),
        thread=("<Path>", "</Path>"),
        join=("<Conclusion>", "</Conclusion>"),
    ),
    nested=True,
)

NPR = outlined(
    "npr",
    "NPR",
    Tags(
        group=None,
        plan=("<guideline>", "</guideline>"),
        outline=("<plan>", "</plan>"),
        thread=("<step>", "</step>"),
        join=("<takeaway>", "</takeaway>"),
    ),
    nested=True,
)
