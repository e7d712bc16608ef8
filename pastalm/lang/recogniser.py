"""Reads the tokens of one thread as they are sampled: what they mean, and which may come next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from pastalm.lang.codec import TextCodec
from pastalm.lang.tags import MAX_TOPIC_WORDS, is_topic, normal_topic
from pastalm.lang.topic import MAX_TOPIC_CHARACTERS, TopicState
from pastalm.lang.vocabulary import Vocabulary

MAX_DIGITS = 3


@dataclass(frozen=True)
class Words:
    """Tokens of the reader's text. ``problem`` says, of tags that are not well formed, why they stay text."""

    tokens: tuple[int, ...]
    problem: str = ""


@dataclass(frozen=True)
class Promised:
    """A promise is complete."""

    topic: str
    tokens: int


@dataclass(frozen=True)
class Synced:
    """A ``<sync/>``."""


@dataclass(frozen=True)
class Closed:
    """The thread's chunk is complete. ``problem`` is set if it ended without ``</async>``."""

    problem: str = ""


@dataclass(frozen=True)
class Ended:
    """The answer's end, from the main thread."""


@dataclass(frozen=True)
class Begun:
    """Sequential text has come to a chunk: the token that is read next is the first of it."""


Mark = Words | Promised | Synced | Closed | Ended | Begun


@dataclass(frozen=True)
class Legal:
    """Which tokens may come next: ``ids`` alone if ``only``, else all but ``ids``. Equal keys mean equal sets, and that
    the same follows from the best token. ``promise`` is the token that starts a promise, where one may start.
    ``instead`` is what is legal where the model's best token is not, and ``in_place_of`` what else is where the best
    token is one of these."""

    key: tuple[object, ...]
    ids: Sequence[int] = field(compare=False)
    only: bool = False
    promise: int | None = None
    instead: Legal | None = field(default=None, compare=False)
    in_place_of: Mapping[int, Legal] = field(default_factory=dict, compare=False)

    @property
    def forced(self) -> int | None:
        """The one legal token, if there is only one."""
        return self.ids[0] if self.only and len(self.ids) == 1 else None


class Reader(Protocol):
    """What the interpreter asks of a reader of tokens. ``used``: the topics that the thread cannot promise once more;
    None if it can."""

    used: frozenset[str] | None

    @property
    def pending(self) -> Sequence[int]:
        """The tokens of the promise that is being written."""
        ...

    @property
    def may_fork(self) -> bool:
        """Whether the next token may complete a promise."""
        ...

    def legal(self) -> Legal:
        """Which tokens may come next."""
        ...

    def read(self, token: int) -> list[Mark]:
        """Take one token; returns what has become clear with it, nothing while a promise is being written."""
        ...


class PlainReader:
    """Sequential decoding: every token is text. The tags of a model that has them are not allowed.

    Where the model would promise a chunk, it has not learned what else to write, and its next best tokens are noise. So
    ``<async>`` comes there, which shows the model that a chunk begins, and of which nothing remains: the next token is
    the first of a chunk, as the model has learned to write it. Until the line ends, the answer then does not end where
    the model would write a tag: it is the chunk that is over. A sampler that does not follow the grammar may give the
    promise itself, which is read as ``<async>`` is.
    """

    used: frozenset[str] | None = None
    pending: Sequence[int] = ()
    may_fork = False

    def __init__(self, eos: frozenset[int], vocabulary: Vocabulary | None = None) -> None:
        self.eos, self.vocabulary = eos, vocabulary
        self.begun = False  # the next token is the first of a chunk
        self.in_chunk = False  # a chunk has begun in this line

    def legal(self) -> Legal:
        """See :class:`Reader`."""
        v = self.vocabulary
        if v is None:
            return Legal(("any",), ())
        tags, ends = tuple(v.tags), tuple(sorted(self.eos))
        if self.begun:
            return Legal(("plain", "first"), (*tags, *ends, *v.line_breaks))
        goes_on = Legal(("plain", "goes on"), (*tags, *ends)) if self.in_chunk else None
        begin = Legal(("plain", "begin"), (v.async_start,), only=True)
        return Legal(("plain", self.in_chunk), tags, instead=goes_on, in_place_of={v.promise_topic: begin})

    def read(self, token: int) -> list[Mark]:
        """See :class:`Reader`."""
        if token in self.eos:
            return [Ended()]
        v = self.vocabulary
        if v is not None and token in (v.async_start, v.promise_topic) and not self.begun:
            self.begun = self.in_chunk = True
            return [Begun()]
        self.begun = False
        self.in_chunk = self.in_chunk and v is not None and b"\n" not in v.text.bytes_of(token)
        return [Words((token,))]


class _State(Enum):
    TEXT = auto()
    TOPIC = auto()
    COUNT = auto()


class Recogniser:
    """PASTA-LANG. ``main`` threads end the answer, others their chunk; ``may_promise`` says whether this thread can
    have chunks of its own. Unless ``constrained`` any token may come, and malformed tags stay text.

    ``used`` are topics that cannot be promised once more, as :func:`same_topic` writes them; None allows every topic
    again and again. The thread's own promises are added to them.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        main: bool,
        may_promise: bool,
        constrained: bool,
        used: frozenset[str] | None = None,
    ) -> None:
        self.vocabulary, self.main, self.may_promise, self.constrained = vocabulary, main, may_promise, constrained
        self.used = used
        self.state = _State.TEXT
        self.pending: list[int] = []
        self.topic: list[int] = []
        self.topic_state = TopicState()
        self.count = ""

    @property
    def may_fork(self) -> bool:
        """See :class:`Reader`."""
        return self.state is _State.COUNT and bool(self.count)

    def legal(self) -> Legal:
        """See :class:`Reader`."""
        promise = self.vocabulary.promise_topic if self.may_promise and self.state is _State.TEXT else None
        if not self.constrained:
            return Legal(("any",), (), promise=promise)
        if self.state is _State.TOPIC:
            return self._legal_topic()
        if self.state is _State.COUNT:
            return self._legal_count()
        return Legal(("text", self.main, self.may_promise), self._illegal_in_text(), promise=promise)

    def _illegal_in_text(self) -> list[int]:
        v = self.vocabulary
        illegal = [v.promise_tokens, v.promise_end, v.async_start]
        illegal += [v.async_end] if self.main else sorted(v.eos)
        return illegal if self.may_promise else [*illegal, v.promise_topic, v.sync]

    def _legal_topic(self) -> Legal:
        v = self.vocabulary
        state, end = self.topic_state, (v.promise_tokens,)
        ending = Legal(("tokens",), end, only=True)
        if state.may_end and len(v.decode(self.topic)) >= MAX_TOPIC_CHARACTERS:
            return ending
        pieces = v.topic_pieces(state.words, state.in_word, state.pending)
        done = state.may_end and not (pieces and self._is_used())
        # A model that wants a fourth word has nothing to add to the third: its next best tokens are noise.
        full = done and state.words == MAX_TOPIC_WORDS
        return Legal(("topic", state, done), pieces + end * done, only=True, instead=ending if full else None)

    def _is_used(self) -> bool:
        """Whether the topic so far is one that cannot be promised once more; the model then goes on with it."""
        return self.used is not None and same_topic(self.vocabulary.decode(self.topic)) in self.used

    def _legal_count(self) -> Legal:
        v, room = self.vocabulary, MAX_DIGITS - len(self.count)
        end = (v.promise_end,) if self.count else ()
        return Legal(("count", room), (v.digits(room, not self.count) if room else ()) + end, only=True)

    def read(self, token: int) -> list[Mark]:
        """See :class:`Reader`."""
        if self.state is _State.TOPIC:
            return self._read_topic(token)
        if self.state is _State.COUNT:
            return self._read_count(token)
        return self._read_text(token)

    def _read_text(self, token: int) -> list[Mark]:
        v = self.vocabulary
        if token in v.eos:
            return [Ended()] if self.main else [Closed("the chunk ended with the end of answer, not with </async>")]
        if token not in v.tags:
            return [Words((token,))]
        if token == v.promise_topic and self.may_promise:
            self.state, self.pending, self.topic, self.count = _State.TOPIC, [token], [], ""
            self.topic_state = TopicState()
            return []
        if token == v.sync and self.may_promise:
            return [Synced()]
        if token == v.async_end and not self.main:
            return [Closed()]
        return [Words((token,), f"{v.tags[token].strip()} has no meaning here")]

    def _read_topic(self, token: int) -> list[Mark]:
        v = self.vocabulary
        if token == v.promise_tokens and is_topic(v.decode(self.topic)):
            self.state = _State.COUNT
            self.pending.append(token)
            return []
        if token not in v.tags and token not in v.eos:
            self.topic.append(token)
            self.pending.append(token)
            self.topic_state = v.topic_after(self.topic_state, token) or TopicState.of(v.decode(self.topic))
            return []
        return self._malformed("the topic of a promise is not well formed", token)

    def _read_count(self, token: int) -> list[Mark]:
        v = self.vocabulary
        text = "" if token in v.tags or token in v.eos else v.number(token)
        self.pending.append(token)
        if text and len(self.count + text) <= MAX_DIGITS + 1:
            self.count += text
            return []
        if token == v.promise_end and self.count and int(self.count) > 0:
            self.state, self.pending = _State.TEXT, []
            topic = normal_topic(v.decode(self.topic))
            self.used = None if self.used is None else self.used | {same_topic(topic)}
            return [Promised(topic, int(self.count))]
        self.pending.pop()
        return self._malformed("the length of a promise is not a whole number of at least 1", token)

    def _malformed(self, problem: str, token: int) -> list[Mark]:
        """The promise so far stays text; the token that broke it is read anew."""
        words = Words(tuple(self.pending), problem)
        self.state, self.pending = _State.TEXT, []
        return [words, *self._read_text(token)]


def same_topic(topic: str) -> str:
    """A topic as it is compared with others: without the case of its letters and the width of its spaces."""
    return normal_topic(topic).casefold()


def first_illegal(vocabulary: Vocabulary, tokens: Sequence[int], *, main: bool = True) -> int | None:
    """The index of the first token of a thread that the grammar would not let it write, None if it may write all.

    With it what an answer teaches is known to be what a model may do. Its chunks' tokens are not among ``tokens``.
    """
    reader = Recogniser(vocabulary, main=main, may_promise=True, constrained=True)
    for index, token in enumerate(tokens):
        legal = reader.legal()
        if legal.only != (token in legal.ids):
            return index
        reader.read(token)
    return None


def require_promises(vocabulary: Vocabulary) -> None:
    """Raise ``ValueError`` for a tokenizer in which no promise can be written: one without tokens for every number."""
    for number in ("1", "10", "23", "45", "67", "89", "100", "999"):
        promise = [vocabulary.promise_tokens, *vocabulary.encode(number), vocabulary.promise_end]
        topic = next(iter(vocabulary.topic_pieces(0, False)), None)
        if topic is None or first_illegal(vocabulary, [vocabulary.promise_topic, topic, *promise]) is not None:
            lacking = "no word of a topic" if topic is None else f"not the number {number}"
            raise ValueError(
                f"This tokenizer can write {lacking}, so no promise could be completed: give it a token for each digit "
                "(as byte fallback does), or decode with mode='sequential' after taking the tags out."
            )


def text_of(words: Words, codec: TextCodec, tags: dict[int, str]) -> str:
    """The text of tokens that stay text, tags among them as they are written."""
    pieces: list[str] = []
    run: list[int] = []
    for token in words.tokens:
        if token in tags:
            pieces += [codec.decode(run), tags[token]]
            run = []
        else:
            run.append(token)
    return "".join([*pieces, codec.decode(run)])
