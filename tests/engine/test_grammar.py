"""Replies under a grammar: always of its language, whatever the model would rather say; the others unmoved."""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tessera.chat import Completion
from tessera.engine import grammar_check
from tessera.engine.engine import Engine
from tessera.engine.grammar import (
    DEFAULT_MAX_ITEMS,
    DEFAULT_MAX_LENGTH,
    MAX_DEPTH,
    MAX_WHITESPACE,
    GrammarCompiler,
    Matcher,
    json_rule,
    unpack,
)
from tessera.engine.grammar_check import TOO_COMPLEX, GrammarCheck
from tessera.engine.loop import EngineLoop
from tessera.errors import EngineBusyError, GrammarError, UsageError
from tessera.sampling import Grammar, SamplingParams
from tests.engine.tiny import (
    CONFIG,
    EOS,
    TOOL_CALLS,
    ByteTokenizer,
    prompt,
    reply,
    run,
    text_ids,
    tiny_engine,
    tiny_model,
)

MODEL = tiny_model()
ENGINE = tiny_engine(MODEL, num_blocks=256)
COMPILER = ENGINE.grammars
DIGIT = Grammar("regex", r"\d{4}")
RECEIPT = {
    "type": "object",
    "properties": {"vendor": {"type": "string", "maxLength": 9}, "total": {"type": "integer", "maximum": 9999}},
    "required": ["vendor", "total"],
    "additionalProperties": False,
}


def schema_grammar(schema: object) -> Grammar:
    return Grammar("json_schema", json.dumps(schema))


def allows(grammar: Grammar, text: str) -> bool:
    """Whether the text is complete under the grammar."""
    matcher = COMPILER.matcher(grammar)
    words_W = torch.zeros(COMPILER.num_words, dtype=torch.int32)
    for token_id in [*text_ids(text), EOS]:
        if matcher.finished:
            return token_id == EOS
        matcher.fill(words_W)
        if not unpack(words_W, CONFIG.vocab_size)[token_id]:
            return False
        matcher.accept(token_id)
    return True


def finite_schemas() -> st.SearchStrategy[dict[str, Any]]:
    """Schemas whose every value is short, so that a random model comes to an end."""
    bounded_text = st.integers(0, 5).map(lambda top: {"type": "string", "maxLength": top})
    leaves = st.one_of(
        bounded_text,
        st.tuples(st.integers(-50, 50), st.integers(0, 900)).map(
            lambda pair: {"type": "integer", "minimum": pair[0], "maximum": pair[0] + pair[1]}
        ),
        st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": "string", "format": "date"}]),
        st.lists(st.one_of(st.text(max_size=4), st.integers(-9, 9), st.booleans()), min_size=1, max_size=4).map(
            lambda values: {"enum": values}
        ),
        st.sampled_from(["^[a-c]{2,4}$", "^x(y|z)$"]).map(lambda pattern: {"type": "string", "pattern": pattern}),
    )

    def grow(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
        names = st.sampled_from(["a", "b", "é", 'q"', "long name"])
        objects = st.tuples(st.dictionaries(names, inner, max_size=3), st.booleans()).map(
            lambda pair: {
                "type": "object",
                "properties": pair[0],
                "required": sorted(pair[0])[: 3 if pair[1] else 0],
                "additionalProperties": False,
            }
        )
        lists = st.tuples(inner, st.integers(0, 2)).map(
            lambda pair: {"type": "array", "items": pair[0], "minItems": pair[1], "maxItems": pair[1] + 1}
        )
        return st.one_of(objects, lists, st.lists(inner, min_size=1, max_size=3).map(lambda each: {"anyOf": each}))

    return st.recursive(leaves, grow, max_leaves=5)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(finite_schemas(), st.integers(0, 1000))
def test_a_reply_under_any_schema_is_valid_and_only_max_tokens_cuts_it(schema: dict[str, Any], seed: int) -> None:
    made = reply(ENGINE, prompt("go"), grammar=schema_grammar(schema), temperature=1.0, seed=seed, max_tokens=480)
    assert made.finish_reason == "stop" or made.usage.completion_tokens == 480
    if made.finish_reason == "stop":
        jsonschema.validate(json.loads(made.text), schema)


@pytest.mark.parametrize("params", [{}, {"temperature": 1.5, "seed": 3}, {"temperature": 1.0, "top_k": 2, "seed": 1}])
@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [
        (DIGIT, r"[0-9]{4}"),
        (Grammar("regex", "^a+/b$"), r"a+/b"),
        (
            Grammar("choice", json.dumps(["yes", "no", "a/b\n\\", "<[9]>", "é\x7f😀"])),
            r"yes|no|a/b\n\\|<\[9\]>|é\x7f😀",
        ),
        (Grammar("lark", 'start: "(" inner ")"\ninner: "x" | start'), r"\(+x\)+"),
    ],
)
def test_a_reply_ends_by_itself_when_nothing_can_follow(grammar: Grammar, pattern: str, params: dict[str, Any]) -> None:
    made = reply(ENGINE, prompt("say"), grammar=grammar, max_tokens=200, **params)
    assert made.finish_reason == "stop" or made.usage.completion_tokens == 200
    if made.finish_reason == "stop":
        assert re.fullmatch(pattern, made.text)
        assert EOS not in made.token_ids


def test_the_end_is_chosen_only_where_the_grammar_allows_it() -> None:
    wanted = SamplingParams(grammar=Grammar("regex", "a{3,5}"), logit_bias={EOS: 100.0})
    made = run(ENGINE, ENGINE.add(prompt("go"), wanted))[0]
    assert (made.text, made.finish_reason, made.token_ids[-1]) == ("aaa", "stop", EOS)
    assert allows(DIGIT, "1234")
    assert not allows(DIGIT, "123")
    assert not allows(DIGIT, "12345")


def test_json_object_is_any_object_with_little_whitespace() -> None:
    anything = Grammar("json_object")
    for text in ("{}", '{"a": [1, {"b": null}], "c": "\\n"}', '{\n  "a": 1\n}', '{"a":' + " " * MAX_WHITESPACE + "1}"):
        assert allows(anything, text)
    for text in ("[]", "1", '{"a":' + " " * (MAX_WHITESPACE + 1) + "1}", '{"a":1} ', '{"a":"\\ud800"}', ' {"a":1}'):
        assert not allows(anything, text)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(st.characters(min_codepoint=32, max_codepoint=126)),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    )
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_compact_json_is_written_as_json_dumps_does(value: Any) -> None:
    free = Grammar("json_object")
    compact = replace(free, compact=True)
    text = json.dumps({"a": value, "b": [1, 2]})
    assert allows(compact, text)
    for other in (json.dumps({"a": value, "b": [1, 2]}, separators=(",", ":")), json.dumps({"a": value}, indent=1)):
        assert allows(free, other)
        assert not allows(compact, other)


def test_compact_is_a_form_of_json_alone_and_follows_a_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}, "required": ["a", "b"]}
    grammar = replace(schema_grammar(schema), compact=True)
    assert allows(grammar, '{"a": 1, "b": [true, null]}')
    assert not allows(grammar, '{"a":1, "b": null}')
    assert not allows(grammar, '{"a":  1, "b": null}')
    with pytest.raises(UsageError, match="regex has no compact form"):
        Grammar("regex", "a", compact=True)


def test_max_tokens_and_stop_strings_still_cut() -> None:
    endless = Grammar("regex", "(ab)*c")
    never_c = {text_ids("c")[0]: -100.0}
    made = reply(ENGINE, prompt("go"), grammar=endless, logit_bias=never_c, max_tokens=7)
    assert (made.text, made.finish_reason) == ("abababa", "length")
    made = reply(ENGINE, prompt("go"), grammar=endless, logit_bias=never_c, stop=("ba",), max_tokens=7)
    assert (made.text, made.finish_reason) == ("a", "stop")


@pytest.mark.parametrize("changes", [{"min_tokens": 2}, {"ignore_eos": True}])
def test_what_a_grammar_makes_impossible_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(changes))} cannot be combined with a grammar"):
        SamplingParams(grammar=DIGIT, **changes)


def test_log_probabilities_are_the_models_own() -> None:
    free = reply(ENGINE, prompt("go"), max_tokens=1, logprobs=3)
    bound = reply(ENGINE, prompt("go"), max_tokens=1, logprobs=3, grammar=DIGIT)
    assert bound.token_ids != free.token_ids
    assert bound.logprobs[0].top == free.logprobs[0].top
    assert bound.logprobs[0].logprob < free.logprobs[0].logprob


def mixed() -> list[tuple[str, SamplingParams]]:
    return [
        ("one", SamplingParams(max_tokens=30)),
        ("two", SamplingParams(max_tokens=90, grammar=schema_grammar(RECEIPT), temperature=1.0, seed=4)),
        ("three", SamplingParams(max_tokens=30, temperature=1.0, seed=5, logprobs=2)),
        ("four", SamplingParams(max_tokens=30, grammar=DIGIT)),
    ]


def answers(engine: Engine) -> list[Completion]:
    return run(engine, *[engine.add(prompt(text), params) for text, params in mixed()])


def test_a_batch_of_both_kinds_equals_its_members() -> None:
    together = answers(tiny_engine(MODEL))
    for (text, params), made in zip(mixed(), together, strict=True):
        engine = tiny_engine(MODEL)
        alone = run(engine, engine.add(prompt(text), params))[0]
        assert (made.token_ids, made.finish_reason) == (alone.token_ids, alone.finish_reason)


@pytest.mark.parametrize("method", ["fill", "accept"])
def test_a_grammar_that_fails_ends_its_request_alone(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = answers(tiny_engine(MODEL))
    engine = tiny_engine(MODEL)
    requests = [engine.add(prompt(text), params) for text, params in mixed()]
    calls = 0

    def fail(self: Matcher, given: object) -> None:
        nonlocal calls
        if self is not requests[1].matcher or (calls := calls + 1) < 4:
            return original(self, given)
        raise RuntimeError("broken on purpose")

    original = getattr(Matcher, method)
    monkeypatch.setattr(Matcher, method, fail)
    made = run(engine, *requests)
    assert [each.finish_reason for each in made] == [expected[0].finish_reason, "error", "length", "stop"]
    for row in (0, 2, 3):
        assert made[row].token_ids == expected[row].token_ids
    assert engine.stats().blocks.used == 0


def test_a_preempted_reply_goes_on_in_its_grammar() -> None:
    params = SamplingParams(max_tokens=100, grammar=Grammar("regex", "(ab|ba){40}"), temperature=1.0, seed=2)
    roomy, tight = (
        tiny_engine(MODEL),
        tiny_engine(MODEL, num_blocks=12, enable_prefix_caching=False, num_speculative_tokens=0),
    )
    expected = [run(roomy, roomy.add(prompt(name), params))[0].text for name in "abc"]
    made = run(tight, *[tight.add(prompt(name), params) for name in "abc"])
    assert tight.stats().preemptions > 0
    assert [each.text for each in made] == expected
    assert all(re.fullmatch("(ab|ba){40}", each.text) for each in made)


def test_an_aborted_request_leaves_the_grammar_as_it_was() -> None:
    engine = tiny_engine(MODEL)
    first = engine.add(prompt("go"), SamplingParams(grammar=DIGIT))
    engine.step()
    engine.step()
    engine.abort(first.id)
    assert run(engine, first)[0].finish_reason == "abort"
    assert re.fullmatch(r"\d{4}", reply(engine, prompt("go"), grammar=DIGIT).text)


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        (Grammar("regex", "("), "regular expression .* unclosed group"),
        (Grammar("regex", "(?=a)b"), "look-around"),
        (Grammar("regex", r"(a)\1"), "backreferences are not supported"),
        (Grammar("regex", r"[^\s\S]"), "allows no finite text"),
        (Grammar("regex", "(?-u:\\xff)"), "invalid UTF-8"),
        (Grammar("regex", "a" * 200_000), r"200000 characters and the limit is 100000"),
        (Grammar("regex", "\ud800"), "half of a surrogate pair"),
        (Grammar("choice", "[]"), "at least one string"),
        (Grammar("choice", '["a", ""]'), "none of them empty"),
        (Grammar("choice", '["a", 1]'), "at least one string"),
        (Grammar("choice", '"a"'), "must be a list"),
        (Grammar("choice", '["\\ud800"]'), "half of a surrogate pair"),
        (Grammar("json_schema", "{"), "not valid JSON"),
        (Grammar("json_schema", "[" * 50_000), "nested too deeply|not valid JSON"),
        (Grammar("json_schema", "3"), "must be an object"),
        (Grammar("json_schema", '{"maximum": NaN}'), "holds NaN"),
        (Grammar("json_schema", '{"enum": ["\\ud800"]}'), "half of a surrogate pair"),
        (schema_grammar(False), "must be an object"),
        (schema_grammar(deep(MAX_DEPTH)), f"levels deep and the limit is {MAX_DEPTH}"),
        (schema_grammar({"not": {}}), "uses 'not', which is not supported"),
        (schema_grammar({"type": "array", "uniqueItems": True}), "uses 'uniqueItems'"),
        (
            schema_grammar({"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}}),
            "uses 'if', 'then'",
        ),
        (schema_grammar({"type": "frob"}), "Invalid type: frob"),
        (schema_grammar({"enum": []}), "no value satisfies"),
        (schema_grammar({"type": "integer", "minimum": 5, "maximum": 3}), r"minimum \(5\) is greater"),
        (schema_grammar({"type": "string", "pattern": "(?=a)b"}), "look-around"),
        (schema_grammar({"$ref": "http://127.0.0.1:9/schema.json"}), "leads nowhere"),
        (schema_grammar({"$ref": "#/$defs/missing"}), "leads nowhere"),
        (schema_grammar({"$ref": "#"}), "allows no finite text"),
        (schema_grammar({"oneOf": [{"type": "number"}, {"type": "integer"}]}), "oneOf .* use anyOf"),
        (schema_grammar({"x-guidance": {"whitespace_flexible": True}}), "'x-guidance' is not supported"),
        (
            schema_grammar({"allOf": [{"anyOf": [{"pattern": f"{i}{j}"} for j in range(9)]} for i in range(9)]}),
            "complex",
        ),
        (
            schema_grammar({"properties": {f"p{i}": {"type": "integer"} for i in range(1500)}, "type": "object"}),
            "complex",
        ),
        (
            schema_grammar(
                {
                    "type": "object",
                    "properties": {"x": {"properties": {f"p{i}": {} for i in range(1500)}, "type": "object"}},
                    "required": ["x"],
                    "additionalProperties": False,
                }
            ),
            "complex",
        ),
        (Grammar("regex", ".*" * 300), "complex"),
        (Grammar("lark", "start: foo"), 'unknown name: "foo"'),
        (Grammar("lark", "nonsense ("), "lark grammar is not valid"),
        (Grammar("lark", 'start: start "b"'), "allows no finite text"),
        (Grammar("lark", "start: " + "(" * 2000 + '"a"' + ")" * 2000), "too complex"),
        (Grammar("lark", "start: <[9]>"), r"uses '<\[9\]>'"),
        (Grammar("lark", 'start: "//" <special_9>'), "uses '<special_9>'"),
        (Grammar("lark", "start: a\na[temperature=2]: /[a-z]+/"), "uses 'temperature='"),
        (Grammar("lark", '%llguidance {"no_forcing": false}\nstart: "a"'), "uses '%llguidance'"),
    ],
    ids=lambda value: value.source[:30] if isinstance(value, Grammar) else "",
)
def test_a_hostile_grammar_is_refused_in_one_sentence(grammar: Grammar, words: str) -> None:
    began = time.process_time()
    with pytest.raises(GrammarError, match=words) as caught:
        COMPILER.matcher(grammar)
    assert time.process_time() - began < 2
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 300
    assert text.endswith(".")
    with pytest.raises(GrammarError, match=words):  # and again, from memory
        COMPILER.matcher(grammar)


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("regex", "(a{1,1000}){1,1000}b"),
        Grammar("choice", json.dumps([f"{number}-{number * 7919 % 99991}" for number in range(6000)])),
        schema_grammar({"enum": [f"{number}-{number * 7919 % 99991}" for number in range(5000)]}),
        schema_grammar(
            {"$defs": {"node": {"type": "array", "items": {"$ref": "#/$defs/node"}}}, "$ref": "#/$defs/node"}
        ),
        schema_grammar({"type": "array", "items": {"type": "null"}, "minItems": 100_000}),
        schema_grammar({"const": "x" * 50_000}),
        schema_grammar(deep(MAX_DEPTH - 30)),
        schema_grammar(True),
    ],
    ids=lambda grammar: grammar.source[:30],
)
def test_large_grammars_work(grammar: Grammar) -> None:
    made = reply(ENGINE, prompt("go"), grammar=grammar, temperature=1.0, seed=1, max_tokens=25)
    assert made.finish_reason in ("stop", "length")


def test_special_tokens_are_out_of_a_users_reach() -> None:
    words_W = torch.zeros(COMPILER.num_words, dtype=torch.int32)
    for grammar in (Grammar("regex", r"[\s\S]*"), Grammar("lark", r"start: /(.|\n)*/"), Grammar("json_object")):
        COMPILER.matcher(grammar).fill(words_W)
        allowed_V = unpack(words_W, CONFIG.vocab_size)
        assert not allowed_V[sorted(ByteTokenizer.special_ids - {EOS})].any()
        assert not allowed_V[ByteTokenizer.vocab_size :].any()
    COMPILER.matcher(Grammar("tool_calls", f'start: <[{TOOL_CALLS}]> "x"')).fill(words_W)
    assert unpack(words_W, CONFIG.vocab_size).nonzero()[:, 0].tolist() == [TOOL_CALLS]


def test_a_grammar_that_takes_too_long_is_stopped_and_the_next_is_answered() -> None:
    overlapping = {"type": "string", "allOf": [{"pattern": f"a{{0,{50 + number}}}b"} for number in range(40)]}
    compiler = GrammarCompiler(ByteTokenizer(), CONFIG.vocab_size)
    compiler._check.deadline_s = 1.0
    with pytest.raises(GrammarError, match="too complex"):
        compiler.matcher(schema_grammar(overlapping))
    compiler._check.deadline_s = 60.0
    compiler.matcher(DIGIT)
    compiler.close()


def test_who_would_wait_long_for_others_hard_grammars_is_told_to_come_back() -> None:
    compiler = GrammarCompiler(ByteTokenizer(), CONFIG.vocab_size)
    compiler._check.deadline_s = 0.1
    with compiler._check._lock, pytest.raises(EngineBusyError, match="later"):
        compiler.matcher(DIGIT)
    compiler._check.deadline_s = 60.0
    compiler.matcher(DIGIT)  # that it was busy is not remembered
    compiler.close()


def test_a_child_that_died_is_replaced() -> None:
    check = GrammarCheck()
    assert check.ask('start: "a"') == ""
    check.close()
    assert check.ask('start: "a"') == ""
    check.close()
    assert TOO_COMPLEX not in check.ask("start: foo")
    check.close()
    assert grammar_check.__doc__


def test_after_a_failed_reply_a_grammar_is_compiled_anew() -> None:
    """The library counts what all replies of one grammar took: one that used it up would fail each that comes later."""
    compiler = GrammarCompiler(ByteTokenizer(), CONFIG.vocab_size)
    grammar = schema_grammar({"type": "string", "pattern": "^[\\p{L} ]+$", "maxLength": 9000})
    matcher = compiler.matcher(grammar)
    words_W = torch.zeros(compiler.num_words, dtype=torch.int32)

    def write_on() -> None:
        for token_id in text_ids('"' + "é ab" * 9000):
            matcher.fill(words_W)
            matcher.accept(token_id)

    with pytest.raises(RuntimeError, match="too many"):
        write_on()
    assert matcher.is_spent
    again = compiler.matcher(grammar)
    assert not again.is_spent
    again.fill(words_W)
    again.accept(text_ids('"')[0])
    compiler.close()


def test_threads_may_compile_at_once_and_the_cache_is_bounded() -> None:
    compiler = GrammarCompiler(ByteTokenizer(), CONFIG.vocab_size)
    failures: list[BaseException] = []

    def work(start: int) -> None:
        try:
            for number in range(start, start + 30):
                compiler.matcher(Grammar("regex", f"x{number}"))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(20 * index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    compiler.close()
    assert not failures
    assert len(compiler._known) == 64


def test_the_loop_refuses_a_bad_grammar_in_the_callers_thread() -> None:
    loop = EngineLoop(tiny_engine(MODEL))
    try:
        with pytest.raises(GrammarError, match="uses 'not'"):
            loop.submit(prompt("go"), SamplingParams(grammar=schema_grammar({"not": {}})))
        made = Completion.from_deltas(list(loop.submit(prompt("go"), SamplingParams(grammar=DIGIT))), "tiny")
        assert re.fullmatch(r"\d{4}", made.text)
    finally:
        loop.close()


@pytest.mark.parametrize(
    ("kind", "source", "words"),
    [
        ("xml", "x", "kind 'xml' is unknown"),
        ("json_object", "{}", "takes no source"),
        ("regex", "", "needs a source"),
        ("regex", b"a", "must be a string"),
    ],
)
def test_a_grammar_has_a_known_kind_and_a_source(kind: Any, source: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Grammar(kind, source)
    with pytest.raises(UsageError, match="must be a Grammar"):
        SamplingParams(grammar={"kind": kind})  # type: ignore[arg-type]


def test_a_bias_moves_its_own_row_only() -> None:
    liked, engine = text_ids("z")[0], tiny_engine(MODEL)
    plain = reply(ENGINE, prompt("go"), max_tokens=8)
    biased = SamplingParams(max_tokens=8, logit_bias=((liked, 100),))
    made = run(engine, engine.add(prompt("go"), biased), engine.add(prompt("go"), SamplingParams(max_tokens=8)))
    assert made[0].text == "zzzzzzzz"
    assert made[1].token_ids == plain.token_ids
    assert (
        reply(ENGINE, prompt("go"), max_tokens=1, logit_bias={plain.token_ids[0]: -100}).token_ids
        != plain.token_ids[:1]
    )


@pytest.mark.parametrize(
    ("bias", "words"),
    [
        ("5", "must map token ids"),
        (5, "must map token ids"),
        ({"5": 1.0}, "a token id and a number"),
        ({True: 1.0}, "a token id and a number"),
        ({5: "1"}, "must be a number between -100 and 100"),
        ({5: True}, "must be a number between"),
        ({5: float("nan")}, "is nan"),
        ({5: 101}, "is 101; it must be"),
        ({5: float("-inf")}, "is -inf"),
        (((5, 1, 2),), "a token id and a number"),
        ((5, 6), "a token id and a number"),
        (((5, 1), (5, 2)), "token 5 twice"),
        (dict.fromkeys(range(301), 1.0), "301 entries; at most 300"),
    ],
)
def test_a_hostile_bias_is_refused(bias: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        SamplingParams(logit_bias=bias)


@pytest.mark.parametrize("token_id", [-1, CONFIG.vocab_size, 10**30])
def test_a_bias_of_an_unknown_id_is_refused(token_id: int) -> None:
    with pytest.raises(UsageError, match="is not in the model's vocabulary"):
        ENGINE.add(prompt("go"), SamplingParams(logit_bias={token_id: 1.0}))


def test_strings_and_arrays_without_limits_get_some() -> None:
    """Where a schema sets none; its own stay, and what looks like a schema inside an enum is left alone."""
    schema = {
        "type": "object",
        "properties": {
            "free": {"type": ["string", "null"]},
            "short": {"type": "string", "maxLength": 5},
            "one": {"enum": [{"type": "string"}]},
            "rows": {"type": "array", "items": {"$ref": "#/$defs/row"}},
        },
        "$defs": {"row": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
    }
    bounded = json.loads(json_rule(schema).removeprefix("%json "))
    properties = bounded["properties"]
    assert properties["free"]["maxLength"] == DEFAULT_MAX_LENGTH
    assert properties["short"] == schema["properties"]["short"]
    assert properties["one"] == schema["properties"]["one"]
    assert properties["rows"]["maxItems"] == DEFAULT_MAX_ITEMS
    assert bounded["$defs"]["row"]["anyOf"] == [
        {"type": "string", "maxLength": DEFAULT_MAX_LENGTH},
        {"type": "integer"},
    ]
