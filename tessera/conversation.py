"""Fitting conversations to the chat formats: messages are moved or dropped, or refused with their number.

OpenAI's histories are freer than the model's formats. Here messages become turns that every format accepts: an
empty assistant turn is dropped, a system message among answers moves up before them, and
images in a tool's result follow it as a user turn. Everything else that a format lacks is refused, with the
message's number and the true cause. Tokens and mistral-common are unknown here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from tessera.errors import ConversationError, UsageError
from tessera.messages import Message

FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # OpenAI's rule, and the formats'
NAME_RULE = "a tool's name is 1 to 64 letters, digits, _ or -."
MAX_JSON_DEPTH = 256  # for a call's arguments and for results: Python's own parser fails before 1,000
TOOLS_SINCE, IMAGES_SINCE = 2, 3
NAMED_RESULTS_BEFORE = 3  # from this version on, the name that a client may send with a result is not written
TEXT_BESIDE_CALLS_SINCE = 7  # before, a turn has either text or calls
RESULTS_AS_THEY_ARE_SINCE = 7  # before, a JSON result is written as JSON
PAIRED_BY_ID_SINCE = 11  # before, calls and results are only counted
IMAGES_IN_RESULTS_SINCE = 15


@dataclass(frozen=True)
class _Turn:
    """A message and its index in the given conversation; None if it was added here."""

    message: Message
    index: int | None
    joined: tuple[_Turn, ...] = ()  # its parts, if it was joined from several

    @property
    def role(self) -> str:
        return self.message.role

    @property
    def called(self) -> list[str]:
        """Ids of its calls."""
        return [str(call["id"]) for call in self.message.tool_calls]

    def caller(self, call_id: str) -> _Turn:
        """Return the given turn that makes this call."""
        return next((turn for turn in self.joined if call_id in turn.called), self)

    @property
    def where(self) -> str:
        """Its name in errors."""
        return self.message.place or f"message {self.index}"

    def refuse(self, problem: str) -> ConversationError:
        return ConversationError(f"{self.where} ({self.role}) {problem}", self.index, self.message.place)


def arrange(messages: Sequence[Message], version: int, *, whole: bool = False) -> list[Message]:
    """Arrange messages as turns for this version's format; raises ConversationError that names the message.

    With `whole`, as in training, the conversation may end with calls that nothing answers yet.
    """
    if not messages:
        raise ConversationError("the conversation has no message; send at least one user message.")
    turns = [_Turn(message, index) for index, message in enumerate(messages)]
    for turn in turns:
        _check(turn, version)
    turns = [turn for turn in turns if not _is_silent(turn.message)]
    turns = _gather_calls(_raise_system(_answer_system(turns)), version)
    _check_results(turns, version, whole)
    if version < IMAGES_IN_RESULTS_SINCE:
        turns = list(_move_images(turns))
    if not turns or _opens_without_user(turns):
        turns.insert(0, _added())
    named = version < NAMED_RESULTS_BEFORE
    return [turn.message if named else replace(turn.message, name=None) for turn in turns]


def arguments_of(call: Mapping[str, Any]) -> str | Mapping[str, Any]:
    """Return a checked call's arguments: JSON text or an object; empty means an empty object."""
    return call["function"].get("arguments") or "{}"


def function_of(index: int, tool: Any) -> tuple[str, Mapping[str, Any]]:
    """Return the name and function of a tool in OpenAI's format at `index`; raises UsageError."""
    function = tool.get("function") if isinstance(tool, Mapping) and tool.get("type") == "function" else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str):
        raise UsageError(
            f"tool {index} must have the form {{'type': 'function', 'function': {{'name': 1 to 64 letters, digits, "
            "_ or -, 'parameters': JSON schema}}.",
            param="tools",
        )
    if not FUNCTION_NAME.fullmatch(name):
        shown = name if len(name) <= 80 else name[:77] + "..."
        raise UsageError(f"tool {index} is named {shown!r}; {NAME_RULE}", param="tools")
    return name, function


def _added() -> _Turn:
    return _Turn(Message("user", ("",)), None)


def _is_silent(message: Message) -> bool:
    return message.role == "assistant" and not message.tool_calls and not any(message.content)


def _opens_without_user(turns: Sequence[_Turn]) -> bool:
    """Return True if the formats' rules, which ignore a first call, would refuse its beginning."""
    first = turns[0].message
    return first.role == "assistant" and (len(turns) == 1 or bool(first.tool_calls))


# Each message by itself ------------------------------------------------------------------------


def _check(turn: _Turn, version: int) -> None:
    message = turn.message
    if message.images and message.role not in ("user", "tool"):
        raise turn.refuse("holds an image; only messages of the user and results of tools may.")
    if message.images and version < IMAGES_SINCE:
        raise turn.refuse(f"holds an image, and the model's chat format v{version} has none; send text alone.")
    if (message.tool_calls or message.role == "tool") and version < TOOLS_SINCE:
        raise turn.refuse(f"is a tool message, and the model's chat format v{version} has none; leave the tools out.")
    for number, call in enumerate(message.tool_calls):
        _check_call(turn, number, call)
    if message.role == "tool":
        _check_result(turn, version)


def _check_call(turn: _Turn, number: int, call: Mapping[str, Any]) -> None:
    if turn.role != "assistant":
        raise turn.refuse("has tool_calls; only messages of the assistant may.")
    function = call.get("function") if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not call.get("id"):
        raise turn.refuse(
            f"has a tool call (number {number}) that must have the form {{'id': ..., 'function': {{'name': ..., "
            "'arguments': JSON text}}."
        )
    _check_name(turn, name, "calls")
    arguments = arguments_of(call)
    if not isinstance(arguments, str | Mapping):
        raise turn.refuse(f"calls {name!r} with arguments that are neither JSON text nor an object.")
    _check_json(turn, arguments, f"the arguments of its call of {name!r}")


def _check_result(turn: _Turn, version: int) -> None:
    if turn.message.tool_call_id is None:
        raise turn.refuse("has no tool_call_id; name the call that it answers.")
    if turn.message.name is not None and version < NAMED_RESULTS_BEFORE:
        _check_name(turn, turn.message.name, "is named")
    if version < RESULTS_AS_THEY_ARE_SINCE:
        texts = [part for part in turn.message.content if isinstance(part, str) and part]
        _check_json(turn, "\n\n".join(texts), "its result")


def _check_name(turn: _Turn, name: str, verb: str) -> None:
    if not FUNCTION_NAME.fullmatch(name):
        shown = name if len(name) <= 80 else name[:77] + "..."
        raise turn.refuse(f"{verb} {shown!r}; {NAME_RULE}")


def _check_json(turn: _Turn, value: Any, what: str) -> None:
    """Refuse JSON that the formats' writer, which parses any JSON it finds, cannot read or write."""
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError:
        return  # text, and written as text
    except (RecursionError, ValueError) as error:
        too_deep = isinstance(error, RecursionError)
        problem = f"nested more than {MAX_JSON_DEPTH} levels deep" if too_deep else "with a number of too many digits"
        raise turn.refuse(f"cannot be written: {what} is JSON {problem}; send it as other text.") from None
    if json_depth(parsed) > MAX_JSON_DEPTH:
        raise turn.refuse(f"cannot be written: {what} is JSON nested more than {MAX_JSON_DEPTH} levels deep.")


def json_depth(value: Any) -> int:
    """Return the nesting depth of objects and lists, without recursion, since any depth may come."""
    depth, level = 0, [value]
    while level := [
        child
        for each in level
        if isinstance(each, (dict, list))
        for child in (each.values() if isinstance(each, dict) else each)
    ]:
        depth += 1
    return depth


# The order -------------------------------------------------------------------------------------


def _answer_system(turns: Sequence[_Turn]) -> list[_Turn]:
    """Insert an empty user turn if the conversation ends with system messages after an answer."""
    end = len(turns)
    while end and turns[end - 1].role == "system":
        end -= 1
    asks = 0 < end < len(turns) and turns[end - 1].role == "assistant"
    return [*turns[:end], *([_added()] if asks else ()), *turns[end:]]


def _raise_system(turns: Sequence[_Turn]) -> list[_Turn]:
    """Move system messages that follow an answer, a call or a result before it, in their order."""
    placed: list[_Turn] = []
    for turn in turns:
        place = len(placed)
        while turn.role == "system" and place and placed[place - 1].role in ("assistant", "tool"):
            place -= 1
        placed.insert(place, turn)
    return placed


def _gather_calls(turns: Sequence[_Turn], version: int) -> list[_Turn]:
    """Join consecutive assistant turns into one: calls come last, together, after text if the format allows it."""
    gathered: list[_Turn] = []
    for role, group in groupby(turns, key=lambda turn: turn.role):
        run = list(group)
        calls = tuple(call for turn in run for call in turn.message.tool_calls)
        if role == "assistant" and calls:
            run = list(_with_calls(run, calls, keeps_text=version >= TEXT_BESIDE_CALLS_SINCE))
        gathered += run
    return gathered


def _with_calls(run: Sequence[_Turn], calls: tuple[Mapping[str, Any], ...], *, keeps_text: bool) -> Iterator[_Turn]:
    calling = next(turn for turn in reversed(run) if turn.message.tool_calls)
    joined = tuple(run)
    if not keeps_text:
        yield _Turn(replace(calling.message, content=(), tool_calls=calls), calling.index, joined)
        return
    for turn in run[:-1]:
        if any(turn.message.content):
            yield _Turn(replace(turn.message, tool_calls=()), turn.index)
    last = replace(run[-1].message, tool_calls=calls, place=calling.message.place)
    yield _Turn(last, calling.index, joined)


def _move_images(turns: Sequence[_Turn]) -> Iterator[_Turn]:
    """Move images in results after those results, in order, as a user turn."""
    for role, group in groupby(turns, key=lambda turn: turn.role):
        run = list(group)
        if role != "tool":
            yield from run
            continue
        for turn in run:
            texts = tuple(part for part in turn.message.content if isinstance(part, str))
            yield replace(turn, message=replace(turn.message, content=texts))
        if images := tuple(image for turn in run for image in turn.message.images):
            yield _Turn(Message("user", images), None)


# Calls and results -----------------------------------------------------------------------------


def _check_results(turns: Sequence[_Turn], version: int, whole: bool) -> None:
    """Check that each call, and nothing else, is answered by the messages after it."""
    calling: _Turn | None = None  # the turn whose results may come here
    results: list[_Turn] = []
    for turn in turns:
        if turn.role == "tool":
            if calling is None:
                raise turn.refuse("answers no call; it must follow the assistant's message that makes the call.")
            results.append(turn)
            continue
        if calling is not None:
            _check_answered(calling, results, turn, version)
        calling = turn if turn.message.tool_calls else None
        results = []
    if calling is not None and (results or not whole):
        _check_answered(calling, results, None, version)


def _check_answered(calling: _Turn, results: Sequence[_Turn], follower: _Turn | None, version: int) -> None:
    called = calling.called
    if len(results) > len(called):
        raise results[len(called)].refuse(
            f"is one result too many: {calling.where} makes {len(called)} call{'s' * (len(called) > 1)}."
        )
    if version >= PAIRED_BY_ID_SINCE:
        _check_pairs(calling, called, results)
    if len(results) == len(called):
        return
    answered = {str(result.message.tool_call_id) for result in results}
    missing = [call_id for call_id in called if call_id not in answered] or called[len(results) :]
    name = next(call["function"]["name"] for call in calling.message.tool_calls if str(call["id"]) == missing[0])
    before = "the conversation ends"
    if follower is not None and follower.index is not None:
        before = f"{follower.where} ({follower.role}) follows"
    shown = missing[0] if len(missing[0]) <= 80 else missing[0][:77] + "..."
    raise calling.caller(missing[0]).refuse(
        f"calls {name!r} (id {shown!r}), and {before} before a tool message answers it; each call needs its result."
    )


def _check_pairs(calling: _Turn, called: Sequence[str], results: Sequence[_Turn]) -> None:
    if len(set(called)) < len(called):
        raise calling.refuse("makes two calls with the same id; ids must differ.")
    answered: set[str] = set()
    for result in results:
        call_id = str(result.message.tool_call_id)
        if call_id not in called:
            raise result.refuse(f"answers the call {call_id[:80]!r}, which {calling.where} does not make.")
        if call_id in answered:
            raise result.refuse(f"answers the call {call_id[:80]!r} a second time.")
        answered.add(call_id)
