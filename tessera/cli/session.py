"""The session shared by `ask` and `chat`: the model, its images, and messages on standard error.

A terminal also shows a transient line about loading and reading; a pipe never does. Errors that mention
the engine's settings are reworded with this command line's flags.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from tessera.chat import ChatModel, Delta
from tessera.cli.start import importing
from tessera.errors import ImageError, counted, printable
from tessera.messages import Image
from tessera.sampling import SamplingParams
from tessera.shelf import BUNDLED, ModelSource

if TYPE_CHECKING:
    from tessera.sources import ImageLimits

NANO_NOTE = (
    "using nano, the small bundled demo model (5M parameters): it reads receipts, charts and short "
    "printed text, and is often wrong; for photos run Pixtral 12B (`tessera doctor` shows the way), chosen with -m"
)
TICK_S = 0.5  # between two updates of the reading progress
ERASE_LINE = "\r\x1b[K"
# The engine's wording about settings, and the wording with this command line's flags.
FLAG_WORDS = (
    (r", use fewer or smaller images, or raise max_model_len", ", or use fewer or smaller images"),
    (r" \(max_model_len\)", ""),
    (r"max_images_per_prompt=(\d+); use fewer, or raise it", r"\1; use fewer"),
    (r" \(max_bytes\); send a smaller file or raise it", "; take a smaller file"),
    (r"\bmax_pixels\b", "--max-image-pixels"),
    (r"\bmax_image_side\b", "--max-image-side"),
    (r"\bvision_bits\b", "--vision-bits"),
    (r"(?<![\w-])(max_tokens|top_p|top_k|min_p|temperature|seed|logprobs|stop)(?= (is|must|has)\b)", r"--\1"),
    # The settings of training.
    (r"\b(pass|too|train|target|step|eval|save)_(tokens|long|vision|modules|samples|steps)\b", r"--\1-\2"),
    (r"\b(vision|adapter|plus)_factor\b", r"--\1-factor"),
    (r"\breplay_share\b", "--replay-share"),
    (r"\bqlora(?= (\d|is\b))", "--qlora"),
    (r"\brecompute(?= (always|is)\b)", "--recompute"),
    (r"^rate(?= is\b)", "--learning-rate"),
    (r"^sample(?= is\b)", "--sample"),
    (r"\(max_tokens\)", "(--max-tokens)"),
    (r"\bsmaller max_tokens\b", "smaller --max-tokens"),
)


def in_flags(text: str) -> str:
    """Reword a library message with this command line's flags."""
    for pattern, flag in FLAG_WORDS:
        text = re.sub(pattern, flag, text)
    return re.sub(r"--(max|top|min)_([a-z]+)", r"--\1-\2", text)


@dataclass(frozen=True)
class NamedImage:
    """An image that was read, and its lasting name: an absolute path, a URL, or its data."""

    image: Image
    kept: str


@dataclass(frozen=True, kw_only=True)
class Session:
    """How to open the model and read images; `cli.options` makes it from a command's options."""

    source: ModelSource
    endpoint: str | None = None  # of a server to use instead
    is_default: bool  # no model was named, so the bundled one is used; reported once
    kv_cache_dtype: str
    vision_bits: str = "16"
    max_image_pixels: int
    max_image_side: int | None = None
    allow_private_addresses: bool
    quiet: bool

    @property
    def model(self) -> str | None:
        """Return the model's name, if one was given."""
        return None if self.is_default else self.source.name

    def with_model(self, model: str | None) -> Session:
        """The same session with another model; None means the bundled one."""
        return replace(self, source=replace(self.source, name=model or BUNDLED), is_default=model is None)

    def open(self, concurrency: int | None = None) -> ChatModel:
        """Load the model; without a name, the bundled one, reported once. With an endpoint, use its server.

        `concurrency` is how many requests run at once; None leaves it to the model or the client.
        """
        if self.endpoint is not None:
            from tessera.client import Client

            at_once: dict[str, Any] = {} if concurrency is None else {"concurrency": concurrency}
            key = os.environ.get("TESSERA_API_KEY")
            return Client(self.endpoint, model=self.model, api_key=key, limits=self.limits(), **at_once)
        with importing():
            import mistral_common.tokens.tokenizers.mistral  # noqa: F401  # the tokenizer, needed soon

            from tessera.llm import LLM
            from tessera.quantize.vision import ROUNDING

        if self.is_default:
            self.note(NANO_NOTE)
        with self._status() as status:
            shown = ""

            def show(name: str, done: int, total: int) -> None:
                nonlocal shown
                work = "rounding the vision side" if name.startswith(ROUNDING) else "loading"
                text = f"{work} {100 * done // max(total, 1)} %"
                if text != shown:
                    shown = text
                    status(text)

            options: dict[str, Any] = {} if concurrency is None else {"max_num_seqs": concurrency}
            options |= {"kv_cache_dtype": self.kv_cache_dtype, "vision_bits": self.vision_bits}
            llm = LLM(self.source, limits=self.limits(), progress=show, **options)
        for note in llm.notes:
            self.note(note)
        return llm

    def image(self, source: str) -> NamedImage:
        """Read an image named on the command line now, so that a mistake shows before a large model is loaded.

        `-` is standard input. Later turns see the same image even if its file changes.
        """
        with importing():
            from tessera.images import load

        if not source:
            raise ImageError("the image's name is empty; give a path, a URL, or - for standard input.")
        if source == "-":
            data = sys.stdin.buffer.read()
            kept = f"data:image/png;base64,{base64.b64encode(data).decode()}"
            return NamedImage(Image(load(Image(data), self.limits())), kept)
        is_url = source[:5].lower() == "data:" or "://" in source
        return NamedImage(Image(load(Image(source), self.limits())), source if is_url else str(Path(source).absolute()))

    def stream(self, model: ChatModel, messages: list[Any], params: SamplingParams) -> Iterator[Delta]:
        """Stream the reply; until its first piece a terminal shows how much of the prompt is read."""
        deltas = model.stream(messages, params)
        with self._status() as status, _watching(model, status):
            first = next(deltas, None)
        if first is not None:
            yield first
            yield from deltas

    def limits(self) -> ImageLimits:
        from tessera.sources import ImageLimits

        return ImageLimits(
            max_pixels=self.max_image_pixels,
            max_side=self.max_image_side,
            allow_private_addresses=self.allow_private_addresses,
            flags=("max_pixels",),
        )

    def note(self, text: str) -> None:
        if not self.quiet:
            say(text)

    @contextmanager
    def _status(self) -> Iterator[Status]:
        status = Status(shows=sys.stderr.isatty() and not self.quiet)
        try:
            yield status
        finally:
            status.erase()


class Status:
    """One terminal line that is overwritten, and cleared at the end."""

    def __init__(self, *, shows: bool) -> None:
        self.shows = shows
        self._written = False

    def __call__(self, text: str) -> None:
        if self.shows:
            sys.stderr.write(f"{ERASE_LINE}tessera: {printable(text)}")
            sys.stderr.flush()
            self._written = True

    def erase(self) -> None:
        if self._written:
            sys.stderr.write(ERASE_LINE)
            sys.stderr.flush()
            self._written = False


@contextmanager
def _watching(model: ChatModel, status: Status) -> Iterator[None]:
    """Show the reading progress from a separate thread while the caller waits for the reply."""
    from tessera.llm import LLM

    if not status.shows or not isinstance(model, LLM):
        yield
        return
    start, ended = time.monotonic(), threading.Event()

    def watch() -> None:
        while not ended.wait(TICK_S):
            if (reading := model.reading()) is not None:
                status(reading_line(*reading, time.monotonic() - start))

    thread = threading.Thread(target=watch, name="tessera-status", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def reading_line(images: int, tokens: int, computed: int, seconds: float) -> str:
    """Example: "reading 1 image, 4,169 tokens, 60 %, 12 s"."""
    what = counted(images, "image") if images else "the question"
    return f"reading {what}, {tokens:,} tokens, {100 * computed // tokens} %, {seconds:.0f} s"


def say(text: str) -> None:
    """Write a line to standard error; what names of files and servers hold cannot drive the terminal."""
    print(f"tessera: {printable(text)}", file=sys.stderr, flush=True)


def write_reply(text: str) -> None:
    """Write a piece of a reply: to a terminal without what could drive it, elsewhere as it is."""
    sys.stdout.write(printable(text, keep="\n\t") if sys.stdout.isatty() else text)
    sys.stdout.flush()


def json_text(value: Any, encoding: str = "utf-8", indent: int | None = None) -> str:
    """Return a value as JSON; with escapes if the encoding lacks one of its signs, as UTF-8 does half a character."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text


def print_json(value: Any) -> None:
    """Write a value as a line of JSON: to a terminal with escapes for what could drive it, which is the same value."""
    text = json_text(value, sys.stdout.encoding or "utf-8")
    if sys.stdout.isatty():
        text = "".join(sign if printable(sign) == sign else json.dumps(sign)[1:-1] for sign in text)
    print(text, flush=True)


@contextmanager
def stopping_is_said() -> Iterator[None]:
    """Acknowledge Ctrl-C at once: the interrupted work may take seconds to stop."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def stop(number: int, frame: FrameType | None) -> None:
        if sys.stderr.isatty():
            sys.stderr.write("\n")
        say("stopping...")
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def user_message(text: str, images: list[NamedImage]) -> dict[str, Any]:
    """Build one user turn: the images in order, then the text."""
    return {"role": "user", "content": [*(named.image for named in images), text]}
