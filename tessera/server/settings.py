"""Server settings, and the origin of each value: flag, environment, file or default.

Names are vLLM's if they mean the same. Everything is checked here, before a model is loaded; an
unknown name is an error that suggests the nearest known one.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tessera.errors import UsageError
from tessera.messages import LEAST_SIDE, MOST_SIDE
from tessera.server.lora_modules import LoraModules
from tessera.server.validation_words import first_mistake
from tessera.server.vllm_names import ALIASES, FIXED, JOINED, OPPOSITES, taken_apart

ENVIRONMENT_PREFIX = "TESSERA_"
NO_SETTINGS = ("TESSERA_DEBUG", "TESSERA_CONFIG")
SECRET = ("api_key",)
# Variables that Kubernetes sets in every pod for a service named tessera.
_SERVICE_LINK = re.compile(r"TESSERA_(SERVICE_(HOST|PORT)|PORT_\d+_\w+)(_\w+)?|TESSERA_PORT=tcp://.*")
# Scheme, host and optional port, as browsers send them; any sandboxed page sends "null", so it is not accepted.
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[A-Za-z0-9._~:\[\]-]+")
_UNITS = {letter: 1000**power for power, letter in enumerate("kmgt", 1)}
_UNITS |= {letter: 1024**power for power, letter in enumerate("KMGT", 1)}


def _several(value: Any) -> Any:
    """Parse a list whose entries may each hold several values with commas, as in an environment variable."""
    if isinstance(value, str) and value.startswith("["):  # as vLLM writes a list
        try:
            value = json.loads(value)
        except ValueError:
            return value
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        return value
    return tuple(entry.strip() for part in parts for entry in part.split(",") if entry.strip())


def _count(value: Any) -> Any:
    """Parse a number, also in vLLM's short form: 25.6k is 25,600 and 32K is 32,768; "auto" is None."""
    if isinstance(value, bool):
        return str(value)  # not a number
    if isinstance(value, str) and value.strip().lower() == "auto":
        return None
    if isinstance(value, str) and (found := re.fullmatch(r"\s*(\d+(?:\.\d+)?)([kmgtKMGT])\s*", value)):
        number = float(found[1]) * _UNITS[found[2]]
        return int(number) if number.is_integer() else value
    return value


def _image_limit(value: Any) -> Any:
    """Parse a number, also in vLLM's forms: image=8, {"image": 8} or {"image": {"count": 8}}; other kinds may be 0."""
    if isinstance(value, str) and "=" in value:
        value = {kind.strip(): limit for kind, _, limit in (part.partition("=") for part in value.split(","))}
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    if isinstance(value, Mapping):
        others = [limit for kind, limit in value.items() if kind != "image"]
        value = value.get("image") if all(str(limit) == "0" for limit in others) else None
    if isinstance(value, Mapping) and set(value) == {"count"}:
        value = value["count"]
    return value


def _unless_empty(value: Any) -> Any:
    """Turn an empty string into None: as a path it would mean the current folder."""
    return None if value == "" else value


def _dtype(value: Any) -> Any:
    return {"half": "float16", "float": "float32"}.get(value, value) if isinstance(value, str) else value


def _proxy(value: str | None) -> str | None:
    if value is not None:
        parts = urlsplit(value)
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError
        _ = parts.port  # raises if it is invalid
    return value


def _prefix(value: str) -> str:
    value = value.rstrip("/")
    if value and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", value):
        raise ValueError
    return value


def _origins(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not _ORIGIN.fullmatch(value):
            raise ValueError
    return values


Several = Annotated[tuple[str, ...], BeforeValidator(_several)]
Origins = Annotated[tuple[str, ...], BeforeValidator(_several), AfterValidator(_origins)]
ImageLimit = Annotated[int, BeforeValidator(_image_limit)]
Count = Annotated[int, BeforeValidator(_count)]
Automatic = Annotated[int | None, BeforeValidator(_count)]
OptionalPath = Annotated[Path | None, BeforeValidator(_unless_empty)]
OptionalText = Annotated[str | None, BeforeValidator(_unless_empty)]
Dtype = Annotated[Literal["auto", "float32", "bfloat16", "float16"], BeforeValidator(_dtype)]
VisionBits = Annotated[Literal["16", "8"], BeforeValidator(lambda value: str(value) if type(value) is int else value)]
CacheDtype = Annotated[Literal["auto", "float32", "bfloat16", "float16", "int8"], BeforeValidator(_dtype)]
Proxy = Annotated[str | None, AfterValidator(_proxy), BeforeValidator(_unless_empty)]
Prefix = Annotated[str, AfterValidator(_prefix)]


def _field(default: Any, panel: str, text: str, **limits: Any) -> Any:
    return Field(default, description=text, json_schema_extra={"panel": panel}, **limits)


class Settings(BaseModel):
    """Frozen, and every field checked; None means: decided from the model and the machine."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str = _field("nano", "Model", "nano, a folder, a GGUF file, or a hub id that was downloaded.", min_length=1)
    mmproj: OptionalPath = _field(None, "Model", "A GGUF model's vision part; unset: mmproj*.gguf beside it.")
    served_model_name: Several = _field((), "Model", "Names that clients may use; unset: the model's own.")
    revision: OptionalText = _field(None, "Model", "Branch, tag or commit of a hub id.")
    download_dir: OptionalPath = _field(None, "Model", "The hub's cache that holds a hub id; unset: the usual one.")
    load_format: Literal["auto", "safetensors", "mistral", "gguf"] = _field(
        "auto", "Model", "The format that the model must have; auto: any."
    )
    config_format: Literal["auto", "mistral", "hf"] = _field(
        "auto", "Model", "The layout that the folder must have; auto: any."
    )
    vision_bits: VisionBits = _field("16", "Model", "8: the vision side is rounded at load; 16: it stays as it is.")
    dtype: Dtype = _field("auto", "Model", "auto, float32 (float), bfloat16 or float16 (half).")
    device: str = _field("auto", "Model", "auto, cpu, cuda or cuda:N.")
    tensor_parallel_size: int = _field(
        1, "Model", "Processes that share the model, each with a GPU of its own, or all on the CPU.", ge=1
    )
    seed: int | None = _field(None, "Model", "Seed for requests that do not set one.", ge=0, lt=2**63)

    host: str = _field(
        "127.0.0.1",
        "Address",
        "Address to listen on; 0.0.0.0 makes the server reachable from other machines.",
        min_length=1,
    )
    port: int = _field(8000, "Address", "TCP port; 0 chooses a free one.", ge=0, le=65535)
    uds: OptionalPath = _field(None, "Address", "A Unix socket instead of host and port.")
    root_path: Prefix = _field("", "Address", "Path under which a proxy publishes the server, such as /vision.")

    api_key: Several = _field((), "Access", "API keys, comma-separated; clients must send one of them.")
    api_key_file: Path | None = _field(None, "Access", "A file of API keys, one per line.")
    share_cache: bool = _field(
        False, "Access", "Keys share cached prompts and images; reply times then reveal what others asked."
    )
    metrics_need_key: bool = _field(False, "Access", "/metrics requires a key too.")
    allowed_origins: Origins = _field(
        (), "Access", "Origins whose pages may read replies in a browser, such as https://app.example; * for all."
    )
    allowed_hosts: Several = _field(
        (),
        "Access",
        "Accepted Host headers, *.name for all subdomains; unset: localhost on a loopback address, else any.",
    )

    max_model_len: Automatic = _field(None, "Engine", "Tokens of prompt and reply together; 32k is 32,000.", ge=1)
    max_num_seqs: Automatic = _field(None, "Engine", "Requests that run at once.", ge=1)
    max_num_batched_tokens: Automatic = _field(None, "Engine", "Tokens that one step computes.", ge=1)
    kv_cache_bytes: Automatic = _field(None, "Engine", "Bytes of the key/value cache; 4G is 4 GiB.", ge=1)
    kv_cache_dtype: CacheDtype = _field("auto", "Engine", "auto or the model's dtype; int8 halves the memory.")
    gpu_memory_utilization: float | None = _field(
        None,
        "Engine",
        "Share of a GPU's memory to use, unless kv_cache_bytes is given; unset: nine tenths of the free memory.",
        gt=0,
        le=1,
    )
    block_size: Automatic = _field(None, "Engine", "Tokens in a block of the key/value cache: 16 or 32.", ge=16, le=32)
    image_cache_bytes: Automatic = _field(None, "Engine", "Bytes of cached image embeddings.", ge=0)
    enforce_eager: bool = _field(False, "Engine", "Decode without CUDA graphs: slower, for debugging.")
    enable_prefix_caching: bool = _field(True, "Engine", "Requests that begin alike share the cached prefix.")
    num_speculative_tokens: Automatic = _field(
        None, "Engine", "Guessed tokens that a request may check in one step; 0: none.", ge=0, le=64
    )
    prompt_lookup_min: Automatic = _field(None, "Engine", "Shortest n-gram to look up in the prompt.", ge=1, le=64)
    prompt_lookup_max: Automatic = _field(None, "Engine", "Longest n-gram to look up in the prompt.", ge=1, le=64)

    enable_lora: bool = _field(False, "Adapters", "Requests may name a LoRA adapter as their model.")
    lora_modules: LoraModules = _field(
        (), "Adapters", "Adapters to load, each under its own name, as name=path or JSON with name and path."
    )
    max_loras: Automatic = _field(
        None, "Adapters", "Adapters that compute in one batch; unset: as many as lora_modules, at least 1.", ge=1, le=64
    )
    max_lora_rank: Automatic = _field(None, "Adapters", "Largest rank of an adapter; unset: 16.", ge=1, le=1024)
    max_cpu_loras: Automatic = _field(
        None, "Adapters", "Adapters that are loaded at once; unset: 8, or as many as max_loras or lora_modules.", ge=1,
        le=1024,
    )  # fmt: skip
    allowed_lora_path: OptionalPath = _field(
        None, "Adapters", "Folder below which /v1/load_lora_adapter may load adapters; unset: never."
    )

    limit_mm_per_prompt: ImageLimit = _field(8, "Limits", "Images in one request, written as 8 or image=8.", ge=0)
    max_body_bytes: Count = _field(64_000_000, "Limits", "Bytes of one request's body.", ge=1024)
    max_pending_body_bytes: Count = _field(
        512_000_000, "Limits", "Bytes of all unanswered requests' bodies together.", ge=1024
    )
    max_image_bytes: Count = _field(20_000_000, "Limits", "Bytes of one encoded image.", ge=1)
    max_image_pixels: Count = _field(64_000_000, "Limits", "Width times height of one image.", ge=1)
    max_image_side: Automatic = _field(
        None, "Limits", "Pixels of an image's longer edge, to which larger ones are scaled; unset: the model's.",
        ge=LEAST_SIDE, le=MOST_SIDE,
    )  # fmt: skip
    max_completions: Count = _field(8, "Limits", "Largest `n` that a request may ask for.", ge=1)
    max_num_queued_reqs: Count = _field(256, "Limits", "Requests that may wait in the queue.", ge=1)

    files_dir: OptionalPath = _field(
        None, "Files", "Folder for uploaded files and batches; unset: tessera/files in the user's data folder."
    )
    files_max_bytes: Count = _field(10_000_000_000, "Files", "Bytes of all uploaded files together.", ge=1024)
    max_file_bytes: Count = _field(512_000_000, "Files", "Bytes of one uploaded file.", ge=1024)
    max_files: Count = _field(10_000, "Files", "Files that are kept.", ge=1)
    files_max_days: int = _field(30, "Files", "Days after which a file is deleted, and what a batch wrote.", ge=1)
    max_batches: Count = _field(64, "Files", "Batches of one API key that are not finished; as many extractions.", ge=1)
    max_batch_lines: Count = _field(100_000, "Files", "Requests of one batch.", ge=1)
    max_ocr_bytes: Count = _field(50_000_000, "Files", "Bytes of one document for /v1/ocr.", ge=1024)
    max_ocr_pages: Count = _field(1000, "Files", "Pages of one document for /v1/ocr and extractions.", ge=1)
    calibration: OptionalPath = _field(None, "Files", "Calibration of extractions, from `tessera extract calibrate`.")

    index: OptionalPath = _field(
        None, "Files", "An archive that `tessera index` made, for /search: its folder or its file; unset: no search."
    )
    max_reranked: Count = _field(
        20, "Files", "Pages of a search that the model may judge (`rerank`); 0: searches never ask it.", ge=0, le=20
    )

    allowed_local_media_path: OptionalPath = _field(None, "Images", "Clients may name the files below this folder.")
    allowed_media_domains: Several | None = _field(None, "Images", "Hosts that images may come from; unset: any.")
    allow_private_addresses: bool = _field(False, "Images", "Image URLs may point into private networks.")
    image_proxy: Proxy = _field(
        None, "Images", "HTTP proxy through which image URLs are fetched, such as http://host:port."
    )
    fetch_timeout_s: float = _field(10.0, "Images", "Seconds that fetching one image may take.", gt=0)

    shutdown_timeout: float = _field(
        60.0, "Operation", "Seconds that running requests get to finish after SIGTERM.", ge=0
    )
    keep_alive_s: float = _field(15.0, "Operation", "Seconds of silence after which a stream sends a comment.", gt=0)
    stuck_after_s: float = _field(300.0, "Operation", "Seconds without a step after which /health fails.", gt=0)
    verbose: bool = _field(False, "Operation", "Log every startup decision with its reason.")
    access_log: bool = _field(True, "Operation", "Log one line per request, without its content.")

    @model_validator(mode="before")
    @classmethod
    def _no_empty_keys(cls, values: Any) -> Any:
        # A variable left empty must not open the server to everybody.
        if isinstance(values, Mapping) and "api_key" in values and _several(values["api_key"]) == ():
            raise UsageError(
                "the setting api_key is given and holds no key; give one, or leave it out to let everybody in."
            )
        return values

    @model_validator(mode="after")
    def _adapters_are_enabled(self) -> Settings:
        given = [name for name in LORA if getattr(self, name) not in (None, ())]
        if given and not self.enable_lora:
            raise UsageError(f"the setting {given[0]} needs enable_lora; add it, or leave {given[0]} out.")
        return self


LORA = ("lora_modules", "max_loras", "max_lora_rank", "max_cpu_loras", "allowed_lora_path")
# Settings that the engine and the image limits call by another name; their errors are renamed by this table.
OTHER_NAMES = {
    "block_size": "block_tokens",
    "limit_mm_per_prompt": "max_images_per_prompt",
    "max_num_queued_reqs": "max_queued_requests",
    "max_image_pixels": "max_pixels",
    "max_image_bytes": "max_bytes",
    "max_image_side": "max_side",
}
_OTHER = re.compile(rf"\b({'|'.join(OTHER_NAMES.values())})\b")


def in_settings_words(text: str) -> str:
    """Reword an engine message with the settings' names, which are also the flags'."""
    own = {other: name for name, other in OTHER_NAMES.items()}
    return _OTHER.sub(lambda found: own[found[0]], text)


def resolve_settings(
    flags: Mapping[str, Any], environment: Mapping[str, str] = os.environ, file: Path | None = None
) -> tuple[Settings, dict[str, str]]:
    """Return the settings and each value's origin; raises UsageError that names the setting at fault.

    The file is the given one, or the one named by TESSERA_CONFIG.
    """
    if file is None and environment.get("TESSERA_CONFIG"):
        file = Path(environment["TESSERA_CONFIG"])
    values: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, "default")
    for origin, given in (
        (str(file), {} if file is None else _read_file(file)),
        ("environment", _from_environment(environment)),
        ("flag", {name: value for name, value in flags.items() if value is not None}),
    ):
        found: dict[str, Any] = {}
        for name, key, value in _own_names(given, origin):
            if found.setdefault(key, value) != value:
                raise UsageError(f"the setting {name} ({origin}) contradicts another that means {key}; keep one.")
        values |= found
        origins |= dict.fromkeys(found, origin)
    try:
        return Settings.model_validate(values), origins
    except ValidationError as error:
        name, words = first_mistake(error)
        field = name.partition(".")[0]
        meant = (Settings.model_fields[field].description or "").rstrip(".")
        raise UsageError(f"the setting {name} ({origins[field]}) {words} ({meant}).") from error


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    for name, value in environment.items():
        if _SERVICE_LINK.fullmatch(name) or _SERVICE_LINK.fullmatch(f"{name}={value}"):
            raise UsageError(
                f"the environment holds {name}, which Kubernetes sets for a service named tessera; "
                "put enableServiceLinks: false into the pod's spec."
            )
    return {
        name.removeprefix(ENVIRONMENT_PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(ENVIRONMENT_PREFIX) and name not in NO_SETTINGS
    }


def _own_names(given: Mapping[str, Any], origin: str) -> Iterator[tuple[str, str, Any]]:
    """Yield each given name, its setting and its value; vLLM's fixed flags are checked and left out."""
    for name, value in given.items():
        key = name.replace("-", "_")
        if key in FIXED:
            FIXED[key].check(key, value, origin)
        elif key in OPPOSITES:
            if str(value).lower() not in ("true", "false"):
                raise UsageError(f"the setting {key} ({origin}) must be true or false.")
            yield name, OPPOSITES[key], str(value).lower() == "false"
        elif key in JOINED:
            for part, entry in taken_apart(key, value, origin).items():
                yield name, part, entry
        elif ALIASES.get(key, key) in Settings.model_fields:
            yield name, ALIASES.get(key, key), value
        else:
            near = difflib.get_close_matches(key, [*Settings.model_fields, *ALIASES, *OPPOSITES, *JOINED, *FIXED], 1)
            hint = f"; did you mean {near[0]}?" if near else "; `tessera config show` lists all."
            raise UsageError(f"the setting {name[:80]!r} ({origin}) is unknown{hint}")


def api_keys(settings: Settings) -> tuple[str, ...]:
    """All keys, from the setting and from the file; raises UsageError for a file without any."""
    keys = list(settings.api_key)
    if settings.api_key_file is not None:
        try:
            lines = settings.api_key_file.read_text(encoding="utf-8").splitlines()
        except IsADirectoryError as error:
            raise UsageError(f"the key file {settings.api_key_file} is a folder; name the file in it.") from error
        except (OSError, ValueError) as error:
            raise UsageError(f"the key file {settings.api_key_file} cannot be read; check the path.") from error
        found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not found:
            raise UsageError(f"the key file {settings.api_key_file} holds no key; write one a line.")
        keys += found
    return tuple(keys)


def describe(settings: Settings, origins: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """List each setting's name, value and origin; secrets are only counted."""
    return [(name, _shown(name, value), origins[name]) for name, value in settings]


def _shown(name: str, value: Any) -> str:
    if name in SECRET and value:
        return f"({len(value)} keys, not shown)" if len(value) > 1 else "(1 key, not shown)"
    if name == "image_proxy" and value and "@" in value:
        return f"http://(not shown)@{value.rpartition('@')[2]}"
    if value is None:
        return "auto" if panel_of(name) == "Engine" else "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "unset"
    return str(value) or "unset"


def check_folders(settings: Settings) -> None:
    """Raise UsageError if a folder from which requests may name files or adapters is not a folder."""
    for name in ("allowed_local_media_path", "allowed_lora_path"):
        folder = getattr(settings, name)
        if folder is not None and not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise UsageError(f"{name} {folder} {what}; name the folder that requests may read from.")


def panel_of(name: str) -> str:
    """The heading of a setting in help and documentation."""
    extra = Settings.model_fields[name].json_schema_extra
    return str(extra["panel"]) if isinstance(extra, dict) else ""


def _read_file(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except IsADirectoryError as error:
        raise UsageError(f"the settings file {path} is a folder; name the file in it.") from error
    except FileNotFoundError as error:
        raise UsageError(f"the settings file {path} does not exist; check the path.") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"the settings file {path} cannot be read as YAML; check the path and its form.") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UsageError(f"the settings file {path} must hold names and values, such as `port: 8000`.")
    return content
