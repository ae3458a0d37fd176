"""Grammars that constrain a reply, as a mask over the vocabulary before each token is chosen.

llguidance does the parsing; this module sets limits on size, nesting and time, the whitespace of
JSON, and what is refused with which message. Compiled grammars are cached, and each request gets its
own copy of the initial state. It uses no logits and chooses no token. The bounds of a reply:
whitespace by MAX_WHITESPACE in each place, repetitions and lengths by the grammar's own numbers
(maxItems, maxLength, {1,5}), a schema's other strings and arrays by DEFAULT_MAX_LENGTH and
DEFAULT_MAX_ITEMS, a URI or a duration by DEFAULT_MAX_OF_FORMATS, and everything else by max_tokens alone.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import torch
from torch import Tensor

from tessera.conversation import json_depth
from tessera.engine.grammar_check import BUSY, MAX_LEXER_STATES, NOT_GBNF, TOO_COMPLEX, GrammarCheck
from tessera.engine.schema import DEFAULT_MAX_ITEMS as DEFAULT_MAX_ITEMS
from tessera.engine.schema import DEFAULT_MAX_LENGTH as DEFAULT_MAX_LENGTH
from tessera.engine.schema import followed, outline
from tessera.errors import EngineBusyError, GrammarError
from tessera.sampling import Grammar, GrammarKind

if TYPE_CHECKING:  # imported with the first grammar: not needed for plain generation
    from llguidance import LLMatcher, LLTokenizer

MAX_SOURCE_CHARS = 100_000
MAX_DEPTH = 64  # nesting of a schema's own JSON; llguidance's reader stops at 128
MAX_WHITESPACE = 20  # characters in one place: a new line and the indent of nine levels
CACHED_GRAMMARS = 64
NO_FORCING = '%llguidance {"no_forcing": true}\n'  # otherwise long constant texts are tokenized again at every step
JSON_OPTIONS = {"lenient": False, "coerce_one_of": False}
FREE = {"whitespace_pattern": rf"[ \t\r\n]{{1,{MAX_WHITESPACE}}}"}
COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}  # as `json.dumps` writes it
# Not "u": a name with a letter written as "\u0061" would match neither a declared name nor a pattern.
ESCAPES = 'nrbtf\\"'
WITH_CONTROLS = re.compile(r"\\u00[01]|\x7f")  # characters that a schema's text can only write as "\u0001"
# Applied to untrusted input, so each is linear: no position is tried twice.
GBNF_RULE = re.compile(r"^[ \t]*+[\w-]++[ \t]*+::=", re.MULTILINE)
LARK_TEXT = re.compile(r'"(?:[^"\\\n]|\\.)*+"?|//[^\n]*+|/(?:[^/\\\n]|\\.)++/?')
SPECIAL = re.compile(r"<[^<>\s]++>|%llguidance")
TEMPERATURE = re.compile(r"\btemperature[ \t]*+=")
LOOSE = ", followed as far as it can be"  # after a tool's name, in the comment above its rule
ANY_OBJECT = {"type": "object"}
LARGE_RULE = 5_000  # characters: a shorter rule cannot have the hundreds of optional properties that are too many
MAX_PROBLEM_LINES, MAX_LINE_CHARS = 16, 400  # of the library's message, which may repeat all of the input


class GrammarTokenizer(Protocol):
    """What a grammar needs from a vocabulary: its ids' bytes, and which ids have no text."""

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


@dataclass
class _Lexer:
    """Library state shared by all matchers of one grammar; its states are counted over all replies."""

    is_spent: bool = False


class Matcher:
    """One reply's position in its grammar. Each token is accepted once, so a request may be computed again."""

    def __init__(self, state: LLMatcher, reachable_W: Tensor, lexer: _Lexer | None = None) -> None:
        self._state = state
        self._reachable_W = reachable_W
        self._lexer = _Lexer() if lexer is None else lexer

    @property
    def is_spent(self) -> bool:
        """Return True if this grammar must be recompiled: a failed reply's states obstruct all others."""
        return self._lexer.is_spent

    @property
    def finished(self) -> bool:
        """Return True if the text is complete and nothing can follow it."""
        return bool(self._state.is_stopped()) and not self._state.is_error()

    @property
    def has_failed(self) -> bool:
        """Return True if the grammar itself cannot continue: a dead end, or beyond the library's limits."""
        return bool(self._state.is_error())

    def copy(self) -> Matcher:
        return Matcher(self._state.deep_copy(), self._reachable_W, self._lexer)

    def fill(self, words_W: Tensor) -> None:
        """Write a mask of the allowed next ids, one bit each, into int32 words; raises RuntimeError on failure."""
        self._state.unsafe_compute_mask_ptr(words_W.data_ptr(), words_W.nbytes)
        words_W &= self._reachable_W
        self._check()

    def accept(self, token_id: int) -> None:
        """Advance by a token that the mask allowed; raises RuntimeError for any other."""
        self._state.consume_token(token_id)
        self._check()

    def count_allowed(self, token_ids: Sequence[int]) -> int:
        """Count the leading tokens that may come next, without advancing; 0 after an error."""
        return int(self._state.validate_tokens(list(token_ids)))

    def _check(self) -> None:
        if self._state.is_error():
            self._lexer.is_spent = True
            raise RuntimeError(f"the grammar cannot go on: {_first_line(self._state.get_error())}")


class GrammarCompiler:
    """Compiles grammars to matchers for one model's vocabulary; any thread may use it."""

    def __init__(self, tokenizer: GrammarTokenizer, vocab_size: int) -> None:
        self.num_words = -(-vocab_size // 32)
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._lock = threading.Lock()  # guards all fields below
        self._built: tuple[LLTokenizer, Tensor, Tensor] | None = None
        self._known: OrderedDict[Grammar, Matcher | GrammarError] = OrderedDict()
        self._check = GrammarCheck()

    def matcher(self, grammar: Grammar) -> Matcher:
        """Return a matcher at the beginning of a reply; raises GrammarError."""
        with self._lock:
            known = self._known.get(grammar)
            if isinstance(known, Matcher) and known.is_spent:
                known = None
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
        """Stop the process that tries new grammars."""
        self._check.close()

    def _compile(self, grammar: Grammar) -> Matcher | GrammarError:
        from llguidance import LLMatcher, LLParserLimits

        try:
            lark = NO_FORCING + self._lark_of(grammar)
            if self._tokenizer.opens_with_space and grammar.kind not in ("lark", "tool_calls"):
                lark = lark.replace("start: ", 'start: " "? ', 1)  # the detokenizer drops this space again
            lark = self._checked(lark, grammar.kind)
            tokenizer, text_W, all_W = self._vocabulary()
            limits = LLParserLimits(max_lexer_states=MAX_LEXER_STATES, verbose_errors=False)
            state = LLMatcher(tokenizer, lark, log_level=0, limits=limits)
            state.compute_bitmask()
            _refuse(state.get_error(), grammar.kind, lark)
        except GrammarError as error:
            return error
        return Matcher(state, all_W if grammar.kind == "tool_calls" else text_W)

    def _lark_of(self, grammar: Grammar) -> str:
        """Return the grammar in llguidance's language; llama.cpp's is converted in the stoppable process."""
        if grammar.kind != "lark" or not GBNF_RULE.search(grammar.source):
            return to_lark(grammar)
        _check_source(grammar)
        problem, lark = self._check.convert(grammar.source)
        if problem == NOT_GBNF:
            raise GrammarError("the grammar has rules with ::= but is not valid GBNF; correct it, or use Lark.")
        _refuse(problem, grammar.kind, lark)
        return _without_special(lark)

    def _checked(self, lark: str, kind: GrammarKind) -> str:
        """Return the grammar in a form that can be followed; rules of tools are loosened where needed and allowed."""
        while problem := self._problem(lark, kind):
            may_be_loosened = kind == "tool_calls" and problem != BUSY and not _is_lost_reference(problem)
            looser = _loosen(lark, problem) if may_be_loosened else None
            if looser is None:
                _refuse(problem, kind, lark)
                break
            lark = looser
        return lark

    def _problem(self, lark: str, kind: GrammarKind) -> str:
        """Return a grammar's problem. Large tool rules are tried separately: the check does not follow a call far."""
        problem = self._check.ask(lark)
        if problem or kind != "tool_calls":
            return problem
        for number, line in enumerate(lark.splitlines(), 1):
            _, found, schema = line.partition(": %json ")
            if found and len(line) > LARGE_RULE and (problem := self._check.ask(f"start: %json {schema}")):
                return problem if problem == BUSY else f"at {number}(1): {problem}"
        return ""

    def _vocabulary(self) -> tuple[LLTokenizer, Tensor, Tensor]:
        """Return llguidance's tables, and the ids that text (with the end) and tool calls may use; built once."""
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
    """Convert a grammar to llguidance's language; raises GrammarError for faults found without compiling."""
    source = grammar.source
    _check_source(grammar)
    if grammar.kind == "json_object":
        return f"start: {json_rule(ANY_OBJECT, compact=grammar.compact)}"
    if grammar.kind == "json_schema":
        return f"start: {json_rule(_parse_json(source, 'JSON schema'), compact=grammar.compact)}"
    if grammar.kind == "choice":
        return f"start: /{'|'.join(map(_quote, _choices(source)))}/"
    if grammar.kind == "regex":
        from llguidance import regex_to_lark

        # As in JSON Schema, \d, \w and \s are the ASCII ones.
        return f"start: /{regex_to_lark(source, 'dws')}/"
    return source if grammar.kind == "tool_calls" else _without_special(source)


def _check_source(grammar: Grammar) -> None:
    if len(grammar.source) > MAX_SOURCE_CHARS:
        raise GrammarError(
            f"the {grammar.kind} grammar has {len(grammar.source)} characters and the limit is {MAX_SOURCE_CHARS}; "
            "shorten it."
        )
    _check_text(grammar.source, grammar.kind)


def _without_special(lark: str) -> str:
    """Return the grammar itself; raises GrammarError if it names special tokens or sets options."""
    rules = LARK_TEXT.sub("", lark)
    if found := SPECIAL.search(rules) or TEMPERATURE.search(rules):
        raise GrammarError(
            f"the lark grammar uses {found[0][:40]!r}; special tokens and options may not be used in it."
        )
    return lark


def _loosen(lark: str, problem: str) -> str | None:
    """Loosen the faulty rule of a tools' grammar, or all rules if none is named; None if none can be loosened.

    A rule is loosened to the outline of its schema, and then to any object.
    """
    lines = lark.splitlines()
    place = re.match(r"at (\d+)\(", problem)
    changed = False
    for number in [int(place[1]) - 1] if place else range(len(lines)):
        if not 0 < number < len(lines) or not lines[number - 1].endswith(LOOSE):
            continue
        name, _, schema = lines[number].partition(": %json ")
        looser = outline(json.loads(schema)) if place else ANY_OBJECT
        rule = f"{name}: {_written(looser)}"
        rule = f"{name}: {_written(ANY_OBJECT)}" if rule == lines[number] else rule
        changed = changed or rule != lines[number]
        lines[number] = rule
    return "\n".join(lines) if changed else None


def json_rule(schema: Any, *, loosely: bool = False, compact: bool = False) -> str:
    """Return the part of a Lark rule that matches a schema's JSON values; raises GrammarError.

    With `loosely`, unsupported parts are left out, and the rest may still turn out unsupported: see LOOSE.
    """
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise GrammarError("a JSON schema must be an object, for example {'type': 'object', 'properties': {...}}.")
    if "x-guidance" in schema and not loosely:
        raise GrammarError("the JSON schema's key 'x-guidance' is not supported; leave it out.")
    if (depth := json_depth(schema)) > MAX_DEPTH:
        raise GrammarError(
            f"the JSON schema is nested {depth} levels deep and the limit is {MAX_DEPTH}; use $ref and $defs for parts."
        )
    return _written(followed(schema, loosely=loosely), compact=compact)


def _written(schema: Any, *, compact: bool = False) -> str:
    escapes = ESCAPES + "u" * bool(WITH_CONTROLS.search(json.dumps(schema, ensure_ascii=False)))
    options = JSON_OPTIONS | (COMPACT if compact else FREE) | {"json_allowed_escapes": escapes}
    text = json.dumps(schema | {"x-guidance": options}, ensure_ascii=False)
    _check_text(text, "JSON schema")
    return f"%json {text}"


def _parse_json(source: str, what: str) -> Any:
    def no_constant(name: str) -> NoReturn:
        raise GrammarError(f"the {what} holds {name}, which is not JSON; use a number.")

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
    """Return a regular expression that matches exactly this text."""
    return "".join(sign if sign.isalnum() else f"\\x{{{ord(sign):x}}}" for sign in text)


def _check_text(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise GrammarError(f"the {what} holds half of a surrogate pair, which is not a character; remove it.") from None


def _refuse(problem: str, kind: GrammarKind, lark: str) -> None:
    """Raise the library's refusal in our own words; do nothing if there is no problem."""
    if not problem:
        return
    if problem == BUSY:
        raise EngineBusyError("other grammars are being compiled, which takes long; send the request again later.")
    problem = _cut(problem)
    what = _name_part(problem, kind, lark)
    if keys := re.search(r"Unimplemented keys: \[([^\]]*)\]", problem):
        named = _shorten(keys[1].replace('"', "'"))
        raise GrammarError(f"the {what} uses {named}, which is not supported; leave it out or express it otherwise.")
    if match := re.search(r"Unknown format: (.*)", problem):
        raise GrammarError(f"the {what} uses the format {_shorten(match[1])!r}, which is unknown; use a pattern.")
    if _is_lost_reference(problem):
        raise GrammarError(f"a $ref of the {what} leads nowhere; only references within it, as '#/$defs/x', are known.")
    if "oneOf constraints" in problem:
        raise GrammarError(f"a oneOf of the {what} has branches that may overlap; use anyOf, or a const that differs.")
    if match := re.search(r"Unsatisfiable schema: (.*)", problem):
        raise GrammarError(f"no value satisfies the {what}: {_shorten(match[1])}; correct it.")
    if "NoExtension" in problem:
        raise GrammarError(f"the {what} allows no finite text at all; correct it.")
    if match := re.search(r"regex parse error:(?:.*\n)*?error: (.*)", problem):
        raise GrammarError(f"a regular expression of the {what} is refused: {_shorten(match[1])}; write it otherwise.")
    if problem == TOO_COMPLEX or re.search(r"too (complex|large|many|deep)|Unable to determine|items; max is", problem):
        raise GrammarError(
            f"the {what} is too complex; use fewer alternatives and optional properties, shorter repetitions and "
            "less allOf."
        )
    if kind != "lark":  # positions in the generated text mean nothing to the user
        problem = re.sub(r"^(?:at )?\d+\(\d+\): ", "", problem)
    raise GrammarError(f"the {what} is not valid: {_first_line(problem)}; correct it.")


def _is_lost_reference(problem: str) -> bool:
    return "is not present in a registry" in problem or "' does not exist" in problem


def _cut(problem: str) -> str:
    """Cut the middle out of a long library message: the information is at the ends."""
    lines = problem.split("\n")
    if len(lines) > MAX_PROBLEM_LINES:
        lines = lines[: MAX_PROBLEM_LINES // 2] + lines[-MAX_PROBLEM_LINES // 2 :]
    half = MAX_LINE_CHARS // 2
    return "\n".join(line if len(line) <= MAX_LINE_CHARS else line[:half] + line[-half:] for line in lines)


def _name_part(problem: str, kind: GrammarKind, lark: str) -> str:
    """Name the part of a request at fault; of several tools, the one named above the faulty line."""
    if (place := re.match(r"at (\d+)\(", problem)) and kind == "tool_calls":
        comment = lark.splitlines()[max(int(place[1]) - 2, 0)]
        return f"schema of tool {comment.removeprefix('// tool ').removesuffix(LOOSE)!r}"
    names = {"json_object": "JSON grammar", "json_schema": "JSON schema", "tool_calls": "tools' grammar"}
    return names.get(kind, f"{kind} grammar")


def _first_line(text: str) -> str:
    line = text.split("\n", 1)[0].removeprefix("at ")
    return _shorten(line.replace("failed to compile JSON schema: ", ""))


def _shorten(text: str) -> str:
    text = "".join(sign if sign.isprintable() else " " for sign in text).strip().rstrip(".")
    return text if len(text) <= 100 else text[:97] + "..."


def _pack(ids: Iterable[int], num_words: int) -> Tensor:
    """Pack ids as bits in int32 words, lowest bit first."""
    bits = torch.zeros(num_words * 32, dtype=torch.int64)
    bits[torch.tensor(list(ids))] = 1
    words_W = (bits.view(num_words, 32) << torch.arange(32)).sum(-1)
    return torch.where(words_W >= 2**31, words_W - 2**32, words_W).to(torch.int32)


def unpack(words_W: Tensor, vocab_size: int) -> Tensor:
    """Unpack bits in int32 words to one bool for each id."""
    shifts = torch.arange(32, dtype=torch.int32, device=words_W.device)
    return ((words_W[:, None] >> shifts) & 1).bool().flatten()[:vocab_size]
