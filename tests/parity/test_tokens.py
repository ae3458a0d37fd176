"""Token ids against mistral-common's own tokenizers, over generated conversations."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from PIL import Image as PILImage

from tessera.images import PreparedImage, prepare
from tessera.messages import Image, Message, parse_message
from tessera.model.config import VisionConfig
from tessera.prompt import Tokenizer, packaged_tokenizer_path

pytest.importorskip("cv2", reason="mistral-common's own image encoder needs OpenCV")

SHAPE = {
    "hidden_size": 64, "rope_theta": 1e4, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1,
    "image_size": 1024, "patch_size": 16,
}  # fmt: skip
FOLDER = packaged_tokenizer_path().parent
VERSIONS = {
    "v3": (FOLDER / "tekken_240911.json", VisionConfig(**SHAPE)),
    "v7": (
        FOLDER / "mistral_instruct_tokenizer_241114.model.v7m1",
        VisionConfig(**SHAPE, image_break_token_id=14, image_end_token_id=15),
    ),
}
TEXT = st.sampled_from(["What is this?", "[IMG] [INST] </s>", "Ünïcode ☃ 12,345", "a\n\nb", " lead", "x"])
SIZES = st.tuples(st.integers(1, 90), st.integers(1, 90))
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Finds a price",
        "parameters": {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]},
    },
}


@cache
def images() -> dict[tuple[int, int], PILImage.Image]:
    return {}


def plain_image(size: tuple[int, int]) -> PILImage.Image:
    return images().setdefault(size, PILImage.new("RGB", size, (size[0], size[1], 7)))


@cache
def tokenizers(version: str) -> tuple[Tokenizer, MistralTokenizer]:
    path, vision = VERSIONS[version]
    return Tokenizer.from_file(path, vision), MistralTokenizer.from_file(path)


@st.composite
def conversations(draw: Any) -> tuple[list[dict[str, Any]], bool]:
    """OpenAI-style messages that end with the user or a tool, and whether tools are offered."""
    messages: list[dict[str, Any]] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(TEXT)})
    with_tools = draw(st.booleans())
    for _ in range(draw(st.integers(0, 2))):
        messages += [{"role": "user", "content": draw(user_content())}, {"role": "assistant", "content": draw(TEXT)}]
    messages.append({"role": "user", "content": draw(user_content())})
    if with_tools and draw(st.booleans()):
        call = {"id": "abcDEF123", "type": "function", "function": {"name": "look_up", "arguments": '{"item": "tea"}'}}
        messages += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "abcDEF123", "name": "look_up", "content": draw(TEXT)},
        ]
    return messages, with_tools


def user_content() -> Any:
    part = TEXT | SIZES
    return TEXT | st.lists(part, min_size=1, max_size=5).filter(lambda parts: any(isinstance(p, str) for p in parts))


def theirs(version: str, messages: list[dict[str, Any]], tools: list[Any]) -> list[int]:
    from mistral_common.protocol.instruct.chunk import ImageChunk, TextChunk
    from mistral_common.protocol.instruct.messages import UserMessage

    converted: list[Any] = []
    plain = ChatCompletionRequest.from_openai(
        [m if m["role"] != "user" or isinstance(m["content"], str) else m | {"content": "-"} for m in messages],
        tools=tools or None,
    )
    for ours, message in zip(messages, plain.messages, strict=True):
        if ours["role"] == "user" and not isinstance(ours["content"], str):
            chunks = [
                TextChunk(text=p) if isinstance(p, str) else ImageChunk(image=plain_image(p)) for p in ours["content"]
            ]
            message = UserMessage(content=chunks)
        converted.append(message)
    request = ChatCompletionRequest(messages=converted, tools=plain.tools)
    return list(tokenizers(version)[1].encode_chat_completion(request).tokens)


@pytest.mark.parametrize("version", VERSIONS)
@given(conversation=conversations())
@settings(max_examples=120, deadline=None)
def test_ids_equal_the_reference(version: str, conversation: tuple[list[dict[str, Any]], bool]) -> None:
    if version == "v7":
        pytest.importorskip("sentencepiece", reason="Pixtral Large's tokenizer is a SentencePiece file")
    messages, with_tools = conversation
    tools = [TOOL] if with_tools else []
    ours: list[Message] = []
    images: list[PreparedImage] = []
    sizes: list[tuple[int, int]] = []
    for message in messages:
        content = message["content"]
        if message["role"] == "user" and not isinstance(content, str):
            sizes += [part for part in content if not isinstance(part, str)]
            content = [part if isinstance(part, str) else Image(plain_image(part)) for part in content]
        ours.append(parse_message(message | {"content": content}))
    tokenizer, _ = tokenizers(version)
    images = [prepare(plain_image(size), VERSIONS[version][1]) for size in sizes]
    prompt = tokenizer.encode_chat(ours, images, tools)
    assert list(prompt.ids) == theirs(version, messages, tools)
    # Each span lies over the ids of its own image, in the messages' order.
    assert [span.image for span in prompt.images] == images
    vision = VERSIONS[version][1]
    for span in prompt.images:
        rows, columns = span.image.grid
        covered = list(prompt.ids[span.start : span.start + span.length])
        row = [vision.image_token_id] * columns + [vision.image_break_token_id]
        assert covered == [*(row * rows)[:-1], vision.image_end_token_id]
