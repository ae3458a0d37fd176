"""`tessera extract samples`: documents with known values become samples to fine-tune and to evaluate with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tessera.cli.documents import budget_on_disk
from tessera.cli.session import say
from tessera.documents.extraction import Options
from tessera.documents.presets import open_preset
from tessera.errors import UsageError, counted
from tessera.labels import some_of
from tessera.teaching import known_values, write_samples


@dataclass(frozen=True)
class Known:
    """Files of known values, and the folder to write."""

    labels: list[Path]
    schema: str
    out: Path
    model: str | None
    held_out: float


def run_samples(job: Known) -> None:
    if job.out.exists() and (not job.out.is_dir() or any(job.out.iterdir())):
        raise UsageError(f"--out {job.out} is not an empty folder; name a new one.")
    preset = open_preset(job.schema)
    labels = known_values(job.labels, preset, say)
    options = Options(budget=budget_on_disk(job.model, None, say))
    taught = write_samples(labels, preset, options, job.out, held_out=job.held_out)
    for line in some_of(taught.passed, "document is passed over", "documents are passed over"):
        say(line)
    if not taught.train + taught.held_out:
        raise UsageError(
            "no document has all its values known, so there is nothing to learn from; give labels for what is named "
            "above, in a file from whose folder the documents' paths lead to them."
        )
    say(f"{counted(taught.train, 'sample')} to learn from, {taught.held_out} held out")
    print(job.out)
