"""LLM: conversations in, replies out, over an engine in this process.

It joins the parts: load the pictures, write the prompt, submit, collect. It meets the ChatModel
interface, so whatever works with it works with a server too.
"""

from __future__ import annotations

import dataclasses
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from tessera.chat import Completion, Delta, Image, Message, SamplingParams
from tessera.engine.config import EngineConfig, resolve
from tessera.engine.engine import Engine
from tessera.engine.loop import EngineLoop, Handle
from tessera.engine.memory import measure_workspace
from tessera.engine.worker import Ranks, start_ranks
from tessera.errors import EngineBusyError, PromptTooLongError, TesseraError, TooManyImagesError, UsageError
from tessera.images import PreparedImage, load_all, prepare
from tessera.load import load_model
from tessera.load import resolve as resolve_folder
from tessera.model.pixtral import Pixtral
from tessera.prompt import Prompt, Tokenizer
from tessera.sources import ImageLimits
from tessera.tools import ToolCallReader, ToolChoice, tool_grammar

MAX_DECODING = 2  # threads that decode pictures at once: one of 64 megapixels takes half a gigabyte for a moment
Conversation = Sequence[Message | Mapping[str, Any]]


class LLM:
    """A loaded model with its engine; `engine_options` are the fields of EngineConfig, each may be "auto".

    `mmproj` is the picture part of a GGUF model, looked for beside the text model's file where it is not
    given. `revision` and `download_dir` say which state of a hub id is meant, and in which cache it lies.
    `notes` are what the model's user should know of how it was loaded.
    With `tensor_parallel_size` above 1, so many processes compute together, each on a GPU of its own, or all on the
    CPU; memory options then hold for each.
    """

    def __init__(
        self,
        name_or_path: str | Path = "nano",
        *,
        mmproj: str | Path | None = None,
        dtype: str = "auto",
        device: str = "auto",
        revision: str | None = None,
        download_dir: Path | None = None,
        limits: ImageLimits | None = None,
        tensor_parallel_size: int = 1,
        **engine_options: object,
    ) -> None:
        folder = resolve_folder(str(name_or_path), revision, download_dir)
        part = None if mmproj is None else Path(mmproj).expanduser()
        ranks = None
        if tensor_parallel_size == 1:
            loaded = load_model(folder, mmproj=part, dtype=dtype, device=device)
        else:
            loaded, ranks = start_ranks(folder, mmproj=part, dtype=dtype, device=device, size=tensor_parallel_size)
        try:
            self._start(loaded.model, loaded.tokenizer, loaded.name, limits, engine_options, ranks, loaded.notes)
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
        **engine_options: object,
    ) -> LLM:
        """An LLM over a model that is already in memory."""
        llm = cls.__new__(cls)
        llm._start(model, tokenizer, name, limits, engine_options)
        return llm

    def _start(
        self,
        model: Pixtral,
        tokenizer: Tokenizer,
        name: str,
        limits: ImageLimits | None,
        engine_options: Mapping[str, object],
        ranks: Ranks | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.model_name = name
        self.notes = tuple(notes)
        self.tokenizer = tokenizer
        self.limits = ImageLimits() if limits is None else limits
        measured = ranks is None and model.device.type == "cuda"
        self.config: EngineConfig = resolve(
            engine_options,
            model.config,
            dtype=model.dtype,
            device=model.device,
            ranks=1 if ranks is None else ranks.size,
            measure=partial(measure_workspace, model.eval()) if measured else None,
        )
        self.vision = model.config.vision_encoder
        self.loop = EngineLoop(Engine(model.eval(), tokenizer, self.config, ranks))
        self._decoding = threading.BoundedSemaphore(MAX_DECODING)
        # Also ends the thread when the LLM is forgotten, or at exit in the midst of a step.
        self._finalizer = weakref.finalize(self, self.loop.close)

    def chat(
        self,
        messages: Conversation,
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
    ) -> Completion:
        """The whole reply."""
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
        """The reply in pieces, as they come, tool calls whole. Leaving the iteration early ends the request."""
        handle = self.submit(
            messages, params, tools=tools, tool_choice=tool_choice, parallel_tool_calls=parallel_tool_calls
        )
        if not tools:
            yield from handle
            return
        reader = ToolCallReader(self.tokenizer)
        try:
            for delta in handle:
                yield reader.read(delta)
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
                    replies.append(self._collect(handles.popleft()))
                try:
                    prompt = self.prepare(messages)
                    while (handle := self._try(prompt, wanted, may_wait=bool(handles))) is None:
                        replies.append(self._collect(handles.popleft()))
                    handles.append(handle)
                except TesseraError as error:
                    raise type(error)(f"conversation {index}: {error}") from error
            while handles:
                replies.append(self._collect(handles.popleft()))
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

    def close(self) -> None:
        """End all requests and the engine's thread; may be called twice."""
        self._finalizer()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _collect(self, handle: Handle) -> Completion:
        return Completion.from_deltas(list(handle), self.model_name)

    def prepare(
        self,
        messages: Conversation,
        tools: Sequence[Mapping[str, Any]] = (),
        load: Callable[[Sequence[Image]], Sequence[PreparedImage]] | None = None,
    ) -> Prompt:
        """Load the pictures, in the caller's thread unless `load` has them ready, and write the prompt."""
        parsed = self.parse(messages)
        images = (load or self._load)([image for message in parsed for image in message.images])
        return self.tokenizer.encode_chat(parsed, images, tools)

    def parse(self, messages: Conversation) -> list[Message]:
        """The messages, checked in what takes no time: how many pictures they have, and how much text."""
        parsed = [Message.parse(message) for message in messages]
        count = sum(len(message.images) for message in parsed)
        if count > self.config.max_images_per_prompt:
            raise TooManyImagesError(
                f"the conversation has {count} pictures and the limit is max_images_per_prompt="
                f"{self.config.max_images_per_prompt}; use fewer, or raise it."
            )
        self.check_length(sum(len(part) for message in parsed for part in message.content if isinstance(part, str)))
        return parsed

    def _load(self, pictures: Sequence[Image]) -> list[PreparedImage]:
        if not pictures:
            return []
        with self._decoding:
            loaded = zip(pictures, load_all(pictures, self.limits), strict=True)
            return [prepare(pixels, self.vision, low_detail=each.low_detail) for each, pixels in loaded]

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
