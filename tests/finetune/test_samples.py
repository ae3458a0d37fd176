"""Labels checked against mistral-common's own tokens, and what becomes of samples that are too long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import InstructRequest
from PIL import Image as PILImage

from tessera.errors import PromptTooLongError
from tessera.finetune.data import Conversation
from tessera.finetune.samples import Encoder, Sample
from tessera.messages import Image, Message
from tessera.sources import ImageLimits
from tests.engine.tiny import VISION
from tests.tokenizers import VERSIONS, ours, theirs

TOOL = {"type": "function", "function": {"name": "look", "parameters": {}}}
CALL = {"id": "abcdefghi", "function": {"name": "look", "arguments": "{}"}}


def encoder(version: str = "v3", *, max_tokens: int = 1000, too_long: str = "stop") -> Encoder:
    return Encoder(ours(version), VISION, max_tokens=max_tokens, too_long=too_long, limits=ImageLimits())


def talk(*texts: str, system: str = "", taught: set[int] | None = None, tools: tuple[Any, ...] = ()) -> Conversation:
    """Turns of user and assistant in alternation, after a system prompt."""
    turns = [Message("assistant" if number % 2 else "user", (text,)) for number, text in enumerate(texts)]
    messages = (*([Message("system", (system,))] if system else []), *turns)
    every = {number for number, message in enumerate(messages) if message.role == "assistant"}
    return Conversation("data.jsonl, line 1", "data", messages, frozenset(taught or every), tools)


def trained(sample: Sample, version: str = "v3") -> list[str]:
    """The trained stretches as text, each with its end token as a bar."""
    tokenizer, parts, before = ours(version), [], 0
    for token, label in zip(sample.ids, sample.labels, strict=True):
        if label:
            parts += [] if before else [""]
            parts[-1] += "|" if token == tokenizer.eos_id else tokenizer.token_text(token)
        before = label
    return parts


@pytest.mark.parametrize("version", VERSIONS)
def test_ids_are_those_of_mistral_common(version: str) -> None:
    (sample,) = encoder(version).encode(talk("Hi", "Hello there", "And now?", "Good bye"))
    messages = [
        UserMessage(content="Hi"), AssistantMessage(content="Hello there"),
        UserMessage(content="And now?"), AssistantMessage(content="Good bye"),
    ]  # fmt: skip
    encoded = theirs(version).instruct_tokenizer.encode_instruct(InstructRequest(messages=messages))
    assert list(sample.ids) == encoded.tokens
    assert trained(sample, version) == ["Hello there|", "Good bye|"]


def test_only_turns_with_weight_are_trained() -> None:
    (sample,) = encoder().encode(talk("a", "bb", "c", "dd", "e", "ff", taught={1, 5}))
    assert trained(sample) == ["bb|", "ff|"]
    (sample,) = encoder().encode(talk("a", "bb", "c", "dd", taught={1}))
    assert trained(sample) == ["bb|"]
    assert sample.ids[-1] == ours("v3").eos_id, "what follows the last trained turn is left out"
    assert len(sample) == 7  # with its begin, [INST], a, [/INST]


def test_v3_with_a_system_prompt_is_one_sequence_for_each_turn() -> None:
    """Each shows the system prompt before its own question, as the model would be asked."""
    made = encoder().encode(talk("a", "bb", "c", "dd", system="S"))
    assert [trained(each) for each in made] == [["bb|"], ["dd|"]]
    messages = [SystemMessage(content="S"), UserMessage(content="a"), AssistantMessage(content="bb")]
    instruct = theirs("v3").instruct_tokenizer
    request: Any = InstructRequest(messages=messages[1:], system_prompt="S")
    assert list(made[0].ids) == instruct.encode_instruct(request).tokens
    assert "S\n\na" in ours("v3").decode(made[0].ids)
    assert "S\n\nc" in ours("v3").decode(made[1].ids)
    assert "S" not in ours("v3").decode(made[1].ids).partition("c")[0].partition("bb")[0]


def test_later_formats_keep_such_a_conversation_in_one_sequence() -> None:
    (sample,) = encoder("v7").encode(talk("a", "bb", "c", "dd", system="S"))
    assert trained(sample, "v7") == ["bb|", "dd|"]


def test_tools_split_as_well_and_a_call_is_trained() -> None:
    messages = (
        Message("user", ("a",)), Message("assistant", (), (CALL,)),
        Message("tool", ("1",), tool_call_id="abcdefghi"), Message("assistant", ("bb",)),
        Message("user", ("c",)), Message("assistant", ("dd",)),
    )  # fmt: skip
    row = Conversation("x", "x", messages, frozenset({1, 3, 5}), (TOOL,))
    made = encoder().encode(row)
    assert len(made) == 2  # the call and its answer share their prompt
    assert len(trained(made[0])) == 2
    assert "look" in trained(made[0])[0]
    assert trained(made[0])[1] == "bb|"
    assert trained(made[1]) == ["dd|"]


def page(folder: Path, width: int, height: int) -> Image:
    path = folder / f"{width}x{height}.png"
    PILImage.new("RGB", (width, height), "blue").save(path)
    return Image(path)


def shours(image: Image) -> Conversation:
    messages = (Message("user", (image, "What?")), Message("assistant", ("Blue",)))
    return Conversation("line 1", "data", messages, frozenset({1}))


def test_images_are_whole_and_never_trained(tmp_path: Path) -> None:
    size = VISION.token_size
    (sample,) = encoder().encode(shours(page(tmp_path, 3 * size, 2 * size)))
    kinds = [VISION.image_token_id] * 3 + [VISION.image_break_token_id] + [VISION.image_token_id] * 3
    assert list(sample.ids[2 : 2 + 8]) == [*kinds, VISION.image_end_token_id]
    assert trained(sample) == ["Blue|"]
    assert sample.images[0].pixels(VISION, ImageLimits()).shape == (3, 2 * size, 3 * size)


def test_a_long_sample_is_shrunk_dropped_or_stopped_by_name(tmp_path: Path) -> None:
    size = VISION.token_size
    row = shours(page(tmp_path, 12 * size, 10 * size))
    (whole,) = encoder(max_tokens=10_000).encode(row)
    limit = len(whole) - 1
    with pytest.raises(PromptTooLongError, match=f"{len(whole)} tokens.*limit is {limit}"):
        encoder(max_tokens=limit).encode(row)
    (shrunk,) = encoder(max_tokens=limit, too_long="shrink").encode(row)
    assert len(shrunk) <= limit
    assert shrunk.images[0].shrunk
    assert shrunk.ids.count(VISION.image_token_id) == shrunk.images[0].grid[0] * shrunk.images[0].grid[1]
    assert trained(shrunk) == ["Blue|"]
    found = encoder(max_tokens=limit, too_long="shrink").encode_all([row])
    assert (found.counts["rows"], found.counts["shrunk"], len(found.samples)) == (1, 1, 1)
    dropped = encoder(max_tokens=limit, too_long="drop").encode_all([row, row])
    assert (dropped.counts["dropped"], dropped.samples, dropped.problems) == (2, [], [])
    stopped = encoder(max_tokens=limit).encode_all([row])
    assert [problem.code for problem in stopped.problems] == ["too_long"]


def test_shrinking_never_cuts_text(tmp_path: Path) -> None:
    with pytest.raises(PromptTooLongError, match="of them text"):
        encoder(max_tokens=20, too_long="shrink").encode(talk("a" * 40, "b"))


def test_a_damaged_image_is_a_problem_of_its_row(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    found = encoder().encode_all([shours(Image(tmp_path / "bad.png")), talk("a", "bb")])
    assert [problem.code for problem in found.problems] == ["invalid_image"]
    assert len(found.samples) == 1
