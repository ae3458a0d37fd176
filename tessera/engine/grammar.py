"""Grammars: what a reply may look like, as a mask over the vocabulary before each choice of a token.

llguidance does the parsing; here is decided what it may be asked: limits on size, nesting and time,
the whitespace of JSON, what is refused and in which words. A compiled grammar is kept, every request
gets its own copy of the start. Nothing here knows logits or chooses a token. What bounds a reply:
whitespace by MAX_WHITESPACE in each place, repetitions and lengths by the grammar's own numbers
(maxItems, maxLength, {1,5}), a schema's strings and arrays without such by DEFAULT_MAX_LENGTH and
DEFAULT_MAX_ITEMS, and everything else by max_tokens alone.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import torch
from torch import Tensor

from tessera.chat import Grammar, GrammarKind
from tessera.engine.grammar_check import BUSY, MAX_LEXER_STATES, TOO_COMPLEX, GrammarCheck
from tessera.errors import EngineBusyError, GrammarError

if TYPE_CHECKING:  # loaded with the first grammar: an engine that only generates does without
    from llguidance import LLMatcher, LLTokenizer

MAX_SOURCE_CHARS = 100_000
MAX_DEPTH = 64  # of a schema's own JSON; llguidance's reader ends at 128
MAX_WHITESPACE = 20  # characters in one place: a new line and the indent of nine levels
DEFAULT_MAX_LENGTH = 32_768  # characters: several dense pages, and far less than a context
DEFAULT_MAX_ITEMS = 4_096
CACHED_GRAMMARS = 64
NO_FORCING = '%llguidance {"no_forcing": true}\n'  # else long constant texts are tokenized again at every step
JSON_OPTIONS = {"whitespace_pattern": rf"[ \t\r\n]{{1,{MAX_WHITESPACE}}}", "lenient": False, "coerce_one_of": False}
GBNF_RULE = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)
LARK_TEXT = re.compile(r'"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\\n])+/|//[^\n]*')


class GrammarTokenizer(Protocol):
    """What a vocabulary must tell: its ids' bytes, and which stand for no text."""

    @property
    def bos_id(self) -> int: ...

    @property
    def eos_id(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def special_ids(self) -> frozenset[int]: ...

    @property
    def opens_with_space(self) -> bool: ...

    def token_bytes(self, token_id: int) -> bytes: ...


class Matcher:
    """Where one reply is in its grammar. Tokens are taken once, so a request may be computed again."""

    def __init__(self, state: LLMatcher, reachable_W: Tensor) -> None:
        self._state = state
        self._reachable_W = reachable_W

    @property
    def finished(self) -> bool:
        """Whether the text is complete and nothing can follow it."""
        return bool(self._state.is_stopped()) and not self._state.is_error()

    @property
    def has_failed(self) -> bool:
        """Whether the grammar itself cannot go on: by a dead end, or beyond what the library follows."""
        return bool(self._state.is_error())

    def copy(self) -> Matcher:
        return Matcher(self._state.deep_copy(), self._reachable_W)

    def fill(self, words_W: Tensor) -> None:
        """Write which ids may come next, one bit for each, into int32 words; raises RuntimeError if it cannot."""
        self._state.unsafe_compute_mask_ptr(words_W.data_ptr(), words_W.nbytes)
        words_W &= self._reachable_W
        self._check()

    def accept(self, token_id: int) -> None:
        """Go on by a token that the mask allowed; raises RuntimeError for any other."""
        self._state.consume_token(token_id)
        self._check()

    def count_allowed(self, token_ids: Sequence[int]) -> int:
        """How many of these tokens, from the first, may come next; nothing moves. None of them after an error."""
        return int(self._state.validate_tokens(list(token_ids)))

    def _check(self) -> None:
        if self._state.is_error():
            raise RuntimeError(f"the grammar cannot go on: {_first_line(self._state.get_error())}")


class GrammarCompiler:
    """Grammars to matchers for one model's vocabulary; any thread may ask."""

    def __init__(self, tokenizer: GrammarTokenizer, vocab_size: int) -> None:
        self.num_words = -(-vocab_size // 32)
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._lock = threading.Lock()  # of all below
        self._built: tuple[LLTokenizer, Tensor, Tensor] | None = None
        self._known: OrderedDict[Grammar, Matcher | GrammarError] = OrderedDict()
        self._check = GrammarCheck()

    def matcher(self, grammar: Grammar) -> Matcher:
        """A matcher at the beginning of a reply; raises GrammarError."""
        with self._lock:
            known = self._known.get(grammar)
            if known is not None:
                self._known.move_to_end(grammar)
        if known is None:
            known = self._compile(grammar)
            with self._lock:
                self._known[grammar] = known
                while len(self._known) > CACHED_GRAMMARS:
                    self._known.popitem(last=False)
        if isinstance(known, GrammarError):
            raise GrammarError(str(known))
        return known.copy()

    def close(self) -> None:
        """End the process that tries new grammars."""
        self._check.close()

    def _compile(self, grammar: Grammar) -> Matcher | GrammarError:
        from llguidance import LLMatcher, LLParserLimits

        try:
            lark = NO_FORCING + to_lark(grammar)
            if self._tokenizer.opens_with_space and grammar.kind not in ("lark", "tool_calls"):
                lark = lark.replace("start: ", 'start: " "? ', 1)  # what the detokenizer drops again
            _refuse(self._check.ask(lark), grammar.kind, lark)
            tokenizer, text_W, all_W = self._vocabulary()
            limits = LLParserLimits(max_lexer_states=MAX_LEXER_STATES, verbose_errors=False)
            state = LLMatcher(tokenizer, lark, log_level=0, limits=limits)
            state.compute_bitmask()
            _refuse(state.get_error(), grammar.kind, lark)
        except GrammarError as error:
            return error
        return Matcher(state, all_W if grammar.kind == "tool_calls" else text_W)

    def _vocabulary(self) -> tuple[LLTokenizer, Tensor, Tensor]:
        """llguidance's tables, and the ids that text (with the end) and that tool calls may reach, built once."""
        from llguidance import LLTokenizer

        with self._lock:
            if self._built is None:
                eos = self._tokenizer.eos_id
                special = self._tokenizer.special_ids
                text = (number for number in range(self._tokenizer.vocab_size) if number not in special)
                text_W = _pack((eos, *text), self.num_words)
                all_W = _pack(range(self._tokenizer.vocab_size), self.num_words)
                # The class is matched by its attributes; the library's own wrapper needs an object of another shape.
                tables = LLTokenizer(_Vocabulary(self._tokenizer, self._vocab_size))  # type: ignore[arg-type]
                self._built = tables, text_W, all_W
            return self._built


class _Vocabulary:
    """The tokenizer under the names that llguidance reads."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: GrammarTokenizer, vocab_size: int) -> None:
        special = tokenizer.special_ids
        self.eos_token_id = tokenizer.eos_id
        self.bos_token_id = tokenizer.bos_id
        self.special_token_ids = sorted(special)
        self.tokens = [
            f"<special_{number}>".encode() if number in special else tokenizer.token_bytes(number)
            for number in range(tokenizer.vocab_size)
        ]
        self.tokens += [b""] * (vocab_size - tokenizer.vocab_size)  # rows of a padded checkpoint, never reached

    def __call__(self, text: Any) -> NoReturn:
        raise RuntimeError("no text is tokenized for a grammar: forcing is off")


def to_lark(grammar: Grammar) -> str:
    """The grammar in llguidance's one language; raises GrammarError for what can be seen without compiling."""
    source = grammar.source
    if len(source) > MAX_SOURCE_CHARS:
        raise GrammarError(
            f"the {grammar.kind} grammar has {len(source)} characters and the limit is {MAX_SOURCE_CHARS}; shorten it."
        )
    _check_text(source, grammar.kind)
    if grammar.kind == "json_object":
        return f"start: {json_rule({'type': 'object'})}"
    if grammar.kind == "json_schema":
        return f"start: {json_rule(_parse_json(source, 'JSON schema'))}"
    if grammar.kind == "choice":
        return f"start: /{'|'.join(map(_quote, _choices(source)))}/"
    if grammar.kind == "regex":
        from llguidance import regex_to_lark

        # As in JSON Schema, \d, \w and \s are the ASCII ones.
        return f"start: /{regex_to_lark(source, 'dws')}/"
    if grammar.kind == "lark" and GBNF_RULE.search(source):
        source = _from_gbnf(source)
    if grammar.kind == "lark" and (found := re.search(r"<[^>\s]+>|%llguidance", LARK_TEXT.sub("", source))):
        raise GrammarError(
            f"the lark grammar uses {found[0][:40]!r}; special tokens and options may not be used in it."
        )
    return source


def _from_gbnf(source: str) -> str:
    """The Lark form of a grammar as llama.cpp and vLLM's other backends take it."""
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        return str(gbnf_to_lark(source)).removeprefix("%llguidance {}")
    except Exception as error:  # the converter raises no class of its own for most of what it refuses
        raise GrammarError("the grammar has rules with ::= but is not valid GBNF; correct it, or use Lark.") from error


def json_rule(schema: Any) -> str:
    """The part of a Lark rule that stands for the JSON values of a schema; raises GrammarError."""
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise GrammarError("a JSON schema must be an object, for example {'type': 'object', 'properties': {...}}.")
    if "x-guidance" in schema:
        raise GrammarError("the JSON schema's key 'x-guidance' is not supported; leave it out.")
    if (depth := _depth(schema)) > MAX_DEPTH:
        raise GrammarError(
            f"the JSON schema is nested {depth} levels deep and the limit is {MAX_DEPTH}; use $ref and $defs for parts."
        )
    text = json.dumps(_bound(schema) | {"x-guidance": JSON_OPTIONS}, ensure_ascii=False)
    _check_text(text, "JSON schema")
    return f"%json {text}"


def _bound(schema: Any) -> Any:
    """The schema with default limits where its strings and arrays have none, so that repetition ends."""
    if not isinstance(schema, dict):
        return schema
    bounded = {name: _bound_part(name, value) for name, value in schema.items()}
    types = schema.get("type")
    for kind, limit, default, others in (
        ("string", "maxLength", DEFAULT_MAX_LENGTH, {"minLength", "pattern", "format", "enum", "const"}),
        ("array", "maxItems", DEFAULT_MAX_ITEMS, {"minItems", "enum", "const"}),
    ):
        if (types == kind or (isinstance(types, list) and kind in types)) and not others & set(schema):
            bounded.setdefault(limit, default)
    return bounded


def _bound_part(name: str, value: Any) -> Any:
    if name in ("properties", "patternProperties", "$defs", "definitions") and isinstance(value, dict):
        return {key: _bound(part) for key, part in value.items()}
    if name in ("anyOf", "oneOf", "allOf", "prefixItems") and isinstance(value, list):
        return [_bound(part) for part in value]
    return _bound(value) if name in ("items", "additionalProperties") else value


def _parse_json(source: str, what: str) -> Any:
    def no_constant(name: str) -> NoReturn:
        raise GrammarError(f"the {what} holds {name}, which is no JSON; use a number.")

    try:
        return json.loads(source, parse_constant=no_constant)
    except RecursionError:
        raise GrammarError(f"the {what} is nested too deeply; the limit is {MAX_DEPTH} levels.") from None
    except ValueError:
        raise GrammarError(f"the {what} is not valid JSON; check its quotes, commas and brackets.") from None


def _choices(source: str) -> list[str]:
    choices = _parse_json(source, "list of choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(each, str) and each for each in choices):
        raise GrammarError("choice must be a list of at least one string, none of them empty.")
    for choice in choices:
        _check_text(choice, "choice")
    return choices


def _quote(text: str) -> str:
    """A regular expression for exactly this text."""
    return "".join(sign if sign.isalnum() else f"\\x{{{ord(sign):x}}}" for sign in text)


def _check_text(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise GrammarError(f"the {what} holds half of a surrogate pair, which is no character; remove it.") from None


def _depth(value: Any) -> int:
    """How deeply objects and lists are nested; without recursion, for the caller decides what is too deep."""
    depth, level = 0, [value]
    while level := [
        child
        for each in level
        if isinstance(each, (dict, list))
        for child in (each.values() if isinstance(each, dict) else each)
    ]:
        depth += 1
    return depth


def _refuse(problem: str, kind: GrammarKind, lark: str) -> None:
    """Say in our words what the library refuses; nothing if it has no problem."""
    if not problem:
        return
    if problem == BUSY:
        raise EngineBusyError("other grammars are being tried, and take long; send the request again later.")
    what = _name_part(problem, kind, lark)
    if keys := re.search(r"Unimplemented keys: \[([^\]]*)\]", problem):
        named = _shorten(keys[1].replace('"', "'"))
        raise GrammarError(f"the {what} uses {named}, which is not supported; leave it out or express it otherwise.")
    if match := re.search(r"Unknown format: (.*)", problem):
        raise GrammarError(f"the {what} uses the format {_shorten(match[1])!r}, which is unknown; use a pattern.")
    if "is not present in a registry" in problem or re.search(r"Pointer '.*' does not exist", problem):
        raise GrammarError(f"a $ref of the {what} leads nowhere; only references within it, as '#/$defs/x', are known.")
    if "oneOf constraints" in problem:
        raise GrammarError(f"a oneOf of the {what} has branches that may overlap; use anyOf, or a const that differs.")
    if match := re.search(r"Unsatisfiable schema: (.*)", problem):
        raise GrammarError(f"no value satisfies the {what}: {_shorten(match[1])}; correct it.")
    if "NoExtension" in problem:
        raise GrammarError(f"the {what} allows no finite text at all; correct it.")
    if match := re.search(r"regex parse error:(?:.*\n)*?error: (.*)", problem):
        raise GrammarError(f"a regular expression of the {what} is refused: {_shorten(match[1])}; write it otherwise.")
    if problem == TOO_COMPLEX or re.search(r"too (complex|large|many|deep)|Unable to determine", problem):
        raise GrammarError(f"the {what} is too complex; use fewer alternatives, shorter repetitions and less allOf.")
    raise GrammarError(f"the {what} is not valid: {_first_line(problem)}; correct it.")


def _name_part(problem: str, kind: GrammarKind, lark: str) -> str:
    """What of a request is at fault; with several tools, the one above whose line its name stands."""
    if (place := re.match(r"at (\d+)\(", problem)) and kind == "tool_calls":
        comment = lark.splitlines()[max(int(place[1]) - 2, 0)]
        return f"schema of tool {comment.removeprefix('// tool ')!r}"
    names = {"json_object": "JSON grammar", "json_schema": "JSON schema", "tool_calls": "tools' grammar"}
    return names.get(kind, f"{kind} grammar")


def _first_line(text: str) -> str:
    line = text.split("\n", 1)[0].removeprefix("at ")
    return _shorten(line.replace("failed to compile JSON schema: ", ""))


def _shorten(text: str) -> str:
    text = "".join(sign if sign.isprintable() else " " for sign in text).strip().rstrip(".")
    return text if len(text) <= 100 else text[:97] + "..."


def _pack(ids: Iterable[int], num_words: int) -> Tensor:
    """Ids to bits in int32 words, the lowest bit first."""
    bits = torch.zeros(num_words * 32, dtype=torch.int64)
    bits[torch.tensor(list(ids))] = 1
    words_W = (bits.view(num_words, 32) << torch.arange(32)).sum(-1)
    return torch.where(words_W >= 2**31, words_W - 2**32, words_W).to(torch.int32)


def unpack(words_W: Tensor, vocab_size: int) -> Tensor:
    """Bits in int32 words to one bool for each id."""
    shifts = torch.arange(32, dtype=torch.int32, device=words_W.device)
    return ((words_W[:, None] >> shifts) & 1).bool().flatten()[:vocab_size]
