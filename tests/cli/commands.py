"""Commands run in this process, and a model that answers with what it was asked."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tessera.chat import Completion, Delta, Timings, Usage
from tessera.cli import app as cli
from tessera.messages import Image
from tessera.sampling import SamplingParams


class Echo:
    """A model that answers with what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def stream(self, messages: Any, params: SamplingParams | None = None, *, tools: Any = ()) -> Iterator[Delta]:
        self.asked.append((messages, params))
        yield Delta("you said: ")
        text = messages[-1]["content"][-1]
        yield Delta(text, finish_reason="stop", usage=Usage(5, 2), timings=Timings())

    def chat(self, messages: Any, params: SamplingParams | None = None, *, tools: Any = ()) -> Completion:
        return Completion.from_deltas(list(self.stream(messages, params)), "echo")


def seen(message: dict[str, Any]) -> list[Any]:
    """A turn's content, each image as its width."""
    return [part.source.width if isinstance(part, Image) else part for part in message["content"]]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str, stdin: bytes = b"") -> int:
    monkeypatch.setattr(sys, "argv", ["tessera", *arguments])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    code = ended.value.code
    return 0 if code is None else int(code)
