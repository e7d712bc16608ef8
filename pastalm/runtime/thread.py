"""One thread of an answer: what it has written, where it stands, what is still to be fed to the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from pastalm.lang.answer import Answer, Block, Node, Sync, merge_text
from pastalm.lang.recogniser import Reader
from pastalm.lang.script import Script
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.text_run import TextRun

ThreadPath = tuple[int, ...]  # () is the main thread, (0,) its first child, (0, 1) the second child of that


@dataclass(frozen=True)
class Feed:
    """Give the model a token: it takes one slot, and its thread sees it from now on, if it is ``kept``; else the token
    gives its logits and no more."""

    thread: ThreadPath
    token: int
    position: int
    kept: bool = True


@dataclass(frozen=True)
class Fork:
    """The child sees from now on what the parent sees at this moment."""

    child: ThreadPath
    parent: ThreadPath


@dataclass(frozen=True)
class Join:
    """The parent sees from now on all that these threads have seen."""

    parent: ThreadPath
    children: tuple[ThreadPath, ...]


Operation = Feed | Fork | Join


class Status(Enum):
    """``RUNNING`` threads are sampled; ``WAITING`` ones have written a sync and wait for their children."""

    RUNNING = auto()
    WAITING = auto()
    DONE = auto()


@dataclass(eq=False)
class Thread:
    """The state of one thread. ``position`` is where its next token will stand; ``written`` its tokens, with children
    and syncs in their places; ``pieces`` the same as text; ``shown`` counts the tokens that are text of the
    reader; ``todo`` what the model has not been fed yet."""

    path: ThreadPath
    reader: Reader
    run: TextRun
    position: int
    parent: Thread | None = None
    topic: str = ""
    promised: int = 0
    status: Status = Status.RUNNING
    truncated: bool = False
    content: int = 0
    shown: int = 0
    wait_steps: int = 0
    place: tuple[int, ...] = ()
    children: list[Thread] = field(default_factory=list)
    unsynced: list[Thread] = field(default_factory=list)
    written: list[int | Thread | Sync] = field(default_factory=list)
    pieces: list[str | Thread | Sync] = field(default_factory=list)
    todo: list[Operation] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether it and all threads under it are done."""
        return self.status is Status.DONE and all(child.complete for child in self.children)

    @property
    def unforked(self) -> bool:
        """Whether the model has not been told of it yet: its fork stands in what its parent has still to do."""
        return self.parent is not None and Fork(self.path, self.parent.path) in self.parent.todo

    def family(self) -> list[Thread]:
        """The thread and all threads under it, in document order."""
        return [self, *(thread for child in self.children for thread in child.family())]

    def unjoined(self) -> list[Thread]:
        """The thread and the threads under it that it has not joined, in document order."""
        return [self, *(thread for child in self.unsynced for thread in child.unjoined())]

    def nodes(self) -> tuple[Node, ...]:
        """What it has written as nodes of an answer."""
        return merge_text([_node(piece) for piece in self.pieces])

    @property
    def own_text(self) -> str:
        """Its own text, without its children's."""
        return "".join(piece for piece in self.pieces if isinstance(piece, str))


def _node(piece: str | Thread | Sync) -> Node:
    return Block(piece.topic, piece.nodes(), piece.promised) if isinstance(piece, Thread) else piece


def answer_of(main: Thread) -> Answer:
    """The answer that a main thread and its children have written."""
    return Answer(main.nodes())


def script_of(main: Thread, vocabulary: Vocabulary) -> Script:
    """The same as tokens in document order, exactly those that were decoded."""
    script = Script()
    _write(script, main, 0, vocabulary)
    return script


def _write(script: Script, thread: Thread, block: int, vocabulary: Vocabulary) -> None:
    for item in thread.written:
        if isinstance(item, Thread):
            inner = script.open(block, item.topic, item.promised)
            script.append([vocabulary.async_start], inner)
            start = len(script.tokens)
            _write(script, item, inner, vocabulary)
            closed = script.tokens[-1] == vocabulary.async_end and script.block[-1] == inner
            script.blocks[inner].content = len(script.tokens) - start - closed
        elif isinstance(item, Sync):
            script.release(block)
            script.append([vocabulary.sync], block)
        else:
            script.append([item], block)
