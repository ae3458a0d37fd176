"""Nano in 8 bits answers the demonstration's questions as nano does."""

from __future__ import annotations

from pathlib import Path

from tessera import LLM
from tessera.quantize.plan import Options
from tessera.quantize.run import quantize
from tests.e2e.test_demo import ASKED, NANO, question
from tests.e2e.test_demo import pytestmark as pytestmark  # without the bundled weights there is nothing to ask


def test_eight_bits_answer_the_same(tmp_path: Path) -> None:
    quantize(NANO / "weights", tmp_path / "nano-8bit", Options("8", vision="8"))
    asked = [question(image, text) for image, text, _ in ASKED]
    replies = []
    for model in ("nano", tmp_path / "nano-8bit"):
        with LLM(model, dtype="float32") as llm:
            replies.append([reply.text for reply in llm.batch(asked)])
    assert replies[0] == replies[1]
