"""What `ask` and `chat` share: the model behind the conversation, and notes on standard error."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tessera.chat import ChatModel, Image

if TYPE_CHECKING:
    from tessera.sources import ImageLimits


@dataclass(frozen=True)
class Session:
    """How the user wants the model opened."""

    model: str | None
    mmproj: Path | None
    dtype: str
    device: str
    kv_cache_dtype: str
    tensor_parallel_size: int
    max_image_pixels: int
    allow_private_addresses: bool
    quiet: bool

    def open(self) -> ChatModel:
        """Load the model; without a name the bundled one, which is said once."""
        from tessera.llm import LLM

        if self.model is None:
            self.note("no model given: nano answers, the small bundled one (-m chooses another)")
        llm = LLM(
            self.model or "nano",
            mmproj=self.mmproj,
            dtype=self.dtype,
            device=self.device,
            limits=self.limits(),
            kv_cache_dtype=self.kv_cache_dtype,
            tensor_parallel_size=self.tensor_parallel_size,
        )
        for note in llm.notes:
            self.note(note)
        return llm

    def picture(self, source: str) -> Image:
        """A picture as named on the command line, read now: a mistake shows before a large model is loaded.

        `-` is standard input. Later turns see the same picture even if its file changes.
        """
        from tessera.images import load

        return Image(load(Image(sys.stdin.buffer.read() if source == "-" else source), self.limits()))

    def limits(self) -> ImageLimits:
        from tessera.sources import ImageLimits

        return ImageLimits(
            max_pixels=self.max_image_pixels,
            allow_private_addresses=self.allow_private_addresses,
            flags=("max_pixels",),
        )

    def note(self, text: str) -> None:
        if not self.quiet:
            print(f"tessera: {text}", file=sys.stderr)


def user_message(text: str, pictures: list[Image]) -> dict[str, Any]:
    """One turn of the user: the pictures in order, then the text."""
    return {"role": "user", "content": [*pictures, text]}
