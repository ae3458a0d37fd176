"""From a name to a model that is ready: the one place that knows the order of the steps.

Find the folder, tell its layout, read the config, make the model without memory, stream the weights
into it, open the tokenizer. Downloading, and describing a folder from its headers, begin the same way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import torch

from tessera.errors import CheckpointError, FetchError, ModelNotFoundError, UsageError
from tessera.kernels.cache_layer import bytes_per_token
from tessera.kernels.cuda import keep_precision
from tessera.machine import available_bytes, free_disk_bytes, use_device
from tessera.model.config import ModelConfig
from tessera.model.family import family_name
from tessera.model.pixtral import Pixtral
from tessera.parallel.share import Share
from tessera.prompt import Tokenizer
from tessera.quant.linear import place
from tessera.weights import hf, mistral, published, quantized
from tessera.weights.detect import (
    EXAMPLE_ID,
    MANIFEST,
    TOKENIZER_FILES,
    Layout,
    detect,
    hub_id,
    is_gguf,
    read_json,
    tokenizer_file,
    weight_files,
)
from tessera.weights.stream import Progress, Source, StoredLinear, empty_model, fill_model

if TYPE_CHECKING:
    from tessera.weights.gguf.read import GGUFPair

BUNDLED = "nano"
BUNDLED_FOLDER = Path(__file__).parent / "nano" / "weights"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# A model this small loses nothing in float32, and is exact: its cost is not the memory.
SMALL_BYTES = 1_000_000_000
# What a model needs from its repository: one layout's files, the first one's where several are there.
LAYOUT_FILES: dict[str, tuple[str, ...]] = {
    "tessera": (MANIFEST, "params.json", "*.safetensors", *TOKENIZER_FILES),
    "mistral": ("params.json", "consolidated*.safetensors", *TOKENIZER_FILES),
    "hf": (
        "config.json",
        "generation_config.json",
        "model*.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
        *TOKENIZER_FILES,
    ),
}
RESUMED_BYTES = 50_000_000  # smaller files are begun anew when their download breaks


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with everything needed to use it."""

    model: Pixtral
    tokenizer: Tokenizer
    share: Share  # of the model that is here; the whole, unless there are several ranks
    name: str
    folder: Path
    notes: tuple[str, ...] = ()  # what its user should know

    @property
    def config(self) -> ModelConfig:
        """Of the whole model."""
        return self.share.config


@dataclass(frozen=True)
class Checkpoint:
    """What a folder or a pair of GGUF files holds, from headers and side files: plain tensors and quantized linears."""

    path: Path
    layout: Layout
    config: ModelConfig
    sources: dict[str, Source]
    linears: dict[str, StoredLinear]
    pair: GGUFPair | None = None

    @property
    def folder(self) -> Path:
        """Where its side files lie."""
        return self.path if self.pair is None else self.path.parent

    @property
    def tokenizer_file(self) -> Path:
        """The model's own tokenizer, or the packaged one; raises CheckpointError."""
        return tokenizer_file(self.folder, self.layout, self.config)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that most plain parameters are stored in.

        GGUF files have float16 where the model was trained in bfloat16, whose range float16 lacks.
        """
        dtype = stored_dtype(self.sources)
        return torch.bfloat16 if self.pair is not None and dtype == torch.float16 else dtype

    def load_tokenizer(self) -> Tokenizer:
        """The model's tokenizer, once it is sure to be this model's; raises CheckpointError."""
        tokenizer = Tokenizer.from_file(self.tokenizer_file, self.config.vision_encoder)
        if tokenizer.vocab_size > self.config.vocab_size:
            raise CheckpointError(
                f"{self.path}: the tokenizer has {tokenizer.vocab_size} ids and the model {self.config.vocab_size}; "
                "they belong to different models: use the tokenizer of this model."
            )
        if self.pair is not None:
            from tessera.weights.gguf.read import check_tokens

            check_tokens(self.pair.text, tokenizer)
        return tokenizer

    def notes(self) -> tuple[str, ...]:
        """What the user should know of how it is loaded: tensors that are rounded, by how much in their first rows."""
        if self.pair is None:
            return ()
        from tessera.weights.gguf.read import rounding_notes

        return rounding_notes(self.pair, self.config)


@dataclass(frozen=True)
class ModelSummary:
    """What a folder holds and what it needs to run, from its headers and side files only."""

    name: str
    family: str
    layout: Layout
    folder: str
    tokenizer: str
    dtype: str
    parameters: int
    decoder_parameters: int
    vision_parameters: int
    adapter_parameters: int
    quantized: dict[str, int]  # linears by the scheme that holds them; dtype is that of the other tensors
    tensors: int
    stored_bytes: int
    weight_bytes: int  # in memory
    max_seq_len: int
    largest_image_tokens: int
    kv_bytes_per_token: int
    kv_bytes_per_token_int8: int  # with kv_cache_dtype int8
    kv_bytes_per_megapixel_image: int  # of one 1024x1024 picture
    notes: tuple[str, ...]


def resolve(name: str, revision: str | None = None, cache: Path | None = None) -> Path:
    """The folder of a model: "nano", a path (to a GGUF file too), or a hub id whose files were downloaded before.

    A hub id is looked for in the folder `cache`, or in the hub's usual one. Never touches the network.
    Raises ModelNotFoundError that says how to get the model.
    """
    if (revision or cache) and (name == BUNDLED or Path(name).expanduser().is_dir()):
        raise UsageError(f"{name!r} is a folder, which has no revision and lies in no cache; leave those out.")
    if name == BUNDLED:
        if not BUNDLED_FOLDER.is_dir():
            raise ModelNotFoundError(f"the bundled model is not in {BUNDLED_FOLDER}; install Tessera again.")
        return BUNDLED_FOLDER
    path = Path(name).expanduser()
    if name and (path.is_dir() or is_gguf(path)):
        return path
    if name and path.exists():
        raise ModelNotFoundError(f"{name} is a file and no GGUF; give the folder that holds the model's files.")
    if not _is_hub_id(name):
        raise ModelNotFoundError(
            f"{name!r} is neither {BUNDLED!r}, nor a folder, nor a hub id like {EXAMPLE_ID}; check the spelling."
        )
    if (cached := _cached(name, revision, cache)) is None:
        at = "" if revision is None else f" --revision {revision}"
        where = "" if cache is None else f"HF_HUB_CACHE={cache} "
        raise ModelNotFoundError(
            f"{name!r} is neither a folder nor a model in the hub's cache; get it with "
            f"`{where}tessera download {name}{at}`."
        )
    return cached


def download(repository: str, revision: str | None = None) -> Path:
    """Get a model's files into the hub's cache and return their folder; a broken download is resumed.

    Only one layout's files are fetched, the official one's where a repository has both. HF_HOME,
    HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE have their usual meaning. Without a connection a model
    that is already there is returned. Raises ModelNotFoundError, CheckpointError or FetchError.
    """
    if not _is_hub_id(repository):
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

    page = f"{constants.ENDPOINT}/{repository}"
    try:
        commit, sizes = _files_to_get(repository, revision)
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
        if (cached := _cached(repository, revision)) is not None and _is_whole(cached):
            folder = cached
        elif constants.HF_HUB_OFFLINE:
            raise FetchError(f"{repository} is not in the hub's cache and HF_HUB_OFFLINE is set; unset it.") from error
        else:
            raise FetchError(
                f"{repository} could not be fetched from {constants.ENDPOINT} ({type(error).__name__}); check the "
                "connection and run the same command again, it goes on where it stopped."
            ) from error
    except OSError as error:
        if error.errno is None:  # the client's own: fewer bytes came than were announced
            raise FetchError(
                f"{repository} came incompletely from {constants.ENDPOINT}; run the same command again, it goes on "
                "where it stopped."
            ) from error
        raise FetchError(
            f"{repository} could not be written to {constants.HF_HUB_CACHE} ({error.strerror or error}); check the "
            "disk, or set HF_HOME to another."
        ) from error
    weight_files(folder, detect(folder))  # an error that names what is not there
    return folder


def describe(folder: Path, mmproj: Path | None = None) -> ModelSummary:
    """A summary of a model, without reading its weights; raises CheckpointError for an incomplete one."""
    checkpoint = open_checkpoint(folder, mmproj)
    config, sources, linears = checkpoint.config, checkpoint.sources, checkpoint.linears
    dtype, vision = checkpoint.dtype, config.vision_encoder
    parts: Counter[str] = Counter()
    for name, source in sources.items():
        parts[_part(name)] += source.stored.num_parameters
    for name, linear in linears.items():
        parts[_part(name)] += linear.shape[0] * linear.shape[1]
    plain_bytes = sum({source.stored: source.stored.num_bytes for source in sources.values()}.values())
    quantized_bytes = sum(linear.nbytes for linear in linears.values())
    plain_parameters = sum(source.stored.num_parameters for source in sources.values())
    kv_bytes, kv_bytes_int8 = (
        config.n_layers * bytes_per_token(config.n_kv_heads, config.head_dim, stored) for stored in (dtype, torch.int8)
    )
    rows = -(-min(1024, vision.image_size) // vision.token_size)
    largest = vision.image_size // vision.token_size
    return ModelSummary(
        name=model_name(folder),
        family=family_name(config),
        layout=checkpoint.layout,
        folder=str(folder),
        tokenizer=_describe_tokenizer(checkpoint),
        dtype=str(dtype).removeprefix("torch."),
        parameters=parts.total(),
        decoder_parameters=parts["decoder"],
        vision_parameters=parts["vision"],
        adapter_parameters=parts["adapter"],
        quantized=dict(Counter(linear.scheme for linear in linears.values())),
        tensors=len(sources) + len(linears),
        stored_bytes=plain_bytes + sum(linear.stored_bytes for linear in linears.values()),
        weight_bytes=plain_parameters * dtype.itemsize + quantized_bytes,
        max_seq_len=config.max_seq_len,
        largest_image_tokens=largest * (largest + 1),
        kv_bytes_per_token=kv_bytes,
        kv_bytes_per_token_int8=kv_bytes_int8,
        kv_bytes_per_megapixel_image=rows * (rows + 1) * kv_bytes,
        notes=checkpoint.notes(),
    )


def model_name(folder: Path) -> str:
    """What a model is called: "nano", its hub id, or the name of its folder or GGUF file."""
    if is_gguf(folder):
        return folder.stem
    if folder == BUNDLED_FOLDER:
        return BUNDLED
    return hub_id(folder) or folder.absolute().name


def load_model(
    folder: Path,
    *,
    mmproj: Path | None = None,
    dtype: str = "auto",
    device: str = "auto",
    progress: Progress | None = None,
    rank: int = 0,
    size: int = 1,
) -> LoadedModel:
    """Read a checkpoint of any layout; raises CheckpointError for anything incomplete or damaged.

    With `size` above 1 the model has only the share of this rank, whose linears `parallel.join` makes work together.

    Quantized weights stay in their few bits, and those of our own folders where they are: their files are mapped.
    `mmproj` is the picture part of a GGUF model; left out, it is looked for beside the text model's file.
    """
    checkpoint = open_checkpoint(folder, mmproj)
    tokenizer = checkpoint.load_tokenizer()
    config, sources, linears = checkpoint.config, checkpoint.sources, checkpoint.linears
    target = target_device(device)
    use_device(target)
    if target.type == "cuda":
        keep_precision()
    quantized_bytes = sum(linear.nbytes for linear in linears.values())
    chosen = compute_dtype(dtype, checkpoint, target)
    plain_bytes = sum(source.stored.num_parameters for source in sources.values()) * chosen.itemsize
    _check_memory(folder, (quantized_bytes + plain_bytes) // size, target)
    share = Share(config, rank, size)
    model = empty_model(config)
    for name, linear in linears.items():
        place(model, name, share.cut_quantized(name, linear.load()).to(target))
    fill_model(model, sources, dtype=chosen, device=target, progress=progress, cut=share.cut)
    return LoadedModel(model.eval(), tokenizer, share, model_name(folder), folder, checkpoint.notes())


def open_checkpoint(path: Path, mmproj: Path | None = None) -> Checkpoint:
    """Everything that headers and side files say, checked; raises CheckpointError."""
    layout = detect(path)
    if layout == "gguf":
        from tessera.weights.gguf import read

        pair = read.open_pair(path, mmproj)
        config = read.read_config(pair)
        return Checkpoint(path, layout, config, *read.read_weights(pair, config), pair)
    if mmproj is not None:
        raise UsageError(f"{path} is no GGUF file and holds its picture part itself; leave out --mmproj {mmproj}.")
    config = hf.read_config(path) if layout == "hf" else mistral.read_config(path)
    if layout == "tessera":
        return Checkpoint(path, layout, config, *quantized.read(path, config))
    if layout == "hf" and published.is_quantized(path):
        return Checkpoint(path, layout, config, *published.read(path, config))
    reader = mistral if layout == "mistral" else hf
    return Checkpoint(path, layout, config, reader.official_sources(path, config), {})


def target_device(device: str) -> torch.device:
    """The device of a name, "auto" for a GPU where there is one; raises UsageError."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device {device!r} is unknown; use auto, cpu, cuda or cuda:0.") from error
    if chosen.type not in ("cpu", "cuda"):
        raise UsageError(f"device {device!r} is not supported; use auto, cpu, cuda or cuda:0.")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {device!r} is not there: this machine has {torch.cuda.device_count()} CUDA devices.")
    return chosen


def compute_dtype(dtype: str, checkpoint: Checkpoint, device: torch.device) -> torch.dtype:
    """The dtype of a name; "auto" is the stored one, and float32 for a small model. Raises UsageError."""
    if dtype != "auto":
        if dtype not in DTYPES:
            raise UsageError(f"dtype {dtype!r} is unknown; use auto, {', '.join(DTYPES)}.")
        return DTYPES[dtype]
    stored_bytes = sum(linear.nbytes for linear in checkpoint.linears.values())
    stored_bytes += sum(source.stored.num_bytes for source in checkpoint.sources.values())
    if device.type == "cpu" and stored_bytes < SMALL_BYTES:
        return torch.float32
    return checkpoint.dtype


def stored_dtype(sources: Mapping[str, Source]) -> torch.dtype:
    """The dtype that most parameters are stored in."""
    counts: Counter[torch.dtype] = Counter()
    for source in sources.values():
        counts[source.stored.dtype] += source.stored.num_parameters
    return counts.most_common(1)[0][0]


def _check_memory(folder: Path, needed: int, device: torch.device) -> None:
    available = available_bytes(device)
    if needed > available:
        raise CheckpointError(
            f"{model_name(folder)} needs {needed / 1e9:.2f} GB for its weights and {available / 1e9:.2f} GB of "
            f"{device.type} memory is free; close other programs, load it in a smaller dtype, or use a larger machine."
        )


def _is_hub_id(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def _cached(repository: str, revision: str | None, cache: Path | None = None) -> Path | None:
    """The repository's folder in the hub's cache, if a config file of either layout is there."""
    from huggingface_hub import try_to_load_from_cache

    for file in ("params.json", "config.json"):
        if isinstance(found := try_to_load_from_cache(repository, file, cache, revision), str):
            return Path(found).parent
    return None


def _is_whole(folder: Path) -> bool:
    try:
        weight_files(folder, detect(folder))
    except CheckpointError:
        return False
    return True


def _files_to_get(repository: str, revision: str | None) -> tuple[str, dict[str, int]]:
    """The commit, and its files of one layout with their sizes; raises when it has none, or the disk no room."""
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    info = HfApi().model_info(repository, revision=revision, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    for patterns in LAYOUT_FILES.values():
        names = [name for name in sizes if any(fnmatch(name, pattern) for pattern in patterns)]
        if patterns[0] in names and any(name.endswith(".safetensors") for name in names):
            break
    else:
        raise CheckpointError(
            f"{repository} holds neither params.json with consolidated*.safetensors nor config.json with "
            f"model*.safetensors; use a repository that does, for example {EXAMPLE_ID}."
        )
    absent = [name for name in names if try_to_load_from_cache(repository, name, revision=info.sha) is None]
    _check_disk(repository, sum(sizes[name] for name in absent), Path(constants.HF_HUB_CACHE))
    return str(info.sha), {name: sizes[name] for name in names}


def _fetch_resumably(repository: str, commit: str, name: str) -> None:
    """Put one large file among the cache's blobs, going on from what an earlier, broken run left there.

    huggingface_hub 2 begins a broken file anew, all 25 GB of it; a blob that is there it takes as it is.
    """
    from filelock import FileLock
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(repository, name, revision=commit, endpoint=constants.ENDPOINT)
    metadata = get_hf_file_metadata(url)
    if metadata.etag is None or metadata.size is None:
        return
    blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model") / "blobs"
    blob, partial = blobs / metadata.etag, blobs / f"{metadata.etag}.resumable"
    headers = build_hf_headers()
    if urlsplit(metadata.location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # the token is for the hub, not for where it stores files
    blobs.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{partial}.lock"):
        if blob.exists():
            return
        with partial.open("ab") as file:
            http_get(
                metadata.location,
                file,
                resume_size=file.tell(),
                headers=headers,
                expected_size=metadata.size,
                displayed_filename=name,
            )
        partial.replace(blob)


def _check_disk(what: str, needed: int, folder: Path) -> None:
    if needed > (free := free_disk_bytes(folder)):
        raise FetchError(
            f"{what} needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB is free in {folder}; free some, or set "
            "HF_HOME to a folder on a larger disk."
        )


def _part(name: str) -> str:
    if name.startswith("vision_encoder."):
        return "vision"
    return "adapter" if name.startswith(("vision_language_adapter.", "pre_mm_", "patch_merger.")) else "decoder"


def _describe_tokenizer(checkpoint: Checkpoint) -> str:
    file = checkpoint.tokenizer_file
    if file.suffix != ".json":
        return f"{file.name}, version {file.suffix[1:]}"
    settings = read_json(file).get("config")
    version = settings.get("version") if isinstance(settings, dict) else None
    origin = "" if file.parent == checkpoint.folder else ", packaged, because the folder has none"
    return f"{file.name}, version {version}{origin}"
