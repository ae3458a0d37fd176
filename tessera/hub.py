"""The Hugging Face hub: choosing a repository's model files, downloading them, and finding them in the cache.

Only the choice of files is ours; huggingface_hub talks to the hub and keeps its cache.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tessera.errors import CheckpointError, FetchError, ModelNotFoundError, UsageError
from tessera.machine import PARTIAL, free_disk_bytes, written_whole
from tessera.weights.detect import EXAMPLE_ID, FORMATS, detect, sole_gguf, weight_files

if TYPE_CHECKING:
    import httpx2

COMMIT, ETAG = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9A-Za-z_-]+")
RESUMED_BYTES = 50_000_000  # smaller files start over if their download breaks


def download(repository: str, revision: str | None = None, file: str | None = None) -> Path:
    """Get a model's files into the hub's cache and return their folder; a broken download is resumed.

    Only one layout's files are fetched, the official one's where a repository has both. Of a repository of GGUF files
    it is the one that the pattern `file` means, with its vision part, and the text model's file is returned. HF_HOME,
    HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE have their usual meaning. Without a connection a model
    that is already there is returned. Raises ModelNotFoundError, CheckpointError or FetchError.
    """
    if not is_hub_id(repository):
        raise UsageError(f"{repository!r} is not a hub id; write ORGANISATION/NAME, for example {EXAMPLE_ID}.")
    import httpx2
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page, sizes = f"{constants.ENDPOINT}/{repository}", dict[str, int]()
    try:
        with _checked_answers():
            commit, sizes = _files_to_get(repository, revision, file)
            for name, size in sizes.items():
                if RESUMED_BYTES <= size <= constants.MAX_HTTP_DOWNLOAD_SIZE:
                    _fetch_resumably(repository, commit, name)
            folder = Path(snapshot_download(repository, revision=revision, allow_patterns=list(sizes)))
    except GatedRepoError as error:
        raise ModelNotFoundError(
            f"{repository} is open only to those who accepted its terms: accept them on {page}, then set HF_TOKEN to "
            "your token."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"{page} does not exist, or is private; check the spelling, or set HF_TOKEN to a token that may read it."
        ) from error
    except RevisionNotFoundError as error:
        raise ModelNotFoundError(
            f"{page} has no revision {revision!r}; its branches and tags are listed there."
        ) from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError, httpx2.TransportError) as error:
        if (cached := cached_folder(repository, revision)) is not None and _is_whole(cached):
            folder = cached
        elif constants.HF_HUB_OFFLINE:
            raise FetchError(f"{repository} is not in the hub's cache and HF_HUB_OFFLINE is set; unset it.") from error
        else:
            raise FetchError(
                f"{repository} could not be fetched from {constants.ENDPOINT} ({type(error).__name__}); check the "
                "connection and run the same command again, it resumes."
            ) from error
    except OSError as error:
        if error.errno is None:  # the client's own: fewer bytes arrived than announced
            raise FetchError(
                f"{repository} came incompletely from {constants.ENDPOINT}; run the same command again, it resumes "
                "where it stopped."
            ) from error
        raise FetchError(
            f"{repository} could not be written to {constants.HF_HUB_CACHE} ({error.strerror or error}); check the "
            "disk, or set HF_HOME to another."
        ) from error
    if texts := [name for name in sizes if _is_gguf_text(name)]:
        return folder / texts[0]
    if (text := sole_gguf(folder)) is not None:
        return text
    weight_files(folder, detect(folder))  # raises an error that names the missing files
    return folder


def download_data(repository: str, patterns: Sequence[str], revision: str | None = None) -> Path:
    """Get a data set's files of these patterns into the hub's cache and return their folder; raises FetchError."""
    import httpx2
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        with _checked_answers():
            return Path(
                snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=list(patterns))
            )
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError, httpx2.TransportError) as error:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else type(error).__name__
        raise FetchError(
            f"the data set {repository} is not in the hub's cache and could not be fetched from {constants.ENDPOINT} "
            f"({why}); check the name and the connection, or name a folder that holds its files."
        ) from error


@contextmanager
def _checked_answers() -> Iterator[None]:
    """Refuse a hub whose answers would name files outside the cache, before huggingface_hub turns them into paths."""
    from huggingface_hub import get_session

    session = get_session()
    before = session.event_hooks
    session.event_hooks = {**before, "response": [*before["response"], _check_answer]}
    try:
        yield
    finally:
        session.event_hooks = before


def _check_answer(response: httpx2.Response) -> None:
    """Raise FetchError for an invalid commit or ETag: they become names of folders and files."""
    commits, etags = [response.headers.get("x-repo-commit")], []
    if response.request.method == "HEAD":
        found = [response.headers.get(name) for name in ("x-linked-etag", "etag")]
        etags = [etag.removeprefix("W/").strip('"') for etag in found if etag is not None]
    elif "/api/models/" in response.request.url.path and response.status_code == 200:
        response.read()
        body = response.json()
        commits.append(body.get("sha") if isinstance(body, dict) else None)
    for pattern, what, values in ((COMMIT, "commit", commits), (ETAG, "ETag", etags)):
        for value in values:
            if value is not None and not (isinstance(value, str) and pattern.fullmatch(value)):
                raise FetchError(
                    f"{response.request.url.host} answers with the {what} {str(value)[:60]!r}, which is invalid, "
                    "so no file was written; check HF_ENDPOINT."
                )


def is_hub_id(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def cached_folder(repository: str, revision: str | None, cache: Path | None = None) -> Path | None:
    """Return a repository's folder in the hub's cache, if it holds a layout's config file."""
    from huggingface_hub import try_to_load_from_cache

    for form in FORMATS.values():
        if not form.marks:
            continue
        if isinstance(found := try_to_load_from_cache(repository, form.marks[0], cache, revision), str):
            return Path(found).parent
    return _cached_gguf(repository_folder(repository, cache), revision or "main")


def repository_folder(repository: str, cache: Path | None = None) -> Path:
    """Return the path of a repository in the hub's cache, present or not."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return (cache or Path(constants.HF_HUB_CACHE)) / repo_folder_name(repo_id=repository, repo_type="model")


def _cached_gguf(folder: Path, revision: str) -> Path | None:
    """Return a revision's snapshot, if it holds GGUF files."""
    reference = folder / "refs" / revision
    snapshot = folder / "snapshots" / (reference.read_text().strip() if reference.is_file() else revision)
    return snapshot if any(snapshot.glob("*.gguf")) else None


def _is_whole(folder: Path) -> bool:
    if sole_gguf(folder) is not None:
        return True
    try:
        weight_files(folder, detect(folder))
    except CheckpointError:
        return False
    return True


def _files_to_get(repository: str, revision: str | None, file: str | None) -> tuple[str, dict[str, int]]:
    """Return the commit and one layout's files with sizes; raises if there are none or the disk lacks room."""
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    info = HfApi().model_info(repository, revision=revision, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    for form in FORMATS.values():
        names = [name for name in sizes if any(fnmatch(name, pattern) for pattern in form.files)]
        is_whole = any(name in form.marks for name in names) and any(name.endswith(".safetensors") for name in names)
        if file is None and is_whole:
            break
    else:
        names = _gguf_pair(repository, sizes, file)
    if not names:
        raise CheckpointError(
            f"{repository} holds neither params.json with consolidated*.safetensors nor config.json with "
            f"model*.safetensors, and no GGUF files; use a repository that does, for example {EXAMPLE_ID}."
        )
    absent = [name for name in names if try_to_load_from_cache(repository, name, revision=info.sha) is None]
    begun = sum(each.stat().st_size for each in _blobs(repository).glob(f"*{PARTIAL}"))
    _check_disk(repository, sum(sizes[name] for name in absent) - begun, Path(constants.HF_HUB_CACHE))
    return str(info.sha), {name: sizes[name] for name in names}


def _gguf_pair(repository: str, sizes: Mapping[str, int], pattern: str | None) -> list[str]:
    """Choose a GGUF text model and its vision part; raises UsageError that lists the choices."""
    texts = sorted(name for name in sizes if _is_gguf_text(name))
    if not texts and pattern is None:
        return []
    fitting = [name for name in texts if pattern is None or fnmatch(name, pattern)]
    if len(fitting) != 1:
        shown = ", ".join(f"{name} ({sizes[name] / 1e9:.1f} GB)" for name in fitting or texts) or "no GGUF files"
        asked = f"--file {pattern!r} fits {len(fitting)} of them" if pattern else "one must be chosen"
        raise UsageError(f"{repository} holds {shown}, and {asked}; give --file with one's name, or with a pattern.")
    mmproj = sorted(name for name in sizes if name.lower().endswith(".gguf") and "mmproj" in name.lower())
    # The encoder is small: among several precisions, take 16 bits, in which it was trained.
    mmproj.sort(key=lambda name: "f16" not in name.lower())
    return [*fitting, *mmproj[:1]]


def _is_gguf_text(name: str) -> bool:
    return name.lower().endswith(".gguf") and "mmproj" not in name.lower()


def _fetch_resumably(repository: str, commit: str, name: str) -> None:
    """Put one large file among the cache's blobs, resuming an earlier, broken download.

    huggingface_hub 2 restarts a broken file, all 25 GB of it, but accepts an existing blob.
    """
    from filelock import FileLock
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(repository, name, revision=commit, endpoint=constants.ENDPOINT)
    metadata = get_hf_file_metadata(url)
    if metadata.etag is None or metadata.size is None:
        return
    blobs = _blobs(repository)
    blob = blobs / metadata.etag
    headers = build_hf_headers()
    if urlsplit(metadata.location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # the token is for the hub, not for its file storage
    blobs.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{blob}{PARTIAL}.lock"):
        if blob.exists():
            return
        with written_whole(blob, resume=True) as partial, partial.open("ab") as file:
            http_get(
                metadata.location,
                file,
                resume_size=file.tell(),
                headers=headers,
                expected_size=metadata.size,
                displayed_filename=name,
            )


def _blobs(repository: str) -> Path:
    """Return the folder of a repository's files by content hash in the hub's cache."""
    return repository_folder(repository) / "blobs"


def _check_disk(what: str, needed: int, folder: Path) -> None:
    if needed > (free := free_disk_bytes(folder)):
        raise FetchError(
            f"{what} needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB is free in {folder}; free some, or set "
            "HF_HOME to a folder on a larger disk."
        )
