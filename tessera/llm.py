"""LLM: conversations in, replies out, over an engine in this process.

It joins the parts: load the pictures, write the prompt, submit, collect. It meets the ChatModel
interface, so whatever works with it works with a server too.
"""

from __future__ import annotations

import dataclasses
import reprlib
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from tessera.chat import Completion, Delta
from tessera.engine.admission import check_image_count
from tessera.engine.config import EngineConfig, check_options, resolve
from tessera.engine.engine import Engine
from tessera.engine.loop import EngineLoop, Handle
from tessera.engine.memory import measure_workspace
from tessera.engine.ranks import Ranks, start_ranks
from tessera.errors import EngineBusyError, PromptTooLongError, TesseraError, UsageError
from tessera.images import PreparedImage, load_all, prepare
from tessera.load import LoadedModel, compute_dtype, load_model, locate, target_device
from tessera.messages import Image, ImageSource, Message, parse_messages
from tessera.model.pixtral import Pixtral
from tessera.parallel.share import Share
from tessera.prompt import Prompt, Tokenizer
from tessera.sampling import SamplingParams
from tessera.shelf import ModelSource, check_alone
from tessera.sources import ImageLimits
from tessera.tools import ToolCallReader, ToolChoice, tool_grammar
from tessera.weights.checkpoint import open_checkpoint
from tessera.weights.fill import Progress

MAX_DECODING = 2  # threads that decode pictures at once: one of 64 megapixels takes half a gigabyte for a moment
# What of a call and of a tool the prompt repeats.
CALL_KEYS, TOOL_KEYS = ("name", "arguments"), ("name", "description", "parameters")
MAX_PARTS = 16_384  # texts and pictures of one conversation; each costs time whatever its length
Conversation = Sequence[Message | Mapping[str, Any]]


class LLM:
    """A loaded model with its engine; `engine_options` are the fields of EngineConfig, each may be "auto".

    The first argument may also be a ModelSource, which holds `mmproj` to `tensor_parallel_size` itself, or a whole
    LoadedModel.
    `mmproj` is the picture part of a GGUF model, looked for beside the text model's file where it is not
    given. `revision` and `download_dir` say which state of a hub id is meant, and in which cache it lies.
    `notes` are what the model's user should know of how it was loaded. `progress` hears of each tensor that is read:
    its name, the bytes done and the bytes in all; with several processes it hears nothing.
    With `tensor_parallel_size` above 1, so many processes compute together, each on a GPU of its own, or all on the
    CPU; memory options then hold for each.
    """

    def __init__(
        self,
        name_or_path: str | Path | ModelSource | LoadedModel = "nano",
        *,
        mmproj: str | Path | None = None,
        dtype: str = "auto",
        device: str = "auto",
        revision: str | None = None,
        download_dir: Path | None = None,
        limits: ImageLimits | None = None,
        tensor_parallel_size: int = 1,
        progress: Progress | None = None,
        **engine_options: object,
    ) -> None:
        ranks = None
        given = {
            "mmproj": None if mmproj is None else Path(mmproj).expanduser(), "dtype": dtype, "device": device,
            "revision": revision, "download_dir": download_dir, "tensor_parallel_size": tensor_parallel_size,
        }  # fmt: skip
        if isinstance(name_or_path, LoadedModel):
            check_alone(name_or_path, given)
            loaded = name_or_path
        else:
            loaded, ranks = _loaded(ModelSource.of(name_or_path, **given), engine_options, progress)
        try:
            self._start(loaded, ranks, limits, engine_options)
        except BaseException:
            if ranks is not None:
                ranks.close()
            raise

    @classmethod
    def from_parts(
        cls,
        model: Pixtral,
        tokenizer: Tokenizer,
        *,
        name: str,
        limits: ImageLimits | None = None,
        **engine_options: Any,
    ) -> LLM:
        """An LLM over a model that is already in memory."""
        loaded = LoadedModel(model.eval(), tokenizer, Share(model.config, 0, 1), name)
        return cls(loaded, limits=limits, **engine_options)

    def _start(
        self,
        loaded: LoadedModel,
        ranks: Ranks | None,
        limits: ImageLimits | None,
        engine_options: Mapping[str, object],
    ) -> None:
        model, tokenizer = loaded.model, loaded.tokenizer
        self.model_name = loaded.name
        self.notes = loaded.notes
        self.tokenizer = tokenizer
        self.limits = ImageLimits() if limits is None else limits
        measured = ranks is None and model.device.type == "cuda"
        self.config: EngineConfig = resolve(
            engine_options,
            model.config,
            dtype=model.dtype,
            device=model.device,
            ranks=1 if ranks is None else ranks.size,
            measure=partial(measure_workspace, model) if measured else None,
        )
        self.vision = model.config.vision_encoder
        self.loop = EngineLoop(Engine(model, tokenizer, self.config, ranks))
        self._decoding = threading.BoundedSemaphore(MAX_DECODING)
        # Also ends the thread when the LLM is forgotten, or at exit in the midst of a step.
        self._finalizer = weakref.finalize(self, self.loop.close)

    def __repr__(self) -> str:
        """Example: "LLM('nano', float32 on cpu, 4,096 tokens of context)"."""
        model = self.loop.engine.model
        dtype = str(model.dtype).removeprefix("torch.")
        return f"LLM({self.model_name!r}, {dtype} on {model.device}, {self.config.max_model_len:,} tokens of context)"

    def ask(self, question: str, *pictures: ImageSource | Image, params: SamplingParams | None = None) -> Completion:
        """The reply to one question about any number of pictures: paths, URLs, bytes or PIL images.

        Example: `llm.ask("What is Q3?", "chart.png").text`.
        """
        if not isinstance(question, str) or not question.strip():
            raise UsageError(f"the question must be a text that is not empty, not {reprlib.repr(question)}.")
        images = [picture if isinstance(picture, Image) else Image(picture) for picture in pictures]
        return self.chat([Message("user", (*images, question))], params)

    def chat(
        self,
        messages: Conversation,
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
    ) -> Completion:
        """The whole reply to a conversation: messages in OpenAI's format, or `Message`s, with the user's turn last.

        Without `params` the reply is greedy and as long as the context allows. Raises ReplyError where it fails, and
        GrammarError where its grammar has no way on. For one question, `ask` is shorter.
        """
        deltas = self.stream(
            messages, params, tools=tools, tool_choice=tool_choice, parallel_tool_calls=parallel_tool_calls
        )
        return Completion.from_deltas(list(deltas), self.model_name)

    def stream(
        self,
        messages: Conversation,
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
    ) -> Iterator[Delta]:
        """The reply in pieces, as they come, tool calls whole. Leaving the iteration early ends the request.

        A reply that fails raises, after the pieces that it had.
        """
        handle = self.submit(
            messages, params, tools=tools, tool_choice=tool_choice, parallel_tool_calls=parallel_tool_calls
        )
        reader = ToolCallReader(self.tokenizer) if tools else None
        try:
            for delta in handle:
                if delta.error is not None:
                    raise delta.error
                yield delta if reader is None else reader.read(delta)
        finally:
            handle.close()

    def batch(
        self,
        conversations: Sequence[Conversation],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[Completion]:
        """All replies, in the order of the conversations; an error names the conversation and ends them all."""
        each = [params] * len(conversations) if params is None or isinstance(params, SamplingParams) else params
        if len(each) != len(conversations):
            raise UsageError(f"{len(conversations)} conversations came with {len(each)} parameters; give one each.")
        handles: deque[Handle] = deque()
        replies: list[Completion] = []
        try:
            for index, (messages, wanted) in enumerate(zip(conversations, each, strict=True)):
                if len(handles) == 2 * self.config.max_num_seqs:  # as many wait as run: enough to keep it busy
                    replies.append(self._collect(handles.popleft(), len(replies)))
                with _naming(index):
                    prompt = self.prepare(messages)
                while True:
                    with _naming(index):
                        handle = self._try(prompt, wanted, may_wait=bool(handles))
                    if handle is not None:
                        break
                    replies.append(self._collect(handles.popleft(), len(replies)))
                handles.append(handle)
            while handles:
                replies.append(self._collect(handles.popleft(), len(replies)))
        finally:
            for handle in handles:
                handle.close()
        return replies

    def submit(
        self,
        messages: Conversation,
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
        request_id: str | None = None,
        cache_salt: str = "",
    ) -> Handle:
        """Prepare and queue one conversation; returns at once with a handle that yields its deltas.

        With tools, the deltas' text holds the calls as the model writes them; a ToolCallReader takes them out.
        """
        wanted = self.bind(params, tools, tool_choice=tool_choice, parallel_tool_calls=parallel_tool_calls)
        return self.loop.submit(self.prepare(messages, tools), wanted, request_id=request_id, cache_salt=cache_salt)

    def bind(
        self,
        params: SamplingParams | None,
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
    ) -> SamplingParams:
        """The parameters under the grammar that the tools need, if any; it is compiled, which may take seconds.

        Raises UsageError and GrammarError.
        """
        wanted = SamplingParams() if params is None else params
        if tools or tool_choice not in ("none", "auto"):
            grammar = tool_grammar(
                tools,
                self.tokenizer,
                tool_choice=tool_choice,
                parallel_tool_calls=parallel_tool_calls,
                answer=wanted.grammar,
            )
            wanted = dataclasses.replace(wanted, grammar=grammar)
        self.loop.engine.start_grammar(wanted)
        return wanted

    def reading(self) -> tuple[int, int, int] | None:
        """Of the oldest prompt that is being read: its pictures, its tokens, and how many are computed; else None."""
        for request in tuple(self.loop.engine.scheduler.running):
            if not request.num_output:
                return len(request.prompt.images), len(request.prompt.ids), request.num_computed
        return None

    def close(self) -> None:
        """End all requests and the engine's thread; may be called twice."""
        self._finalizer()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _collect(self, handle: Handle, index: int) -> Completion:
        """The reply to the conversation of this number; raises the error by which it failed."""
        deltas = list(handle)
        if (error := deltas[-1].error) is not None:
            with _naming(index):
                raise error
        return Completion.from_deltas(deltas, self.model_name)

    def prepare(
        self,
        messages: Conversation,
        tools: Sequence[Mapping[str, Any]] = (),
        load: Callable[[Sequence[Image]], Sequence[PreparedImage]] | None = None,
    ) -> Prompt:
        """Load the pictures, in the caller's thread unless `load` has them ready, and write the prompt."""
        parsed = self.parse(messages, tools)
        images = (load or self._load)([image for message in parsed for image in message.images])
        return self.tokenizer.encode_chat(parsed, images, tools, self.max_counted)

    def parse(self, messages: Conversation, tools: Sequence[Mapping[str, Any]] = ()) -> list[Message]:
        """The messages, checked in what takes no time: how many pictures they have, and how much text."""
        if isinstance(messages, (str, bytes, Mapping, Message)):
            raise UsageError(
                f"a conversation is a list of messages, not {reprlib.repr(messages)}; write "
                '[{"role": "user", "content": "..."}], or use `ask` for one question.'
            )
        parsed = parse_messages(messages)
        check_image_count(sum(len(message.images) for message in parsed), self.config)
        _check_parts(parsed)
        self.check_length(_num_written(parsed, tools))
        return parsed

    def _load(self, pictures: Sequence[Image]) -> list[PreparedImage]:
        if not pictures:
            return []
        with self._decoding:
            loaded = zip(pictures, load_all(pictures, self.limits), strict=True)
            return [prepare(pixels, self.vision, low_detail=each.low_detail) for each, pixels in loaded]

    @property
    def max_counted(self) -> int:
        """Tokens of a text after which it is tokenized no further: up to there its exact length can be told."""
        return 2 * self.config.max_model_len

    def check_length(self, num_characters: int) -> None:
        """Raise PromptTooLongError for text that cannot fit; tokenizing all of it, to know, could take a minute."""
        least, limit = self.tokenizer.least_tokens(num_characters), self.config.max_model_len
        if least > limit:
            raise PromptTooLongError(
                f"the text has {num_characters:,} characters, which are at least {least:,} tokens, and the limit is "
                f"{limit:,} (max_model_len); shorten it."
            )

    def _try(self, prompt: Prompt, params: SamplingParams | None, *, may_wait: bool) -> Handle | None:
        """Submit; None if the engine is busy and the caller has replies of its own to wait for."""
        try:
            return self.loop.submit(prompt, SamplingParams() if params is None else params)
        except EngineBusyError:
            if may_wait:
                return None
            raise


def _loaded(
    source: ModelSource, engine_options: Mapping[str, object], progress: Progress | None
) -> tuple[LoadedModel, Ranks | None]:
    """The model, and the other ranks where several processes share it; engine options are checked before weights."""
    check = partial(check_options, engine_options, ranks=source.tensor_parallel_size)
    if source.tensor_parallel_size == 1:
        return load_model(source, progress=progress, check=check), None
    located = locate(source)
    checkpoint, target = open_checkpoint(Path(located.name), source.mmproj), target_device(source.device)
    check(checkpoint.config, compute_dtype(source.dtype, checkpoint, target), target)
    return start_ranks(located)


@contextmanager
def _naming(index: int) -> Iterator[None]:
    """Let an error say which conversation it belongs to."""
    try:
        yield
    except TesseraError as error:
        raise type(error)(f"conversation {index}: {error}") from error


def _check_parts(messages: Sequence[Message]) -> None:
    """Raise PromptTooLongError for more parts than any conversation has."""
    count = sum(len(message.content) for message in messages)
    if count > MAX_PARTS:
        raise PromptTooLongError(
            f"the conversation has {count:,} parts and the limit is {MAX_PARTS:,}; join its texts."
        )


def _num_written(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> int:
    """Characters of all that the prompt will hold, whatever field they stand in; each is written at least once."""
    texts = sum(len(part) for message in messages for part in message.content if isinstance(part, str))
    calls = [call.get("function") for message in messages for call in message.tool_calls if isinstance(call, Mapping)]
    functions = [tool.get("function") for tool in tools if isinstance(tool, Mapping)]
    return texts + _num_characters(calls, CALL_KEYS) + _num_characters(functions, TOOL_KEYS)


def _num_characters(described: Sequence[Any], keys: Sequence[str]) -> int:
    """Of all strings and keys in these entries of each object."""
    count, rest = 0, [entry.get(key) for entry in described if isinstance(entry, Mapping) for key in keys]
    while rest:
        value = rest.pop()
        if isinstance(value, str):
            count += len(value)
        elif isinstance(value, Mapping):
            rest += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple)):
            rest += value
    return count
