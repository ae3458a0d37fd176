"""A run's folder: it belongs to one process at a time, and says what the run is, so that another run is refused."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tessera.errors import UsageError
from tessera.finetune.samples import Sample
from tessera.machine import written_whole

RUN, SETTINGS, LOCK = "run", "settings.json", "lock"
MAY_DIFFER = {"pass_tokens", "recompute", "save_steps", "sample"}  # of a resumed run: none changes what is learned


def claim(out: Path, identity: Mapping[str, Any]) -> None:
    """Remember what this run is; raises UsageError if the folder holds another."""
    path = out / RUN / SETTINGS
    if path.exists():
        differing = [name for name in identity.keys() - MAY_DIFFER if _settings(path).get(name) != identity[name]]
        if differing:
            raise UsageError(
                f"{out} holds a run with another {', '.join(sorted(differing))}; name another folder, or remove it."
            )
    elif out.exists() and any(each.name != RUN for each in out.iterdir()):
        raise UsageError(f"{out} holds other files; name a new folder.")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as partial:
            partial.write_text(json.dumps(identity, indent=2) + "\n")


def _settings(path: Path) -> Mapping[str, Any]:
    try:
        settings = json.loads(path.read_text())
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise UsageError(f"{path} is damaged, so it is not known what this run is; remove the folder to start anew.")
    return settings


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold the folder for this process, until it ends in whatever way; raises UsageError if another one has it."""
    descriptor = os.open(out / RUN / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UsageError(f"another process trains in {out}; wait for its end, or name another folder.") from None
    finally:
        os.close(descriptor)


def digest(samples: Sequence[Sample]) -> str:
    """Return the SHA-256 of all tokens, labels and files of images, wherever these lie; of URLs, the address."""
    seen, known = hashlib.sha256(), dict[str | Path, bytes]()
    for sample in samples:
        seen.update(sample.ids.tobytes() + sample.labels)
        for picture in sample.images:
            if picture.source not in known:
                known[picture.source] = _of_source(picture.source)
            seen.update(known[picture.source] + str(picture.grid).encode())
    return seen.hexdigest()


def _of_source(source: str | Path) -> bytes:
    if not isinstance(source, Path):
        return hashlib.sha256(source.encode()).digest()
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
