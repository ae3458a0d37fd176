"""The error tree: what can go wrong for a user, with its HTTP status and its exit code.

Every error that a person may see derives from `TesseraError`. Its text is one sentence (or two)
that names the value, the limit and the way out; it never carries a library's own exception text.
A class decides only the codes, so a new kind of failure needs no new handler anywhere.
"""

from __future__ import annotations

MAX_WORDS, KEPT_HEAD, KEPT_TAIL = 1200, 700, 300  # characters of an error's text


class TesseraError(Exception):
    """Base of all expected failures; anything else that escapes is a bug.

    A text that quotes what a file or a client said at length keeps its beginning and its way out.
    """

    http_status = 500
    exit_code = 1
    code: str | None = None  # what programs tell failures apart by, in OpenAI's words where it has one

    def __init__(self, text: str = "") -> None:
        super().__init__(text if len(text) <= MAX_WORDS else f"{text[:KEPT_HEAD]} [...] {text[-KEPT_TAIL:]}")


class UsageError(TesseraError):
    """A malformed request: a bad option, field, message list or JSON; `param` names the field, where there is one."""

    http_status = 400
    exit_code = 2

    def __init__(self, text: str, *, param: str | None = None) -> None:
        super().__init__(text)
        self.param = param


class ConversationError(UsageError):
    """A conversation that the model's chat format does not allow.

    `index` is that of the message at fault, and `param` its place in a request, where there is one.
    """

    def __init__(self, text: str, index: int | None = None, param: str | None = None) -> None:
        super().__init__(text, param=param)
        self.index = index


class TooManyImagesError(UsageError):
    """More pictures than one request may have."""

    code = "too_many_images"


class GrammarError(UsageError):
    """A grammar or schema that is not valid, not supported, or too complex to follow."""


class ImageError(TesseraError):
    """A picture that cannot be read, or that exceeds a limit."""

    http_status = 400
    code = "invalid_image"


class FetchError(TesseraError):
    """A URL that may not be fetched, or that could not be."""

    http_status = 400
    code = "image_fetch_failed"


class PromptTooLongError(TesseraError):
    """A request that can never fit the context or the KV cache; the text names both numbers."""

    http_status = 400
    code = "context_length_exceeded"


class ModelNotFoundError(TesseraError):
    """No model at the given name or folder."""

    http_status = 404
    code = "model_not_found"


class CheckpointError(TesseraError):
    """A model folder that is incomplete, damaged or of an unknown architecture."""


class EngineBusyError(TesseraError):
    """The waiting queue is full; the request may be sent again later."""

    http_status = 429
    code = "queue_full"


class EngineDeadError(TesseraError):
    """The engine's thread ended; only a restart helps."""

    http_status = 503


class ReplyError(TesseraError):
    """A reply that ended before it was complete, through no fault of the request."""

    http_status = 503
    code = "reply_failed"


class EndpointError(TesseraError):
    """A server that cannot be reached, or that does not answer as an OpenAI-shaped API does."""

    http_status = 502
    code = "endpoint_failed"


class NotFiniteError(ReplyError):
    """A reply that has no next token, for the model computed NaN or an infinity; sent again, it will fail again."""

    http_status = 500
    code = "model_not_finite"


class DiskFullError(TesseraError):
    """A file that found no room: the disk, a quota or a limit on files is at its end."""


class MeasurementError(TesseraError):
    """A measurement that could not be made, or whose sides did not compute the same."""


class MissingExtraError(TesseraError):
    """An optional dependency is absent; the text is the exact install command."""
