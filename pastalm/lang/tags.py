"""The six special tokens of PASTA-LANG and its tags. Concatenated, the tokens are the canonical text."""

PROMISE_TOPIC = '<promise topic="'
PROMISE_TOKENS = '" tokens='
PROMISE_END = " />"
ASYNC = "<async>"
ASYNC_END = "</async>"
SYNC = "<sync/>"

TAGS = (PROMISE_TOPIC, PROMISE_TOKENS, PROMISE_END, ASYNC, ASYNC_END, SYNC)

MAX_TOPIC_WORDS = 3


def is_whole(text: str) -> bool:
    """Whether all of it are characters. JSON's escapes, and arguments that are not UTF-8, can hold half of a surrogate
    pair, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def promise(topic: str, tokens: int) -> str:
    """The canonical text of a promise."""
    return f"{PROMISE_TOPIC}{topic}{PROMISE_TOKENS}{tokens}{PROMISE_END}"
