"""What `tessera.migration` offers in Python: two models, by name or open, compared on the same documents."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tessera.chat import ChatModel
from tessera.client import Client
from tessera.documents.api import budget_of
from tessera.documents.extraction import Extraction, Options
from tessera.documents.journal import Journal
from tessera.documents.journal_file import files_of
from tessera.documents.presets import Preset, open_preset
from tessera.errors import UsageError
from tessera.migration.agreement import Rules
from tessera.migration.comparison import LEAST, NAMES, Comparison, Labels, check_table, written_beside
from tessera.migration.exports import KINDS
from tessera.migration.records import write_records
from tessera.migration.summary import Summary

Given = ChatModel | str | Path


def compare(
    paths: str | Path | Sequence[str | Path],
    schema: str | Path | Mapping[str, Any] | type | Preset,
    old: Given,
    new: Given,
    *,
    labels: str | Path | Sequence[str | Path] = (),
    report: str | Path | None = None,
    out: str | Path | None = None,
    exports: Sequence[str] = (),
    journals: tuple[str | Path, str | Path] | None = None,
    min_agreement: float = LEAST,
    rules: Rules | None = None,
    preset_dir: str | Path | None = None,
    **options: Any,
) -> Summary:
    """Read documents with two models, one after the other, and return how far their values agree, and the decision.

    `schema` is as in `extract`. `old` and `new` are ChatModels, which stay open, or names of models to open, or servers
    (`http://HOST:PORT`, or `http://HOST:PORT#MODEL`). `labels` are files of true values. `report` (a web page), `out`
    (.jsonl) and `exports` ("promptfoo", "inspect", beside the report) are written if named. With `journals`, a file for
    each model, a later call goes on from them. `options` are the fields of `Options`. Raises UsageError before anything
    is read.
    """
    preset = open_preset(schema, folder=None if preset_dir is None else Path(preset_dir))
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    page_file, table = (None if each is None else Path(each) for each in (report, out))
    _check(page_file, table, exports, min_agreement)
    files = [labels] if isinstance(labels, str | Path) else labels
    truth = Labels([Path(each) for each in files], warnings.warn)
    kept = () if journals is None else tuple(map(Path, journals))
    written = [*written_beside(page_file, table, exports), *(each for journal in kept for each in files_of(journal))]
    chosen = Options(**{**options, "skip": (*options.get("skip", ()), *written)})
    with tempfile.TemporaryDirectory(prefix="tessera-") as made:
        records = Path(made, NAMES[0]), Path(made, NAMES[1])
        facts = []
        for number, model in enumerate((old, new)):
            with _opened(model) as opened:
                settled = chosen if "budget" in options else replace(chosen, budget=budget_of(opened))
                journal = kept[number] if kept else Path(made, f"{number}.journal")
                facts.append(_read(Extraction(given, preset, settled), opened, journal, records[number]))
        reader = Extraction(given, preset, chosen).reader
        comparison = Comparison(
            sides=(_name(old), _name(new)), preset=preset, page=lambda *key: reader.pages([key])[0], labels=truth,
            rules=rules or Rules(), least=min_agreement, report=page_file, out=table, exports=exports,
        )  # fmt: skip
        return comparison.write(records, facts)[0]


def _check(report: Path | None, out: Path | None, exports: Sequence[str], least: float) -> None:
    if not 0 <= least <= 1:
        raise UsageError(f"min_agreement is {least}; it is a share, between 0 and 1.", param="min_agreement")
    if out is not None:
        check_table("out", out)
    if unknown := sorted(set(exports) - set(KINDS)):
        raise UsageError(f"exports names {unknown[0]!r}; known are {', '.join(KINDS)}.", param="exports")
    if exports and report is None:
        raise UsageError("exports are written beside the report, and no report is named; name one.", param="exports")
    for name, file in (("report", report), ("out", out)):
        if file is not None and not file.absolute().parent.is_dir():
            raise UsageError(f"{name} {file} would be in a folder that does not exist; create it, or name another.")


@contextmanager
def _opened(model: Given) -> Iterator[ChatModel]:
    if isinstance(model, ChatModel):
        yield model
        return
    from tessera.llm import LLM

    text = str(model)
    is_server = text.startswith(("http://", "https://"))
    address = urlsplit(text)
    named = Client(address._replace(fragment="").geturl(), model=address.fragment or None) if is_server else LLM(model)
    with named:
        yield named


def _read(job: Extraction, model: ChatModel, journal: Path, file: Path) -> dict[str, Any]:
    """Read all documents with one model, write its records, and tell what it ran with."""
    with Journal.open(journal, job.identity(model.fingerprint)) as opened:
        opened.add(job.plan())
        job.run(opened, model)
        write_records(file, job.records(opened))
    return {"model": model.model_name, "served_as": model.model_name, **job.budget.facts()}


def _name(model: Given) -> str:
    return model.model_name if isinstance(model, ChatModel) else str(model)
