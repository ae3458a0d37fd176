"""LLM: conversations in, replies out, over an engine in this process.

It joins the parts: load the images, build the prompt, submit, collect. It implements the ChatModel
interface, so code written for it works with a server too.
"""

from __future__ import annotations

import dataclasses
import reprlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from tessera.chat import (
    ChatModel,
    Completion,
    Conversation,
    Delta,
    EachTools,
    Glance,
    Head,
    ToolChoice,
    ToolDefinitions,
    Tools,
    asked,
)
from tessera.engine.adapters import Adapters
from tessera.engine.admission import check_image_count, check_parts, num_written
from tessera.engine.config import EngineConfig, check_options, resolve_config
from tessera.engine.engine import Engine
from tessera.engine.loop import EngineLoop, Handle
from tessera.engine.memory import measure_workspace
from tessera.engine.ranks import Ranks, start_ranks
from tessera.engine.states import StatePrompt
from tessera.engine.tally import Stats
from tessera.engine.watch import find_glances
from tessera.errors import EngineBusyError, EngineDeadError, PromptTooLongError, TesseraError, UsageError
from tessera.images import PreparedImage, load_all, prepare, side_of
from tessera.load import LoadedModel, compute_dtype, load_model, locate, target_device
from tessera.messages import Image, Message, parse_messages
from tessera.model.fingerprint import fingerprint
from tessera.model.pixtral import Pixtral
from tessera.parallel.shard import Shard
from tessera.prompt import Prompt, Tokenizer
from tessera.quantize.plan import AS_IT_IS
from tessera.quantize.vision import check_vision_bits, round_vision
from tessera.sampling import SamplingParams
from tessera.shelf import ModelSource, check_alone
from tessera.sources import ImageLimits
from tessera.tool_calls import ToolCallReader, tool_grammar
from tessera.weights.checkpoint import open_checkpoint
from tessera.weights.fill import Progress

MAX_DECODING = 2  # threads that decode images at once: one of 64 megapixels briefly takes half a gigabyte


class LLM(ChatModel):
    """A loaded model with its engine; `engine_options` are the fields of EngineConfig, each may be "auto".

    The first argument may also be a ModelSource, which holds `mmproj` to `tensor_parallel_size` itself, or a whole
    LoadedModel.
    `mmproj` is the vision part of a GGUF model, looked for beside the text model's file where it is not
    given. `revision` and `download_dir` say which state of a hub id is meant, and in which cache it lies.
    `adapter` is a LoRA adapter's folder or file, with which the model computes.
    With `vision_bits` "8" the vision side is rounded after loading and computes with whole numbers.
    `notes` are what the model's user should know of how it was loaded; `heads` look at what is read. `progress` hears
    of each tensor that is read: its name, the bytes done and the bytes in all; with several processes it hears nothing.
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
        adapter: str | Path | None = None,
        limits: ImageLimits | None = None,
        tensor_parallel_size: int = 1,
        vision_bits: str = AS_IT_IS,
        progress: Progress | None = None,
        **engine_options: object,
    ) -> None:
        ranks = None
        shared = name_or_path.tensor_parallel_size if isinstance(name_or_path, ModelSource) else tensor_parallel_size
        check_vision_bits(vision_bits, shared)
        given = {
            "mmproj": None if mmproj is None else Path(mmproj).expanduser(), "dtype": dtype, "device": device,
            "adapter": None if adapter is None else Path(adapter).expanduser(),
            "revision": revision, "download_dir": download_dir, "tensor_parallel_size": tensor_parallel_size,
        }  # fmt: skip
        if isinstance(name_or_path, LoadedModel):
            check_alone(name_or_path, given)
            loaded = name_or_path
        else:
            loaded, ranks = _loaded(ModelSource.of(name_or_path, **given), engine_options, progress)
        try:
            if vision_bits != AS_IT_IS:
                notes = loaded.notes + round_vision(loaded.model, vision_bits, progress)
                loaded = dataclasses.replace(loaded, notes=notes)
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
        """Make an LLM from a model that is already in memory."""
        loaded = LoadedModel(model.eval(), tokenizer, Shard(model.config, 0, 1), name)
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
        self.heads = loaded.heads
        self.path = loaded.path
        self.tokenizer = tokenizer
        self.limits = ImageLimits() if limits is None else limits
        measured = ranks is None and model.device.type == "cuda"
        self.config: EngineConfig = resolve_config(
            engine_options,
            model.config,
            dtype=model.dtype,
            device=model.device,
            ranks=1 if ranks is None else ranks.size,
            measure=partial(measure_workspace, model) if measured else None,
        )
        self.vision = model.config.vision_encoder
        self.context_tokens = self.config.max_model_len
        self._loop = EngineLoop(Engine(model, tokenizer, self.config, ranks, loaded.shard))
        self._decoding = threading.BoundedSemaphore(MAX_DECODING)
        # Also stops the thread when the LLM is garbage-collected or the interpreter exits mid-step.
        self._finalizer = weakref.finalize(self, self._loop.close)

    def __repr__(self) -> str:
        """Example: "LLM('nano', float32 on cpu, 4,096 tokens of context)"."""
        model = self._loop.engine.model
        dtype = str(model.dtype).removeprefix("torch.")
        return f"LLM({self.model_name!r}, {dtype} on {model.device}, {self.config.max_model_len:,} tokens of context)"

    def chat(
        self,
        messages: Conversation,
        params: SamplingParams | None = None,
        *,
        tools: Tools | ToolDefinitions = (),
        tool_choice: ToolChoice | None = None,
        parallel_tool_calls: bool = True,
    ) -> Completion:
        return super().chat(messages, params, tools=_tools(tools, tool_choice, parallel_tool_calls))

    chat.__doc__ = ChatModel.chat.__doc__

    def stream(
        self,
        messages: Conversation,
        params: SamplingParams | None = None,
        *,
        tools: Tools | ToolDefinitions = (),
        tool_choice: ToolChoice | None = None,
        parallel_tool_calls: bool = True,
    ) -> Iterator[Delta]:
        """Yield the reply in pieces, tool calls whole. Leaving the iteration early ends the request.

        A failed reply raises after yielding its pieces.
        """
        offered = _tools(tools, tool_choice, parallel_tool_calls)
        handle = self.submit(messages, params, tools=offered)
        try:
            for delta in self._read(handle, offered):
                if delta.error is not None:
                    raise delta.error
                yield delta
        finally:
            handle.close()

    def each(
        self,
        conversations: Iterable[Conversation],
        params: SamplingParams | Iterable[SamplingParams] | None = None,
        *,
        tools: EachTools = (),
    ) -> Iterator[Completion | TesseraError]:
        """Yield one reply, or the error instead of it, for each conversation, in order; raises EngineDeadError.

        Conversations are read lazily: as many wait as run, which keeps the engine busy.
        """
        pending: deque[tuple[Handle | TesseraError, Tools]] = deque()
        try:
            for messages, wanted, offered in asked(conversations, params, tools):
                if len(pending) == 2 * self.config.max_num_seqs:
                    yield self._collect(*pending.popleft())
                prepared = self._prepared(messages, wanted, offered)
                while (started := self._started(prepared, may_wait=bool(pending))) is None:
                    yield self._collect(*pending.popleft())
                pending.append((started, offered))
            while pending:
                yield self._collect(*pending.popleft())
        finally:
            for each, _ in pending:
                if isinstance(each, Handle):
                    each.close()

    def submit(
        self,
        messages: Conversation,
        params: SamplingParams | None = None,
        *,
        tools: Tools | ToolDefinitions = (),
        request_id: str | None = None,
        cache_salt: str = "",
    ) -> Handle:
        """Prepare and queue one conversation; returns at once with a handle that yields its deltas.

        With tools, the deltas' text holds the calls as the model writes them; a ToolCallReader takes them out.
        """
        wanted = self.apply_tools(params, tools)
        prompt = self.prepare(messages, Tools.of(tools).definitions)
        return self.start(prompt, wanted, request_id=request_id, cache_salt=cache_salt)

    def start(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        request_id: str | None = None,
        cache_salt: str = "",
        notify: Callable[[], None] | None = None,
    ) -> Handle:
        """Queue a prompt. `notify` is called from the engine's thread after each delta; it must not wait or raise."""
        return self._loop.submit(prompt, params, request_id=request_id, cache_salt=cache_salt, notify=notify)

    def apply_tools(self, params: SamplingParams | None = None, tools: Tools | ToolDefinitions = ()) -> SamplingParams:
        """Return the parameters under the grammar that the tools need; compiling it may take seconds.

        Raises UsageError and GrammarError.
        """
        wanted, offered = SamplingParams() if params is None else params, Tools.of(tools)
        if offered.definitions or offered.choice not in ("none", "auto"):
            wanted = dataclasses.replace(wanted, grammar=tool_grammar(offered, self.tokenizer, answer=wanted.grammar))
        self._loop.engine.start_grammar(wanted)
        return wanted

    @property
    def alive(self) -> bool:
        """Return True while the engine accepts requests."""
        return self._loop.alive

    @property
    def is_sound(self) -> bool:
        """Return False once the model has computed invalid numbers: no request can be answered then."""
        return self._loop.engine.soundness.is_sound

    @property
    def silent_s(self) -> float:
        """Seconds since the engine's thread last began a step; far more than one step takes means it is stuck."""
        return time.monotonic() - self._loop.heartbeat_s

    @property
    def num_waiting(self) -> int:
        """Number of waiting requests."""
        return self._loop.engine.num_waiting

    @property
    def model(self) -> Pixtral:
        return self._loop.engine.model

    @property
    def adapters(self) -> Adapters:
        """The LoRA adapters that requests may name (`SamplingParams.adapter`); loading needs `max_loras`."""
        return self._loop.engine.adapters

    def stats(self) -> Stats:
        """The engine's state now, and its counts since the start."""
        return self._loop.engine.stats()

    def reading(self) -> tuple[int, int, int] | None:
        """The images, tokens and computed tokens of the oldest prompt in prefill; None if there is none."""
        for request in tuple(self._loop.engine.scheduler.running):
            if not request.num_output:
                return len(request.prompt.images), len(request.prompt.ids), request.num_computed
        return None

    def close(self) -> None:
        """End all requests and the engine's thread; may be called twice."""
        self._finalizer()

    def locate(
        self,
        messages: Conversation,
        reply: Completion | str,
        spans: Sequence[tuple[int, int]],
        heads: Sequence[Head] = (),
        *,
        adapter: str | None = None,
    ) -> list[list[tuple[Glance, ...]]] | None:
        chosen = tuple(heads) or self.heads
        if not chosen or self._loop.engine.ranks is not None:  # each rank has a part of the heads
            return None
        said = () if isinstance(reply, str) else reply.token_ids
        ids = [each for each in said if each not in self.tokenizer.special_ids] or self.encode(str(reply), bos=False)
        params = SamplingParams(max_tokens=1, adapter=adapter)
        start = partial(self.start, params=params)
        return find_glances(start, self.tokenizer, self.prepare(messages), ids, spans, chosen)

    locate.__doc__ = ChatModel.locate.__doc__

    def embed(self, messages: Conversation, *, cache_salt: str = "") -> list[float] | None:
        prompt = self.prepare(messages)
        wanted = StatePrompt(prompt.ids, prompt.images)
        for delta in self.start(wanted, SamplingParams(max_tokens=1), cache_salt=cache_salt):
            if delta.error is not None:
                raise delta.error
        return wanted.states[0]

    embed.__doc__ = ChatModel.embed.__doc__

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the model's settings and of some of its weights: equal for the same weights in any dtype."""
        return fingerprint(self.model)

    def _read(self, handle: Handle, tools: Tools) -> Iterator[Delta]:
        """Yield the handle's deltas, with tool calls separated from the text."""
        reader = ToolCallReader(self.tokenizer) if tools.definitions else None
        return (delta if reader is None else reader.read(delta) for delta in handle)

    def _prepared(
        self, messages: Conversation, params: SamplingParams, tools: Tools
    ) -> tuple[Prompt, SamplingParams] | TesseraError:
        try:
            return self.prepare(messages, tools.definitions), self.apply_tools(params, tools)
        except TesseraError as error:
            return error

    def _started(
        self, prepared: tuple[Prompt, SamplingParams] | TesseraError, *, may_wait: bool
    ) -> Handle | TesseraError | None:
        """Start a request; None if the engine is busy while the caller has running replies to wait for."""
        if isinstance(prepared, TesseraError):
            return prepared
        try:
            return self.start(*prepared)
        except EngineDeadError:
            raise
        except TesseraError as error:
            return None if may_wait and isinstance(error, EngineBusyError) else error

    def _collect(self, started: Handle | TesseraError, tools: Tools) -> Completion | TesseraError:
        if isinstance(started, TesseraError):
            return started
        try:
            deltas = list(self._read(started, tools))
        except EngineDeadError:
            raise
        except TesseraError as error:
            return error
        return deltas[-1].error or Completion.from_deltas(deltas, self.model_name)

    def prepare(
        self,
        messages: Conversation,
        tools: Sequence[Mapping[str, Any]] = (),
        load: Callable[[Sequence[Image]], Sequence[PreparedImage]] | None = None,
    ) -> Prompt:
        """Load the images, in the caller's thread unless `load` has them ready, and build the prompt."""
        parsed = self.parse(messages, tools)
        images = (load or self._load)([image for message in parsed for image in message.images])
        return self.tokenizer.encode_chat(parsed, images, tools, self.max_counted)

    def parse(self, messages: Conversation, tools: Sequence[Mapping[str, Any]] = ()) -> list[Message]:
        """Parse the messages, and check what takes no time: the number of images and the length of the text."""
        if isinstance(messages, (str, bytes, Mapping, Message)):
            raise UsageError(
                f"a conversation is a list of messages, not {reprlib.repr(messages)}; write "
                '[{"role": "user", "content": "..."}], or use `ask` for one question.'
            )
        parsed = parse_messages(messages)
        check_image_count(sum(len(message.images) for message in parsed), self.config)
        check_parts(parsed)
        self.check_length(num_written(parsed, tools))
        return parsed

    def prepare_text(self, text: str | Sequence[int]) -> Prompt:
        """Build a prompt without the chat format from a text or token ids.

        Only the chat format writes control tokens; ids may hold just a leading BOS.
        """
        if isinstance(text, str):
            return Prompt(tuple(self.encode(text)))
        tokenizer = self.tokenizer
        for place, token_id in enumerate(text):
            if not 0 <= token_id < tokenizer.vocab_size:
                raise UsageError(
                    f"token id {token_id} is not in the vocabulary of {tokenizer.vocab_size} ids.", param="prompt"
                )
            if token_id in tokenizer.special_ids and (place or token_id != tokenizer.bos_id):
                raise UsageError(
                    f"token id {token_id} is a control token; a prompt may only begin with {tokenizer.bos_id}.",
                    param="prompt",
                )
        return Prompt(tuple(text))

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """Return the token ids of a text; raises PromptTooLongError if it exceeds twice the context."""
        self.check_length(len(text))
        return self.tokenizer.encode_text(text, bos, self.max_counted)

    def _load(self, images: Sequence[Image]) -> list[PreparedImage]:
        if not images:
            return []
        with self._decoding:
            loaded = zip(images, load_all(images, self.limits), strict=True)
            return [prepare(pixels, self.vision, max_side=side_of(each, self.limits)) for each, pixels in loaded]

    @property
    def max_counted(self) -> int:
        """The number of tokens after which tokenizing stops: up to there an error can state the exact length."""
        return 2 * self.config.max_model_len

    def check_length(self, num_characters: int) -> None:
        """Raise PromptTooLongError for text that cannot fit; tokenizing it all to find out could take a minute."""
        least, limit = self.tokenizer.least_tokens(num_characters), self.config.max_model_len
        if least > limit:
            raise PromptTooLongError(
                f"the text has {num_characters:,} characters, which are at least {least:,} tokens, and the limit is "
                f"{limit:,} (max_model_len); shorten it."
            )


def _tools(tools: Tools | ToolDefinitions, choice: ToolChoice | None, parallel: bool) -> Tools:
    """Return the tools, also from OpenAI's two other parameters."""
    if isinstance(tools, Tools):
        return tools
    return Tools(tools, "auto" if choice is None else choice, parallel)


def _loaded(
    source: ModelSource, engine_options: Mapping[str, object], progress: Progress | None
) -> tuple[LoadedModel, Ranks | None]:
    """Load the model, and start the other ranks if several processes share it; checks engine options before weights."""
    check = partial(check_options, engine_options, ranks=source.tensor_parallel_size)
    if source.tensor_parallel_size == 1:
        return load_model(source, progress=progress, check=check), None
    located = locate(source)
    checkpoint, target = open_checkpoint(Path(located.name), source.mmproj), target_device(source.device)
    check(checkpoint.config, compute_dtype(source.dtype, checkpoint, target), target)
    return start_ranks(located)
