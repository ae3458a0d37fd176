"""Schemas as they are followed: against jsonschema, an independent reader, over texts of both kinds."""

from __future__ import annotations

import itertools
import json
import random
import re
from typing import Any

import jsonschema
import llguidance
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tessera.engine.grammar import Matcher, json_rule, unpack
from tessera.engine.patterns import finite_language, matches_more
from tessera.engine.schema import (
    DRAFTS,
    KNOWN_FORMATS,
    followed,
)
from tessera.errors import GrammarError
from tessera.sampling import Grammar
from tests.engine.test_grammar import COMPILER, allows, schema_grammar
from tests.engine.tiny import CONFIG, EOS, text_ids

A = {"type": "integer"}
TEXTS = [
    "{}", '{"a": 1}', '{"a": "x"}', '{"b": 1}', '{"a": 1, "b": 2}', '{"a": 1, "b": "x"}', '{"z": 1}',
    '{"a": 1, "z": 0}', "[]", "[1]", "[1, 1]", "[1, 2]", '["a", "b", "c"]', "1", "5", "6", "10", '"x"', '"a"', "null",
    "true", '"2020-01-01"',
]  # fmt: skip


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": A}, "propertyNames": {"type": "string"}},
        {"type": "object", "propertyNames": {}, "additionalProperties": A},
        {"type": "object", "propertyNames": True, "additionalProperties": False, "properties": {"a": A}},
        {"type": "object", "additionalProperties": A, "propertyNames": {"enum": ["a", "b"]}},
        {"type": "object", "additionalProperties": A, "propertyNames": {"type": "string", "const": "a"}},
        {"type": "object", "properties": {"a": A, "z": A}, "propertyNames": {"enum": ["a", "b"]}, "required": ["a"]},
        {"type": "array", "items": A, "uniqueItems": False},
        {"type": "object", "properties": {"a": A}, "dependentSchemas": {}, "dependentRequired": {}, "dependencies": {}},
        {"type": "object", "dependentRequired": {"a": []}, "dependentSchemas": {"a": {}}},
        {"type": "object", "if": {}, "then": {}},
        {"type": "object", "if": {"required": ["a"]}, "then": True},
        {"type": "object", "if": {"required": ["a"]}},
        {"type": "object", "then": {"required": ["a"]}},
        {"type": "object", "properties": {"a": A}, "if": True, "then": {"required": ["a"]}, "else": False},
        {"type": "object", "properties": {"a": A}, "if": False, "then": False, "else": {"required": ["a"]}},
        {"type": "object", "properties": {"a": {"not": {}}, "b": {}}},
        {"type": "object", "properties": {"a": {"not": True}, "b": A}, "additionalProperties": False},
        {"type": "object", "properties": {"a": {"enum": []}}},
        {"type": "integer", "not": {"not": {}}},
        {"type": "integer", "not": False},
        {"type": "object", "unevaluatedProperties": True, "properties": {"a": A}},
        {"type": "object", "unevaluatedProperties": False, "properties": {"a": A}},
        {"type": "array", "items": A, "unevaluatedItems": {}},
        {"type": "array", "items": A, "minContains": 1},
        {"type": "string", "format": "password"},
        {"type": "string", "format": "no such thing", "maxLength": 1},
        {"type": "integer", "minimum": 5, "exclusiveMinimum": 5},
        {"type": "object", "properties": {"a": A}, "patternProperties": {"^a$": A}, "additionalProperties": False},
        {"type": "object", "properties": {"a": A}, "patternProperties": {"^(a|b)$": {}}, "additionalProperties": False},
        {"type": "object", "patternProperties": {"^[ab]$": A}, "additionalProperties": {"type": "string"}},
        {"type": "object", "patternProperties": {"^a$|^b$": A}, "additionalProperties": False, "required": ["a"]},
        {"$schema": "http://json-schema.org/schema#", "type": "object", "properties": {"a": A}},
        {"$schema": "https://a.b/c", "type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": A}},
        {"$schema": 5, "type": "integer"},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_a_schema_allows_what_jsonschema_does(schema: dict[str, Any]) -> None:
    reader = jsonschema.Draft202012Validator({key: value for key, value in schema.items() if key != "$schema"})
    for text in TEXTS:
        assert allows(schema_grammar(schema), text) == reader.is_valid(json.loads(text)), text


@pytest.mark.parametrize(
    "name", ["type", "required", "properties", "items", "enum", "format", "minimum", "title", "$ref"]
)
def test_null_is_as_if_it_were_not_there(name: str) -> None:
    assert followed({name: None, "properties": {"a": {name: None}}}) == {"properties": {"a": {}}}
    assert allows(schema_grammar({"const": None}), "null")
    assert allows(schema_grammar({"type": "object", "properties": {"type": {"const": None}}}), '{"type": null}')


def test_bounds_of_draft_4_are_exclusive_where_they_say_so() -> None:
    for schema, least in (
        ({"minimum": 5, "exclusiveMinimum": True}, 6),
        ({"minimum": 5, "exclusiveMinimum": False}, 5),
    ):
        for number in (4, 5, 6):
            assert allows(schema_grammar({"type": "integer"} | schema), str(number)) == (number >= least)


def test_formats_and_drafts_are_those_of_the_library() -> None:
    """What it knows is kept, and what it does not know it would refuse."""
    tokenizer = llguidance.LLTokenizer("byte")
    words = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "idn-email",
             "idn-hostname", "uri-reference", "iri", "iri-reference", "uri-template", "json-pointer", "regex", "byte",
             "relative-json-pointer", "password", "path", "binary", "base64", "int32", "int64", "double", "e164", "jwt",
             "cuid", "cuid2", "ulid", "nanoid", "guid", "emoji", "file-path", "directory-path", "url")  # fmt: skip
    known = {word for word in words if not problem(tokenizer, {"type": "string", "format": word})}
    assert known == KNOWN_FORMATS
    for url in (
        *(f"http://json-schema.org/draft-0{number}/schema{end}" for number in (3, 4, 6, 7) for end in ("", "#")),
        "https://json-schema.org/draft/2019-09/schema",
        "https://json-schema.org/draft/2020-12/schema#",
        "http://json-schema.org/schema#",
        "https://json-schema.org/draft-07/schema",
        "http://json-schema.org/draft/2020-12/schema",
        "http://example.com",
    ):
        assert (DRAFTS.fullmatch(url) is not None) == (not problem(tokenizer, {"$schema": url}))


def problem(tokenizer: llguidance.LLTokenizer, schema: dict[str, Any]) -> str:
    return llguidance.LLMatcher(tokenizer, "start: %json " + json.dumps(schema), log_level=0).get_error()


# Numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [2**53, -(2**53), 2**54, 10**18, 2**62, 2**53 + 2, 3 * 2**55, 0, -7])
def test_large_integers_that_floats_hold_are_exact(number: int) -> None:
    for schema in ({"const": number}, {"enum": [number, "x"]}):
        assert allows(schema_grammar(schema), str(number))
        assert not allows(schema_grammar(schema), str(number + 1))
        assert not allows(schema_grammar(schema), str(number - 1))
    for least, most in ((number, number + 2), (number - 2, number)):
        if int(float(least)) == least and int(float(most)) == most:
            bounded = schema_grammar({"type": "integer", "minimum": least, "maximum": most})
            assert [n for n in range(least - 2, most + 3) if allows(bounded, str(n))] == [least, least + 1, most]


@pytest.mark.parametrize(
    "schema",
    [
        {"const": 9007199254740993},
        {"enum": [12345678901234567890]},
        {"enum": ["a", -9007199254740993]},
        {"const": {"id": [9007199254740993]}},
        {"type": "integer", "minimum": 9007199254740993, "maximum": 9007199254740995},
        {"type": "integer", "exclusiveMaximum": 9007199254740993},
        {"type": "integer", "minimum": 2**63},
        {"type": "integer", "minimum": -(2**63)},
        {"type": "integer", "maximum": 2**64 - 1},
        {"type": "number", "maximum": 2**63 - 1},
        {"type": "number", "minimum": -3.4028234663852886e38},
        {"type": "number", "minimum": 5e-324},
        {"type": "object", "properties": {"a": {"items": {"const": 2**60 + 1}}}},
        {"$defs": {"a": {"maximum": 2**60 + 1}}, "$ref": "#/$defs/a"},
    ],
    ids=json.dumps,
)
def test_a_number_that_would_be_rounded_is_refused_by_name(schema: dict[str, Any]) -> None:
    with pytest.raises(
        GrammarError, match=r"JSON schema's (const|enum|minimum|maximum|exclusiveMaximum) .*(string|float)"
    ):
        COMPILER.matcher(schema_grammar(schema))
    COMPILER.matcher(Grammar("json_schema", json.dumps(followed(schema, loosely=True))))


def test_the_largest_integer_of_64_bits_is_a_bound() -> None:
    for bound in ({"maximum": 2**63 - 1}, {"exclusiveMaximum": 2**63}):
        grammar = schema_grammar({"type": "integer", "minimum": 0} | bound)
        assert allows(grammar, str(2**63 - 1))
        assert not allows(grammar, str(2**63))


# Dead ends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("^s$", ["s"]),
        ("^(a|b)$", ["a", "b"]),
        ("^(?:a|b)c$", ["ac", "bc"]),
        ("^a$|^bc$", ["a", "bc"]),
        ("^[a-c]$", ["a", "b", "c"]),
        ("^ab?$", ["a", "ab"]),
        (r"^a\.b$", ["a.b"]),
        (r"^\$ref$", ["$ref"]),
        ("^$", [""]),
        ("^(|x)$", ["", "x"]),
        ("^((a|b)(c|d))$", ["ac", "ad", "bc", "bd"]),
        ("^a|b$", None),
        ("s", None),
        ("^s", None),
        ("s$", None),
        ("^s*$", None),
        ("^s+$", None),
        ("^s{2}$", ["ss"]),
        ("^s{1,3}$", ["s", "ss", "sss"]),
        ("^s{0,1}?$", ["", "s"]),
        ("^s{2,}$", None),
        ("^s{999999}$", None),
        ("^(a|b){2}$", ["aa", "ab", "ba", "bb"]),
        ("^(?:){5}s$", ["s"]),
        (r"^\x73\u0074\u{75}$", ["stu"]),
        (r"^[\d]$", list("0123456789")),
        ("^[a-c_-]$", ["-", "_", "a", "b", "c"]),
        (r"^[\w.-]$", None),
        ("(^s$)", ["s"]),
        ("(^s|^t)u$", ["su", "tu"]),
        ("^(s$|t$)", ["s", "t"]),
        ("^(^s$)$", ["s"]),
        ("^(?<name>s)$", ["s"]),
        ("^(s$|t)u$", None),
        ("s|^t$", None),
        (r"^\bs$", None),
        ("^(?i:s)$", None),
        ("^[[:digit:]]$", None),
        ("^[a-z&&[^b]]$", None),
        (r"^\p{L}$", None),
        ("^s++$", None),
        ("^s]$", None),
        ("^s{x}$", None),
        ("^[s", None),
        (r"^\x{ffffff}$", None),
        ("^.$", None),
        (r"^\d$", list("0123456789")),
        ("^[^a]$", None),
        ("^(?=a)a$", None),
        ("^(a$", None),
        ("^[a$", None),
        ("^a)$", None),
        ("^" + "(a|b)" * 7 + "$", None),
        ("^" + "(" * 5000 + "a" + ")" * 5000 + "$", None),
        ("^[\x00-\uffff]$", None),
        ("", None),
    ],
)
def test_the_few_words_of_a_pattern(pattern: str, words: list[str] | None) -> None:
    assert finite_language(pattern) == words


SIGNS = ["a", "b", "(a|b)", "(ab|)", "[ab]", "[^a]", ".", "(?:b|c)", r"\x61", "(a)"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(SIGNS), st.sampled_from(["", "?", "*", "+", "{2}", "{0,2}", "{1,}", "??"]))))
def test_the_words_of_a_pattern_are_those_that_match(parts: list[tuple[str, str]]) -> None:
    pattern = "^" + "".join(sign + count for sign, count in parts) + "$"
    matching = {
        "".join(text) for length in range(5) for text in itertools.product("abcd", repeat=length)
        if re.fullmatch(pattern[1:-1], "".join(text))
    }  # fmt: skip
    words = finite_language(pattern)
    assert words is None or {word for word in words if len(word) < 5} == matching
    for count in (1, 3, 20):
        assert not matches_more(pattern, count) or words is None or len(words) > count


NAMES = ["s", "t", "ab"]
PATTERNS = [
    "^s$",
    "^(s|t)$",
    "^(ab)$",
    "^s$|^t$",
    "^[st]$",
    "^st?$",
    "^x",
    "b$",
    "^s{1}$",
    "^[st]{1}$",
    "(^s$)",
    "^\\x73$",
]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.sampled_from(NAMES), unique=True),
    st.lists(st.sampled_from(PATTERNS), unique=True, min_size=1, max_size=2),
    st.sampled_from(
        [A, {"type": "string", "maxLength": 2}, {"type": "boolean"}, {"type": "string", "format": "date"}, {}]
    ),
    st.booleans(),
    st.integers(0, 999),
)
def test_no_reply_ends_in_a_dead_end(
    names: list[str], patterns: list[str], part: dict[str, Any], is_open: bool, seed: int
) -> None:
    schema = {
        "type": "object",
        "properties": dict.fromkeys(names, part),
        "required": names[:1],
        "patternProperties": dict.fromkeys(patterns, part),
        "additionalProperties": is_open,
    }
    try:
        matcher = COMPILER.matcher(schema_grammar(schema))
    except GrammarError:  # of two patterns that are not disjoint, which is said before a reply begins
        assume(len(patterns) == 1)
        raise
    walk(matcher, random.Random(seed))


def walk(matcher: Matcher, choose: random.Random) -> None:
    """Follow the grammar at random, and where there is a choice towards the end; somewhere it always goes on."""
    words_W = torch.zeros(COMPILER.num_words, dtype=torch.int32)
    liked = text_ids(' ,}":s')
    for _ in range(120):
        if matcher.finished:
            return
        matcher.fill(words_W)
        allowed = unpack(words_W, CONFIG.vocab_size).nonzero()[:, 0].tolist()
        assert allowed, "a dead end"
        likely = [token for token in liked if token in allowed] or allowed
        token_id = choose.choice(likely if choose.random() < 0.8 else allowed)
        if token_id == EOS:
            return
        matcher.accept(token_id)


def test_what_fault_g_found_goes_on() -> None:
    for part in (A, {"type": "string"}, {"type": "boolean"}, {"enum": [1, 2]}, {"type": "string", "format": "date"}):
        schema = {
            "type": "object", "properties": {"s": part}, "required": ["s"], "additionalProperties": False,
            "patternProperties": {"^s$": part},
        }  # fmt: skip
        assert "patternProperties" not in followed(schema)
        matcher = COMPILER.matcher(schema_grammar(schema))
        value = {"string": '"x"', "boolean": "true", "integer": "1"}.get(str(part.get("type")), "1")
        value = '"2020-01-01"' if "format" in part else value
        for token_id in text_ids('{"s":' + value):
            matcher.accept(token_id)
        words_W = torch.zeros(COMPILER.num_words, dtype=torch.int32)
        matcher.fill(words_W)
        allowed_V = unpack(words_W, CONFIG.vocab_size)
        assert not allowed_V[text_ids(",")[0]]
        assert allowed_V[text_ids("}")[0]]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("^s{1}$", ["s"]), ("^[st]{1}$", ["s", "t"]), ("^s{1,2}$", ["s", "ss"]), (r"^\x73$", ["s"]), ("(^s$)", ["s"]),
        ("^(s|t)(u){1}$", ["su", "tu"]), ("^s{0,1}$", ["", "s"]), (r"^\d$", list("0123456789")), ("^(^s$)$", ["s"]),
        ("^[0-9]{2}$", [f"{number:02}" for number in range(100)]),
    ],
)  # fmt: skip
def test_where_all_names_are_used_an_object_ends(pattern: str, names: list[str]) -> None:
    """However the pattern says which they are; and whether they stand in properties or are only required."""
    for properties in (dict.fromkeys(names, A), {}):
        schema = {
            "type": "object", "properties": properties, "required": names, "additionalProperties": False,
            "patternProperties": {pattern: A},
        }  # fmt: skip
        text = "{" + ",".join(f'"{name}":1' for name in names)
        grammar = schema_grammar(schema)
        matcher, words_W = COMPILER.matcher(grammar), torch.zeros(COMPILER.num_words, dtype=torch.int32)
        for token_id in text_ids(text):
            matcher.accept(token_id)
        matcher.fill(words_W)
        assert not unpack(words_W, CONFIG.vocab_size)[text_ids(",")[0]]
        assert allows(grammar, text + "}")


@pytest.mark.parametrize("pattern", ["^(?i:s)$", "^[[:digit:]]$", r"\As\z", r"^s[^\s\S]*$", "^[^\x00-rt-\U0010ffff]$"])
def test_a_pattern_that_may_leave_no_name_is_refused_where_that_would_be_a_dead_end(pattern: str) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"s": A}, "patternProperties": {pattern: A}}
    closed = schema | {"additionalProperties": False}
    with pytest.raises(GrammarError, match=r"patternProperties .* may leave no name beside"):
        COMPILER.matcher(schema_grammar(closed))
    assert followed(closed, loosely=True)["additionalProperties"] is True
    COMPILER.matcher(schema_grammar(schema))
    COMPILER.matcher(schema_grammar({key: closed[key] for key in closed if key != "properties"}))


def test_no_name_escapes_what_is_said_of_it() -> None:
    """JSON may write a letter as "\\u0061", and the name is the same: what says nothing of it would take any value."""
    for words in ({"properties": {"a": A}}, {"patternProperties": {"^a": A}}, {"properties": {"\n": A}}):
        grammar = schema_grammar({"type": "object"} | words)
        for name in (r"\u0061", r"a\u0062", r"\u000a", r"\u000A", "\\n" if "properties" in words else "a"):
            for text in (f'{{"{name}": "x"}}', f'{{"b": 0, "{name}": "x"}}'):
                assert not allows(grammar, text) or jsonschema.Draft202012Validator(
                    {"type": "object"} | words
                ).is_valid(json.loads(text))
    for value in ("\x01", "a\x1fb", "\n", '"', "\\", "/", "é", "\x7f"):
        for schema in ({"const": value}, {"enum": [value, "x"]}):
            assert allows(schema_grammar(schema), json.dumps(value, ensure_ascii=False).replace("\x7f", r"\u007f"))


def test_names_are_counted_only_as_far_as_they_cannot_be_alike() -> None:
    schema: dict[str, Any] = {"type": "object", "patternProperties": {"^s+$": A}, "additionalProperties": False}
    for least, required in ((1, []), (2, ["s"]), (3, ["s", "sss"])):
        grammar = schema_grammar(schema | {"minProperties": least, "required": required})
        assert not allows(grammar, "{" + ",".join(f'"{name}":1' for name in required) + "}")
        assert allows(grammar, "{" + ",".join(f'"{name}":1' for name in [*required, "ss"]) + "}")
    for least, required in ((2, []), (3, ["s"])):
        with pytest.raises(GrammarError, match=f"minProperties {least} cannot be kept: a name may be written twice"):
            COMPILER.matcher(schema_grammar(schema | {"minProperties": least, "required": required}))


def test_copies_of_parts_do_not_multiply() -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {f"p{number}": A for number in range(99)}}
    for _ in range(12):
        schema = {"type": "object", "patternProperties": {"^(a|b)(a|b)(a|b)$": schema}, "additionalProperties": False}
        schema = {"type": "object", "propertyNames": {"enum": list("abcdefgh")}, "additionalProperties": schema}
    assert len(json.dumps(followed(schema))) < 50 * len(json.dumps(schema))


# Limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "limit"),
    [
        ({"type": "string", "format": "uri"}, 2048),
        ({"type": ["string", "null"], "format": "duration"}, 64),
        ({"type": "string", "format": "date"}, None),
        ({"type": "string", "format": "uri", "maxLength": 9000}, None),
        ({"type": "string", "format": "uri", "minLength": 3}, None),
        ({"type": "string", "pattern": "^a+$"}, None),
        ({"type": "integer", "format": "uri"}, None),
        ({"type": "string", "format": "no such thing"}, 32768),
    ],
)
def test_formats_without_an_end_get_a_limit(schema: dict[str, Any], limit: int | None) -> None:
    assert followed(schema).get("maxLength", schema.get("maxLength")) == (limit or schema.get("maxLength"))
    COMPILER.matcher(schema_grammar(schema))


@pytest.mark.parametrize(("name", "text"), [("uri", "http://a.b/" + "c" * 2037), ("duration", "P" + "1" * 62 + "D")])
def test_a_text_of_a_format_ends_at_its_limit(name: str, text: str) -> None:
    grammar = schema_grammar({"type": "string", "format": name})
    assert allows(grammar, f'"{text}"')
    longer = text.replace("c", "cc", 1) if name == "uri" else text.replace("1", "11", 1)
    assert not allows(grammar, f'"{longer}"')


# Loosely -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "loose"),
    [
        ({"items": A, "uniqueItems": True}, {"items": A}),
        ({"not": {"required": ["a"]}, "type": "object"}, {"type": "object"}),
        ({"type": "string", "pattern": "^(?!x).*$", "maxLength": 5}, {"type": "string", "maxLength": 5}),
        ({"type": "string", "pattern": r"^(a)\1$", "maxLength": 5}, {"type": "string", "maxLength": 5}),
        ({"oneOf": [A, {"required": ["b"]}]}, {"allOf": [{"anyOf": [A, {"required": ["b"]}]}]}),
        ({"dependentRequired": {"a": ["b"]}, "contains": A, "minContains": 2}, {}),
        ({"if": {"required": ["a"]}, "then": {"required": ["b"]}}, {}),
        ({"type": "any"}, {}),
        ({"type": ["string", "file"]}, {}),
        ({"required": True, "properties": [1], "minLength": -1, "minimum": "5", "enum": [], "items": 3}, {}),
        ({"properties": {"a": None, "b": "text", "c": A}}, {"properties": {"a": True, "b": True, "c": A}}),
        ({"const": 2**60 + 1}, {"type": "integer"}),
        ({"enum": [2**60 + 1, "a"]}, {}),
        ({"type": "integer", "minimum": 2**53 + 1, "maximum": 7}, {"type": "integer", "maximum": 7}),
        (
            {"patternProperties": {"^(?=x)": A, "^y": A}, "additionalProperties": False},
            {"patternProperties": {"^y": A}, "additionalProperties": True},
        ),
        ({"properties": {"a": A}, "minProperties": 1}, {"properties": {"a": A}}),
        ({"x-guidance": {"whitespace_flexible": True}}, {}),
    ],
    ids=lambda each: json.dumps(each)[:50],
)  # fmt: skip
def test_loosely_what_cannot_be_followed_is_left_out(schema: dict[str, Any], loose: dict[str, Any]) -> None:
    assert followed(schema, loosely=True) == loose
    assert followed({"properties": {"q": schema}}, loosely=True)["properties"]["q"] == loose


def test_a_rule_says_nothing_else_than_the_schema() -> None:
    assert json.loads(json_rule({"type": "boolean"}).removeprefix("%json ")).keys() == {"type", "x-guidance"}
