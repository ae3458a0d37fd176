"""The error classes that users may see, with their HTTP statuses and exit codes.

All of them derive from `TesseraError`. The text is one sentence (or two)
that names the value, the limit and the way out; it never carries a library's own exception text.
A class decides only the codes, so a new kind of failure needs no new handler anywhere.
"""

from __future__ import annotations

import errno
import re
import unicodedata

MAX_WORDS, KEPT_HEAD, KEPT_TAIL = 1200, 700, 300  # characters in an error's text
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
RUST_ERROR = re.compile(r"\(os error (\d+)\)")
UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode's categories of what does more than to be shown
JOINERS = "\u200c\u200d"
SQLITE_NO_ROOM = {13, 778, 4874}  # SQLITE_FULL, SQLITE_IOERR_WRITE and SQLITE_IOERR_SHMSIZE


class TesseraError(Exception):
    """Base of all expected failures; anything else that escapes is a bug.

    A text that quotes a file or client at length is shortened to its beginning and its way out.
    """

    http_status = 500
    exit_code = 1
    code: str | None = None  # identifies the failure for programs, in OpenAI's terms if one fits
    retry_after_s: float | None = None  # after how long a server wants to be asked again
    answered: int | None = None  # the status of a server's answer that is the failure

    def __init__(self, text: str = "") -> None:
        super().__init__(text if len(text) <= MAX_WORDS else f"{text[:KEPT_HEAD]} [...] {text[-KEPT_TAIL:]}")


class UsageError(TesseraError):
    """A malformed request: a bad option, field, message list or JSON; `param` names the field, if there is one."""

    http_status = 400
    exit_code = 2

    def __init__(self, text: str, *, param: str | None = None) -> None:
        super().__init__(text)
        self.param = param


class ConversationError(UsageError):
    """A conversation that the model's chat format does not allow.

    `index` is the number of the message at fault, and `param` its place in a request, if there is one.
    """

    def __init__(self, text: str, index: int | None = None, param: str | None = None) -> None:
        super().__init__(text, param=param)
        self.index = index


class TooManyImagesError(UsageError):
    """A request with too many images."""

    code = "too_many_images"


class GrammarError(UsageError):
    """A grammar or schema that is invalid, unsupported, or too complex to follow."""


class DeadEndError(GrammarError):
    """A reply whose grammar could not continue, or grew too complex: another reply may not come there."""

    code = "grammar_dead_end"


class ImageError(TesseraError):
    """An image that cannot be read or exceeds a limit."""

    http_status = 400
    code = "invalid_image"


class DocumentError(TesseraError):
    """A document or page that cannot be read or exceeds a limit; `code` says why, for programs."""

    http_status = 400

    def __init__(self, text: str = "", *, code: str = "damaged") -> None:
        super().__init__(text)
        self.code = code


class FetchError(TesseraError):
    """A URL that may not or could not be fetched."""

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
    """The waiting queue is full; the request may be retried later."""

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
    """A server that cannot be reached, or that does not answer like OpenAI's API."""

    http_status = 502
    code = "endpoint_failed"


class UnreachableError(EndpointError):
    """A server that no connection reaches, so that the request never arrived; the next one will not either."""


class KeyRefusedError(UnreachableError):
    """A server that refuses our key, as it will every other request's."""

    code = "key_refused"


class NotFiniteError(ReplyError):
    """A reply without a next token, because the model computed NaN or an infinity; a retry will fail too."""

    http_status = 500
    code = "model_not_finite"


class FileBusyError(TesseraError):
    """A file that another process holds for itself for longer than is waited."""

    http_status = 503


class DiskFullError(TesseraError):
    """A file that could not be written because the disk, a quota or a file size limit is full."""


def lacks_room(error: BaseException) -> bool:
    """Return True if the system or SQLite could not write for want of room: of the disk, a quota or `ulimit -f`."""
    if isinstance(error, OSError):
        return error.errno in NO_ROOM
    told = RUST_ERROR.search(str(error))  # as safetensors raises it
    return bool(told and int(told[1]) in NO_ROOM) or getattr(error, "sqlite_errorcode", None) in SQLITE_NO_ROOM


class MeasurementError(TesseraError):
    """A measurement that failed, or whose sides did not compute the same."""


class MissingExtraError(TesseraError):
    """An optional dependency is absent; the text is the exact install command."""


def shown(value: object) -> str:
    """Return a value as an error quotes it, in at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun: "1 page", "2,000 pages"; `many` is for words that take more than an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def printable(text: str, keep: str = "") -> str:
    """Escape what would break a line, drive a terminal, or reorder what is shown: ESC becomes \\x1b.

    Control characters, separators of lines, marks of direction and halves of characters, but none of `keep`; not the
    joiners of Indic scripts, Persian and emoji, nor wide spaces.
    """
    if text.isprintable():
        return text
    return "".join(sign.encode("unicode_escape").decode() if _is_unsafe(sign, keep) else sign for sign in text)


def _is_unsafe(sign: str, keep: str) -> bool:
    return unicodedata.category(sign) in UNSAFE and sign not in JOINERS and sign not in keep
