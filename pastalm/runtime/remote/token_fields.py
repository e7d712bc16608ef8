"""The fields in which a kind of server is asked for token ids and gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class TokenFields:
    """Those of vLLM, which SGLang and ``pasta serve`` have too."""

    def asked(self, stop: Sequence[int]) -> dict[str, Any]:
        """What is asked for beside the fields of OpenAI; ``stop`` are the ids behind which nothing is wanted."""
        return {
            "stop_token_ids": list(stop),
            "include_stop_str_in_output": True,
            "skip_special_tokens": False,
            "return_token_ids": True,
        }

    def ids(self, piece: Any) -> list[int] | None:
        """The ids in a completion, or in a piece of its stream; None if it has none."""
        return (piece.choices[0].model_extra or {}).get("token_ids")

    def left_out(self, piece: Any, told: int) -> int:
        """How many tokens of a stream are missing once its ids, this piece's among them, are ``told``."""
        return 0

    def longest(self, card: Any) -> int | None:
        """How many tokens a prompt and its answer may have, by the server's card of the model."""
        return (card.model_extra or {}).get("max_model_len")


class LlamaCppFields(TokenFields):
    """Those of llama.cpp's server. It knows no ids to stop at, so the driver leaves at one. Its stream leaves out the
    tokens that end within a character, but counts them."""

    def asked(self, stop: Sequence[int]) -> dict[str, Any]:
        return {"return_tokens": True, "verbose": True, "top_k": 0, "min_p": 0.0}  # by default it cuts the choice down

    def ids(self, piece: Any) -> list[int] | None:
        return _verbose(piece).get("tokens")

    def left_out(self, piece: Any, told: int) -> int:
        return _verbose(piece).get("tokens_predicted", told) - told

    def longest(self, card: Any) -> int | None:
        return ((card.model_extra or {}).get("meta") or {}).get("n_ctx")


def token_fields_of(card: Any) -> TokenFields:
    """The fields of a server, by its card of a model."""
    return LlamaCppFields() if card.owned_by == "llamacpp" else TokenFields()


def _verbose(piece: Any) -> dict[str, Any]:
    return (piece.model_extra or {}).get("__verbose") or {}
