"""Local readers without a vision-language model, each in a process of its own: seconds, processor time and memory.

The file runs by itself under the Python that has a reader's packages (`PYTHON document_peers.py rapidocr < paths`), so
that none of them is installed beside Tessera. Each only gives text; `benchmarks.documents` finds the fields in it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PIXELS_A_POINT = {"tesseract": 1.5, "rapidocr": 2.0}  # Tesseract's reader enlarges twice by itself
LIMIT_S = 3600
Read = Callable[[Path], str]


@dataclass(frozen=True)
class Reading:
    """The texts of the papers that a reader was given, or why there are none, and what they cost after its start."""

    texts: tuple[str, ...] = ()
    error: str = ""
    seconds: float = 0.0
    processor_s: float = 0.0
    peak_mb: float = 0.0


def read(name: str, python: str, papers: Sequence[Path]) -> Reading:
    """Let a reader read papers under a Python that has it."""
    command = [python, str(Path(__file__)), name]
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_THREAD_LIMIT": "1", "PYTHONPATH": root}
    given = "\n".join(map(str, papers))
    done = subprocess.run(command, input=given, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return Reading(error=lines[-1][:200])
    told = json.loads(done.stdout.splitlines()[-1])
    return Reading(tuple(told.pop("texts")), **told)


def tesseract() -> Read:
    """Tesseract by its program, as `tessera nano measure` asks it."""
    from tessera.nano.measure import tesseract as reader

    return lambda path: reader.read(image_of(path, PIXELS_A_POINT["tesseract"]))


def rapidocr() -> Read:
    """PP-OCR's small models, which lie in the wheel of rapidocr."""
    import numpy
    from rapidocr import RapidOCR

    one = {"EngineConfig.onnxruntime.intra_op_num_threads": 1, "EngineConfig.onnxruntime.inter_op_num_threads": 1}
    engine = RapidOCR(params=one | {"Global.log_level": "error"})

    def text_of(path: Path) -> str:
        found = engine(numpy.asarray(image_of(path, PIXELS_A_POINT["rapidocr"]))[:, :, ::-1])
        return joined(found.boxes.tolist(), found.txts) if found.txts else ""

    return text_of


def joined(boxes: Sequence[Sequence[Sequence[float]]], texts: Sequence[str]) -> str:
    """Pieces of text as lines: those whose middles lie within half a line's height stand beside each other."""
    pieces = []
    for corners, text in zip(boxes, texts, strict=True):
        ys = [y for _, y in corners]
        pieces.append((sum(ys) / len(ys), max(ys) - min(ys), min(x for x, _ in corners), text))
    lines: list[list[tuple[float, float, float, str]]] = []
    for piece in sorted(pieces):
        if lines and piece[0] - lines[-1][0][0] < piece[1] / 2:
            lines[-1].append(piece)
        else:
            lines.append([piece])
    return "\n".join(" ".join(text for _, _, _, text in sorted(line, key=lambda each: each[2])) for line in lines)


def pdfplumber() -> Read:
    """The text layer alone."""
    import pdfplumber as reader

    def text_of(path: Path) -> str:
        with reader.open(path) as document:
            return "\n".join(page.extract_text() or "" for page in document.pages)

    return text_of


def docling() -> Read:
    """docling, which must have fetched its models; its OCR is RapidOCR."""
    from docling.document_converter import DocumentConverter

    converter = DocumentConverter()
    return lambda path: str(converter.convert(path).document.export_to_text())


# What each reads; it is asked about no other papers.
READERS: dict[str, tuple[Callable[[], Read], tuple[str, ...]]] = {
    "tesseract": (tesseract, (".png", ".pdf")),
    "rapidocr": (rapidocr, (".png", ".pdf")),
    "pdfplumber": (pdfplumber, (".pdf",)),
    "docling": (docling, (".png", ".pdf")),
}


def image_of(path: Path, pixels_a_point: float) -> Any:
    """A paper as an image; a PDF's first page is rendered."""
    if path.suffix != ".pdf":
        from PIL import Image

        return Image.open(path).convert("RGB")
    import pypdfium2

    with pypdfium2.PdfDocument(path) as document:
        return document[0].render(scale=pixels_a_point).to_pil().convert("RGB")


def main() -> None:
    papers = [Path(line) for line in sys.stdin.read().splitlines()]
    text_of = READERS[sys.argv[1]][0]()
    text_of(papers[0])  # loads what is loaded late
    began, used = time.perf_counter(), sum(os.times()[:4])
    texts = [text_of(paper) for paper in papers]
    seconds, processor = time.perf_counter() - began, sum(os.times()[:4]) - used
    print(json.dumps({"texts": texts, "seconds": seconds, "processor_s": processor, "peak_mb": peak_mb()}))


def peak_mb() -> float:
    """This process's peak, as Linux counts it; `ru_maxrss` may be that of the process which started this one."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main()
