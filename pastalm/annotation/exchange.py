"""Judgement by file: blind items for a person, or for any model that can read, and the verdicts on them.

A pair of answers becomes two items, one for each order (``pairs``), or all answers to a prompt become one item whose
answers stand in an order that a digest decides (``rankings``), or two, the second in the reversed order. An item says
nothing of whose answers they are, and its id alone leads back to them, so that no key has to be kept.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from pastalm.annotation.verdict import VERSION, AnswerPair, JudgePrompt
from pastalm.files.atomic import write_text
from pastalm.files.journal import Journal, read_journal
from pastalm.files.lines import DataError, json_line
from pastalm.files.rows import objects
from pastalm.lang.prompt import as_text
from pastalm.lang.tags import as_whole

FORMS = ("rankings", "pairs")
_ID_LENGTH = 12
_HOW = """\
Compare the answers to each instruction and decide which serves its author better. First an answer must be correct and
do what was asked, then be complete, then be clear. Length is no merit in itself; neither is the order in which the
answers stand. Write a verdict behind each "Verdict:": a ranking such as  B > A = C  (= for a tie), or for two answers
the better one and how sure you are in percent, such as  A 80 , or  tie ."""
_ITEM, _VERDICT = re.compile(r"## Item (\S+)\s*"), re.compile(r"\**Verdict:\**(.*)")
_SURE = re.compile(r"([A-Z])(?:\s+(\d+(?:\.\d+)?)\s*%?)?")
_TIE = re.compile(r"(?:TIE|=)(?:\s+\d+(?:\.\d+)?\s*%?)?")


@dataclass(frozen=True)
class JudgeItem:
    """An instruction with answers in the order in which they are shown, as the letters from A on. If it is one of two
    ``orders``, another item shows the reversed one; else this reading counts for both."""

    orders: int
    instruction: str
    answers: tuple[str, ...]

    @property
    def id(self) -> str:
        """The same for the same answers in the same order and one of as many orders."""
        return _digest("pairs" if self.orders == 2 else "rankings", self.instruction, *self.answers)

    @property
    def letters(self) -> str:
        """The names of the answers."""
        return ascii_uppercase[: len(self.answers)]


@dataclass(frozen=True)
class FileVerdict:
    """What a reader holds of an item: its letters from the best to the worst, those of one tier tied; ``confidence``,
    from 0.5 to 1, is how sure it is of each difference."""

    tiers: tuple[tuple[str, ...], ...]
    confidence: float = 1.0

    def share(self, one: str, other: str) -> float:
        """How much ``one`` is preferred over ``other``, in [0, 1]."""
        place = {letter: tier for tier, letters in enumerate(self.tiers) for letter in letters}
        if place[one] == place[other]:
            return 0.5
        return self.confidence if place[one] < place[other] else 1 - self.confidence


def items_of(pairs: Iterable[AnswerPair], form: str, orders: int = 1) -> list[JudgeItem]:
    """The items that ask for all pairs, in the order of their ids, which is none. Rankings are shown in one order, or
    in two, and the reversed ones follow the others; pairs are always shown in both.

    Raises ``DataError`` for a ranking of more answers than there are letters.
    """
    if form == "pairs":
        both = (one for pair in pairs for one in pair.orders)
        return _sorted(JudgeItem(2, one.instruction, (one.a, one.b)) for one in both)
    found = [(instruction, _shuffled(instruction, texts)) for instruction, texts in _by_instruction(pairs).items()]
    first = _sorted(JudgeItem(orders, *one) for one in found)
    return first if orders == 1 else [*first, *_sorted(JudgeItem(2, name, texts[::-1]) for name, texts in found)]


def _sorted(items: Iterable[JudgeItem]) -> list[JudgeItem]:
    return sorted(items, key=lambda item: item.id)


def _by_instruction(pairs: Iterable[AnswerPair]) -> dict[str, set[str]]:
    texts: dict[str, set[str]] = {}
    for pair in pairs:
        texts.setdefault(as_text(pair.prompt), set()).update((pair.first, pair.second))
    return texts


def _shuffled(instruction: str, texts: Collection[str]) -> tuple[str, ...]:
    if len(texts) > len(ascii_uppercase):
        raise DataError(f"There are {len(texts)} answers to {instruction[:40]!r}, more than letters; export pairs.")
    return tuple(sorted(texts, key=lambda text: _digest("order", instruction, text)))


def write_items(items: Sequence[JudgeItem], path: Path) -> None:
    """Write items as Markdown for people if the name ends in ``.md``, else as JSON lines."""
    if path.suffix == ".md":
        write_text(path, f"# {len(items)} items to judge\n\n{_HOW}\n\n" + "\n".join(map(_markdown, items)))
        return
    lines = [
        {"id": item.id, "instruction": item.instruction, "answers": dict(zip(item.letters, item.answers, strict=True))}
        for item in items
    ]
    write_text(path, "".join(json_line(line | {"verdict": None}) + "\n" for line in lines))


def _markdown(item: JudgeItem) -> str:
    parts = [("Instruction", item.instruction)]
    parts += [(f"Answer {letter}", text) for letter, text in zip(item.letters, item.answers, strict=True)]
    shown = "\n".join(f"### {name}\n\n{_quoted(text)}\n" for name, text in parts)
    return f"## Item {item.id}\n\n{shown}\nVerdict:\n"


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in as_whole(text).splitlines() or [""])


def read_verdicts(path: Path) -> Iterator[tuple[str, str, Any]]:
    """Place, item's id and verdict of each item in a file that has one; what is empty is left out.

    A file of Markdown is one that :func:`write_items` wrote, filled in; JSON lines have ``id`` and ``verdict``,
    ``ranking``, or ``preference`` with ``confidence``. Raises ``DataError`` with the place, or ``OSError``.
    """
    found = _in_markdown(path) if path.suffix == ".md" else _in_lines(path)
    yield from ((place, name, verdict) for place, name, verdict in found if verdict not in (None, "", []))


def _in_markdown(path: Path) -> Iterator[tuple[str, str, str]]:
    name = ""
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if item := _ITEM.fullmatch(line):
            name = item[1]
        elif name and (verdict := _VERDICT.match(line)):
            yield f"{path}, line {number}", name, verdict[1].strip()


def _in_lines(path: Path) -> Iterator[tuple[str, str, Any]]:
    for place, fields in objects(path):
        name = fields.get("id")
        if not isinstance(name, str):
            raise DataError(f"{place}: has no 'id'; a verdict names its item.")
        given = [key for key in ("verdict", "ranking", "preference") if fields.get(key) is not None]
        if len(given) > 1:
            raise DataError(f"{place}: has both {given[0]!r} and {given[1]!r}; give one of them.")
        verdict = fields[given[0]] if given else None
        sure = fields.get("confidence")
        yield place, name, verdict if sure is None or verdict is None else f"{verdict} {_percent(sure, place)}"


def _percent(confidence: Any, place: str) -> float:
    if isinstance(confidence, bool) or not isinstance(confidence, int | float):
        raise DataError(f"{place}: the confidence is {confidence!r}; it is a number from 0.5 to 1.")
    return 100 * confidence if confidence <= 1 else confidence


def read_verdict(verdict: Any, letters: str) -> FileVerdict:
    """A verdict on an item with these letters. Raises ``DataError`` with a sentence that has no place."""
    if isinstance(verdict, list):
        tiers = [tier if isinstance(tier, list) else [tier] for tier in verdict]
        verdict = " > ".join(" = ".join(map(str, tier)) for tier in tiers)
    text = str(verdict).strip().upper()
    if _TIE.fullmatch(text):
        return FileVerdict((tuple(letters),))
    sure = _SURE.fullmatch(text)
    if sure and len(letters) == 2:
        return _preferred(sure, letters)
    tiers = [[letter.strip() for letter in tier.split("=")] for tier in text.split(">")]
    _require_each_once([letter for tier in tiers for letter in tier], letters)
    return FileVerdict(tuple(map(tuple, tiers)))


def _preferred(sure: re.Match[str], letters: str) -> FileVerdict:
    confidence = float(sure[2] or 100) / 100
    if not 0.5 <= confidence <= 1:
        raise DataError(f"the confidence is {sure[2]} percent; it goes from 50, a toss-up, to 100.")
    if sure[1] not in letters:
        raise DataError(f"{sure[1]!r} is no answer of this item, which has {' and '.join(letters)}.")
    return FileVerdict(((sure[1],), (letters.replace(sure[1], ""),)), confidence)


def _require_each_once(named: Sequence[str], letters: str) -> None:
    unknown = [letter for letter in named if letter not in letters or not letter]
    if unknown:
        raise DataError(f"{unknown[0]!r} is no answer of this item; rank {', '.join(letters)}, such as B > A = C.")
    twice = [letter for letter in letters if list(named).count(letter) > 1]
    if twice:
        raise DataError(f"the answer {twice[0]} is ranked twice.")
    lacking = [letter for letter in letters if letter not in named]
    if lacking:
        raise DataError(f"the answer {lacking[0]} is not ranked; rank all of {', '.join(letters)}.")


def undecided(pairs: Iterable[AnswerPair], model: str, caches: Sequence[Path]) -> list[AnswerPair]:
    """The pairs on which a cache lacks a verdict of the judge ``model``, in either order."""
    known = [{line.get("id") for line in read_journal(cache)} if cache.exists() else set() for cache in caches]
    return [pair for pair in pairs if not all(order.key(model) in ids for order in pair.orders for ids in known)]


def shares_of(
    pairs: Sequence[AnswerPair], files: Iterable[Path], waiting: Sequence[AnswerPair] = ()
) -> dict[JudgePrompt, tuple[float, str]]:
    """What the verdicts of some files say of each order of two answers: how much A is preferred, and where it stands.
    Of a ranking that is more than the ``pairs``; only of these two verdicts must not contradict each other. The items
    are of all pairs, or of those that were ``waiting`` for this judge.

    Raises ``DataError`` with the place of a verdict that is wrong, on an unknown item, or on one that has a verdict.
    """
    items = {item.id: item for asked in (pairs, waiting) for item in _possible_items(asked)}
    wanted = {order for pair in pairs for order in pair.orders}
    places: dict[str, str] = {}
    found: dict[JudgePrompt, tuple[float, str]] = {}
    for place, name, verdict in (one for path in files for one in read_verdicts(path)):
        if name not in items:
            raise DataError(f"{place}: {name!r} is none of the items that were exported here.")
        if name in places:
            raise DataError(f"{place}: the item {name} has a verdict already, at {places[name]}.")
        places[name] = place
        for order, share in _said(items[name], verdict, place).items():
            if found.setdefault(order, (share, place))[0] != share and order in wanted:
                raise DataError(f"{place}: contradicts the verdict at {found[order][1]} on the same two answers.")
    return found


def _possible_items(pairs: Sequence[AnswerPair]) -> Iterator[JudgeItem]:
    """All items that may have been exported, at any time: pairs come to be noted one behind the other. More answers to
    a prompt than there are letters make no ranking."""
    yield from items_of(pairs, "pairs")
    noted: dict[str, set[str]] = {}
    for pair in pairs:
        instruction = as_text(pair.prompt)
        texts = noted.setdefault(instruction, set())
        before = len(texts)
        texts.update((pair.first, pair.second))
        if before < len(texts) <= len(ascii_uppercase):
            shown = _shuffled(instruction, texts)
            yield from (JudgeItem(1, instruction, shown), JudgeItem(2, instruction, shown))
            yield JudgeItem(2, instruction, shown[::-1])


def _said(item: JudgeItem, verdict: Any, place: str) -> Mapping[JudgePrompt, float]:
    """What a verdict says of each order. A ranking in one order says the same of both."""
    try:
        read = read_verdict(verdict, item.letters)
    except DataError as error:
        raise DataError(f"{place}: {error}") from error
    named = dict(zip(item.letters, item.answers, strict=True))
    said = {}
    for one, other in combinations(item.letters, 2):
        said[JudgePrompt(item.instruction, named[one], named[other])] = read.share(one, other)
        if item.orders == 1:
            said[JudgePrompt(item.instruction, named[other], named[one])] = read.share(other, one)
    return said


def take_verdicts(
    caches: Sequence[Path], pairs: Sequence[AnswerPair], model: str, files: Sequence[Path], *, partial: bool = False
) -> tuple[int, int]:
    """Put the verdicts of some files on ``pairs`` into each of a judge's caches, as the judge ``model``; returns how
    many orders of the pairs they decide, and how many are still open.

    Raises ``DataError`` as :func:`shares_of`, for a verdict that contradicts a cache, and, unless ``partial``, for
    pairs that no verdict decides; then no cache has changed.
    """
    found = shares_of(pairs, files, undecided(pairs, model, caches))
    wanted = [order for pair in pairs for order in pair.orders]
    decided = found.keys() & set(wanted)
    with ExitStack() as stack:
        journals = [stack.enter_context(Journal(cache)) for cache in caches]
        for journal in journals:
            _require_agreement(journal, {order: found[order] for order in decided}, model)
        lacking = [order for order in wanted if order not in found and not _in_all(journals, order.key(model))]
        if lacking and not partial:
            raise DataError(
                f"{len(lacking)} of {len(wanted)} comparisons have no verdict; the first is on "
                f"{lacking[0].instruction[:60]!r}. --partial takes those that there are."
            )
        for journal in journals:
            _append(journal, found, model)
    return len(decided), len(lacking)


def _require_agreement(journal: Journal, found: Mapping[JudgePrompt, tuple[float, str]], model: str) -> None:
    for order, (share, place) in found.items():
        before = journal.get(order.key(model))
        if before is not None and before["share"] != share:
            raise DataError(f"{place}: contradicts what {model} has said before on the same two answers.")


def _in_all(journals: Sequence[Journal], key: str) -> bool:
    return all(key in journal for journal in journals)


def _append(journal: Journal, found: Mapping[JudgePrompt, tuple[float, str]], model: str) -> None:
    for order, (share, place) in found.items():
        if (key := order.key(model)) not in journal:
            journal.append({"id": key, "share": share, "model": model, "version": VERSION, "place": place})


def _digest(*texts: str) -> str:
    return sha256(json_line(texts).encode()).hexdigest()[:_ID_LENGTH]
