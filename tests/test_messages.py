"""One reader of messages: what it takes, and that every wrong field is refused by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage

from tessera.errors import UsageError
from tessera.messages import Image, Message, parse_message, parse_messages

IMAGE = PILImage.new("RGB", (4, 4))
OPENAI_DUMP = {
    "role": "assistant", "content": None, "refusal": None, "annotations": [], "audio": None, "function_call": None,
    "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}  # fmt: skip


@pytest.mark.parametrize("source", ["x.png", Path("x.png"), b"bytes", IMAGE], ids=["text", "path", "bytes", "pil"])
def test_an_image_is_whatever_the_library_reads(source: Any) -> None:
    for part in (
        {"type": "image_url", "image_url": source},
        {"type": "image_url", "image_url": {"url": source, "detail": "auto"}},
        {"type": "input_image", "image_url": source},
        {"type": "image", "image": source},
        Image(source),
    ):
        assert parse_message({"role": "user", "content": [part]}).content == (Image(source),)
    low = {"type": "image_url", "image_url": {"url": source, "detail": "low"}}
    assert parse_message({"role": "user", "content": [low]}).images == [Image(source, low_detail=True)]


@pytest.mark.parametrize("kind", ["text", "input_text", "output_text"])
def test_texts_keep_their_order_and_silent_parts_are_left_out(kind: str) -> None:
    content = [{"type": kind, "text": "a"}, {"type": "thinking", "thinking": []}, "b", {"type": kind, "text": ""}]
    assert parse_message({"role": "user", "content": content}).content == ("a", "b", "")


def test_what_openais_client_dumps_of_a_reply_is_taken() -> None:
    message = parse_message(OPENAI_DUMP)
    assert (message.role, message.content, len(message.tool_calls)) == ("assistant", (), 1)
    assert parse_message({"role": "developer", "content": "x"}) == Message("system", ("x",))
    assert parse_message(message) is message


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("hi", ""),
        (["role", "user"], ""),
        ({"content": "x"}, ".role"),
        ({"role": ["user"], "content": "x"}, ".role"),
        ({"role": "robot", "content": "x"}, ".role"),
        ({"role": "user", "content": 5}, ".content"),
        ({"role": "user", "content": b"x"}, ".content"),
        ({"role": "user", "content": [5]}, ".content.0"),
        ({"role": "user", "content": ["a", {"text": "x"}]}, ".content.1"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, ".content.0.text"),
        ({"role": "user", "content": [{"type": "text", "text": None}]}, ".content.0.text"),
        ({"role": "user", "content": [{"type": ["text"], "text": "x"}]}, ".content.0"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": ""}]}, ".content.0"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": None}}]}, ".content.0"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x", "detail": 3}}]}, ".content.0"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x", "detail": []}}]}, ".content.0"),
        ({"role": "user", "content": [{"type": "video_url", "video_url": "x"}]}, ".content.0"),
        ({"role": "tool", "content": "x", "tool_call_id": 7}, ".tool_call_id"),
        ({"role": "tool", "content": "x", "tool_call_id": "a", "name": 5}, ".name"),
        ({"role": "assistant", "tool_calls": 5}, ".tool_calls"),
        ({"role": "assistant", "tool_calls": {"id": "a"}}, ".tool_calls"),
        ({"role": "assistant", "tool_calls": ["f"]}, ".tool_calls"),
        ({"role": "assistant", "function_call": {"name": "f"}}, ".function_call"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("lenient", [False, True])
def test_a_wrong_field_is_refused_by_its_name(message: Any, field: str, lenient: bool) -> None:
    with pytest.raises(UsageError) as caught:
        parse_messages([{"role": "user", "content": "x"}, message], lenient=lenient)
    assert caught.value.param == f"messages.1{field}"
    assert str(caught.value).startswith(f"messages.1{field}")


def test_only_the_strict_reader_refuses_unknown_fields_and_absent_content() -> None:
    unknown = {"role": "user", "content": "x", "contents": "y"}
    with pytest.raises(UsageError, match=r"^messages\.0\.contents is unknown; did you mean content\?"):
        parse_messages([unknown])
    assert parse_messages([unknown], lenient=True) == [Message("user", ("x",))]
    assert parse_messages([{"role": "user", "content": "x", "contents": None}]) == [Message("user", ("x",))]
    with pytest.raises(UsageError, match=r"^messages\.0\.content is missing"):
        parse_messages([{"role": "user"}])
    assert parse_messages([{"role": "user"}], lenient=True) == [Message("user", ())]


def test_a_prefix_is_the_last_message_of_the_assistant() -> None:
    prefix = {"role": "assistant", "content": "x", "prefix": True}
    question = {"role": "user", "content": "x"}
    assert len(parse_messages([question, prefix])) == 2
    for wrong in ([prefix, question], [question | {"prefix": True}]):
        with pytest.raises(UsageError, match="prefix may only be true in a last message of the assistant"):
            parse_messages(wrong)
