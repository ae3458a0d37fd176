"""What `tessera.documents` offers in Python: models by name, schemas of any form, records as they come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tessera.chat import ChatModel
from tessera.documents.calibration import NAME, Calibration
from tessera.documents.extraction import Options
from tessera.documents.plan import Budget
from tessera.documents.presets import Preset, open_preset
from tessera.documents.record import Record
from tessera.documents.streaming import extract_records
from tessera.heads import beside
from tessera.model.config import VisionConfig

LEAST_WIDTH = 512  # of a vision encoder: nano is narrower, and the official models are twice as wide
TYPE_SIZE = 14.0  # pixels an em that narrower ones read best: they learned from small images, at such sizes


def extract(
    paths: str | Path | Sequence[str | Path],
    schema: str | Path | Mapping[str, Any] | type | Preset,
    model: ChatModel | str | Path = "nano",
    *,
    journal: str | Path | None = None,
    preset_dir: str | Path | None = None,
    strict_nulls: bool = False,
    calibration: str | Path | Calibration | None = None,
    **options: Any,
) -> Iterator[Record]:
    """Yield a record for each document, as soon as its pages are read.

    `schema` is a JSON schema (a mapping or a file), a pydantic class, or "preset:NAME". `model` is a ChatModel, which
    stays open, or the name of one to open. `calibration` may be a file's path; by default a model uses the one beside
    its weights, if there is one. `options` are the fields of `Options`.
    With `journal` the results are kept in that file, and a later call goes on from it. Raises UsageError before
    anything is read.
    """
    folder = None if preset_dir is None else Path(preset_dir)
    preset = open_preset(schema, folder=folder, strict_nulls=strict_nulls)
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    settings = _Settings(Options(**options), "budget" in options, calibration)
    return _records(given, preset, model, settings, None if journal is None else Path(journal))


@dataclass(frozen=True)
class _Settings:
    """Options, and what completes them once the model is open."""

    options: Options
    has_budget: bool
    calibration: str | Path | Calibration | None

    def complete(self, model: ChatModel) -> Options:
        budget = self.options.budget if self.has_budget else budget_of(model)
        return replace(self.options, budget=budget, calibration=calibration_of(model, self.calibration))


def _records(
    paths: list[str | Path], preset: Preset, model: ChatModel | str | Path, settings: _Settings, journal: Path | None
) -> Iterator[Record]:
    with ExitStack() as stack:
        opened = model if isinstance(model, ChatModel) else stack.enter_context(_open(model))
        yield from extract_records(paths, preset, opened, settings.complete(opened), journal)


def _open(name: str | Path) -> ChatModel:
    from tessera.llm import LLM

    return LLM(name)


def calibration_of(model: ChatModel, given: str | Path | Calibration | None = None) -> Calibration | None:
    """The given calibration, else the one beside a model's weights; None if they have none, or were changed since.

    Raises UsageError for a file that is damaged, or given and another model's.
    """
    if isinstance(given, Calibration):
        return given
    if given is not None:
        return Calibration.load(Path(given), model.fingerprint)
    weights: Path | None = getattr(model, "path", None)
    if weights is None or not (file := beside(weights, NAME)).is_file():
        return None
    found = Calibration.load(file, model.fingerprint, force=True)
    return found if found.model == model.fingerprint else None


def budget_of(model: ChatModel) -> Budget:
    """What a model can take, here or on other machines; the defaults for what a server does not tell of its own.

    Tessera's servers tell how their model cuts images and the length of its context, others at most the latter.
    """
    tokens = getattr(model, "context_tokens", None) or Budget().context_tokens
    vision = getattr(model, "vision", None)
    return budget_for(vision, tokens) if isinstance(vision, VisionConfig) else Budget(context_tokens=tokens)


def budget_for(vision: VisionConfig, context_tokens: int) -> Budget:
    """What a model with this vision encoder can take.

    A small one gets pages no larger than their type needs, questions without the instructions before them (with them
    the bundled model reads a quarter fewer fields rightly, see BENCHMARKS.md), and none about the turn of pages. All go
    by the encoder's width, since a checkpoint does not say on which sizes and turns its model was trained.
    """
    is_small = vision.hidden_size < LEAST_WIDTH
    return Budget(
        context_tokens=context_tokens,
        image_side=vision.image_size,
        token_side=vision.token_size,
        type_size=TYPE_SIZE if is_small else None,
        instructions=not is_small,
        rotation=not is_small,
    )
