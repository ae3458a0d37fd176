"""What answers a batch: a model in this process, opened when its first line is asked, or a pool of servers."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tessera.chat import ChatModel
from tessera.cli.options import excluded
from tessera.errors import UsageError
from tessera.prompt import Tokenizer
from tessera.sources import ImageLimits

if TYPE_CHECKING:
    from tessera.llm import LLM
    from tessera.pool import Pool

# Settings that belong to a model in this process; a server decides its own.
LOCAL = {
    "mmproj": None, "adapter": None, "dtype": "auto", "device": "auto", "kv_cache_dtype": "auto",
    "vision_bits": "16", "tensor_parallel_size": 1,
}  # fmt: skip
SAMPLES, SAMPLE_BYTES = 64, 4096  # pieces of a weights file that stand for it
WHOLE_BYTES = 1 << 20  # files up to this size are read whole
FIRST_PATIENCE_S = 5.0  # for the first answer of any server; a wrong address must show soon


class Answering(ABC):
    """A model that identifies itself before it is opened."""

    fingerprint: str
    settings: str  # those that change replies, as one text
    opening: Callable[[], ChatModel]  # opens the same model in another process

    @abstractmethod
    def open(self) -> ChatModel:
        """Open the model."""

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """The names that lines may use for the model; replies state the first."""

    @property
    @abstractmethod
    def tokenizer(self) -> Tokenizer | None:
        """The model's tokenizer, unless it is a server's."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LocalModel(Answering):
    """A model opened as `tessera serve` opens it, so that a line is answered as a request to that would be."""

    def __init__(self, name: str, in_flight: int | None, given: Mapping[str, Any]) -> None:
        from tessera.load import locate
        from tessera.server.run import source_of
        from tessera.server.settings import Settings, check_folders

        self._adapter = given["adapter"]
        settings = {name: value for name, value in given.items() if name != "adapter"}
        self._settings = Settings(model=name, max_num_seqs=in_flight, **settings)
        check_folders(self._settings)
        self._path, self._mmproj = Path(locate(source_of(self._settings)).name), given["mmproj"]
        self.fingerprint = digest_of_model(self._path, self._adapter)
        told = {name: given[name] for name in ("dtype", "kv_cache_dtype", "served_model_name")}
        if given["vision_bits"] != LOCAL["vision_bits"]:  # else left out, as in journals from before there was a choice
            told["vision_bits"] = given["vision_bits"]
        self.settings = _as_text(told)
        self.opening = partial(_opened, LocalModel, name, in_flight, given)
        self._llm: LLM | None = None

    def open(self) -> ChatModel:
        from tessera.server.run import open_model

        self._llm = open_model(self._settings, self._adapter)
        return self._llm

    @property
    def names(self) -> Sequence[str]:
        return self.served_names or (self._opened.model_name,)

    @property
    def served_names(self) -> Sequence[str]:
        return self._settings.served_model_name

    @property
    def tokenizer(self) -> Tokenizer | None:
        if self._llm is not None:
            return self._llm.tokenizer
        from tessera.weights.checkpoint import open_checkpoint

        return open_checkpoint(self._path, self._mmproj).load_tokenizer()  # the model is open elsewhere

    @property
    def _opened(self) -> LLM:
        if self._llm is None:
            raise RuntimeError("the model is opened first")
        return self._llm

    def close(self) -> None:
        if self._llm is not None:
            self._llm.close()


class Endpoints(Answering):
    """Servers with the same model; which ones, and how many, may change between two runs of a job."""

    def __init__(
        self, urls: Sequence[str], model: str | None, key: str | None, in_flight: int | None, given: Mapping[str, Any]
    ) -> None:
        for name, default in LOCAL.items():
            if given[name] != default:
                raise UsageError(excluded(name))
        if len(set(urls)) < len(urls):
            raise UsageError("an --endpoint is given twice; name each server once.")
        self._given = given
        if model is None:
            with pool_of(urls, None, key, given, patience_s=FIRST_PATIENCE_S) as probing:
                model = probing.model_name
        self._name = model
        self.fingerprint = f"the servers' {model}"
        self.settings = _as_text({"served_model_name": given["served_model_name"]})
        self.opening = partial(_opened, Endpoints, urls, model, key, in_flight, given)
        self._servers = pool_of(urls, model, key, given, in_flight)

    def open(self) -> ChatModel:
        return self._servers

    @property
    def names(self) -> Sequence[str]:
        return self._given["served_model_name"] or (self._name,)

    @property
    def tokenizer(self) -> Tokenizer | None:
        return None

    def close(self) -> None:
        self._servers.close()


def pool_of(
    urls: Sequence[str], model: str | None, key: str | None, given: Mapping[str, Any], in_flight: int | None = None,
    *, patience_s: float | None = None, **more: Any,
) -> Pool:  # fmt: skip
    """The servers as one model; a request waits for any of them as long as the patience lasts. Clients get `more`."""
    from tessera.client import Client
    from tessera.pool import PATIENCE_S, Pool

    limits = ImageLimits(
        max_pixels=given["max_image_pixels"],
        allow_private_addresses=given["allow_private_addresses"],
        local_files=given["allowed_local_media_path"],
        flags=("max_pixels",),
    )
    more |= {"model": model, "api_key": key, "max_retries": 0, "limits": limits, "concurrency": in_flight or 8}
    clients = [Client(url, **more) for url in urls]
    return Pool(clients, patience_s=PATIENCE_S if patience_s is None else patience_s)


class OnRay(Answering):
    """The same model on the machines of a Ray cluster; a job goes on with or without it."""

    def __init__(self, one: Answering, address: str, in_flight: int | None) -> None:
        self.fingerprint, self.settings, self.opening = one.fingerprint, one.settings, one.opening
        self._one, self._address, self._in_flight = one, address, in_flight
        self._models: Pool | None = None

    def open(self) -> ChatModel:
        from tessera.cluster.ray_models import RayModels

        self._models = RayModels(self.opening, self._address, self._in_flight)
        return self._models

    @property
    def names(self) -> Sequence[str]:
        if isinstance(self._one, LocalModel) and self._models is not None:
            return self._one.served_names or (self._models.model_name,)
        return self._one.names

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self._one.tokenizer

    def close(self) -> None:
        if self._models is not None:
            self._models.close()
        self._one.close()


def on_ray(one: Answering, address: str | None, in_flight: int | None) -> Answering:
    """Return what answers, on a Ray cluster if an address is given."""
    return one if address is None else OnRay(one, address, in_flight)


def _opened(kind: Callable[..., Answering], *given: Any) -> ChatModel:
    """Open a model in a process of its own, which ends with it."""
    return kind(*given).open()


def digest_of_model(path: Path, adapter: Path | None = None) -> str:
    """Identify the files of a model, and of an adapter beside it, by names, sizes and samples of what they hold.

    Reading 24 GB whole would take minutes.
    """
    if adapter is None:
        return _digest_of_files(path)
    from tessera.lora.files import find_adapter

    return f"{_digest_of_files(path)} with {_digest_of_files(find_adapter(adapter))}"


def _digest_of_files(path: Path) -> str:
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(each for each in path.iterdir() if each.is_file())
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}/{size}/".encode())
        with file.open("rb") as data:
            if size <= WHOLE_BYTES:
                digest.update(data.read())
                continue
            for place in range(SAMPLES):
                data.seek((size - SAMPLE_BYTES) * place // (SAMPLES - 1))
                digest.update(data.read(SAMPLE_BYTES))
    return f"{path.name} {digest.hexdigest()[:16]}"


def _as_text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
