"""`tessera nano`: draw, train and evaluate the small model that ships."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tessera.cli.parser import check_target
from tessera.errors import UsageError, counted

if TYPE_CHECKING:
    from tessera.nano.evaluate import Result


def run_fonts(out: Path | None, debs: Path | None) -> None:
    from tessera.nano.pictures.icons import fetch_icons
    from tessera.nano.typefaces import fonts_folder, typefaces
    from tessera.nano.typefaces.fetch import fetch

    if debs is not None and not debs.is_dir():
        raise UsageError(f"--debs {debs} is not a folder; name one that holds Debian packages, or leave it out.")
    folder = out or fonts_folder()
    made = fetch(folder, debs, _log)
    fetch_icons(folder / "icons" if out else None)
    families = {face.family for face in typefaces()}
    _log(f"{counted(len(typefaces()), 'file')} of {counted(len(families), 'family', 'families')}, {made} of them new")
    print(folder)


def run_draw(out: Path, count: int, seed: int) -> None:
    """Write pages of one picture, each with one of its questions; others are left out."""
    from random import Random

    from tessera.nano.pictures.mix import MIXED, draw_page
    from tessera.samples import LABELS

    out.mkdir(parents=True, exist_ok=True)
    pages = (draw_page(MIXED, Random(number)) for number in itertools.count(seed))
    drawn = itertools.islice((page for page in pages if len(page.pictures) == 1 and page.questions), count)
    with (out / LABELS).open("w", encoding="utf-8") as labels:
        for number, page in enumerate(drawn, seed):
            name = f"{number:08}.png"
            page.pictures[0].save(out / name)
            asked = Random(number).choice(page.questions)
            label = {"image": name, "skill": asked.skill, "question": asked.question.text, "answer": asked.answer.text}
            labels.write(json.dumps(label, ensure_ascii=False) + "\n")
    print(out)


def run_train(out: Path, seconds: float | None, workers: int, processes: int, device: str) -> None:
    from tessera.nano.pictures.fonts import faces
    from tessera.nano.pictures.icons import check_icons
    from tessera.nano.recipe import Recipe
    from tessera.nano.train import train

    faces()  # Report missing typefaces here, before any worker draws.
    check_icons()
    limit = float("inf") if seconds is None else seconds
    train(out, Recipe(), device=device, workers=workers, processes=processes, seconds=limit, log=_log)
    print(out)


def _log(line: str) -> None:
    # At module level, because training pickles it for several processes.
    print(line, file=sys.stderr, flush=True)


def run_eval(
    model: str, samples: int, groups: Sequence[str], against: str | None, kv_cache_dtype: str, out: Path | None
) -> None:
    from tessera.nano.evaluate import read_with_tesseract, tables

    if out is not None:
        check_target("--out", out)
    results = _results(model, samples, groups, kv_cache_dtype)
    if out is not None:
        out.write_text("".join(json.dumps(result.as_json()) + "\n" for result in results), encoding="utf-8")
    others = read_with_tesseract(results, _log) if against else []
    print("\n\n".join(table.markdown() for table in tables(results, others)))


def run_report(out: Path, model: str, samples: int, groups: Sequence[str], against: str | None) -> None:
    from tessera.nano.evaluate import read_with_tesseract, tables
    from tessera.nano.report import report

    check_target("--out", out)
    results = _results(model, samples, groups, "auto")
    others = read_with_tesseract(results, _log) if against else []
    out.write_text(report(results, tables(results, others), model), encoding="utf-8")
    print(out)


def _results(model: str, samples: int, groups: Sequence[str], kv_cache_dtype: str) -> list[Result]:
    from tessera.llm import LLM
    from tessera.nano.evaluate import evaluate
    from tessera.nano.measure.trial import GROUPS

    for group in groups:
        if group not in GROUPS:
            raise UsageError(f"there is no group {group!r}; the groups are {', '.join(GROUPS)}.")
    with LLM(model, kv_cache_dtype=kv_cache_dtype) as llm:
        return evaluate(llm, samples, groups or GROUPS, _log)
