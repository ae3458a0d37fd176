"""Messages to token ids and back, by mistral-common, the model's own tokenizer library.

The chat format of every version (v3 for Pixtral 12B, v7 and later for its relatives) is
mistral-common's; only the image encoder is ours, because pixels are prepared elsewhere and never
fetched here. User text cannot become a control token. Ids go back to text whole characters at a time.
"""

from __future__ import annotations

import codecs
import hashlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from tessera.chat import Image, Message
from tessera.errors import CheckpointError, MissingExtraError, UsageError
from tessera.images import PreparedImage
from tessera.model.config import VisionConfig

TOOL_CALL_ID = re.compile(r"[a-zA-Z0-9]{9}")
WRITTEN_BY_MODELS = {"[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"}  # the latter two since v11
VISIBLE_SPACE = "▁"  # how SentencePiece writes a space
BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class ImageSpan:
    """Where a picture sits in the prompt: `length` ids from `start`, its break and end tokens included."""

    start: int
    length: int
    image: PreparedImage


@dataclass(frozen=True)
class Prompt:
    """A tokenized conversation; the spans are in reading order and do not overlap."""

    ids: tuple[int, ...]
    images: tuple[ImageSpan, ...] = ()


class Tokenizer:
    """One model's tokenizer; safe to share between threads."""

    def __init__(self, mistral: Any, vision: VisionConfig, path: Path) -> None:
        self._mistral = mistral
        self._path = path
        self._base = mistral.instruct_tokenizer.tokenizer
        self._vision = vision
        # Ours stands in for the encoder that would need OpenCV and could fetch.
        mistral.instruct_tokenizer.image_encoder = self._encode_image

    @classmethod
    def from_file(cls, path: Path, vision: VisionConfig) -> Tokenizer:
        """Read tekken.json or a SentencePiece .model file; raises CheckpointError for anything else."""
        if path.suffix != ".json" and importlib.util.find_spec("sentencepiece") is None:
            raise MissingExtraError(
                "this model's tokenizer needs an extra package: pip install 'tessera[sentencepiece]'"
            )
        from mistral_common.protocol.instruct.validator import ValidationMode
        from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

        if not path.is_file():
            raise CheckpointError(f"{path} is missing; it is the tokenizer, download it with the model.")
        try:
            return cls(MistralTokenizer.from_file(path, mode=ValidationMode.serving), vision, path)
        except Exception as error:  # a damaged file raises whatever its parser meets first
            raise CheckpointError(
                f"{path} is not a tokenizer that mistral-common can read; download it again."
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        # mistral-common's pickle would come back with its own image encoder.
        return Tokenizer.from_file, (self._path, self._vision)

    @property
    def bos_id(self) -> int:
        return int(self._base.bos_id)

    @property
    def eos_id(self) -> int:
        return int(self._base.eos_id)

    @property
    def vocab_size(self) -> int:
        return int(self._base.n_words)

    @property
    def version(self) -> str:
        """The chat format's version as its file names it, for example "v3"."""
        return str(self._base.version.value)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text: control tokens, images, unused places."""
        return frozenset(token for token in range(self.vocab_size) if self._base.is_special(token))

    @cached_property
    def prompt_only_ids(self) -> frozenset[int]:
        """Special ids that a model never writes itself: all but the end and those of a tool call."""
        written = {token for token in self.special_ids if self._base.id_to_piece(token) in WRITTEN_BY_MODELS}
        return self.special_ids - written - {self.eos_id}

    def special_id(self, piece: str) -> int | None:
        """The id of a special token by its name, for example "[TOOL_CALLS]"; None if this tokenizer has none."""
        return self._special_pieces.get(piece)

    @cached_property
    def _special_pieces(self) -> dict[str, int]:
        return {str(self._base.id_to_piece(token)): token for token in self.special_ids}

    def least_tokens(self, num_characters: int) -> int:
        """Fewer tokens than this no text of that many characters has, whatever it says; needs no tokenizing."""
        return num_characters // self._longest_token

    @cached_property
    def _longest_token(self) -> int:
        """In bytes, of which a character has at least one."""
        return max(len(self.token_bytes(token)) for token in range(self.vocab_size))

    def encode_text(self, text: str, bos: bool = True) -> list[int]:
        """Ids of plain text; nothing in it is read as a control token."""
        return list(self._base.encode(text, bos=bos, eos=False))

    def encode_chat(
        self,
        messages: Sequence[Message],
        images: Sequence[PreparedImage],
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> Prompt:
        """The whole conversation as the model expects it; `images` are the messages' pictures in order.

        A last message of the assistant is continued. Raises UsageError for a conversation that the
        format does not allow.
        """
        count = sum(len(message.images) for message in messages)
        if count != len(images):
            raise ValueError(f"the messages have {count} pictures, {len(images)} were prepared")
        encoded = self._encode(_request(messages, images, tools))
        ids = tuple(int(token) for token in encoded.tokens)
        return Prompt(ids, tuple(self._find_spans(ids, [images[int(number)] for number in encoded.images])))

    def _encode(self, request: Any) -> Any:
        from mistral_common.exceptions import MistralCommonException

        try:
            return self._mistral.encode_chat_completion(request)
        except (MistralCommonException, ValueError) as error:
            raise UsageError(
                "the model's chat format does not allow this conversation: after an optional system message, user "
                "and assistant take turns, tool results follow the calls they answer, and the last word is the "
                "user's, a tool's, or an assistant's text to continue."
            ) from error

    def _encode_image(self, chunk: Any) -> Any:
        """mistral-common's image encoder interface: ids, and in the pixels' place the picture's number."""
        from mistral_common.tokens.tokenizers.image import ImageEncoding

        number, rows, columns = (int(value) for value in np.asarray(chunk.image).flatten())
        vision = self._vision
        ids = ([vision.image_token_id] * columns + [vision.image_break_token_id]) * rows
        ids[-1] = vision.image_end_token_id
        return ImageEncoding(tokens=ids, image=np.array(number))

    def _find_spans(self, ids: Sequence[int], images: Sequence[PreparedImage]) -> Sequence[ImageSpan]:
        spans, position = [], 0
        for image in images:
            rows, columns = image.grid
            start = ids.index(self._vision.image_token_id, position)
            position = start + rows * (columns + 1)
            if ids[position - 1] != self._vision.image_end_token_id:
                raise ValueError(f"the picture at token {start} does not end at token {position - 1}")
            spans.append(ImageSpan(start, position - start, image))
        if self._vision.image_token_id in ids[position:]:
            raise ValueError(f"an image token after token {position} belongs to no picture")
        return spans

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes a token adds to a text, perhaps part of a character; none for control tokens."""
        if token_id in self.special_ids:
            return b""
        if hasattr(self._base, "id_to_byte_piece"):
            return bytes(self._base.id_to_byte_piece(token_id))
        piece = str(self._base.id_to_piece(token_id))
        if byte := BYTE_PIECE.fullmatch(piece):
            return bytes([int(byte[1], 16)])
        return piece.replace(VISIBLE_SPACE, " ").encode()

    def token_text(self, token_id: int) -> str:
        """How a single token shows in a listing; a control token by its name, half a character as U+FFFD."""
        if token_id in self.special_ids:
            return str(self._base.id_to_piece(token_id))
        return self.token_bytes(token_id).decode(errors="replace")

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, control tokens left out, broken UTF-8 as U+FFFD."""
        text = b"".join(map(self.token_bytes, ids)).decode(errors="replace")
        return text.removeprefix(" ") if self.opens_with_space else text

    @property
    def opens_with_space(self) -> bool:
        """Whether a text's first token carries a space that is not part of it, as in SentencePiece."""
        return type(self._base).__name__ == "SentencePieceTokenizer"

    def detokenizer(self) -> Detokenizer:
        """A fresh decoder for one reply."""
        return Detokenizer(self)


class Detokenizer:
    """Token by token to text; at most three bytes wait for the rest of their character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._drop_space = tokenizer.opens_with_space

    def add(self, token_id: int) -> str:
        """The characters that this token completes, often none."""
        text = self._decoder.decode(self._tokenizer.token_bytes(token_id))
        if text and self._drop_space:
            self._drop_space = False
            return text.removeprefix(" ")
        return text

    def finish(self) -> str:
        """What is left at the end: nothing, or U+FFFD for half a character."""
        return self._decoder.decode(b"", final=True)


def packaged_tokenizer_path() -> Path:
    """Pixtral 12B's tokenizer as it ships inside mistral-common, for checkpoints that lack their own."""
    import mistral_common

    return Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"


def _request(messages: Sequence[Message], images: Sequence[PreparedImage], tools: Sequence[Mapping[str, Any]]) -> Any:
    """mistral-common's request; each picture is stood in for by its number and grid."""
    from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, ToolMessage, UserMessage
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from pydantic import ValidationError

    if not messages:
        raise UsageError("the conversation has no message; send at least one of the user.")
    numbers = iter(range(len(images)))
    names: dict[str, str] = {}
    converted: list[Any] = []
    for index, message in enumerate(messages):
        if message.role != "user" and message.images:
            raise UsageError(f"message {index} ({message.role}) holds a picture; only user messages may.")
        text = "\n\n".join(part for part in message.content if isinstance(part, str))
        if message.role == "user":
            converted.append(UserMessage(content=_user_content(message, images, numbers)))
        elif message.role == "system":
            converted.append(SystemMessage(content=text))
        elif message.role == "assistant":
            calls = [_tool_call(call, names) for call in message.tool_calls]
            last = index == len(messages) - 1
            converted.append(
                AssistantMessage(content=text or None, tool_calls=calls or None, prefix=last and not calls)
            )
        else:
            if message.tool_call_id is None:
                raise UsageError(f"message {index} (tool) has no tool_call_id; name the call that it answers.")
            converted.append(
                ToolMessage(content=text, tool_call_id=_short_id(message.tool_call_id, names), name=message.name)
            )
    try:
        return ChatCompletionRequest(model="tessera", messages=converted, tools=[_tool(tool) for tool in tools] or None)
    except ValidationError as error:
        raise UsageError("the messages or tools do not have the shape of OpenAI's chat format.") from error


def _user_content(message: Message, images: Sequence[PreparedImage], numbers: Any) -> Any:
    from mistral_common.protocol.instruct.chunk import ImageChunk, TextChunk

    if len(message.content) == 1 and isinstance(message.content[0], str):
        return message.content[0]
    chunks: list[Any] = []
    for part in message.content:
        if isinstance(part, Image):
            number = next(numbers)
            stand_in = np.array([[number, *images[number].grid]], dtype=np.int32)
            chunks.append(ImageChunk(image=PILImage.fromarray(stand_in)))
        else:
            chunks.append(TextChunk(text=part))
    return chunks


def _tool(tool: Mapping[str, Any]) -> Any:
    from mistral_common.protocol.instruct.tool_calls import Tool
    from pydantic import ValidationError

    try:
        # OpenAI's format lets a function without arguments leave out its parameters.
        return Tool.model_validate({**tool, "function": {"parameters": {}, **tool["function"]}})
    except (ValidationError, ValueError, TypeError, KeyError) as error:
        raise UsageError(
            "a tool must have the form {'type': 'function', 'function': {'name': ..., 'parameters': JSON schema}}."
        ) from error


def _tool_call(call: Mapping[str, Any], names: dict[str, str]) -> Any:
    from mistral_common.protocol.instruct.tool_calls import FunctionCall, ToolCall

    function = call.get("function") if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    arguments = (function.get("arguments") or "{}") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not isinstance(arguments, str | Mapping) or not call.get("id"):
        raise UsageError(
            "a tool call must have the form {'id': ..., 'function': {'name': ..., 'arguments': JSON text}}."
        )
    given = FunctionCall.model_validate({"name": name, "arguments": arguments})
    return ToolCall(id=_short_id(str(call["id"]), names), function=given)


def _short_id(call_id: str, names: dict[str, str]) -> str:
    """The format allows ids of nine letters or digits: others are replaced by a stable digest."""
    if TOOL_CALL_ID.fullmatch(call_id):
        return call_id
    return names.setdefault(call_id, hashlib.sha256(call_id.encode(errors="surrogatepass")).hexdigest()[:9])
