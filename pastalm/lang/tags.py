"""The six special tokens of PASTA-LANG and its tags. Concatenated, the tokens are the canonical text."""

PROMISE_TOPIC = '<promise topic="'
PROMISE_TOKENS = '" tokens='
PROMISE_END = " />"
ASYNC = "<async>"
ASYNC_END = "</async>"
SYNC = "<sync/>"

TAGS = (PROMISE_TOPIC, PROMISE_TOKENS, PROMISE_END, ASYNC, ASYNC_END, SYNC)

MAX_TOPIC_WORDS = 3
TOPIC_FORBIDDEN = '"<>\n'  # would end a promise's text, or look like a tag


def is_whole(text: str) -> bool:
    """Whether all of it are characters. JSON's escapes, and arguments that are not UTF-8, can hold half of a surrogate
    pair, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def normal_topic(topic: str) -> str:
    """A topic as it is written: its words with one space between them."""
    return " ".join(topic.split())


def is_topic(text: str) -> bool:
    """Whether a text can be a topic: it says something, and nothing in it would break a promise."""
    return bool(text.strip()) and not set(TOPIC_FORBIDDEN) & set(text)


def promise(topic: str, tokens: int) -> str:
    """The canonical text of a promise."""
    return f"{PROMISE_TOPIC}{topic}{PROMISE_TOKENS}{tokens}{PROMISE_END}"
