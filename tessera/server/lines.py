"""Lines of a batch: OpenAI's and Mistral's requests, one a line, read and answered as the routes would.

What a line's row says does not depend on when it was answered: ids come from the line, `created` is the job's, and
the number of cached tokens is left out. So an interrupted job ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from tessera.chat import Completion, Tools
from tessera.errors import ConversationError, TesseraError, shown
from tessera.messages import Message
from tessera.prompt import Tokenizer
from tessera.sampling import SamplingParams
from tessera.server.body import check_values, num_values, parsed_json
from tessera.server.errors import BadRequestError, error_object
from tessera.server.handlers import check_request
from tessera.server.names import Names
from tessera.server.routes.chat import chat_completion, chat_sampling, conversation_of, tools_of
from tessera.server.schemas import ChatRequest
from tessera.server.thoughts import without_thoughts
from tessera.server.translate import choices_of
from tessera.server.validation_words import describe_mistake
from tessera.server.wire import json_text, logprobs_object

CHAT = "/v1/chat/completions"
MAX_LINE_BYTES = 64_000_000  # as max_body_bytes of the server
MAX_ID = 512  # characters of a custom_id
FIELDS = {"custom_id", "method", "url", "body"}
ID_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


class LineError(BadRequestError):
    """A line that is no request; `custom_id` is there if it could be read."""

    def __init__(self, text: str, *, code: str = "invalid_line", custom_id: str | None = None) -> None:
        super().__init__(text, code=code)
        self.custom_id = custom_id


@dataclass(frozen=True)
class Line:
    """A request to answer; a line without `custom_id` is called by its number."""

    number: int  # from 1
    custom_id: str
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """What a line asks: one conversation, answered once for each of `params`."""

    messages: Sequence[Message]
    params: Sequence[SamplingParams]
    tools: Tools
    logprobs: bool


def read_line(data: bytes, number: int, endpoint: str = CHAT) -> Line:
    """Read a line of a batch for this path; raises LineError."""
    if len(data) > MAX_LINE_BYTES:
        raise LineError(f"line {number} has more than {MAX_LINE_BYTES:,} bytes, which is the limit of one request.")
    try:
        check_values(num_values(data))
        told = parsed_json(data)
    except json.JSONDecodeError as error:
        place = f" ({error.msg.rpartition(', ')[2]})" if error.msg else ""
        raise LineError(f"line {number} is not valid JSON in UTF-8{place}; write one object a line.") from error
    except BadRequestError as error:
        raise LineError(f"line {number}: {error}") from error
    if not isinstance(told, dict):
        raise LineError(f"line {number} is {shown(told)}; write an object with custom_id, method, url and body.")
    custom_id = told.get("custom_id")
    custom_id = str(number) if custom_id is None else custom_id
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_ID:
        raise LineError(
            f"line {number}: custom_id is {shown(custom_id)}; it must be a string of 1 to {MAX_ID} characters."
        )
    try:
        custom_id.encode()
    except UnicodeEncodeError as error:
        raise LineError(f"line {number}: custom_id holds half a surrogate pair; write whole characters.") from error
    _check_fields(told, number, custom_id, endpoint)
    return Line(number, custom_id, told["body"])


def _check_fields(told: Mapping[str, Any], number: int, custom_id: str, endpoint: str) -> None:
    where = f"line {number} ({custom_id[:64]})"
    for name, value in told.items():
        if name not in FIELDS and value is not None:
            raise LineError(
                f"{where}: the field {name[:64]} is not known here; known are custom_id, method, url and body.",
                custom_id=custom_id,
            )
    if (method := told.get("method")) not in (None, "POST"):
        raise LineError(f"{where}: method is {shown(method)}; it must be POST.", custom_id=custom_id)
    if (url := told.get("url")) not in (None, endpoint):
        raise LineError(
            f"{where}: url is {shown(url)}, and this batch is for {endpoint}.", code="invalid_url", custom_id=custom_id
        )
    if not isinstance(told.get("body"), dict):
        raise LineError(f"{where}: body is {shown(told.get('body'))}; it must be an object.", custom_id=custom_id)


def question_of(line: Line, names: Names, max_completions: int) -> Question:
    """Read a line's body as a POST's; raises TesseraError for what that would refuse."""
    try:
        request = ChatRequest.model_validate(line.body)
    except ValidationError as error:
        path, words = describe_mistake(error.errors(include_url=False))
        raise BadRequestError(f"{path or 'the body'} {words}.", param=path or None) from error
    check_request(request, names, max_completions)
    if request.stream:
        raise BadRequestError("stream cannot be true in a batch; leave it out.", param="stream")
    messages, params, tools = conversation_of(request), chat_sampling(request), tools_of(request)
    params = replace(params, adapter=names.adapter(request.model))
    return Question(messages, choices_of(params, request.n or 1), tools, bool(request.logprobs))


@dataclass(frozen=True)
class Rows:
    """Writes a job's rows: `job` identifies its input."""

    job: str
    created: int
    names: Names
    tokenizer: Tokenizer | None = None  # None: the replies come from another server

    def answered(self, line: Line, completions: Sequence[Completion], *, logprobs: bool) -> str:
        """The row of a line that was answered, one completion for each choice."""
        reply_id = self._id(line.number, "chatcmpl-")
        named = [
            replace(each, tool_calls=tuple(
                replace(call, id=_call_id(f"{reply_id}/{choice}/{place}")) for place, call in enumerate(each.tool_calls)
            ))
            for choice, each in enumerate(completions)
        ]  # fmt: skip
        if self.tokenizer is not None:
            named = [without_thoughts(each, self.tokenizer) for each in named]
        model = self.names.stated(line.body.get("model"))
        body = chat_completion(reply_id, model, named, None) | {"created": self.created}
        if logprobs:
            for choice, each in zip(body["choices"], named, strict=True):
                choice["logprobs"] = logprobs_object(each.logprobs, self.tokenizer)
        body["usage"]["prompt_tokens_details"].pop("cached_tokens")  # it depends on what ran before
        return self.replied(line, body)

    def replied(self, line: Line, body: Mapping[str, Any]) -> str:
        """The row of a line that was answered with this body."""
        return self._row(line.number, line.custom_id, self._response(line.number, 200, body), None)

    def refused(self, line: Line, error: TesseraError) -> str:
        """The row of a request that failed, with the status and body that a POST would bring."""
        if isinstance(error, ConversationError):
            error = BadRequestError(str(error), param=error.param or "messages")
        response = self._response(line.number, error.http_status, error_object(error))
        return self._row(line.number, line.custom_id, response, None)

    def never_asked(self, number: int, custom_id: str | None, error: TesseraError) -> str:
        """The row of a line that led to no answer at all."""
        told = {"code": error.code or "failed", "message": str(error), "line": number}
        return self._row(number, custom_id, None, told)

    def _row(
        self, number: int, custom_id: str | None, response: Mapping[str, Any] | None, error: Mapping[str, Any] | None
    ) -> str:
        row = {"id": self._id(number, "batch_req_"), "custom_id": custom_id, "response": response, "error": error}
        return json_text(row).decode()

    def _response(self, number: int, status: int, body: Mapping[str, Any]) -> dict[str, Any]:
        return {"status_code": status, "request_id": self._id(number, "req_"), "body": body}

    def _id(self, number: int, prefix: str) -> str:
        return prefix + hashlib.sha256(f"{self.job}/{number}".encode()).hexdigest()[:32]


def _call_id(text: str) -> str:
    """Nine letters or digits, as Mistral's format wants."""
    return "".join(ID_CHARACTERS[byte % len(ID_CHARACTERS)] for byte in hashlib.sha256(text.encode()).digest()[:9])
