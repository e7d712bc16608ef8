"""Which server a prompt goes to."""

from __future__ import annotations

from pastalm.runtime.remote.router import BLOCK, SLACK, PrefixRouter

SYSTEM = list(range(4 * BLOCK))


def test_a_conversation_stays_where_its_beginning_is() -> None:
    router = PrefixRouter(3)
    turn = SYSTEM
    places = []
    for number in range(5):
        places.append(router.take(turn))
        router.back(places[-1])
        router.back(router.take([900 + number] * BLOCK))  # others come in between
        turn = [*turn, *[number] * BLOCK]
    assert len(set(places)) == 1


def test_the_longest_beginning_counts() -> None:
    router = PrefixRouter(2)
    long, other = [*SYSTEM, *[7] * BLOCK], [*SYSTEM, *[8] * BLOCK]
    first = router.take(long)
    for _ in range(SLACK + 1):  # the first one is full: what shares the beginning goes on elsewhere
        second = router.take(other)
    assert first != second
    router = PrefixRouter(2)
    router.load = [SLACK + 1, 0]
    assert router.take(other) == 1
    router.load = [0, SLACK + 1]
    assert router.take(long) == 0
    router.load = [0, 0]
    assert (router.take([*long, 1]), router.take([*other, 1])) == (0, 1)


def test_what_shares_nothing_is_spread_evenly() -> None:
    router = PrefixRouter(4)
    for number in range(40):
        router.take([number] * BLOCK)
    assert router.load == [10] * 4


def test_one_beginning_for_all_does_not_fill_one_server() -> None:
    router = PrefixRouter(4)
    for number in range(40):
        router.take([*SYSTEM, number])
    assert max(router.load) - min(router.load) <= SLACK + 1


def test_short_prompts_take_turns() -> None:
    router = PrefixRouter(2)
    places = [router.take([1, 2, 3]) for _ in range(2)]
    for place in places:
        router.back(place)
    assert sorted(places) == [0, 1] and router.load == [0, 0]
