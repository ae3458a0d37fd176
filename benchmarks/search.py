"""`python -m benchmarks.search`: an archive of drawn pages with known answers: index rate, bytes, times, and R@1.

Pages are invoices, letters and notes made of a small vocabulary, many to a PDF, written here with text layers. Every
question has one page as its answer. `--million` inserts synthetic pages through the same writer, without PDFs.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.search_pages import (
    PAGES_OF_FILE,
    QUESTIONS,
    SHORT,
    Drawn,
    as_drawn,
    drawn_pages,
    questions,
    written_pdf,
)
from tessera.documents.api import budget_of
from tessera.documents.extraction import Options
from tessera.llm import LLM
from tessera.search.enrich import Enrichment, Reader
from tessera.search.packing import text_of
from tessera.search.query import parse
from tessera.search.rerank import rerank
from tessera.search.scan import Reading, Scan
from tessera.search.searcher import Searcher
from tessera.search.store import NAME, writing
from tessera.search.vectors import nearest_pages
from tessera.search.writer import Entry, Writer


@dataclass
class Score:
    """How well and how fast questions of one kind were answered."""

    ranks: list[int | None]
    seconds: list[float]
    worked: list[float]  # seconds of processor time

    def row(self, name: str) -> str:
        right = sum(rank == 1 for rank in self.ranks) / len(self.ranks)
        mean = statistics.mean(0.0 if rank is None else 1 / rank for rank in self.ranks)
        times, worked = (sorted(1000 * each for each in given) for given in (self.seconds, self.worked))
        most = int(0.95 * (len(times) - 1))
        return (
            f"| {name} | {len(times)} | {right:.3f} | {mean:.3f} | {times[len(times) // 2]:.1f} | "
            f"{times[most]:.1f} | {worked[len(times) // 2]:.1f} | {worked[most]:.1f} |"
        )


def _write_files(folder: Path, pages: Sequence[Drawn]) -> None:
    for first in range(0, len(pages), PAGES_OF_FILE):
        (folder / f"{first // PAGES_OF_FILE:04}.pdf").write_bytes(written_pdf(pages[first : first + PAGES_OF_FILE]))


def _page_of(searcher: Searcher) -> dict[int, int]:
    """The index's page of each place."""
    rows = searcher.connection.execute("SELECT f.name, p.number, p.id FROM pages p JOIN files f USING (content)")
    return {int(name[:4]) * PAGES_OF_FILE + number - 1: page for name, number, page in rows}


def measured(searcher: Searcher, asked: dict[str, list[tuple[str, int]]], page_of: dict[int, int]) -> list[str]:
    """Ask all questions; `page_of` has the index's page of each place."""
    lines = [
        "| questions | asked | R@1 | MRR | p50 ms | p95 ms | CPU p50 ms | CPU p95 ms |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    every = Score([], [], [])
    for kind, pairs in asked.items():
        score = Score([], [], [])
        for text, place in pairs:
            began, worked = time.perf_counter(), time.process_time()
            found = searcher.search(text)
            score.seconds.append(time.perf_counter() - began)
            score.worked.append(time.process_time() - worked)
            ids = [hit.page for hit in found.hits]
            score.ranks.append(ids.index(page_of[place]) + 1 if page_of[place] in ids else None)
        lines.append(score.row(kind))
        every = Score(every.ranks + score.ranks, every.seconds + score.seconds, every.worked + score.worked)
    return [*lines, every.row("all")]


def archive(folder: Path, count: int) -> list[str]:
    """Draw, index and ask an archive of PDFs."""
    pages = list(drawn_pages(count))
    _write_files(folder, pages)
    began, busy = time.perf_counter(), _busy_seconds()
    with writing(folder / NAME, folder) as connection:
        Scan(folder, folder / NAME, Writer(connection), Reading()).run()
    seconds, busy = time.perf_counter() - began, _busy_seconds() - busy
    size = (folder / NAME).stat().st_size
    began = time.perf_counter()
    with writing(folder / NAME, folder) as connection:
        Scan(folder, folder / NAME, Writer(connection), Reading()).run()
    again = time.perf_counter() - began
    with Searcher(folder) as searcher:
        lines = measured(searcher, questions(pages), _page_of(searcher))
    return [
        f"{count:,} pages in {-(-count // PAGES_OF_FILE):,} PDFs: {count / seconds:.1f} pages a second "
        f"({1000 * busy / count:.1f} ms of processor time a page, children included), {size / count:,.0f} bytes a page "
        f"in the index; a second run over unchanged files {again:.2f} s.",
        "", *lines,
    ]  # fmt: skip


def _busy_seconds() -> float:
    """Processor time of this process and of its ended children."""
    own, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def synthetic(folder: Path, count: int) -> list[str]:
    """Insert pages without PDFs or thumbnails through the same writer."""
    began = time.perf_counter()
    with writing(folder / NAME, folder) as connection:
        writer = Writer(connection)
        content = -1
        for place, page in enumerate(drawn_pages(count, SHORT)):
            if place % 1000 == 0:
                content = writer.begin_content(f"{place:064x}")
                writer.put_file(f"{place:07}.pdf", (1, 1), content, None)
                writer.complete_content(content)
            writer.put_page(content, Entry(place % 1000 + 1, 1000, "\n".join(page.lines), size=(595, 842)))
            if place % 50_000 == 0:
                print(f"{place:,} pages, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        writer.commit()
    seconds = time.perf_counter() - began
    size = (folder / NAME).stat().st_size
    asked = subprocess.run(
        [sys.executable, "-m", "benchmarks.search", "--ask", str(folder), "--pages", str(count)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [
        f"{count:,} synthetic pages of {SHORT} lines: {count / seconds:,.0f} a second, {size / count:,.0f} bytes a "
        f"page, {size / 1e9:.2f} GB; the writing process took at most {own:.0f} MB.",
        "", asked.stdout,
    ]  # fmt: skip


def ask_synthetic(folder: Path, count: int) -> list[str]:
    """Ask an index of synthetic pages, in a process of its own for its memory; pages are numbered by their place."""
    kept = _kept(folder, random.Random(11).sample(range(count), min(QUESTIONS, count)))
    before = _memory()
    asked: dict[str, list[tuple[str, int]]] = {"number": [], "part of a number": [], "words": [], "common word": []}
    for place, page in kept.items():
        asked["number"].append((page.number, place))
        asked["part of a number"].append((page.part[1:], place))
        asked["words"].append((f"invoice from {page.words}", place))
    asked["common word"] = [("invoice", 0)] * 5
    began = time.perf_counter()
    with Searcher(folder) as searcher:
        searcher.search(kept[min(kept)].number)
        opened = time.perf_counter() - began
        lines = measured(searcher, asked, {place: place + 1 for place in [*kept, 0]})
    return [
        *lines, "",
        f"Opening and the first question took {1000 * opened:.0f} ms; opening and asking took {_memory() - before:.0f} "
        f"MB; at most the process had {_memory('VmHWM'):.0f} MB.",
    ]  # fmt: skip


def _kept(folder: Path, places: Sequence[int]) -> dict[int, Drawn]:
    """Some pages as they were drawn, read back from the index."""
    with Searcher(folder) as searcher:
        ask = "SELECT text FROM pages WHERE id = ?"
        texts = {place: text_of(searcher.connection.execute(ask, (place + 1,)).fetchone()[0]) for place in places}
    return {place: as_drawn(text.splitlines()) for place, text in texts.items()}


def with_model(folder: Path, count: int, name: str, side: int | None) -> list[str]:
    """Ask a small archive by words, by vectors, by both, and with the first five pages reranked."""
    pages = list(drawn_pages(count, SHORT))
    _write_files(folder, pages)
    asked = questions(pages)["words"]
    with LLM(name, dtype="bfloat16") as model:
        budget = budget_of(model).limited(side)
        with writing(folder / NAME, folder) as connection:
            writer = Writer(connection)
            counts = Scan(folder, folder / NAME, writer, Reading()).run()
            began = time.perf_counter()
            reader = Reader(model, name, Options(budget=budget))
            Enrichment(folder, writer, folder / "journal", reader, counts).embed()
            seconds = time.perf_counter() - began
        seen = f"{count:,} pages of at most {budget.image_side} pixels"
        lines = [f"{seen}, {name}: {seconds / count:.2f} s for a page's vector.", ""]
        lines += ["| ranked by | R@1 | MRR |", "| --- | --- | --- |"]
        with Searcher(folder) as searcher:
            ways: dict[str, Callable[[str], list[int]]] = {
                "words": lambda text: [hit.page for hit in searcher.search(text).hits],
                "vectors": lambda text: [page for page, _ in nearest_pages(model, searcher, text)(parse(text))],
                "both": lambda text: [
                    hit.page for hit in searcher.search(text, vectors=nearest_pages(model, searcher, text)).hits
                ],
                "words, reranked": lambda text: [
                    hit.page for hit in rerank(model, searcher, text, searcher.search(text, limit=5).hits, budget)
                ],
            }
            page_of = _page_of(searcher)
            for way, find in ways.items():
                ranks = [_rank(find(text), page_of[place]) for text, place in asked]
                right = sum(rank == 1 for rank in ranks) / len(ranks)
                lines.append(
                    f"| {way} | {right:.2f} | {statistics.mean(1 / rank if rank else 0 for rank in ranks):.2f} |"
                )
    return [*lines, "", f"{len(asked)} questions."]


def _rank(pages: Sequence[int], wanted: int) -> int | None:
    return list(pages).index(wanted) + 1 if wanted in pages else None


def _memory(what: str = "VmRSS") -> float:
    """Resident megabytes of this process: now, or VmHWM, the most since its program began."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("--pages", type=int, default=10_000)
    parser.add_argument("--million", action="store_true", help="synthetic pages, as many as --pages says")
    parser.add_argument("--folder", type=Path, help="an empty folder to work in; default: a temporary one")
    parser.add_argument("--ask", type=Path, help="an index of synthetic pages that is there")
    parser.add_argument(
        "--model", help="measure vectors and reranking with this model, on as many pages as --pages says"
    )
    parser.add_argument("--side", type=int, help="pixels along the longer edge of what that model sees, at most")
    given = parser.parse_args(argv)
    if given.ask is not None:
        print("\n".join(ask_synthetic(given.ask, given.pages)))
        return
    with tempfile.TemporaryDirectory() as made:
        folder = given.folder or Path(made)
        if given.model is not None:
            print("\n".join(with_model(folder, given.pages, given.model, given.side)))
            return
        work = synthetic if given.million else archive
        print("\n".join(work(folder, given.pages)))


if __name__ == "__main__":
    main()
