"""Error responses: the one object that OpenAI's clients read, with its status and headers."""

from __future__ import annotations

from typing import Any

from tessera.errors import EngineBusyError, TesseraError, UsageError
from tessera.server.settings import in_settings_words

RETRY_AFTER_S = 1
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
ANTHROPIC_PATH = "/v1/messages"
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class BadRequestError(UsageError):
    """A request that cannot be served; `param` names the field at fault."""

    http_status = 400

    def __init__(self, text: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(text, param=param)
        self.code = code
        self.http_status = status


def error_object(error: TesseraError) -> dict[str, Any]:
    """{"error": {"message", "type", "param", "code"}}, the shape of every error at every status."""
    kind = _TYPES.get(error.http_status, "invalid_request_error" if error.http_status < 500 else "server_error")
    message = in_settings_words(str(error))
    return {"error": {"message": message, "type": kind, "param": getattr(error, "param", None), "code": error.code}}


def error_headers(error: TesseraError) -> dict[str, str]:
    """Headers that say whether and when to retry: only a full queue clears by itself."""
    if isinstance(error, EngineBusyError):
        return {"Retry-After": str(RETRY_AFTER_S)}
    return {"x-should-retry": "false"}


def unexpected_error() -> TesseraError:
    """The error that a client sees for a fault of ours; the log has the rest."""
    return TesseraError("the server failed; its log names this failure by the request id.")


def failure_body(error: TesseraError, path: str, request_id: str) -> dict[str, Any]:
    """The error body for this path's clients: Anthropic's shape, or OpenAI's."""
    told = error_object(error)
    if path != ANTHROPIC_PATH and not path.startswith(ANTHROPIC_PATH + "/"):
        return told
    return anthropic_error(error.http_status, told["error"]["message"], request_id)


def anthropic_error(status: int, message: str, request_id: str) -> dict[str, Any]:
    kind = _ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
