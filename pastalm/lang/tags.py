"""The six special tokens of PASTA-LANG and its tags. Concatenated, the tokens are the canonical text."""

import re

PROMISE_TOPIC = '<promise topic="'
PROMISE_TOKENS = '" tokens='
PROMISE_END = " />"
ASYNC = "<async>"
ASYNC_END = "</async>"
SYNC = "<sync/>"

TAGS = (PROMISE_TOPIC, PROMISE_TOKENS, PROMISE_END, ASYNC, ASYNC_END, SYNC)

MAX_TOPIC_WORDS = 3
LONGEST_PROMISE = 9999  # in the unit of the position policy
TOPIC_FORBIDDEN = '"<>\n'  # would end a promise's text, or look like a tag

_NAMED = r"(?=/?(?:promise|async|sync)(?![\w-]))"
_SPELT = re.compile(rf"(?:<|&(?:amp;)*lt;){_NAMED}")
_ESCAPED = re.compile(rf"&(?:amp;)*lt;{_NAMED}")


def escape(text: str) -> str:
    """A text as it stands between tags: where it spells the beginning of a tag, ``&lt;`` is written for its ``<``;
    where it spells that, ``&amp;lt;``. All other text stays what it is."""
    return _SPELT.sub(lambda found: "&lt;" if found[0] == "<" else f"&amp;{found[0][1:]}", text)


def unescape(text: str) -> str:
    """The text that :func:`escape` has written."""
    return _ESCAPED.sub(lambda found: "<" if found[0] == "&lt;" else f"&{found[0][5:]}", text)


def is_whole(text: str) -> bool:
    """Whether all of it are characters. JSON's escapes, and arguments that are not UTF-8, can hold half of a surrogate
    pair, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_whole(text: str) -> str:
    """The text with a question mark for each half of a surrogate pair, so that files and requests can hold it."""
    return text.encode(errors="replace").decode()


def normal_topic(topic: str) -> str:
    """A topic as it is written: its words with one space between them."""
    return " ".join(topic.split())


def is_topic(text: str) -> bool:
    """Whether a text can be a topic: it says something, and nothing in it would break a promise."""
    return bool(text.strip()) and not set(TOPIC_FORBIDDEN) & set(text)


def promise(topic: str, tokens: int) -> str:
    """The canonical text of a promise."""
    return f"{PROMISE_TOPIC}{topic}{PROMISE_TOKENS}{tokens}{PROMISE_END}"
