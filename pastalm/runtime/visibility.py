"""What each thread of a running sequence sees: the run-time side of the rule of visibility, without tensors.

Every token takes the next free slot of its sequence, whatever thread it belongs to. A thread's row is a set of slots,
kept as the bits of one whole number: a fork copies a row, a join ORs rows. No key or value is copied, moved or computed
again. A row goes to the device as bits, an eighth of a byte a slot, with the rest of a step's input. The tests hold it
equal to :func:`pastalm.layout.sees`, token by token.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pastalm.runtime.thread import Feed, Fork, Operation, ThreadPath

JUNK = 0  # the slot that no thread sees: what a place without a query looks at, and where padding is written


@dataclass(frozen=True)
class Query:
    """A token that the model is fed: ``visible`` are the slots that it sees, its own among them, as bits. With
    ``follows`` the token is not known yet: it is the one chosen from the logits of that index in the step before."""

    token: int
    position: int
    slot: int
    visible: int
    follows: int | None = None

    @property
    def end(self) -> int:
        """The slot behind all that it writes and sees."""
        return max(self.slot + 1, self.visible.bit_length())


@dataclass
class Visibility:
    """The slots that each thread of a sequence sees, as bits; how many of its slots are ``used``, the junk slot among
    them; and which of these are ``free`` again, since what was written there has turned out not to be wanted."""

    visible: dict[ThreadPath, int] = field(default_factory=lambda: {(): 0})
    used: int = JUNK + 1
    free: list[int] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """How many slots hold a token."""
        return self.used - 1 - len(self.free)

    def apply(self, operations: Iterable[Operation]) -> tuple[list[Query], dict[ThreadPath, int]]:
        """Carry out what the interpreter asks for, in order. Returns the tokens to be fed, and for each thread the
        index of its last one, whose logits tell what comes next."""
        queries: list[Query] = []
        last: dict[ThreadPath, int] = {}
        for one in operations:
            if isinstance(one, Feed):
                last[one.thread] = len(queries)
                queries.append(self._feed(one))
            elif isinstance(one, Fork):
                self.visible[one.child] = self.visible[one.parent]
            else:
                for child in one.children:
                    self.visible[one.parent] |= self.visible.pop(child)
        return queries, last

    def skip(self, tokens: int) -> None:
        """So many tokens of the main thread stand in the first slots already."""
        self.used = JUNK + 1 + tokens
        self.visible[()] = ((1 << tokens) - 1) << (JUNK + 1)

    def query(self, token: int, position: int, visible: int, follows: int | None = None) -> Query:
        """A token in a slot of its own, which sees ``visible`` besides; no thread sees it yet."""
        slot = self.free.pop() if self.free else self.used
        self.used = max(self.used, slot + 1)
        return Query(token, position, slot, visible | 1 << slot, follows)

    def _feed(self, feed: Feed) -> Query:
        query = self.query(feed.token, feed.position, self.visible[feed.thread])
        if feed.kept:
            self.visible[feed.thread] = query.visible
        return query
