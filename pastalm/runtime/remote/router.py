"""Which of several servers a prompt goes to."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

BLOCK = 16  # tokens: prefixes are known by whole blocks, as a server's cache has them
REMEMBERED = 65536  # prefixes
SLACK = 2  # sequences that the server with a prompt's beginning may have beyond the idlest one's


class PrefixRouter:
    """Sends a prompt to the server that was last sent the longest beginning of it, while that server has little more to
    do than the idlest one; otherwise to the idlest one. ``load`` counts what each of the ``places`` has."""

    def __init__(self, places: int) -> None:
        self.load = [0] * places
        self._sent = [0] * places
        self._known: OrderedDict[int, int] = OrderedDict()  # from a prefix's hash to the server's place

    def take(self, prompt: Sequence[int]) -> int:
        """The place of the server for a prompt, until it is given :meth:`back`."""
        prefixes = list(_prefixes(prompt))
        place = self._place(prefixes)
        for prefix in prefixes:
            self._known[prefix] = place
            self._known.move_to_end(prefix)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        self.load[place] += 1
        self._sent[place] += 1
        return place

    def back(self, place: int) -> None:
        """A prompt of this place is answered."""
        self.load[place] -= 1

    def _place(self, prefixes: Sequence[int]) -> int:
        idlest = min(range(len(self.load)), key=lambda place: (self.load[place], self._sent[place]))
        known = next((self._known[prefix] for prefix in reversed(prefixes) if prefix in self._known), idlest)
        return known if self.load[known] <= self.load[idlest] + SLACK else idlest


def _prefixes(prompt: Sequence[int]) -> Iterator[int]:
    """Hashes of all beginnings of whole blocks, the shortest first."""
    last = 0
    for end in range(BLOCK, len(prompt) + 1, BLOCK):
        last = hash((last, *prompt[end - BLOCK : end]))
        yield last
