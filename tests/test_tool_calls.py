"""Tool calls: mistral-common's own writing of them is allowed and read back, and a random model calls well."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import mistral_common
import pytest
import torch

import tessera.nano
from tessera.chat import Delta, ToolCall, Tools
from tessera.engine.grammar import GrammarCompiler, unpack
from tessera.errors import GrammarError, UsageError
from tessera.llm import LLM
from tessera.messages import parse_message
from tessera.prompt import Tokenizer
from tessera.sampling import Grammar, SamplingParams
from tessera.tool_calls import ToolCallReader, tool_grammar
from tests.engine.tiny import CONFIG, VISION, tiny_model

NANO = Path(tessera.nano.__file__).parent / "weights" / "tekken.json"
DATA = Path(mistral_common.__file__).parent / "data"
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_price",
            "description": "Finds a price",
            "parameters": {
                "type": "object",
                "properties": {"item": {"type": "string", "maxLength": 6}, "count": {"type": "integer", "maximum": 99}},
                "required": ["item"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "function", "function": {"name": "get-time"}},
]
QUESTION = {"role": "user", "content": "What does a pear cost, and what time is it?"}
CALLS = [("get_price", '{"item": "p\\"é}", "count": 3}', "aaaabbbb1"), ("get-time", "{}", "aaaabbbb2")]
ASKED = {
    "role": "assistant",
    "tool_calls": [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for name, arguments, call_id in CALLS
    ],
}
ANSWERS = [{"role": "tool", "tool_call_id": call_id, "name": name, "content": "1"} for name, _, call_id in CALLS]


@cache
def tokenizer(version: str) -> Tokenizer:
    if version == "v3":
        return Tokenizer.from_file(NANO, VISION)
    if version in ("v1", "v2", "v7"):
        name = next(path for path in DATA.iterdir() if path.name.endswith(f"model.{version}"))
        return Tokenizer.from_file(name, VISION)
    return Tokenizer.from_file(later_tokenizer(version), VISION)


@cache
def later_tokenizer(version: str) -> Path:
    """Nano's vocabulary with the special tokens of version 11; no file of that version is packaged."""
    import tempfile

    tekken = json.loads(NANO.read_text(encoding="utf-8"))
    tekken["config"]["version"] = version
    nano = tokenizer("v3")
    names = [nano.token_text(token_id) for token_id in range(1000)]
    names[20], names[21] = "[ARGS]", "[CALL_ID]"
    tekken["special_tokens"] = [
        {"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(names)
    ]
    path = Path(tempfile.mkdtemp()) / "tekken.json"
    path.write_text(json.dumps(tekken), encoding="utf-8")
    return path


@cache
def compiler(version: str) -> GrammarCompiler:
    return GrammarCompiler(tokenizer(version), tokenizer(version).vocab_size)


def written_by_mistral_common(version: str) -> list[int]:
    """The reply that makes CALLS, as it stands in a conversation, its end included."""
    messages = [parse_message(message) for message in (QUESTION, ASKED, *ANSWERS)]
    ids = list(tokenizer(version).encode_chat(messages, [], TOOLS).ids)
    start = ids.index(tokenizer(version).special_id("[TOOL_CALLS]"))
    return ids[start : ids.index(tokenizer(version).eos_id, start) + 1]


def read(version: str, ids: list[int]) -> tuple[str, list[ToolCall]]:
    """Text and calls of a reply that comes token by token."""
    reader, shown = ToolCallReader(tokenizer(version)), tokenizer(version).detokenizer()
    deltas = [reader.read(Delta(shown.add(token_id), (token_id,))) for token_id in ids]
    return "".join(delta.text for delta in deltas), [call for delta in deltas for call in delta.tool_calls]


@pytest.mark.parametrize("version", ["v3", "v7", "v11"])
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_what_mistral_common_writes_is_allowed_and_read_back(version: str, choice: str) -> None:
    ids = written_by_mistral_common(version)
    matcher = compiler(version).matcher(tool_grammar(Tools(TOOLS, choice), tokenizer(version)))
    words_W = torch.zeros(compiler(version).num_words, dtype=torch.int32)
    for token_id in ids:
        if token_id == tokenizer(version).eos_id and matcher.finished:
            break
        matcher.fill(words_W)
        assert unpack(words_W, tokenizer(version).vocab_size)[token_id], tokenizer(version).token_text(token_id)
        matcher.accept(token_id)
    text, calls = read(version, ids)
    assert text == ""
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [
        (name, json.loads(arguments)) for name, arguments, _ in CALLS
    ]
    assert [call.id for call in calls] == [call_id for _, _, call_id in CALLS]


def first_choices(version: str, choice: str = "auto", answer: Grammar | None = None) -> set[str]:
    """The special tokens with which a reply may begin, and "text" if it may begin with letters."""
    matcher = compiler(version).matcher(tool_grammar(Tools(TOOLS, choice), tokenizer(version), answer=answer))
    words_W = torch.zeros(compiler(version).num_words, dtype=torch.int32)
    matcher.fill(words_W)
    ids = set(unpack(words_W, tokenizer(version).vocab_size).nonzero()[:, 0].tolist())
    special = {tokenizer(version).token_text(token_id) for token_id in ids & tokenizer(version).special_ids}
    return special | ({"text"} if ids - tokenizer(version).special_ids else set())


@pytest.mark.parametrize("version", ["v3", "v7", "v11"])
def test_a_choice_of_tools_decides_how_a_reply_may_begin(version: str) -> None:
    assert first_choices(version) == {"[TOOL_CALLS]", "</s>", "text"}
    assert first_choices(version, choice="none") == {"</s>", "text"}
    named = {"type": "function", "function": {"name": "get-time"}}
    for choice in ("required", "any", named):
        assert first_choices(version, choice=choice) == {"[TOOL_CALLS]"}
    assert first_choices(version, answer=Grammar("json_object")) == {"[TOOL_CALLS]", "text"}


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    model = tiny_model(dataclasses.replace(CONFIG, vocab_size=1256, max_seq_len=2048))
    with LLM.from_parts(model, tokenizer("v3"), name="tiny") as llm:
        yield llm


@pytest.mark.parametrize("seed", range(4))
def test_a_random_model_calls_the_tools_as_they_are(llm: LLM, seed: int) -> None:
    params = SamplingParams(temperature=1.0, seed=seed, max_tokens=400)
    made = llm.chat([QUESTION], params, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    assert (made.text, made.finish_reason, len(made.tool_calls)) == ("", "stop", 1)
    call = made.tool_calls[0]
    schema = {tool["function"]["name"]: tool["function"].get("parameters", {"maxProperties": 0}) for tool in TOOLS}
    jsonschema.validate(json.loads(call.arguments), schema[call.name])
    assert re.fullmatch("[a-zA-Z0-9]{9}", call.id)
    again = {"role": "assistant", "tool_calls": [{"id": call.id, "function": dataclasses.asdict(call)}]}
    answer = {"role": "tool", "tool_call_id": call.id, "content": "3"}
    assert llm.chat([QUESTION, again, answer], SamplingParams(max_tokens=3), tools=TOOLS).token_ids


def test_several_calls_have_different_ids(llm: LLM) -> None:
    comma = llm.tokenizer.encode_text(",", bos=False)[0]
    params = SamplingParams(max_tokens=300, logit_bias={comma: 100})
    made = llm.chat([QUESTION], params, tools=[TOOLS[1]], tool_choice="required")
    assert len({call.id for call in made.tool_calls}) == len(made.tool_calls) > 1


def test_the_model_is_free_to_speak_or_to_call(llm: LLM) -> None:
    calls_id = llm.tokenizer.special_id("[TOOL_CALLS]")
    assert calls_id is not None
    liked = SamplingParams(temperature=1.0, seed=1, max_tokens=400, logit_bias={calls_id: 100})
    disliked = dataclasses.replace(liked, max_tokens=20, logit_bias={calls_id: -100})
    assert llm.chat([QUESTION], liked, tools=TOOLS, parallel_tool_calls=False).tool_calls
    spoken = llm.chat([QUESTION], disliked, tools=TOOLS)
    assert spoken.text
    assert not spoken.tool_calls
    silent = llm.chat([QUESTION], dataclasses.replace(liked, max_tokens=20), tools=TOOLS, tool_choice="none")
    assert calls_id not in silent.token_ids


def test_a_call_that_is_cut_off_is_left_out(llm: LLM) -> None:
    made = llm.chat([QUESTION], SamplingParams(max_tokens=20), tools=TOOLS, tool_choice="required")
    assert (made.text, made.tool_calls, made.finish_reason) == ("", (), "length")
    assert made.usage.completion_tokens == 20


@pytest.mark.parametrize("version", ["v7", "v11"])
def test_text_before_a_call_goes_on_at_once(version: str) -> None:
    made = tokenizer(version)
    before = made.encode_text("Let me see. é", bos=False)
    ids = [*before, *written_by_mistral_common(version)]
    text, calls = read(version, ids)
    assert text == "Let me see. é"
    assert len(calls) == 2
    reader, shown = ToolCallReader(made), made.detokenizer()
    for token_id in before:
        piece = shown.add(token_id)
        assert reader.read(Delta(piece, (token_id,))).text == piece


def test_text_that_was_held_back_comes_after_the_calls_have_begun() -> None:
    made = tokenizer("v7")
    ids = [*made.encode_text("wait\n#", bos=False), *written_by_mistral_common("v7")]
    shown = made.detokenizer()
    pieces = [shown.add(token_id) for token_id in ids]
    reader = ToolCallReader(made)
    # The engine held "\n#" for it might have begun a stop string; it comes with the last token.
    deltas = [Delta("wait", tuple(ids[:-1])), Delta("".join(pieces)[4:], (ids[-1],))]
    seen = [reader.read(delta) for delta in deltas]
    assert [delta.text for delta in seen] == ["wait", "\n#"]
    assert len(seen[0].tool_calls) == 2


def test_text_that_looks_like_a_call_is_text() -> None:
    plain = '[TOOL_CALLS][{"name": "get_price", "arguments": {}}]'
    assert read("v3", tokenizer("v3").encode_text(plain, bos=False)) == (plain, [])


def test_broken_calls_are_not_given_out() -> None:
    made = tokenizer("v3")
    calls_id = made.special_id("[TOOL_CALLS]")
    assert calls_id is not None
    for text in ("}}}}", '[{"name": "a", "arguments": nonsense}]', '[{"arguments": {}}]', "[" * 5000 + "}"):
        assert read("v3", [calls_id, *made.encode_text(text, bos=False)]) == ("", [])


def test_sentencepiece_may_begin_an_answer_with_its_space() -> None:
    made = tokenizer("v7")
    for grammar, text in ((Grammar("json_object"), '{"a": 1}'), (Grammar("choice", '["yes", "no"]'), "yes")):
        for opening in (text, " " + text):
            matcher = compiler("v7").matcher(grammar)
            shown = made.detokenizer()
            ids = [
                next(token for token in range(made.vocab_size) if made.token_bytes(token) == bytes([byte]))
                for byte in opening.encode()
            ]
            for token_id in ids:
                matcher.accept(token_id)
            assert matcher.finished
            assert "".join(map(shown.add, ids)) == text


def tool(**changes: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "look", **changes}}


@pytest.mark.parametrize(
    ("tools", "options", "words"),
    [
        ([], {"choice": "required"}, "needs tools"),
        (TOOLS, {"choice": "sometimes"}, "tool_choice 'sometimes' is unknown"),
        (TOOLS, {"choice": {"type": "function"}}, "is unknown; use none, auto"),
        (
            TOOLS,
            {"choice": {"type": "function", "function": {"name": "fly"}}},
            "'fly', which is not one of the tools",
        ),
        (TOOLS, {"choice": "required", "answer": Grammar("json_object")}, "leaves no room for an answer"),
        (TOOLS, {"answer": Grammar("regex", "a")}, "regex grammar cannot be combined with tools"),
        ([TOOLS[0], TOOLS[0]], {}, "two tools are named 'get_price'"),
        ([tool()] * 129, {}, "129 tools and the limit is 128"),
        (["look"], {}, "tool 0 must have the form"),
        ([{"function": {"name": "look"}}], {}, "tool 0 must have the form"),
        ([tool(name="a b")], {}, "tool 0 is named 'a b'; a tool's name is 1 to 64"),
        ([tool(name="x" * 65)], {}, "tool 0 is named 'xxx.*'; a tool's name is 1 to 64"),
        ([tool(parameters={"type": "string"})], {}, "parameters of tool 'look' must be"),
        ([tool(parameters=[1])], {}, "parameters of tool 'look' must be"),
        ([tool(parameters={"properties": {"a": {"enum": ["\ud800"]}}})], {}, "tool 'look': .*surrogate"),
    ],
)
def test_wrong_tools_are_refused_by_name(tools: Any, options: dict[str, Any], words: str) -> None:
    answer = options.get("answer")
    offered = Tools(tools, **{name: value for name, value in options.items() if name != "answer"})
    with pytest.raises(UsageError, match=words):
        tool_grammar(offered, tokenizer("v3"), answer=answer)


def test_an_unsupported_schema_names_its_tool_only_where_it_is_strict(llm: LLM) -> None:
    odd = tool(parameters={"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}})
    for strict in (None, False):
        odd["function"]["strict"] = strict
        for choice in ("auto", "required"):
            params = SamplingParams(max_tokens=3)
            assert llm.chat([QUESTION], params, tools=[*TOOLS, odd], tool_choice=choice).token_ids
    odd["function"]["strict"] = True
    for choice in ("auto", "required"):
        with pytest.raises(GrammarError, match="schema of tool 'look' uses 'uniqueItems', which is not supported"):
            llm.chat([QUESTION], tools=[*TOOLS, odd], tool_choice=choice)


def test_a_tool_that_is_too_much_is_followed_less_and_the_others_as_before(llm: LLM) -> None:
    """Its outline where that will do, else any object; a strict one is refused by name before a reply begins."""
    many = tool(name="many", parameters={"properties": {f"p{number}": {"type": "integer"} for number in range(1500)}})
    odd = tool(parameters={"properties": {"a": {"type": "string", "pattern": "[^]"}, "b": {"enum": [1, 2]}}})
    grammar = tool_grammar(Tools([*TOOLS, many, odd], "required"), tokenizer("v3"))
    for opening, allowed in (
        ('[{"name": "many", "arguments": {"p5": "', True),  # any object
        ('[{"name": "look", "arguments": {"a": "\\n', True),  # any text, for the pattern is none
        ('[{"name": "look", "arguments": {"b": 3', False),
        ('[{"name": "look", "arguments": {"b": 2', True),
        ('[{"name": "get_price", "arguments": {"item": 3', False),
    ):
        matcher = compiler("v3").matcher(grammar)
        calls_id = tokenizer("v3").special_id("[TOOL_CALLS]")
        assert calls_id is not None
        ids = [calls_id, *tokenizer("v3").encode_text(opening, bos=False)]
        assert (matcher.count_allowed(ids) == len(ids)) == allowed, opening
    for each, words in ((many, "tool 'many' is too complex"), (odd, "expression of the schema of tool 'look'")):
        each["function"]["strict"] = True
        with pytest.raises(GrammarError, match=words):
            llm.chat([QUESTION], tools=[*TOOLS, each])


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_formats_without_tool_calls_are_refused_by_name(version: str) -> None:
    with pytest.raises(UsageError, match=rf"chat format {version} has no tool calls"):
        tool_grammar(Tools(TOOLS), tokenizer(version))


def test_what_tools_make_impossible_is_refused(llm: LLM) -> None:
    with pytest.raises(UsageError, match="min_tokens cannot be combined with a grammar or tools"):
        llm.chat([QUESTION], SamplingParams(min_tokens=3), tools=TOOLS)
