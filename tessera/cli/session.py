"""What `ask` and `chat` share: the model behind the conversation, and notes on standard error."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from tessera.chat import ChatModel, Image


@dataclass(frozen=True)
class Session:
    """How the user wants the model opened."""

    model: str | None
    dtype: str
    device: str
    max_image_pixels: int
    allow_private_addresses: bool
    quiet: bool

    def open(self) -> ChatModel:
        """Load the model; without a name the bundled one, which is said once."""
        from tessera.images import ImageLimits
        from tessera.llm import LLM

        if self.model is None:
            self.note("no model given: nano answers, the small bundled one (-m chooses another)")
        limits = ImageLimits(max_pixels=self.max_image_pixels, allow_private_addresses=self.allow_private_addresses)
        return LLM(self.model or "nano", dtype=self.dtype, device=self.device, limits=limits)

    def note(self, text: str) -> None:
        if not self.quiet:
            print(f"tessera: {text}", file=sys.stderr)


def picture(source: str) -> Image:
    """A picture as named on the command line; - reads standard input."""
    return Image(sys.stdin.buffer.read() if source == "-" else source)


def user_message(text: str, sources: list[str]) -> dict[str, Any]:
    """One turn of the user: the pictures in order, then the text."""
    return {"role": "user", "content": [*(picture(source) for source in sources), text]}
