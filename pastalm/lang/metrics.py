"""Metrics of one answer: critical path, theoretical speedup, parallelism, redundancy, length error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import geometric_mean, mean

from pastalm.lang.clock import critical_path
from pastalm.lang.positions import PositionPolicy
from pastalm.lang.script import Script
from pastalm.lang.vocabulary import Vocabulary

NGRAM = 4
PERIODS = 64  # the longest text, in tokens, whose repetition counts as a circle
TURNS = 3  # how often a text stands at the end of a thread that runs in circles
LEAST = 24  # the tokens that must repeat those before them: a short refrain is no circle
ALIKE = 0.9  # the share of them that must: a number may count on while the text around it repeats


@dataclass(frozen=True)
class AnswerMetrics:
    """``tokens``: what the model itself writes, tags included, without the end of answer. ``content``: the same without
    tags. ``critical_path``: decode steps with unlimited threads. ``parallelism``: content / critical path.
    ``redundancy``: mean over blocks of the share of their 4-grams that stand in a sibling. ``length_errors``: promised
    minus measured ``tokens`` of each block, in the attribute's unit. ``circles``: whether a thread ends in a loop."""

    tokens: int
    content: int
    blocks: int
    critical_path: int
    parallelism: float
    redundancy: float
    length_errors: tuple[int, ...]
    circles: bool


def answer_metrics(script: Script, vocabulary: Vocabulary, policy: PositionPolicy) -> AnswerMetrics:
    """All metrics of an answer from its script."""
    path, content = critical_path(script, vocabulary), len(content_tokens(script, vocabulary))
    ended = sum(token in vocabulary.eos for token in script.tokens)
    blocks = script.blocks[1:]
    return AnswerMetrics(
        tokens=len(script.tokens) - ended - len(blocks),  # the runtime writes each <async>
        content=content,
        blocks=len(blocks),
        critical_path=path,
        parallelism=content / path if path else 1.0,
        redundancy=redundancy(script),
        length_errors=tuple(block.promised - policy.label(block.content) for block in blocks),
        circles=circles(script),
    )


def content_tokens(script: Script, vocabulary: Vocabulary) -> list[int]:
    """The tokens that a reader sees: no tags, no topics, no lengths, no end of answer."""
    return [script.tokens[index] for index in _content(script, vocabulary)]


def _content(script: Script, vocabulary: Vocabulary) -> list[int]:
    """The indices of the content's tokens. A promise stands straight before its block, or its thread ends in it: a
    malformed one is text but for its tags."""
    content: list[int] = []
    promising: dict[int, list[int]] = {}  # by thread, the indices of what may be a promise, without its tags
    seen, ended = 0, False
    for index, (token, block) in enumerate(zip(script.tokens, script.block, strict=True)):
        if block > seen:  # the first token of a block: what its parent has just written was its promise
            seen = block
            promising.pop(script.blocks[block].parent, None)
        if ended or (token in vocabulary.tags and token not in (vocabulary.promise_tokens, vocabulary.promise_end)):
            content += promising.pop(block, [])
        ended = token == vocabulary.promise_end
        if token == vocabulary.promise_topic:
            promising[block] = []
        elif token not in vocabulary.tags and token not in vocabulary.eos:
            promising.get(block, content).append(index)
    return sorted(content)


def redundancy(script: Script) -> float:
    """The mean of :func:`block_redundancy`; 0 without such blocks."""
    shares = block_redundancy(script)
    return mean(shares.values()) if shares else 0.0


def block_redundancy(script: Script) -> dict[int, float]:
    """By block, the share of its 4-grams that stand in a sibling; without the blocks that are too short for one."""
    blocks = {index: _grams(tokens[1:-1]) for index, tokens in enumerate(_own_tokens(script)) if index}
    parents = {index: script.blocks[index].parent for index in blocks}
    holders = Counter((parents[index], gram) for index, grams in blocks.items() for gram in set(grams))
    return {
        index: sum(holders[parents[index], gram] > 1 for gram in grams) / len(grams)
        for index, grams in blocks.items()
        if grams
    }


def repetition(script: Script, vocabulary: Vocabulary) -> float:
    """The share of the content's 4-grams that the thread which writes them has seen in the answer before: in its own
    text, in its parent's up to the promise, or in what it has synced. 0 for an answer of fewer tokens."""
    content = set(_content(script, vocabulary))
    seen: list[set[tuple[int, ...]]] = [set()]
    last: list[tuple[int, ...]] = [()] * len(script.blocks)
    repeated, total = 0, 0
    for index, (token, block) in enumerate(zip(script.tokens, script.block, strict=True)):
        while len(seen) <= block:  # its first token: it sees what its parent has seen
            seen.append(set(seen[script.blocks[len(seen)].parent]))
        if index not in content:
            last[block] = ()
            for child in range(1, len(seen)):
                if script.blocks[child].parent == block and script.blocks[child].release == index:
                    seen[block] |= seen[child]
            continue
        last[block] = (*last[block], token)[-NGRAM:]
        if len(last[block]) == NGRAM:
            total += 1
            repeated += last[block] in seen[block]
            seen[block].add(last[block])
    return repeated / total if total else 0.0


def circles(script: Script) -> bool:
    """Whether a thread of the answer runs in circles at its end, in text or in promises."""
    return any(map(ends_in_a_loop, _own_tokens(script)))


def ends_in_a_loop(tokens: Sequence[int]) -> bool:
    """Whether the tokens end with one text, of at most 64 tokens, at least three times in a row, over at least 24
    tokens behind its first time. A tenth of the tokens may differ from one time to the next."""
    return any(_repeats(tokens, period) for period in range(1, min(PERIODS, len(tokens) // TURNS) + 1))


def _repeats(tokens: Sequence[int], period: int) -> bool:
    """Whether the last tokens are those that stand ``period`` places before them."""
    length = max((TURNS - 1) * period, LEAST)
    if length + period > len(tokens):
        return False
    same = sum(tokens[-k] == tokens[-k - period] for k in range(1, length + 1))
    return same >= ALIKE * length


def _own_tokens(script: Script) -> list[list[int]]:
    """The tokens of each block, the main thread's first."""
    own: list[list[int]] = [[] for _ in script.blocks]
    for token, block in zip(script.tokens, script.block, strict=True):
        own[block].append(token)
    return own


def _grams(tokens: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(tokens[k : k + NGRAM]) for k in range(len(tokens) - NGRAM + 1)]


def geometric(values: Sequence[float]) -> float:
    """The geometric mean; NaN of nothing."""
    return geometric_mean(values) if values else float("nan")
