"""APAR (arXiv 2401.06761) under this runtime: what it costs to write its forks as promises."""

from __future__ import annotations

from dataclasses import replace

from pastalm.lang.clock import critical_path
from pastalm.lang.script import NEVER, Script
from pastalm.lang.vocabulary import Vocabulary


def fork_token_path(script: Script, vocabulary: Vocabulary) -> int:
    """The critical path of an answer if each of its promises were one token, as APAR's ``[Fork]`` is.

    The runtime decodes APAR's forks as promises, whose topic and length take five to ten steps of the main thread
    that APAR itself does not take. Its speed lies between the two paths: give both.
    """
    kept, promising = [], set()
    for index, (token, block) in enumerate(zip(script.tokens, script.block, strict=True)):
        if block not in promising:
            kept.append(index)
        if token == vocabulary.promise_topic:
            promising.add(block)
        elif token == vocabulary.promise_end:
            promising.discard(block)
    places = {old: new for new, old in enumerate(kept)}
    blocks = [replace(block, release=places.get(block.release, NEVER)) for block in script.blocks]
    shorter = Script([script.tokens[index] for index in kept], [script.block[index] for index in kept], blocks)
    return critical_path(shorter, vocabulary)
