"""Tool calls in the model's own format: their grammar, and parsing them from a reply.

Since v3 a reply either speaks or calls, `[TOOL_CALLS][{"name": ..., "arguments": {...}}]`; since v7 it
may speak first; since v11 each call is `[TOOL_CALLS]name[ARGS]{...}`. Earlier formats have no calls that
can be told from text. An "id" that the model adds itself, as seen in conversations, is
allowed. What a tool does, and how a server writes a call, is unknown here.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tessera.chat import Delta, ToolCall, ToolChoice, Tools
from tessera.conversation import function_of, json_depth
from tessera.engine.grammar import ANY_OBJECT, LOOSE, MAX_DEPTH, json_rule, to_lark
from tessera.errors import GrammarError, UsageError
from tessera.prompt import Tokenizer
from tessera.sampling import Grammar

MAX_TOOLS = 128
NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}
TEXT = "/(.|\\n)+/"  # no special token is text
ID_CHARACTERS = string.ascii_letters + string.digits
# Marks for the special tokens in a call's text, which itself can hold no control characters.
CALL_ID_MARK, ARGS_MARK = "\x02", "\x03"
# Possessive, so that nothing is read twice if a reply does not continue as a call.
LISTED_HEAD = re.compile(r'\s*+[\[,]?+\s*+\{\s*+"name"\s*+:\s*+"(?P<name>[^"]*+)"\s*+,\s*+"arguments"\s*+:\s*+')
LISTED_TAIL = re.compile(r'\s*+(?:,\s*+"id"\s*+:\s*+"(?P<id>[^"]*+)"\s*+)?+\}')
NAMED_HEAD = re.compile(r"\s*+(?P<name>[^\x02\x03]*+)(?:\x02(?P<id>[^\x03]*+))?+\x03\s*+")


@dataclass(frozen=True)
class ToolFormat:
    """The call format of a tokenizer version."""

    version: int
    calls_id: int
    args_id: int | None  # since v11, where a special token introduces each call
    call_id_id: int | None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> ToolFormat:
        """Return a tokenizer's format; raises UsageError if it has none."""
        number = re.match(r"v(\d+)", tokenizer.version)
        version = int(number[1]) if number else 0
        calls_id, args_id = tokenizer.special_id("[TOOL_CALLS]"), tokenizer.special_id("[ARGS]")
        if version < 3 or calls_id is None or (version >= 11 and args_id is None):
            raise UsageError(f"the model's chat format {tokenizer.version} has no tool calls; leave the tools out.")
        if version < 11:
            return cls(version, calls_id, None, None)
        return cls(version, calls_id, args_id, tokenizer.special_id("[CALL_ID]"))


def tool_grammar(tools: Tools, tokenizer: Tokenizer, *, answer: Grammar | None = None) -> Grammar:
    """Build the grammar of a reply with tools offered; raises UsageError or GrammarError.

    `answer` is what it must look like when it is no call. A tool's arguments follow its parameters' schema, to the
    letter with "strict": true, else as far as it can be followed; with "strict": false they are any JSON object where
    the model is free to call, but not where it must: clients that make it call, as LlamaIndex does, rely on the
    schema whatever they say.
    """
    form = ToolFormat.of(tokenizer)
    choice, functions = _choose(tools.choice, _functions(tools.definitions if tools.allowed is None else tools.allowed))
    if choice == "none" and answer is not None:
        return answer
    rules = [f"answer: {_answer(answer)}"]
    if choice == "none":
        return Grammar("tool_calls", "\n".join(["start: answer?", *rules]))
    if choice == "required":
        if answer is not None:
            raise UsageError("tool_choice leaves no room for an answer in a response format; leave one of them out.")
        rules = []
        start = "calls"
        functions = {
            name: {**function, "strict": function.get("strict") or None} for name, function in functions.items()
        }
    elif form.version < 7 or answer is not None:
        start = "answer? | calls" if answer is None else "answer | calls"
    else:
        start = "answer? calls?"
    write = _listed_calls if form.args_id is None else _named_calls
    return Grammar("tool_calls", "\n".join([f"start: {start}", *rules, *write(form, functions, tools.parallel)]))


class ToolCallReader:
    """Separates a reply's text from its tool calls; text is passed on at once, a call when complete.

    A call cut off by the reply's end is dropped: the finish reason says why it ended.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._form = ToolFormat.of(tokenizer)
        self._marks = {self._form.args_id: ARGS_MARK, self._form.call_id_id: CALL_ID_MARK}
        self._head, self._tail = (
            (LISTED_HEAD, LISTED_TAIL) if self._form.args_id is None else (NAMED_HEAD, re.compile(""))
        )
        self._decode = tokenizer.detokenizer()
        self._num_before = 0  # characters before the first call
        self._num_shown = 0
        self._calling = False
        self._written = ""  # of incomplete calls
        self._ids: set[str] = set()

    def read(self, delta: Delta) -> Delta:
        """Return the delta with only its text outside calls, and with the calls that it completes."""
        calls: list[ToolCall] = []
        for token_id in delta.token_ids:
            if token_id == self._form.calls_id:
                self._calling, self._written = True, "" if self._form.args_id is not None else self._written
                continue
            piece = self._marks.get(token_id) or self._decode.add(token_id)
            if not self._calling:
                self._num_before += len(piece)
                continue
            self._written += piece
            if "}" in piece:  # otherwise no call can be complete, and decoding again would be wasted
                calls += self._take_calls()
        # The engine holds back text that may begin a stop string: it arrives later, mixed with that of calls.
        text = delta.text[: max(self._num_before - self._num_shown, 0)] if self._calling else delta.text
        self._num_shown += len(text)
        return replace(delta, text=text, tool_calls=tuple(calls))

    def _take_calls(self) -> list[ToolCall]:
        calls = []
        while head := self._head.match(self._written):
            try:
                _, end = json.JSONDecoder().raw_decode(self._written, head.end())
            except (ValueError, RecursionError):
                break
            if (tail := self._tail.match(self._written, end)) is None:
                break
            given = head.groupdict() | tail.groupdict()
            calls.append(ToolCall(self._new_id(given.get("id")), given["name"], self._written[head.end() : end]))
            self._written = self._written[tail.end() :]
        return calls

    def _new_id(self, given: str | None) -> str:
        """Return the model's own id if valid and new, else a random one of nine letters or digits."""
        call_id = given or ""
        while not re.fullmatch(r"[a-zA-Z0-9]{9}", call_id) or call_id in self._ids:
            call_id = "".join(secrets.choice(ID_CHARACTERS) for _ in range(9))
        self._ids.add(call_id)
        return call_id


def _functions(tools: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the tools' functions by name; raises UsageError that names the tool."""
    if not tools:
        raise UsageError("a tool_choice other than none and auto needs tools; give at least one.", param="tools")
    if len(tools) > MAX_TOOLS:
        raise UsageError(f"there are {len(tools)} tools and the limit is {MAX_TOOLS}; offer fewer.")
    functions: dict[str, Mapping[str, Any]] = {}
    for index, tool in enumerate(tools):
        name, function = function_of(index, tool)
        if name in functions:
            raise UsageError(f"two tools are named {name!r}; rename one.", param="tools")
        functions[name] = function
    return functions


def _choose(
    tool_choice: ToolChoice, functions: dict[str, Mapping[str, Any]]
) -> tuple[str, dict[str, Mapping[str, Any]]]:
    """Return none, auto or required, and the functions that may be called."""
    if isinstance(tool_choice, str) and tool_choice in ("none", "auto", "required", "any"):
        return ("required" if tool_choice == "any" else tool_choice), functions
    named = tool_choice.get("function") if isinstance(tool_choice, Mapping) else None
    name = named.get("name") if isinstance(named, Mapping) else None
    if not isinstance(name, str):
        raise UsageError(
            f"tool_choice {str(tool_choice)[:60]!r} is unknown; use none, auto, required, or "
            "{'type': 'function', 'function': {'name': ...}}."
        )
    if name not in functions:
        known = ", ".join(functions)
        raise UsageError(
            f"tool_choice names {name[:64]!r}, which is not one of the tools: {known}.", param="tool_choice"
        )
    return "required", {name: functions[name]}


def _answer(answer: Grammar | None) -> str:
    """Return the rule of a reply without calls."""
    if answer is None:
        return TEXT
    if answer.kind not in ("json_object", "json_schema"):
        raise UsageError(f"a {answer.kind} grammar cannot be combined with tools; use json_schema, or leave one out.")
    return to_lark(answer).removeprefix("start: ")


def _arguments(function: Mapping[str, Any]) -> list[str]:
    """Return the rule of one function's arguments, from its colon on, preceded by the comment above it.

    The comment gives errors the tool's name, and tells the compiler if the rule may be loosened.
    """
    name, schema, strict = function["name"], function.get("parameters"), function.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise UsageError(f"tool {name!r}: strict must be true, false or left out.")
    schema = NO_PARAMETERS if not schema and not isinstance(schema, list) else schema
    if strict is False:
        schema = ANY_OBJECT
    if not isinstance(schema, Mapping) or (schema.get("type") or "object") != "object":
        raise UsageError(f"the parameters of tool {name!r} must be a JSON schema of type object.")
    comment = f"// tool {name}{'' if strict else LOOSE}"
    try:
        return [comment, json_rule({**schema, "type": "object"}, loosely=not strict)]
    except GrammarError as error:
        if not strict and json_depth(schema) > MAX_DEPTH:
            return [comment, json_rule(ANY_OBJECT)]
        raise GrammarError(f"tool {name!r}: {error}") from error


def _listed_calls(form: ToolFormat, functions: Mapping[str, Mapping[str, Any]], parallel: bool) -> list[str]:
    """Return the rules for one list of calls, spaced as in training."""
    # SentencePiece writes a space first.
    rules = [
        f'calls: <[{form.calls_id}]> " "? "[" call {"(json_comma call)*" if parallel else ""} "]"',
        'json_comma: ", "',
    ]
    rules += [f"call: {' | '.join(f'call_{index}' for index in range(len(functions)))}"]
    rules += [r'id: ", \"id\": \"" /[a-zA-Z0-9]{9}/ "\""']
    for index, (name, function) in enumerate(functions.items()):
        opening = json.dumps(f'{{"name": "{name}", "arguments": ')
        rules += [f'call_{index}: {opening} arguments_{index} id? "}}"']
        comment, rule = _arguments(function)
        rules += [comment, f"arguments_{index}: {rule}"]
    return rules


def _named_calls(form: ToolFormat, functions: Mapping[str, Mapping[str, Any]], parallel: bool) -> list[str]:
    """Return the rules for calls that are each introduced by a token."""
    call_id = "" if form.call_id_id is None else f"(<[{form.call_id_id}]> /[a-zA-Z0-9]{{9}}/)?"
    rules = [f"calls: call{'+' if parallel else ''}"]
    rules += [f"call: <[{form.calls_id}]> ({' | '.join(f'call_{index}' for index in range(len(functions)))})"]
    for index, (name, function) in enumerate(functions.items()):
        rules += [f'call_{index}: "{name}" {call_id} <[{form.args_id}]> arguments_{index}']
        comment, rule = _arguments(function)
        rules += [comment, f"arguments_{index}: {rule}"]
    return rules
