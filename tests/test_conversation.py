"""Histories as clients send them: mistral-common's ids where it takes them, our stated rules where it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mistral_common
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mistral_common.protocol.instruct.request import ChatCompletionRequest

from tessera.conversation import FUNCTION_NAME, MAX_JSON_DEPTH
from tessera.errors import ConversationError, UsageError
from tessera.messages import Image, Message, parse_message
from tessera.prompt import Tokenizer, packaged_tokenizer_path
from tests.engine.tiny import VISION, random_image
from tests.tokenizers import VERSIONS, ours, show, theirs

PACKAGED = Path(mistral_common.__file__).parent / "data"


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any = None, *ids: str, name: str = "f", arguments: Any = "{}") -> dict[str, Any]:
    calls = [{"id": i, "type": "function", "function": {"name": name, "arguments": arguments}} for i in ids]
    return {"role": "assistant", "content": content} | ({"tool_calls": calls} if calls else {})


def system(content: Any) -> dict[str, Any]:
    return {"role": "system", "content": content}


def result(call_id: str, content: Any = "ok") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def text(*parts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": part} for part in parts]


def encode(version: str, messages: list[dict[str, Any]], **more: Any) -> list[int]:
    return list(ours(version).encode_chat([parse_message(message) for message in messages], [], **more).ids)


def reference(version: str, messages: list[dict[str, Any]], tools: Any = None) -> list[int]:
    continues = messages[-1]["role"] == "assistant"
    request = ChatCompletionRequest.from_openai(messages, tools, continue_final_message=continues, model="m")
    return list(theirs(version).encode_chat_completion(request).tokens)


ONE, TWO = "callNumb1", "callNumb2"
CONTENT = st.sampled_from(["", "b", "a\n\nb", " ", text("", "b"), text("b", "", "c"), text("")])
MESSAGE = st.one_of(
    CONTENT.map(user),
    st.one_of(st.none(), st.just([]), CONTENT).map(assistant),
    CONTENT.map(system),
    st.tuples(st.one_of(st.none(), CONTENT), st.sampled_from([(ONE,), (TWO,), (ONE, TWO)])).map(
        lambda pair: assistant(pair[0], *pair[1])
    ),
    st.tuples(st.sampled_from([ONE, TWO]), CONTENT).map(lambda pair: result(*pair)),
)

# A first message of another role is taken by the reference without a look at its calls, or refused when alone.
CONVERSATION = st.tuples(st.one_of(CONTENT.map(user), CONTENT.map(system)), st.lists(MESSAGE, max_size=6)).map(
    lambda pair: [pair[0], *pair[1]]
)


@pytest.mark.parametrize("version", VERSIONS)
@settings(max_examples=200, deadline=None)
@given(messages=CONVERSATION)
def test_whatever_the_reference_takes_has_its_ids_and_the_rest_is_ours_or_named(
    version: str, messages: list[dict[str, Any]]
) -> None:
    try:
        expected = reference(version, messages)
    except Exception:  # it raises what it likes
        expected = None
    made: list[int] | ConversationError
    try:
        made = encode(version, messages)
    except ConversationError as error:
        made = error
    if not isinstance(made, ConversationError):
        assert expected in (None, made)
        return
    assert expected is None
    assert made.index is not None
    assert str(made).startswith(f"message {made.index} ({messages[made.index]['role']}) ")
    assert not answered(messages)


def answered(messages: list[dict[str, Any]]) -> bool:
    """OpenAI's rule for histories: each call has its one result among the tool messages right after it."""
    open_ids: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_ids:
                return False
            open_ids.remove(message["tool_call_id"])
        elif open_ids:
            return False
        open_ids += [call["id"] for call in message.get("tool_calls", ())]
    return not open_ids


CALL = '[TOOL_CALLS][{"name": "f", "arguments": {}, "id": "callNumb1"}]</s>'
OK = '[TOOL_RESULTS]{"content": "ok", "call_id": "callNumb1"}[/TOOL_RESULTS]'
OK_7 = "[TOOL_RESULTS]callNumb1[TOOL_CONTENT]ok[/TOOL_RESULTS]"


@pytest.mark.parametrize("empty", ["", None, [], text(""), text("", "")])
@pytest.mark.parametrize("version", VERSIONS)
def test_an_empty_turn_of_the_assistant_is_left_out_wherever_it_stands(version: str, empty: Any) -> None:
    for without, turns in (
        ([user("A"), user("B")], [user("A"), assistant(empty), user("B")]),
        ([user("A")], [user("A"), assistant(empty)]),
        ([user("A"), assistant("x"), user("B")], [user("A"), assistant("x"), assistant(empty), user("B")]),
        ([user("A"), assistant("x")], [user("A"), assistant("x"), assistant(empty)]),
        ([user("A"), assistant(None, ONE), result(ONE), user("B")],
         [user("A"), assistant(empty, ONE), result(ONE), assistant(empty), user("B")]),
        ([user("A")], [assistant(empty), user("A")]),
        ([user("")], [assistant(empty)]),
    ):  # fmt: skip
        assert encode(version, turns) == reference(version, without)
    left_out = {key: value for key, value in assistant(empty).items() if key == "role"}
    assert encode(version, [user("A"), left_out, user("B")]) == reference(version, [user("A"), user("B")])


@pytest.mark.parametrize(
    ("messages", "v3", "v7"),
    [
        (
            [user("A"), assistant("B"), system("C"), user("D")],
            "[INST]A[/INST]B</s>[INST]C\n\nD[/INST]",
            "[INST]A[/INST][SYSTEM_PROMPT]C[/SYSTEM_PROMPT]B</s>[INST]D[/INST]",
        ),
        (
            [system("S"), user("A"), assistant("B"), system("C"), system("E"), user("D")],
            "[INST]A[/INST]B</s>[INST]S\n\nC\n\nE\n\nD[/INST]",
            "[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][INST]A[/INST][SYSTEM_PROMPT]C[/SYSTEM_PROMPT]"
            "[SYSTEM_PROMPT]E[/SYSTEM_PROMPT]B</s>[INST]D[/INST]",
        ),
        (
            [user("A"), assistant("B"), system("C")],
            "[INST]A[/INST]B</s>[INST]C\n\n[/INST]",
            "[INST]A[/INST]B</s>[INST][/INST][SYSTEM_PROMPT]C[/SYSTEM_PROMPT]",
        ),
        (
            [user("A"), assistant(None, ONE), result(ONE), system("C")],
            f"[INST]C\n\nA[/INST]{CALL}{OK}",
            f"[INST]A[/INST][SYSTEM_PROMPT]C[/SYSTEM_PROMPT]{CALL}{OK_7}",
        ),
        (
            [user("A"), assistant(None, ONE), system("C"), result(ONE)],
            f"[INST]C\n\nA[/INST]{CALL}{OK}",
            f"[INST]A[/INST][SYSTEM_PROMPT]C[/SYSTEM_PROMPT]{CALL}{OK_7}",
        ),
        (
            [user("A"), assistant("I look.", ONE), result(ONE)],
            f"[INST]A[/INST]{CALL}{OK}",
            f"[INST]A[/INST]I look.{CALL}{OK_7}",
        ),
        (
            [user("A"), assistant("I"), assistant(None, ONE), result(ONE)],
            f"[INST]A[/INST]{CALL}{OK}",
            f"[INST]A[/INST]I{CALL}{OK_7}",
        ),
        (
            [user("A"), assistant(None, ONE), assistant("I"), result(ONE)],
            f"[INST]A[/INST]{CALL}{OK}",
            f"[INST]A[/INST]I{CALL}{OK_7}",
        ),
        (
            [user("A"), assistant("I"), assistant("J", ONE), assistant("K"), result(ONE)],
            f"[INST]A[/INST]{CALL}{OK}",
            f"[INST]A[/INST]I\n\nJ\n\nK{CALL}{OK_7}",
        ),
        ([assistant("x")], "[INST][/INST]x", "[INST][/INST]x"),
        ([assistant(None, ONE), result(ONE)], f"[INST][/INST]{CALL}{OK}", f"[INST][/INST]{CALL}{OK_7}"),
    ],
)
def test_what_the_reference_refuses_is_written_by_rule(messages: list[dict[str, Any]], v3: str, v7: str) -> None:
    assert show("v3", encode("v3", messages)) == f"<s>{v3}"
    assert show("v7", encode("v7", messages)) == f"<s>{v7}"


@pytest.mark.parametrize(
    ("messages", "index", "words"),
    [
        ([user("A"), assistant("", ONE)], 1, "calls 'f' .* the conversation ends before a tool message answers"),
        ([user("A"), assistant("", ONE), user("B")], 1, r"message 2 \(user\) follows before a tool message answers"),
        ([user("A"), assistant("", ONE, TWO), result(ONE), user("B")], 1, f"id '{TWO}'.*message 3"),
        ([user("A"), assistant("", ONE, TWO), result(TWO)], 1, f"id '{ONE}'.*ends"),
        ([user("A"), assistant("", ONE), result(ONE), result(TWO)], 3, "one result too many: message 1 makes 1 call"),
        ([user("A"), result(ONE)], 1, "answers no call"),
        ([user("A"), assistant("x"), result(ONE)], 2, "answers no call"),
        ([user("A"), assistant("", ONE), user("B"), result(ONE)], 1, r"message 2 \(user\) follows"),
        ([user("A"), {"role": "tool", "content": "x"}], 1, "has no tool_call_id"),
        ([user("A"), assistant("", ONE, name="a.b"), result(ONE)], 1, "calls 'a.b'; a tool's name is"),
        ([user("A"), assistant("", ONE, name="a b"), result(ONE)], 1, "calls 'a b'"),
        ([user("A"), assistant("", ONE, name="x" * 65), result(ONE)], 1, "calls 'xxx"),
        ([user("A"), assistant("", ONE, arguments=[1]), result(ONE)], 1, "neither JSON text nor an object"),
        ([user("A"), assistant("", ONE, arguments="[" * 5000), result(ONE)], 1, "arguments .* levels deep"),
        ([user("A"), assistant("", ONE, arguments='{"a":' * 300 + "1" + "}" * 300), result(ONE)], 1, "levels deep"),
        ([user("A"), assistant("", ONE, arguments="9" * 5000), result(ONE)], 1, "too many digits"),
        ([user("A"), assistant("", ONE), result(ONE, "[" * 100_000)], 2, "its result .* levels deep"),
        ([user("A"), assistant("", ONE), result(ONE, "9" * 5000)], 2, "its result .* too many digits"),
        ([user("A"), user("B") | {"tool_calls": [{"id": ONE}]}], 1, "has tool_calls; only messages of the assistant"),
        ([user("A"), {"role": "assistant", "tool_calls": [{"id": ONE}]}], 1, "tool call .number 0. that must have"),
        ([user("A"), {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}], 1, "must have the form"),
        ([user("A"), system([Image("x.png")])], 1, "holds an image; only messages of the user and results"),
        ([user("A"), assistant([Image("x.png")])], 1, "holds an image"),
    ],
)
def test_what_is_refused_names_the_message_and_the_cause(
    messages: list[dict[str, Any]], index: int, words: str
) -> None:
    parsed = [parse_message(message) for message in messages]
    with pytest.raises(ConversationError, match=words) as caught:
        ours("v3").encode_chat(parsed, [random_image(0, 1, 1)] * sum(len(message.images) for message in parsed))
    assert caught.value.index == index
    assert str(caught.value).startswith(f"message {index} ({messages[index]['role']}) ")
    assert len(str(caught.value)) < 300


def test_an_answer_may_come_first() -> None:
    for version in VERSIONS:
        messages = [assistant("hi"), user("A")]
        assert encode(version, messages) == reference(version, messages)


def test_results_pair_by_id_where_the_format_writes_no_ids_in_them() -> None:
    swapped = [user("A"), assistant("", ONE, TWO), result(TWO, "2"), result(ONE, "1")]
    for version in VERSIONS:
        assert encode(version, swapped) == reference(version, swapped)
    other = [user("A"), assistant("", ONE), result(TWO)]
    assert encode("v3", other) == reference("v3", other)
    for wrong, words in (
        (other, f"answers the call '{TWO}', which message 1 does not make"),
        ([user("A"), assistant("", ONE, ONE), result(ONE), result(ONE)], "two calls with the same id"),
        ([user("A"), assistant("", ONE, TWO), result(ONE), result(ONE)], "a second time"),
    ):
        with pytest.raises(ConversationError, match=words):
            encode("v11", wrong)


def test_a_results_name_is_free_where_the_format_does_not_write_it() -> None:
    plain = [user("A"), assistant("", ONE), result(ONE)]
    named = [*plain[:2], result(ONE) | {"name": "mcp.look up"}]
    for version in VERSIONS:
        if version == "v2":
            with pytest.raises(ConversationError, match=r"is named 'mcp\.look up'"):
                encode(version, named)
        elif version != "v1":
            assert encode(version, named) == encode(version, plain)


def spans(version: str, messages: list[Message]) -> tuple[str, list[tuple[int, int]]]:
    """The prompt with each image as <rows x columns>, and the grids in the order of the spans."""
    images = [random_image(seed, seed + 1, 2) for seed, _ in enumerate(i for m in messages for i in m.images)]
    prompt = ours(version).encode_chat(messages, images)
    assert [id(span.image) for span in prompt.images] == [id(image) for image in images]
    written = show(version, prompt.ids)
    for rows in range(len(images), 0, -1):
        written = written.replace("[IMG_BREAK]".join(["[IMG][IMG]"] * rows) + "[IMG_END]", f"<{rows}x2>")
    return written, [span.image.grid for span in prompt.images]


def test_images_of_a_result_follow_it_as_the_users_turn() -> None:
    shown = Image("x.png")
    asked = [Message("user", ("A",)), parse_message(assistant(None, ONE))]
    answer = Message("tool", ("ok", shown), (), ONE)
    head = f"<s>[INST]A[/INST]{CALL}{OK}"
    assert spans("v3", [*asked, answer])[0] == f"{head}[INST]<1x2>[/INST]"
    assert spans("v3", [*asked, answer, Message("user", ("B",))])[0] == f"{head}[INST]<1x2>B[/INST]"
    assert spans("v3", [*asked, answer, Message("assistant", ("B",))])[0] == f"{head}[INST]<1x2>[/INST]B"
    two = [Message("user", (shown, "A")), parse_message(assistant(None, ONE, TWO))]
    more = [Message("tool", (shown, "1"), (), ONE), Message("tool", (shown,), (), TWO), Message("user", ("B", shown))]
    written, grids = spans("v3", [*two, *more])
    assert written.endswith("[/TOOL_RESULTS][INST]<2x2><3x2>B<4x2>[/INST]")
    assert grids == [(1, 2), (2, 2), (3, 2), (4, 2)]
    # The format of version 15 has images in results, and they stay there.
    written, _ = spans("v15", [*asked, answer])
    assert written.endswith("[TOOL_RESULTS]ok<1x2>[/TOOL_RESULTS]")


TOOL = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "null"}}}}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("function", "beside"),
    [
        ({"strict": None}, {}),
        ({"strict": True}, {}),
        ({"strict": False}, {}),
        ({"description": None}, {}),
        ({"parameters": None}, {}),
        ({"description": None, "parameters": None, "strict": None}, {}),
        ({"return": {"type": "string"}}, {}),
        ({"returns": "text", "annotations": {"readOnlyHint": True}, "output_schema": None}, {}),
        ({"output_schema": {"type": "object"}}, {"cache_control": None}),
        ({}, {"cache_control": {"type": "ephemeral"}}),
        ({"parameters": {"properties": {"a": {"default": None, "enum": [None, 1], "const": None}}}}, {}),
    ],
)
def test_a_tool_is_written_as_the_reference_writes_it(
    version: str, function: dict[str, Any], beside: dict[str, Any]
) -> None:
    tools = [{"type": "function", "function": TOOL | function} | beside]
    assert encode(version, [user("A")], tools=tools) == reference(version, [user("A")], tools)


def test_a_schema_beyond_the_references_draft_is_written_as_it_is() -> None:
    odd = {"type": "object", "required": None, "properties": {"a": {"type": "any", "pattern": r"\p{L}+"}}}
    tools = [{"type": "function", "function": TOOL | {"parameters": odd}}]
    with pytest.raises(Exception, match="schema"):
        reference("v3", [user("A")], tools)
    assert r'"required": null, "properties": {"a": {"type": "any", "pattern": "\\p{L}+"}}' in show(
        "v3", encode("v3", [user("A")], tools=tools)
    )


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        ("f", "tool 0 must have the form"),
        ({"type": "function"}, "tool 0 must have the form"),
        ({"type": "web_search", "function": TOOL}, "tool 0 must have the form"),
        ({"type": "function", "function": TOOL | {"name": "a.b"}}, "tool 0 is named"),
        ({"type": "function", "function": TOOL | {"description": 5}}, "tool 'f' must have a text as description"),
        ({"type": "function", "function": TOOL | {"parameters": [1]}}, "tool 'f' must have .* schema as parameters"),
    ],
)
def test_a_wrong_tool_is_named(tool: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        encode("v3", [user("A")], tools=[tool])


@pytest.mark.parametrize("name", ["tokenizer.model.v1", "mistral_instruct_tokenizer_240216.model.v2"])
def test_old_formats_speak_and_say_what_they_lack(name: str) -> None:
    pytest.importorskip("sentencepiece", reason="the older tokenizers are SentencePiece files")
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    tokenizer, peer = Tokenizer.from_file(PACKAGED / name, VISION), MistralTokenizer.from_file(PACKAGED / name)
    messages = [system("S"), user("A"), assistant("B"), user("C")]
    expected = peer.encode_chat_completion(ChatCompletionRequest.from_openai(messages, model="m")).tokens
    assert list(tokenizer.encode_chat([parse_message(message) for message in messages], []).ids) == expected
    with pytest.raises(ConversationError, match=r"message 0 \(user\) holds an image, and .* format v. has none"):
        tokenizer.encode_chat([Message("user", (Image("x.png"),))], [random_image(0, 1, 1)])
    if name.endswith("v1"):
        with pytest.raises(ConversationError, match=r"message 1 \(assistant\) is a tool message, and .* v1 has none"):
            tokenizer.encode_chat([parse_message(each) for each in (user("A"), assistant("", ONE), result(ONE))], [])


def test_a_run_of_spaces_that_the_tokenizer_reads_too_slowly_is_named() -> None:
    tokenizer = Tokenizer.from_file(packaged_tokenizer_path(), VISION)
    spaces = " " * 1_100_000
    for encode_spaces in (
        lambda: tokenizer.encode_text(spaces + "x"),
        lambda: tokenizer.encode_chat([Message("user", (f"a {spaces}",))], []),
        lambda: tokenizer.encode_chat([Message("system", (spaces + "b",)), Message("user", ("a",))], []),
    ):
        with pytest.raises(UsageError, match=r"the text has 1,100,00\d spaces .* in a row"):
            encode_spaces()
    shorter = tokenizer.encode_text(" " * 150_000, bos=False)
    assert tokenizer.decode(shorter) == " " * 150_000


def test_arguments_may_be_as_deep_as_stated() -> None:
    for depth in (MAX_JSON_DEPTH, MAX_JSON_DEPTH + 1):
        messages = [user("A"), assistant("", ONE, arguments="[" * depth + "1" + "]" * depth), result(ONE)]
        if depth == MAX_JSON_DEPTH:
            assert encode("v3", messages) == reference("v3", messages)
        else:
            with pytest.raises(ConversationError, match="levels deep"):
                encode("v3", messages)


def test_names_are_what_the_reference_takes() -> None:
    for name in ("a", "a-b_C9", "x" * 64, "x" * 65, "", "a.b", "a b", "é"):
        messages = [user("A"), assistant("", ONE, name=name), result(ONE)]
        try:
            taken = reference("v3", messages) is not None
        except Exception:  # refused
            taken = False
        assert taken == (FUNCTION_NAME.fullmatch(name) is not None)
