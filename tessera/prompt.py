"""Messages to token ids and back, with mistral-common, the model's own tokenizer library.

The chat format of every version (v3 for Pixtral 12B, v7 and later for its relatives) is
mistral-common's; only the image encoder is ours, because pixels are prepared elsewhere and never
fetched here. User text cannot become a control token. Ids are decoded in whole characters.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import importlib.util
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from tessera.conversation import IMAGES_SINCE, arguments_of, arrange, function_of
from tessera.errors import CheckpointError, MissingExtraError, PromptTooLongError, UsageError
from tessera.images import PreparedImage
from tessera.messages import Image, Message
from tessera.model.config import VisionConfig

TOOL_CALL_ID = re.compile(r"[a-zA-Z0-9]{9}")
THOUGHT_MARKS = ("[THINK]", "[/THINK]")  # around the reasoning of Magistral and of Ministral 3 Reasoning
WRITTEN_BY_MODELS = {"[TOOL_CALLS]", "[CALL_ID]", "[ARGS]", *THOUGHT_MARKS}  # the others since v11
VISIBLE_SPACE = "▁"  # how SentencePiece writes a space
BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
WHITESPACE = re.compile(r"\s++")
# Long texts are tokenized in pieces, up to a limit. Tekken splits words by its own pattern, and
# a word always ends here, in any context: before a space, after a digit, a word or a line.
PIECE, MAX_RUN = 2**15, 2**17  # characters: at least in a piece, and at most beyond it before such an end
MAX_READING_S = 2.0  # processor time for all texts of a request; 131,072 tokens of prose take 0.1
WORD_END = re.compile(
    r"(?<=\S)(?=[ \t])|(?<=[0-9])|(?<=[A-Za-z])(?=[!-@\[-`{-~\r\n])|(?<=[\r\n])(?=[^\s/])|(?<=[^\W\d_])(?=[。、，！？])"
)
TEKKEN_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class ImageSpan:
    """Where an image sits in the prompt: `length` ids from `start`, its break and end tokens included."""

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
        from mistral_common.protocol.instruct.normalize import get_normalizer
        from mistral_common.protocol.instruct.validator import ValidationMode, get_validator

        self._validators = {
            whole: get_validator(self._base.version, ValidationMode.finetuning if whole else ValidationMode.serving)
            for whole in (False, True)
        }
        self._normalizer = get_normalizer(self._base.version, self._base.model_settings_builder)
        if self.version_number >= IMAGES_SINCE:
            # Ours replaces the encoder that would need OpenCV and could fetch.
            mistral.instruct_tokenizer.image_encoder = self._encode_image
        is_known = getattr(getattr(self._base, "_model", None), "_pat_str", None) == TEKKEN_PATTERN
        self._base.encode = _bounded(_named_failures(self._base.encode), _pieces if is_known else _whole)

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
        except Exception as error:  # a damaged file raises many types of error
            raise CheckpointError(
                f"{path} is not a tokenizer that mistral-common can read; download it again."
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        # mistral-common's pickle would restore its own image encoder.
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
        """The chat format's version in its file, for example "v3"."""
        return str(self._base.version.value)

    @property
    def version_number(self) -> int:
        """The version as a number: 3 for v3."""
        return int(self.version.removeprefix("v"))

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text: control tokens, images, unused places."""
        return frozenset(token for token in range(self.vocab_size) if self._base.is_special(token))

    @cached_property
    def prompt_only_ids(self) -> frozenset[int]:
        """Special ids that a model never writes itself: all but the end, those of a tool call and of reasoning."""
        written = {token for token in self.special_ids if self._base.id_to_piece(token) in WRITTEN_BY_MODELS}
        return self.special_ids - written - {self.eos_id}

    def special_id(self, piece: str) -> int | None:
        """The id of a special token by its name, for example "[TOOL_CALLS]"; None if this tokenizer has none."""
        return self._special_pieces.get(piece)

    @cached_property
    def thought_marks(self) -> dict[int, str]:
        """The marks around a model's reasoning by id, which a reply's text shows: what they enclose is no answer."""
        return {self._special_pieces[mark]: mark for mark in THOUGHT_MARKS if mark in self._special_pieces}

    @cached_property
    def _special_pieces(self) -> dict[str, int]:
        return {str(self._base.id_to_piece(token)): token for token in self.special_ids}

    def least_tokens(self, num_characters: int) -> int:
        """Return a lower bound on the tokens of any text of that many characters, without tokenizing."""
        return num_characters // self._longest_token

    @cached_property
    def _longest_token(self) -> int:
        """The longest token in bytes; a character has at least one."""
        return max(len(self.token_bytes(token)) for token in range(self.vocab_size))

    def encode_text(self, text: str, bos: bool = True, max_tokens: int | None = None) -> list[int]:
        """Encode plain text; nothing in it is read as a control token.

        Raises PromptTooLongError as soon as the ids exceed `max_tokens`.
        """
        with contextlib.nullcontext() if max_tokens is None else reading(max_tokens):
            return list(self._base.encode(text, bos=bos, eos=False))

    def encode_chat(
        self,
        messages: Sequence[Message],
        images: Sequence[PreparedImage],
        tools: Sequence[Mapping[str, Any]] = (),
        max_tokens: int | None = None,
        *,
        whole: bool = False,
    ) -> Prompt:
        """Encode a whole conversation; `images` are the messages' images in order.

        A last assistant message is continued, unless it is empty; with `whole`, as in training, it must be there
        and ends with the end token. Raises ConversationError, which
        names the message, for a conversation that the format does not allow, UsageError for wrong tools, and
        PromptTooLongError as soon as its text alone exceeds `max_tokens`.
        """
        count = sum(len(message.images) for message in messages)
        if count != len(images):
            raise ValueError(f"the messages have {count} images, {len(images)} were prepared")
        with contextlib.nullcontext() if max_tokens is None else reading(max_tokens):
            turns = arrange(messages, self.version_number, whole=whole)
            encoded = self._encode(_request(turns, images, tools, whole), whole)
        ids = tuple(int(token) for token in encoded.tokens)
        return Prompt(ids, tuple(self._find_spans(ids, [images[int(number)] for number in encoded.images])))

    def _encode(self, request: Any, whole: bool) -> Any:
        from mistral_common.exceptions import MistralCommonException

        try:
            # The format does not depend on the tools' schemas, so they are not checked here.
            self._validators[whole].validate_messages(request.messages)
            return self._mistral.instruct_tokenizer.encode_instruct(
                self._normalizer.from_chat_completion_request(request)
            )
        except UnicodeError:
            raise UsageError("the conversation holds half of a surrogate pair, which is not a character.") from None
        except RecursionError:
            raise UsageError("a tool's parameters are nested too deeply to be written; shorten them.") from None
        except (MistralCommonException, ValueError) as error:
            raise UsageError(f"the model's chat format {self.version} cannot write this conversation.") from error

    def _encode_image(self, chunk: Any) -> Any:
        """Implement mistral-common's image encoder interface: ids, and the image's number in place of pixels."""
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
                raise ValueError(f"the image at token {start} does not end at token {position - 1}")
            spans.append(ImageSpan(start, position - start, image))
        if self._vision.image_token_id in ids[position:]:
            raise ValueError(f"an image token after token {position} belongs to no image")
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
        """Return a single token's text for listings; a control token's name, half a character as U+FFFD."""
        if token_id in self.special_ids:
            return str(self._base.id_to_piece(token_id))
        return self.token_bytes(token_id).decode(errors="replace")

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids to text, without control tokens, broken UTF-8 as U+FFFD."""
        text = b"".join(map(self.token_bytes, ids)).decode(errors="replace")
        return text.removeprefix(" ") if self.opens_with_space else text

    @property
    def opens_with_space(self) -> bool:
        """Return True if a text's first token carries a space that is not part of it, as in SentencePiece."""
        return type(self._base).__name__ == "SentencePieceTokenizer"

    def detokenizer(self) -> Detokenizer:
        """Return a new decoder for one reply."""
        return Detokenizer(self)


class Detokenizer:
    """Decodes token by token; at most three bytes wait for the rest of their character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._drop_space = tokenizer.opens_with_space

    def add(self, token_id: int) -> str:
        """Return the characters that this token completes, often none; of control tokens only marks of reasoning."""
        if mark := self._tokenizer.thought_marks.get(token_id):
            return self._decoder.decode(b"") + mark
        text = self._decoder.decode(self._tokenizer.token_bytes(token_id))
        if text and self._drop_space:
            self._drop_space = False
            return text.removeprefix(" ")
        return text

    def finish(self) -> str:
        """Return the rest at the end: nothing, or U+FFFD for half a character."""
        return self._decoder.decode(b"", final=True)


def packaged_tokenizer_path() -> Path:
    """Return Pixtral 12B's tokenizer as shipped in mistral-common, for checkpoints that lack their own."""
    import mistral_common

    return Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"


@dataclass
class _Room:
    """Tokens that one prompt's texts may have together, and the time they, or those of several prompts, may take."""

    limit: int | None
    used: int = 0
    began_s: float = field(default_factory=time.thread_time)

    def take(self, num_tokens: int) -> None:
        self.used += num_tokens
        if self.limit is not None and self.used > self.limit:
            raise PromptTooLongError(
                f"the text has more than {self.limit:,} tokens, after which it is not read any further; shorten it."
            )
        if time.thread_time() - self.began_s > MAX_READING_S:
            raise PromptTooLongError(
                f"the text takes more than {MAX_READING_S:.0f} s of a processor to be tokenized; shorten it."
            )


_ROOM: ContextVar[_Room | None] = ContextVar("room", default=None)


@contextlib.contextmanager
def reading(max_tokens: int | None = None) -> Iterator[None]:
    """Limit the tokens tokenized in this thread within the block; a nested block shares the outer time."""
    around = _ROOM.get()
    before = _ROOM.set(_Room(max_tokens) if around is None else _Room(max_tokens, began_s=around.began_s))
    try:
        yield
    finally:
        _ROOM.reset(before)


def _bounded(
    encode: Callable[..., list[int]], pieces: Callable[[str], Iterator[str]]
) -> Callable[[str, bool, bool], list[int]]:
    """Wrap the tokenizer's own encode to take one piece after the other until there is no room."""

    def encode_pieces(s: str, bos: bool, eos: bool) -> list[int]:
        room = _ROOM.get()
        ids: list[int] = encode("", bos=bos, eos=False)
        for piece in pieces(s):
            more = encode(piece, bos=False, eos=False)
            if room is not None:
                room.take(len(more))
            ids += more
        return ids + encode("", bos=False, eos=eos)

    return encode_pieces


def _whole(text: str) -> Iterator[str]:
    yield text


def _pieces(text: str) -> Iterator[str]:
    """Cut a text where a Tekken word ends, so that the pieces' tokens are the text's; raises UsageError."""
    start = 0
    while len(text) - start > PIECE + MAX_RUN:
        found = WORD_END.search(text, start + PIECE, start + PIECE + MAX_RUN)
        if found is None:
            space = max(map(len, WHITESPACE.findall(text[start:])), default=0)
            what = f"{space:,} spaces or other white space" if space > MAX_RUN else f"over {MAX_RUN:,} characters"
            raise UsageError(
                f"the text has {what} in a row in which no word ends, which the tokenizer reads too slowly; break "
                "them up."
            )
        yield text[start : found.start()]
        start = found.start()
    yield text[start:]


def _named_failures(encode: Callable[..., list[int]]) -> Callable[..., list[int]]:
    """Wrap the tokenizer's own encode, whose error for a huge run of spaces says nothing about the text."""

    def encode_or_say(text: str, *args: bool, **options: bool) -> list[int]:
        try:
            return encode(text, *args, **options)
        except UnicodeError:
            raise
        except ValueError:
            longest = max(map(len, WHITESPACE.findall(text)), default=0)
            raise UsageError(
                f"the text has {longest:,} spaces or other white space in a row, which the tokenizer cannot read; "
                "shorten them."
            ) from None

    return encode_or_say


def _request(
    turns: Sequence[Message], images: Sequence[PreparedImage], tools: Sequence[Mapping[str, Any]], whole: bool
) -> Any:
    """Build mistral-common's request; a number and grid stand for each image."""
    from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, ToolMessage, UserMessage
    from mistral_common.protocol.instruct.request import ChatCompletionRequest

    numbers = iter(range(len(images)))
    names: dict[str, str] = {}
    converted: list[Any] = []
    for index, turn in enumerate(turns):
        content = _chunks(turn, images, numbers)
        if turn.role == "user":
            converted.append(UserMessage(content=content))
        elif turn.role == "system":
            converted.append(SystemMessage(content=content))
        elif turn.role == "assistant":
            calls = [_tool_call(call, names) for call in turn.tool_calls]
            continued = index == len(turns) - 1 and not calls and not whole
            converted.append(AssistantMessage(content=content or None, tool_calls=calls or None, prefix=continued))
        else:
            call_id = _short_id(str(turn.tool_call_id), names)
            converted.append(ToolMessage(content=content, tool_call_id=call_id, name=turn.name))
    return ChatCompletionRequest(
        model="tessera", messages=converted, tools=[_tool(*each) for each in enumerate(tools)] or None
    )


def _chunks(turn: Message, images: Sequence[PreparedImage], numbers: Iterator[int]) -> Any:
    """Convert a turn's content; the format decides how its parts are joined."""
    from mistral_common.protocol.instruct.chunk import ImageChunk, TextChunk

    if not turn.content:
        return ""
    chunks: list[Any] = []
    for part in turn.content:
        if isinstance(part, Image):
            number = next(numbers)
            stand_in = np.array([[number, *images[number].grid]], dtype=np.int32)
            chunks.append(ImageChunk(image=PILImage.fromarray(stand_in)))
        else:
            chunks.append(TextChunk(text=part))
    return chunks


def _tool(index: int, tool: Mapping[str, Any]) -> Any:
    """Convert a tool to the format: keys beyond OpenAI's are dropped, and null counts as absent."""
    from mistral_common.protocol.instruct.tool_calls import Function, Tool

    name, function = function_of(index, tool)
    given = {key: value for key, value in function.items() if value is not None}
    description, parameters = given.get("description", ""), given.get("parameters", {})
    if not isinstance(description, str) or not isinstance(parameters, Mapping):
        raise UsageError(f"tool {name!r} must have a text as description and a JSON schema as parameters.")
    return Tool(function=Function(name=name, description=description, parameters=dict(parameters)))


def _tool_call(call: Mapping[str, Any], names: dict[str, str]) -> Any:
    from mistral_common.protocol.instruct.tool_calls import FunctionCall, ToolCall

    given = FunctionCall.model_validate({"name": call["function"]["name"], "arguments": arguments_of(call)})
    return ToolCall(id=_short_id(str(call["id"]), names), function=given)


def _short_id(call_id: str, names: dict[str, str]) -> str:
    """Return an id of nine letters or digits, as the format requires: others are replaced by a stable digest."""
    if TOOL_CALL_ID.fullmatch(call_id):
        return call_id
    return names.setdefault(call_id, hashlib.sha256(call_id.encode(errors="surrogatepass")).hexdigest()[:9])
