"""Nano's evaluation: right answers by skill, with 95 % intervals, on held-out pictures.

Five groups of pictures: training's own drawers with other seeds, with held-out typefaces and layouts;
charts and papers by other programs; pieces of real manuals. `measure` draws and scores them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

from tessera.chat import ChatModel
from tessera.evals.metrics import edit_distance, wilson_interval
from tessera.messages import Image, Message
from tessera.nano.measure import tesseract
from tessera.nano.measure.drawn import drawn_trials
from tessera.nano.measure.plots import plot_trials
from tessera.nano.measure.pygal_charts import pygal_trials
from tessera.nano.measure.real_pages import page_trials
from tessera.nano.measure.scoring import is_right
from tessera.nano.measure.trial import GROUPS, REAL_PAGES, RENDERERS, Trial
from tessera.nano.measure.web_papers import web_trials
from tessera.sampling import SamplingParams

BATCH = 64
SPARE_TOKENS = 48  # beyond twice the right answer: a longer reply is wrong at any length
TYPE_SIZES = (9, 11, 15, 20)  # pixels: the largest of each column
SIDES = (128, 256, 512)  # pixels of a picture's longest side
NANO = "nano"
Log = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """A reader's reply to a trial; `edits` are counted for transcriptions."""

    trial: Trial
    reply: str
    right: bool
    edits: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return all but the images, for a line of JSON."""
        told = {field.name: getattr(self.trial, field.name) for field in fields(Trial) if field.name != "pictures"}
        return {**told, "longest_side": self.trial.longest_side, "reply": self.reply, "right": self.right}


def result_of(trial: Trial, reply: str) -> Result:
    wrong = edit_distance(reply, trial.answer) if trial.skill == "transcribe" else 0
    return Result(trial, reply, is_right(reply, trial), wrong)


def trials_in(group: str, samples: int) -> Iterator[Trial]:
    """Yield a group's trials: `samples` pages of each kind, more of the kinds that draw quickly."""
    if group == RENDERERS:
        yield from plot_trials(3 * samples)
        yield from pygal_trials(2 * samples)
        yield from web_trials(samples)
    elif group == REAL_PAGES:
        yield from page_trials(2 * samples)
    else:
        yield from drawn_trials(group, samples)


def evaluate(model: ChatModel, samples: int, groups: Sequence[str] = GROUPS, log: Log = lambda line: None) -> list[Result]:  # fmt: skip # noqa: E501
    """Ask the model everything in the groups; `log` receives the progress."""
    results: list[Result] = []
    for group in groups:
        first = len(results)
        for trials in _chunks(trials_in(group, samples)):
            results += [result_of(t, reply) for t, reply in zip(trials, ask(model, trials), strict=True)]
            done = results[first:]
            log(f"{group}: {sum(result.right for result in done)} of {len(done)} right")
    return results


def _chunks(trials: Iterable[Trial]) -> Iterator[list[Trial]]:
    remaining = iter(trials)
    while chunk := list(islice(remaining, BATCH)):
        yield chunk


def ask(model: ChatModel, trials: Sequence[Trial]) -> list[str]:
    """Return the model's greedy answers, in order."""
    conversations = [
        [Message("user", (*(Image(picture) for picture in trial.pictures), trial.question))] for trial in trials
    ]
    params = [SamplingParams(max_tokens=2 * len(trial.answer.encode()) + SPARE_TOKENS) for trial in trials]
    return [reply.text for reply in model.batch(conversations, params)]


def read_with_tesseract(results: Sequence[Result], log: Log = lambda line: None) -> list[Result]:
    """Run Tesseract on the transcription trials."""
    trials = [result.trial for result in results if result.trial.skill == "transcribe"]
    read = []
    for number, trial in enumerate(trials, 1):
        read.append(result_of(trial, tesseract.read(trial.pictures[0])))
        if number % BATCH == 0 or number == len(trials):
            log(f"{tesseract.NAME}: {sum(result.right for result in read)} of {number} right")
    return read


# Tables -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """Columns of text under a header."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        lines = [self.head, ("---",) * len(self.head), *self.rows]
        return f"**{self.title}**\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def share(results: Sequence[Result]) -> str:
    """ "93% (90-95, n=240)" """
    if not results:
        return "-"
    right = sum(result.right for result in results)
    low, high = wilson_interval(right, len(results))
    return f"{right / len(results):.0%} ({100 * low:.0f}-{100 * high:.0f}, n={len(results)})"


def error_rate(results: Sequence[Result]) -> str:
    """The character error rate of transcriptions, over all their characters."""
    characters = sum(len(" ".join(result.trial.answer.split())) for result in results)
    if not characters:
        return "-"
    return f"{sum(result.edits for result in results) / characters:.1%} (n={len(results)})"


def tables(results: Sequence[Result], others: Sequence[Result] = ()) -> list[Table]:
    """Build all tables of the results; `others` are Tesseract's."""
    texts = [result for result in results if result.trial.skill == "transcribe"]
    made = [
        _crossed("Right answers by skill", results, _group, _skill, share),
        _crossed("Right answers by size of type, pixels", results, _type_bin, _group, share),
        _crossed("Right answers by longest side of the picture, pixels", results, _side_bin, _group, share),
        _crossed("Other renderers, by program", _of(results, RENDERERS), _skill, _source, share),
        _crossed("Character error rate of transcriptions", texts, _type_bin, _group, error_rate),
    ]
    if others:
        made.append(_crossed(f"Character error rate of {tesseract.NAME}", others, _type_bin, _group, error_rate))
        rows = [(group, share(_of(texts, group)), share(_of(others, group))) for group in _groups(others)]
        made.append(Table("Transcriptions right in every letter", ("pictures", NANO, tesseract.NAME), tuple(rows)))
    return [table for table in made if table.rows]


Key = Callable[[Result], str]


def _group(result: Result) -> str:
    return result.trial.group


def _skill(result: Result) -> str:
    return result.trial.skill


def _source(result: Result) -> str:
    return result.trial.source


def _type_bin(result: Result) -> str:
    size = result.trial.type_size
    return "no type" if size is None else _bin(round(size), TYPE_SIZES)


def _side_bin(result: Result) -> str:
    side = result.trial.longest_side
    return "no picture" if side == 0 else _bin(side, SIDES)


def _bin(value: int, largest: Sequence[int]) -> str:
    """ "up to 9", "10 to 11", ... "21 and above" """
    place = sum(value > bound for bound in largest)
    if place == 0:
        return f"up to {largest[0]}"
    low = largest[place - 1] + 1
    return f"{low} and above" if place == len(largest) else f"{low} to {largest[place]}"


def _of(results: Sequence[Result], group: str) -> list[Result]:
    return [result for result in results if result.trial.group == group]


def _groups(results: Sequence[Result]) -> list[str]:
    return [group for group in GROUPS if _of(results, group)]


def _crossed(title: str, results: Sequence[Result], across: Key, down: Key, cell: Callable[[Sequence[Result]], str]) -> Table:  # fmt: skip # noqa: E501
    """Build a table of cells; columns and rows by their keys, sizes in ascending order."""
    columns, rows = (sorted({key(result) for result in results}, key=_order) for key in (across, down))
    return Table(
        title,
        ("", *columns),
        tuple(
            (row, *(cell([r for r in results if down(r) == row and across(r) == column]) for column in columns))
            for row in rows
        ),
    )


def _order(name: str) -> tuple[int, float, str]:
    """Sort key: groups in their own order, sizes by number, other names alphabetically."""
    if name in GROUPS:
        return 0, GROUPS.index(name), ""
    number = next((word for word in name.split() if word.isdigit()), None)
    return (1, 0, name) if number is None else (0, float(number), "")
