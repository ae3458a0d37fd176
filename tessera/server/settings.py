"""What an operator may set, and where each value came from: flag, environment, file or default.

Names are vLLM's where they mean the same. Everything is checked here, before a model is loaded; an
unknown name is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tessera.errors import UsageError
from tessera.server.words import first_mistake

ENVIRONMENT_PREFIX = "TESSERA_"
SECRET = ("api_key",)


def _several(value: Any) -> Any:
    """A list, each entry of which may be several with commas, as an environment variable has them."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        return value
    return tuple(entry.strip() for part in parts for entry in part.split(",") if entry.strip())


def _image_limit(value: Any) -> Any:
    """A number, also as vLLM writes it: image=8, {"image": 8} or {"image": {"count": 8}}."""
    if isinstance(value, str) and value.startswith("image="):
        value = value.removeprefix("image=")
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    if isinstance(value, Mapping) and set(value) == {"image"}:
        value = value["image"]
    if isinstance(value, Mapping) and set(value) == {"count"}:
        value = value["count"]
    return value


Several = Annotated[tuple[str, ...], BeforeValidator(_several)]
ImageLimit = Annotated[int, BeforeValidator(_image_limit)]


def _field(default: Any, panel: str, text: str, **limits: Any) -> Any:
    return Field(default, description=text, json_schema_extra={"panel": panel}, **limits)


class Settings(BaseModel):
    """Frozen, and every field checked; None means: decided from the model and the machine."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str = _field("nano", "Model", "nano, a folder, or a hub id that was downloaded.")
    served_model_name: Several = _field((), "Model", "Names that clients may use; unset: the model's own.")
    dtype: str = _field("auto", "Model", "auto, float32, bfloat16 or float16.")
    device: str = _field("auto", "Model", "auto, cpu or cuda.")

    host: str = _field("127.0.0.1", "Address", "0.0.0.0 to be reached from other machines.")
    port: int = _field(8000, "Address", "TCP port; 0 chooses a free one.", ge=0, le=65535)
    uds: Path | None = _field(None, "Address", "A Unix socket instead of host and port.")
    root_path: str = _field("", "Address", "Path prefix that a proxy in front takes away.")

    api_key: Several = _field((), "Access", "Keys of which a client must send one; several with commas.")
    api_key_file: Path | None = _field(None, "Access", "A file of keys, one a line.")
    metrics_need_key: bool = _field(False, "Access", "/metrics asks for a key too.")
    allowed_hosts: Several = _field((), "Access", "Host headers that are answered; unset: any.")

    max_model_len: int | None = _field(None, "Engine", "Tokens of prompt and reply together.", ge=1)
    max_num_seqs: int | None = _field(None, "Engine", "Requests that run at once.", ge=1)
    max_num_batched_tokens: int | None = _field(None, "Engine", "Tokens that one step computes.", ge=1)
    kv_cache_bytes: int | None = _field(None, "Engine", "Bytes of the key/value cache.", ge=1)
    image_cache_bytes: int | None = _field(None, "Engine", "Bytes of cached picture embeddings.", ge=0)
    enable_prefix_caching: bool = _field(True, "Engine", "Requests that begin alike share that beginning.")

    limit_mm_per_prompt: ImageLimit = _field(8, "Limits", "Pictures in one request, as 8 or image=8.", ge=0)
    max_body_bytes: int = _field(64_000_000, "Limits", "Bytes of one request's body.", ge=1024)
    max_image_bytes: int = _field(20_000_000, "Limits", "Bytes of one encoded picture.", ge=1)
    max_image_pixels: int = _field(64_000_000, "Limits", "Width times height of one picture.", ge=1)
    max_completions: int = _field(8, "Limits", "The most `n` that a request may ask for.", ge=1)
    max_num_queued_reqs: int = _field(256, "Limits", "Requests that may wait.", ge=1)

    allowed_local_media_path: Path | None = _field(None, "Pictures", "Files below this folder may be named by clients.")
    allowed_media_domains: Several | None = _field(None, "Pictures", "Hosts that pictures may come from; unset: any.")
    allow_private_addresses: bool = _field(False, "Pictures", "Picture URLs may lead into private networks.")
    fetch_timeout_s: float = _field(10.0, "Pictures", "Seconds that one picture's URL may take.", gt=0)

    shutdown_timeout: float = _field(60.0, "Operation", "Seconds that running requests get to end after SIGTERM.", ge=0)
    keep_alive_s: float = _field(15.0, "Operation", "Seconds of silence after which a stream gets a comment.", gt=0)
    stuck_after_s: float = _field(300.0, "Operation", "Seconds without a step after which /health fails.", gt=0)
    access_log: bool = _field(True, "Operation", "One line for each request, without its content.")


def resolve_settings(
    flags: Mapping[str, Any], environment: Mapping[str, str] = os.environ, file: Path | None = None
) -> tuple[Settings, dict[str, str]]:
    """The settings, and for each the place its value came from; raises UsageError that names the culprit."""
    values: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, "default")
    from_environment = {
        name.removeprefix(ENVIRONMENT_PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(ENVIRONMENT_PREFIX) and name != "TESSERA_DEBUG"
    }
    for origin, given in (
        (str(file), {} if file is None else _read_file(file)),
        ("environment", from_environment),
        ("flag", {name: value for name, value in flags.items() if value is not None}),
    ):
        for name, value in given.items():
            key = name.replace("-", "_")
            if key not in Settings.model_fields:
                near = difflib.get_close_matches(key, Settings.model_fields, 1)
                hint = f"; did you mean {near[0]}?" if near else "; `tessera config show` lists all."
                raise UsageError(f"the setting {name!r} ({origin}) is unknown{hint}")
            values[key], origins[key] = value, origin
    try:
        return Settings.model_validate(values), origins
    except ValidationError as error:
        name, words = first_mistake(error)
        raise UsageError(f"the setting {name} ({origins[name.partition('.')[0]]}) {words}.") from error


def api_keys(settings: Settings) -> tuple[str, ...]:
    """All keys, from the setting and from the file; raises UsageError for a file that gives none."""
    keys = list(settings.api_key)
    if settings.api_key_file is not None:
        try:
            lines = settings.api_key_file.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise UsageError(f"the key file {settings.api_key_file} cannot be read; check the path.") from error
        found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not found:
            raise UsageError(f"the key file {settings.api_key_file} holds no key; write one a line.")
        keys += found
    return tuple(keys)


def describe(settings: Settings, origins: Mapping[str, str]) -> list[tuple[str, str, Literal["default"] | str]]:
    """Name, value and origin of each setting; secrets are only counted."""
    rows = []
    for name, value in settings:
        shown = f"({len(value)} keys)" if name in SECRET and value else str(value)
        rows.append((name, shown, origins[name]))
    return rows


def _read_file(path: Path) -> Mapping[str, Any]:
    import yaml  # comes with huggingface-hub

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"the settings file {path} cannot be read as YAML; check the path and its form.") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UsageError(f"the settings file {path} must hold names and values, such as `port: 8000`.")
    return content
