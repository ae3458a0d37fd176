"""Presets by name in chats: what a preset asks for, where the request itself does not say it.

Its instructions are the system message and its closing line the question of a turn without text; its temperature and
schema hold for the reply. A second schema or format is refused (`structured.grammar_of`). Checks, votes and tiles are
those of extraction, and no part of a chat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from tessera.documents import plan
from tessera.documents.presets import Preset, files, named
from tessera.errors import UsageError
from tessera.messages import Message, scaled
from tessera.sampling import Grammar
from tessera.server.document_parts import documents_in
from tessera.server.errors import BadRequestError


def preset_of(name: str | None) -> Preset | None:
    """Open a preset by the name that a request has; raises BadRequestError that lists the known ones."""
    if name is None:
        return None
    path = files().get(name)
    try:
        if path is None:
            return named(name)  # which says what there is
        changed = path.stat()
        return _read(name, path, (changed.st_mtime_ns, changed.st_size))
    except (UsageError, OSError) as error:
        words = str(error) if isinstance(error, UsageError) else f"the preset {name[:64]!r} cannot be read."
        raise BadRequestError(words, param="preset") from error


@lru_cache(maxsize=64)
def _read(name: str, path: Path, stamp: tuple[int, int]) -> Preset:
    return named(name)


def grammar_of_preset(preset: Preset | None) -> Grammar | None:
    """The form that a preset's replies have; None for one of plain text."""
    return None if preset is None else plan.sampling(preset, 1).grammar


def temperature_of(preset: Preset | None, asked: float | None) -> float:
    """The temperature that a request asks for, else its preset's, else 0."""
    return asked if asked is not None else preset.temperature if preset is not None else 0.0


def instructed(messages: Sequence[Message], preset: Preset | None, side: int | None = None) -> list[Message]:
    """Add a preset's instructions, unless there are others, and its question to a last turn of images alone.

    `side` are the pixels that the request allows along an image's longer edge; None: what the preset says.
    Raises BadRequestError if the preset compares more images than there are.
    """
    found = scaled(messages, side if side is not None or preset is None else preset.max_image_side)
    if preset is None:
        return found
    images = sum(len(each.images) for each in found)
    if images < preset.images > 1 and not documents_in(found):  # whose pages are not counted yet
        raise BadRequestError(
            f"the preset {preset.name} compares {preset.images} images, and the request holds {images}; send all.",
            param="preset",
        )
    last = max((index for index, each in enumerate(found) if each.role == "user"), default=None)
    if last is not None and not any(isinstance(part, str) and part.strip() for part in found[last].content):
        found[last] = replace(found[last], content=(*found[last].images, preset.question))
    if not any(each.role == "system" for each in found):
        found.insert(0, Message("system", (plan.instructions(preset),), place="preset"))
    return found
