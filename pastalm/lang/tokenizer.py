"""What PASTA asks of a Hugging Face tokenizer: that it is a fast one, and that it knows the six tags."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken

from pastalm.lang.tags import TAGS


class MissingTagsError(ValueError):
    """A tokenizer whose vocabulary lacks the six tags."""


def require_fast(tokenizer: Any) -> None:
    """Raise ``ValueError`` for a slow tokenizer."""
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"{type(tokenizer).__name__} is not a fast tokenizer; PASTA needs one (a tokenizer.json beside the model)."
        )


def add_tags(tokenizer: Any) -> int:
    """Add the six tags to a fast tokenizer as special tokens; returns how many were new. Saving it keeps them.

    Raises ``ValueError`` for a slow tokenizer.
    """
    require_fast(tokenizer)
    return tokenizer.add_tokens([AddedToken(tag, special=True, normalized=False) for tag in TAGS], special_tokens=True)


def has_tags(tokenizer: Any) -> bool:
    """Whether all six tags are single tokens of this tokenizer. Takes as long as its added tokens are many."""
    known = tokenizer.get_added_vocab()
    return all(tag in known for tag in TAGS)


def end_tokens(tokenizer: Any, *configs: Any) -> tuple[int, ...]:
    """All ids that end an answer: the tokenizer's own, then those that the configs name. A config is a model's
    ``generation_config``, or any object with an ``eos_token_id``, one id or several; None names none.

    Nothing comes back where nobody knows the end of an answer.
    """
    found: list[int | None] = []
    for config in (tokenizer, *configs):
        ids = getattr(config, "eos_token_id", None)
        found += ids if isinstance(ids, list | tuple) else [ids]
    return tuple(dict.fromkeys(token for token in found if token is not None))
