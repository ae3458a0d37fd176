"""The table of files and jobs: what a row says, and what a client may ask of a file's age."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, fields

from tessera.errors import UsageError
from tessera.server.errors import BadRequestError

DAY_S = 24 * 3600
LEAST_AGE_S, MOST_AGE_S = 3600, 30 * DAY_S  # what a client may set


@dataclass(frozen=True)
class StoredFile:
    """One file's row."""

    id: str
    tenant: str
    name: str
    purpose: str
    size: int
    created: int
    expires: int
    kind: str  # Mistral's sample_type
    source: str  # "upload", or "mistral" for what a batch wrote, as that API calls the service itself
    lines: int | None = None
    mimetype: str | None = None
    visibility: str = "workspace"


COLUMNS = ", ".join(field.name for field in fields(StoredFile))
TABLES = """
CREATE TABLE IF NOT EXISTS files (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, name TEXT NOT NULL, purpose TEXT NOT NULL,
    size INTEGER NOT NULL, created INTEGER NOT NULL, expires INTEGER NOT NULL, kind TEXT NOT NULL, source TEXT NOT NULL,
    lines INTEGER, mimetype TEXT, visibility TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_by_time ON files (tenant, created, id);
CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, created INTEGER NOT NULL,
    state TEXT NOT NULL, told TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS jobs_by_time ON jobs (tenant, created, id);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state);
"""


class FileMissingError(BadRequestError):
    """No such file for this key."""

    def __init__(self, file_id: str) -> None:
        super().__init__(f"there is no file {file_id[:60]!r}; list yours at /v1/files.", code="file_not_found",
                         status=404)  # fmt: skip


def new_id() -> str:
    return str(uuid.uuid4())


def checked_age(seconds: int | None, where: str) -> int | None:
    """The age that a client wants for a file; raises UsageError outside of the API's bounds."""
    if seconds is not None and not LEAST_AGE_S <= seconds <= MOST_AGE_S:
        raise UsageError(
            f"{where} is {seconds}; it must lie between {LEAST_AGE_S} and {MOST_AGE_S} (30 days).", param=where
        )
    return seconds
