"""Why there is no answer: each error has its HTTP status, and the type and code that OpenAI's clients look at."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

MAX_RETRY_SECONDS = 60


class ServingError(Exception):
    """What a client is told, in one sentence, when it does not get its answer."""

    status, kind = 500, "server_error"
    code: str | None = None
    outcome = "error"  # what the metrics call the end of such a request

    retry_seconds: int | None = None  # when it may go better

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go with the error. OpenAI's clients heed ``Retry-After``."""
        return {} if self.retry_seconds is None else {"Retry-After": str(self.retry_seconds)}

    def body(self) -> dict[str, Any]:
        """The error as it is sent."""
        return {"error": {"message": str(self), "type": self.kind, "param": None, "code": self.code}}


class InvalidRequestError(ServingError):
    """A request that asks for what cannot be done."""

    status, kind, outcome = 400, "invalid_request_error", "refused"


class RequestTooLargeError(InvalidRequestError):
    """A body that is too large, or may be; the status says which."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class AuthenticationError(ServingError):
    """A request without the API key."""

    status, kind, code = 401, "authentication_error", "invalid_api_key"

    def __init__(self) -> None:
        super().__init__("The API key is missing or wrong: send it as 'Authorization: Bearer KEY'.")


class ModelNotFoundError(ServingError):
    """A request for a model that is not served."""

    status, kind, code = 404, "invalid_request_error", "model_not_found"

    def __init__(self, asked: str, served: str) -> None:
        super().__init__(f"There is no model {asked!r} here; this server has {served!r}.")


class NotFoundError(ServingError):
    """A path or method that is not served; the status is the router's."""

    kind = "invalid_request_error"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ClientLeftError(ServingError):
    """The client has left; nobody reads this."""

    status, outcome = 499, "abort"


class InternalError(ServingError):
    """A failure of ours. The client hears nothing of its insides, which are in the log."""

    code = "internal_error"

    def __init__(self) -> None:
        super().__init__("The server failed on this request; its log says why.")


class OverloadedError(ServingError):
    """So many requests wait already that one more is turned away; in ``seconds`` there should be room."""

    status, kind, code, outcome = 429, "rate_limit_error", "overloaded", "overloaded"

    def __init__(self, message: str, seconds: float) -> None:
        self.retry_seconds = min(MAX_RETRY_SECONDS, max(1, ceil(seconds)))
        super().__init__(f"{message} Ask again in {self.retry_seconds} s.")


class InsufficientMemoryError(ServingError):
    """There is no memory for this request beside those that run."""

    status, code, outcome, retry_seconds = 503, "out_of_memory", "out_of_memory", 5

    def __init__(self) -> None:
        super().__init__(
            f"The server has no memory for this request now. Ask again in {self.retry_seconds} s, or for fewer tokens."
        )


class StoppedError(ServingError):
    """The server ends, or has ended, before this request was finished."""

    status, code = 503, "stopped"

    def __init__(self) -> None:
        super().__init__("The server is ending; ask again when it is back.")


def body_error(errors: Sequence[dict[str, Any]]) -> InvalidRequestError:
    """The first of pydantic's errors about a body, in one sentence."""
    place = errors[0]["loc"][:2]
    error = max((one for one in errors if one["loc"][:2] == place), key=lambda one: len(one["loc"]))
    # Behind "body" come names and indices; pydantic's words for the members of a union say nothing to a client.
    name = ".".join(str(part) for part in error["loc"][1:] if part != "str" and "[" not in str(part))
    if error["type"] == "json_invalid":
        return InvalidRequestError(f"The body is not JSON: {error['ctx']['error']}.")
    if error["type"] == "value_error":
        return InvalidRequestError(str(error["ctx"]["error"]))
    if error["type"] == "extra_forbidden":
        return InvalidRequestError(f"Unknown field {name!r}.")
    if error["type"] == "missing" and name:
        return InvalidRequestError(f"The field {name!r} is missing.")
    if not name:
        return InvalidRequestError("The body must be a JSON object, sent as Content-Type: application/json.")
    return InvalidRequestError(f"{name}: {error['msg'][:1].lower()}{error['msg'][1:]}.")
