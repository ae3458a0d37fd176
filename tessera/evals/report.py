"""A report of runs: one HTML file with scores, intervals, groups, and a gallery of what went wrong.

Several runs of one task stand side by side, with the significance of their differences. Images are read
from the data again; where that has moved, the page says so. Everything is in the one file.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from tessera.errors import TesseraError, counted
from tessera.evals.answers import FLAGS, Answer, Score, Summary, is_wrong, summarise
from tessera.evals.compare import Comparison, compare
from tessera.evals.report_page import SCRIPT, STYLE
from tessera.evals.rows import Rows, open_rows
from tessera.evals.run import answers_by_place, facts_of
from tessera.evals.task import Task
from tessera.evals.tasks import task_of
from tessera.images import load
from tessera.messages import Image

SHOWN = 100  # questions in the gallery, if not said otherwise
WIDEST = 480  # pixels of an image
MAX_IMAGES, MAX_WORDS, MAX_ROWS = 8, 3000, 100  # images of a question, characters of a text, rows of a table
Place = tuple[int, int]


@dataclass(frozen=True)
class Run:
    """One run, read."""

    name: str
    facts: Mapping[str, Any]
    task: Task
    answers: Mapping[Place, Answer]
    summary: Summary


def read_run(folder: Path) -> Run:
    facts = facts_of(folder)
    task = task_of(facts)
    answers = answers_by_place(folder)
    return Run(folder.resolve().name, facts, task, answers, summarise(task, answers.values()))


def report(folders: Sequence[Path], *, data: Path | None = None, shown: int = SHOWN) -> str:
    """Build the page of one run, or of several of one task; raises UsageError."""
    runs = [read_run(folder) for folder in folders]
    comparisons = [compare(folders[0], folder) for folder in folders[1:]]
    first = runs[0]
    title = f"{first.task.title}: " + ", ".join(dict.fromkeys(str(run.facts["model"]) for run in runs))
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(first.task.protocol)}.</p>",
        _scores(runs),
        *(_comparison(runs[0].name, run.name, each) for run, each in zip(runs[1:], comparisons, strict=True)),
        _happened(runs),
        *_groups(runs),
        _gallery(runs, data or Path(first.facts["data"]), shown),
        _conditions(runs),
    ]
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
    return f"{head}<style>{STYLE}</style>\n" + "\n".join(parts) + f"\n<script>{SCRIPT}</script></html>\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Build a table of cells that are HTML already."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def _scores(runs: Sequence[Run]) -> str:
    task = runs[0].task
    rows = []
    for index, (name, meaning) in enumerate(task.scores.items()):
        cells = [_number(task, run.summary.scores[index]) for run in runs]
        paper = [] if task.paper is None else [f"{task.paper:g}" if name == task.main else ""]
        label = f"<b>{escape(name)}</b>" if name == task.main else escape(name)
        rows.append([label, *cells, *paper, escape(meaning)])
    heads = [run.name for run in runs] if len(runs) > 1 else ["score, 95 % interval"]
    return _table(["", *heads, *([] if task.paper is None else ["paper, Pixtral 12B"]), "what it is"], rows)


def _number(task: Task, score: Score) -> str:
    """Build a score with its interval, drawn and written."""
    top = 100.0 / (task.scale * task.best)
    low, value, high = (min(100.0, each * top) for each in (score.low, score.value, score.high))
    bar = f'<i style="left:{low:.1f}%;width:{max(high - low, 0.5):.1f}%"></i><b style="left:{value:.1f}%"></b>'
    digits = 1 if task.scale > 1 else 2
    interval = f"{score.low:.{digits}f} to {score.high:.{digits}f}, n = {score.count:,}"
    return f'{score.value:.{digits}f} <small>{interval}</small><div class="bar">{bar}</div>'


def _comparison(first: str, second: str, found: Comparison) -> str:
    verdict = "more than chance explains" if found.is_significant else "no more than chance explains"
    p = "" if found.p is None else f", McNemar's p = {found.p:.3g}"
    notes = "".join(f"; {note}" for note in found.notes)
    return (
        f'<p class="compared"><b>{escape(second)} against {escape(first)}</b>: {found.difference:+.1f} '
        f"(95 % interval {found.low:+.1f} to {found.high:+.1f}{p}), {verdict}: better on {len(found.gained):,}, "
        f"worse on {len(found.lost):,} of {counted(found.count, 'question')}{escape(notes)}.</p>"
    )


def _happened(runs: Sequence[Run]) -> str:
    meanings = {
        "unparsed": "no answer could be read in the reply, and none was guessed",
        "cut": "the reply reached its token limit",
        "refused": "the reply begins as a refusal",
        "failed": "there was no reply; counted as wrong",
    }
    rows = [[flag, *(f"{run.summary.flags[flag]:,}" for run in runs), meanings[flag]] for flag in FLAGS]
    for name, field in (("tokens in", "prompt_tokens"), ("tokens out", "completion_tokens")):
        rows.append([name, *(f"{getattr(run.summary, field):,}" for run in runs), ""])
    rows.append(["seconds", *(f"{run.summary.seconds:,.1f}" for run in runs), "in replies, those at once added up"])
    return "<h2>What happened</h2>" + _table(["", *(run.name for run in runs), ""], rows)


def _groups(runs: Sequence[Run]) -> list[str]:
    task, parts = runs[0].task, []
    for name in runs[0].summary.groups:
        known = [{score.name: score for score in run.summary.groups.get(name, ())} for run in runs]
        values = sorted({value for each in known for value in each})[:MAX_ROWS]
        rows = [
            [escape(value), *(_number(task, each[value]) if value in each else "" for each in known)]
            for value in values
        ]
        parts.append(f"<h2>{escape(task.main)} by {escape(name)}</h2>" + _table([name, *(r.name for r in runs)], rows))
    return parts


def _gallery(runs: Sequence[Run], data: Path, shown: int) -> str:
    """Build the gallery: questions that any run got wrong, evenly taken if there are too many."""
    task = runs[0].task
    wrong = [
        place for place in runs[0].answers if any(place in r.answers and is_wrong(task, r.answers[place]) for r in runs)
    ]
    if not wrong:
        return "<h2>Nothing was wrong</h2>"
    chosen = wrong[:: -(-len(wrong) // shown)] if shown else []
    images = _Images(task, data, str(runs[0].facts["split"]))
    cards = "".join(_card(runs, place, images) for place in chosen)
    note = f"<p>{escape(images.problem)}</p>" if images.problem else ""
    filters = _filters(runs, chosen)
    heading = f"Wrong: {len(wrong):,} of {len(runs[0].answers):,}, {len(chosen):,} shown"
    return f'<h2>{heading}</h2>{note}{filters}<div class="cards">{cards}</div>'


def _filters(runs: Sequence[Run], chosen: Sequence[Place]) -> str:
    """Build the choices above the gallery: by group, by what happened, by text."""
    values: dict[str, set[str]] = {}
    for place in chosen:
        for name, value in runs[0].answers[place].groups.items():
            values.setdefault(name, set()).add(value)
    values["happened"] = {flag for run in runs for place in chosen for flag in _flags(run, place)}
    if len(runs) > 1:
        values["runs"] = {"differ", "agree"}
    selects = "".join(
        f'<label>{escape(name)} <select data-name="{escape(name)}"><option value="">all</option>'
        + "".join(f"<option>{escape(value)}</option>" for value in sorted(known))
        + "</select></label>"
        for name, known in values.items()
        if len(known) > 1
    )
    return f'<p class="filters">{selects}<label>text <input type="search"></label> <span id="count"></span></p>'


def _flags(run: Run, place: Place) -> Sequence[str]:
    answer = run.answers.get(place)
    return [] if answer is None else list(answer.flags) or ["answered"]


def _card(runs: Sequence[Run], place: Place, images: _Images) -> str:
    task, asked = runs[0].task, runs[0].answers[place]
    found = [run.answers.get(place) for run in runs]
    points = {answer.scores.get(task.main, 0.0) for answer in found if answer is not None}
    labels = {name: [value] for name, value in asked.groups.items()}
    labels["happened"] = sorted({flag for run in runs for flag in _flags(run, place)})
    labels["runs"] = ["differ" if len(points) > 1 else "agree"]
    told = [("asked", _short(asked.question)), ("right", _short(_written(asked.answer)))]
    for run, answer in zip(runs, found, strict=True):
        if answer is not None:
            told += _told(task, answer, f" of {run.name}" if len(runs) > 1 else "")
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in told if text)
    head = f"<b>{escape(asked.id)}</b> {escape(', '.join(asked.groups.values()))}"
    return (
        f'<figure data-labels="{escape(json.dumps(labels), quote=True)}">{images.of(place)}'
        f"<figcaption>{head}<dl>{listed}</dl></figcaption></figure>"
    )


def _told(task: Task, answer: Answer, whose: str) -> list[tuple[str, str]]:
    points = ", ".join(f"{name} {value:.2g}" for name, value in answer.scores.items())
    parsed = "" if answer.parsed is None or answer.parsed == answer.reply.strip() else answer.parsed
    return [
        (f"reply{whose}", _short(answer.reply)),
        ("read as", _short(parsed)),
        ("points", points),
        ("happened", ", ".join(answer.flags)),
        ("note", _short(answer.note)),
        ("judge", _short(answer.judgement)),
    ]


def _written(answer: Any) -> str:
    if isinstance(answer, list) and all(isinstance(each, str) for each in answer):
        return " | ".join(dict.fromkeys(answer))
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)


def _short(text: str) -> str:
    """Keep a text's end: there are the question and the answer."""
    return text if len(text) <= MAX_WORDS else f"[...] {text[-MAX_WORDS:]}"


def _conditions(runs: Sequence[Run]) -> str:
    names = list(dict.fromkeys(name for run in runs for name in run.facts["identity"]))
    known = [run.facts["identity"] for run in runs]
    rows = [[escape(name.replace("_", " ")), *(escape(str(each.get(name, ""))) for each in known)] for name in names]
    rows += [
        [name, *(escape(str(run.facts.get(name))) for run in runs)] for name in ("data", "split", "judge", "tessera")
    ]
    return "<h2>Conditions</h2>" + _table(["", *(run.name for run in runs)], rows)


class _Images:
    """The data's images as HTML, read when a card needs them."""

    def __init__(self, task: Task, data: Path, split: str) -> None:
        self.task, self.problem = task, ""
        self.rows: Rows | None = None
        try:
            self.rows = open_rows(data, split, task.config)
        except TesseraError as error:
            self.problem = f"Without images: {error}"

    def of(self, place: Place) -> str:
        if self.rows is None:
            return ""
        try:
            question = self.task.questions(self.rows[place[0]], ())[place[1]]
        except (TesseraError, IndexError) as error:
            return f"<p>{escape(str(error))}</p>"
        images = [image for message in question.messages for image in message.images]
        return "".join(map(_figure, images[:MAX_IMAGES]))


def _figure(image: Image) -> str:
    try:
        shown = load(replace(image, low_detail=False))
    except TesseraError as error:
        return f"<p>{escape(str(error))}</p>"
    shown.thumbnail((WIDEST, 2 * WIDEST))
    file = io.BytesIO()
    shown.save(file, "WEBP", quality=80)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/webp;base64,{data}" width="{shown.width}" height="{shown.height}" alt="asked about">'
