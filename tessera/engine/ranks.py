"""The other ranks of a model over several devices: starting, messaging and stopping their processes.

Rank 0 is this process: it schedules, samples and serves the callers. Each other rank is a process that
loads its shard, keeps its part of the key/value cache and computes every batch sent to it: a pipe
brings the finished batch, which refers to cache layers by number. Only data that this machine's own
processes wrote to each other is unpickled. If any rank ends for any reason, all end: nobody waits in
vain, and the engine's owner is notified.
"""

from __future__ import annotations

import io
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tessera
from tessera.engine.batch import Batch
from tessera.engine.config import EngineConfig
from tessera.engine.image_cache import ImageCache
from tessera.engine.kv_cache import KVCache
from tessera.engine.runner import Runner
from tessera.errors import EngineDeadError, TesseraError, UsageError
from tessera.kernels.cache_layer import CacheLayer
from tessera.linears.parallel import parallelize
from tessera.linears.slots import Stretch
from tessera.load import LoadedModel, load_model, locate
from tessera.lora.adapter import LoraAdapter
from tessera.lora.slots import Slots
from tessera.parallel.group import Group, connect
from tessera.shelf import ModelSource

logger = logging.getLogger(__name__)

END_S = 10.0  # grace for a rank that was asked to end


@dataclass(frozen=True)
class Start:
    """The first message to a rank."""

    source: ModelSource  # the model's folder, with this rank's own device
    rank: int
    meeting: Path
    threads: int

    @property
    def size(self) -> int:
        return self.source.tensor_parallel_size

    def of_rank(self, rank: int) -> Start:
        """Return the same message for another rank."""
        device = rank_device(self.source.device, rank)
        return replace(self, rank=rank, source=replace(self.source, device=device))


@dataclass(frozen=True)
class Logits:
    """Take part in computing logits; the rows come from rank 0."""

    rows: int
    stretches: tuple[Stretch, ...] = ()


@dataclass(frozen=True)
class Fill:
    """Put an adapter into a slot: the whole one comes from rank 0, so that all ranks have the same."""

    slot: int
    adapter: LoraAdapter


class Ranks:
    """The processes of ranks 1 and up, seen from rank 0; `group` joins them and this process."""

    def __init__(self, start: Start) -> None:
        self.size = start.size
        self.on_death: Callable[[Exception], None] | None = None  # called from any thread when a rank has ended
        self._dead: EngineDeadError | None = None
        self._closing = False
        self._lock = threading.Lock()
        self._children = [_Child(start.of_rank(rank)) for rank in range(1, start.size)]
        self.group: Group

    def load(self, start: Start) -> LoadedModel:
        """Return this process's shard once all ranks have theirs; raises any rank's loading error."""
        try:
            loaded = load_model(start.source)
            for child in self._children:
                child.expect()
            self.group = connect(start.meeting, 0, start.size, loaded.model.device)
            for child in self._children:
                child.expect()
        except BaseException:
            self._closing = True
            for child in self._children:
                child.kill()
            raise
        parallelize(loaded.model, loaded.shard, self.group)
        return loaded

    def begin(self, config: EngineConfig) -> None:
        """Have the ranks create their caches, and start watching them."""
        self.send(pickle.dumps(config))
        for child in self._children:
            child.expect()
            threading.Thread(target=self._watch, args=(child,), name="tessera-rank", daemon=True).start()

    def send(self, message: bytes) -> None:
        """Send all ranks the same message; raises EngineDeadError if one is gone."""
        if self._dead is not None:
            raise self._dead
        try:
            for child in self._children:
                child.connection.send_bytes(message)
        except OSError as error:
            raise self.fail(error) from error

    def fail(self, error: Exception) -> EngineDeadError:
        """End all ranks after a failure on any of them; returns the error to raise."""
        with self._lock:
            if self._dead is None:
                self._dead = EngineDeadError("a rank of the model failed; start again, the log has the details.")
                self._dead.__cause__ = error
        for child in self._children:
            child.kill()
        return self._dead

    def close(self) -> None:
        """End the ranks; may be called twice."""
        self._closing = True
        for child in self._children:
            child.end()

    def _watch(self, child: _Child) -> None:
        """Wait for the child's final message or its end; neither should come before this side closes."""
        try:
            word = child.connection.recv()
        except (EOFError, OSError):
            word = f"it ended with code {child.process.wait()}"
        if self._closing or self._dead is not None:
            return
        logger.error("rank %d failed: %s", child.rank, word)
        error = self.fail(RuntimeError(f"rank {child.rank} failed"))
        self.group.abort()
        if self.on_death is not None:
            self.on_death(error)


class _Child:
    """One rank's process, and this end of the pipe to it."""

    def __init__(self, start: Start) -> None:
        self.rank = start.rank
        ours, theirs = socket.socketpair()
        # -P: do not import from the current folder. The package is this one, wherever it is installed.
        package = str(Path(tessera.__file__).parents[1])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", f"from tessera.engine.ranks import serve; serve({theirs.fileno()})"],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            )
        self.connection = Connection(ours.detach())
        self.connection.send(start)

    def expect(self) -> None:
        """Wait until the rank has finished its task; raises its error if it failed."""
        try:
            word = self.connection.recv()
        except EOFError as error:
            code = self.process.wait()
            raise EngineDeadError(
                f"rank {self.rank} ended with code {code} while it started; see its messages."
            ) from error
        if isinstance(word, Exception):
            raise word

    def end(self) -> None:
        try:
            self.connection.send_bytes(b"")
            self.process.wait(END_S)
        except (OSError, subprocess.TimeoutExpired):
            self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class LeadingRunner(Runner):
    """Rank 0's runner, which has all other ranks compute the same."""

    def __init__(self, runner: Runner, cache: KVCache, ranks: Ranks) -> None:
        super().__init__(runner.model, runner.images, runner.slots)
        self._layers = {id(layer): number for number, layer in enumerate(cache.layers)}
        self._ranks = ranks

    def run(self, batch: Batch, penalties_V: Tensor | None = None) -> tuple[Tensor, list[int] | None]:
        # Images encoded before are not sent again: all ranks' image caches are identical.
        images = [
            replace(rows, image=replace(rows.image, pixels_CHW=torch.empty(0))) if rows.key in self.images else rows
            for rows in batch.images
        ]
        with self._together(replace(batch, images=images, sampled=[], drafts=[], scored=[])):
            return super().run(batch)  # without penalties: each rank has a part of the head

    @torch.inference_mode()
    def logits(self, hidden_RD: Tensor, stretches: Sequence[Stretch] = ()) -> Tensor:
        with self._together(Logits(len(hidden_RD), tuple(stretches))):
            return super().logits(self._ranks.group.broadcast(hidden_RD), stretches)

    def fill(self, slot: int, adapter: LoraAdapter) -> None:
        with self._together(Fill(slot, adapter)):
            super().fill(slot, adapter)

    @contextmanager
    def _together(self, task: Batch | Logits | Fill) -> Iterator[None]:
        """Have the others do the task too; a failure leaves the others mid-step, so it ends every rank."""
        message = _dump(task, self._layers)
        try:
            self._ranks.send(message)
            yield
        except EngineDeadError:
            raise
        except Exception as error:
            raise self._ranks.fail(error) from error


def start_ranks(source: ModelSource) -> tuple[LoadedModel, Ranks]:
    """Start the ranks and load all shards, each on its own device, or all on the CPU.

    Raises UsageError if the devices or the model cannot be divided, and the errors of `load_model`.
    """
    size, device = source.tensor_parallel_size, source.device
    if size < 1:
        raise UsageError(f"tensor_parallel_size is {size}; use a whole number of at least 1.")
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if kind not in ("cpu", "cuda"):
        raise UsageError(f"device is {device!r} and tensor_parallel_size={size} takes several; use auto, cpu or cuda.")
    if kind == "cuda" and torch.cuda.device_count() < size:
        raise UsageError(
            f"tensor_parallel_size is {size} and this machine has {torch.cuda.device_count()} CUDA devices; lower it."
        )
    # Ranks on one CPU share its cores.
    threads = max(torch.get_num_threads() // size, 1) if kind == "cpu" else torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="tessera-ranks-") as meeting:
        start = Start(replace(locate(source), device=rank_device(kind, 0)), 0, Path(meeting), threads)
        torch.set_num_threads(threads)
        ranks = Ranks(start)
        return ranks.load(start), ranks


def rank_device(device: str, rank: int) -> str:
    return "cpu" if device == "cpu" else f"cuda:{rank}"


def serve(descriptor: int) -> None:
    """Run as one of the other ranks: load, then compute each batch until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes; rank 0 handles it
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    connection = Connection(descriptor)
    try:
        _serve(connection)
    except EOFError:  # rank 0 is gone
        sys.exit(0)
    except Exception as error:
        with suppress(OSError):  # rank 0 may be gone as well
            connection.send(error if isinstance(error, TesseraError) else RuntimeError(traceback.format_exc()))
        sys.exit(1)


def _end_with(parent: int) -> None:
    """End this process when its parent ends, even while it waits inside a library."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


@torch.inference_mode()
def _serve(connection: Connection) -> None:
    start: Start = connection.recv()
    torch.set_num_threads(start.threads)
    loaded = load_model(start.source, rank=start.rank)
    connection.send(None)
    model = loaded.model
    group = connect(start.meeting, start.rank, start.size, model.device)
    parallelize(model, loaded.shard, group)
    connection.send(None)
    config: EngineConfig = pickle.loads(connection.recv_bytes())
    cache = KVCache(model.config, config.num_blocks, config.block_tokens, config.cache_dtype, model.device)
    slots = Slots(model, loaded.shard) if config.max_loras else None
    runner = Runner(model, ImageCache(config.image_cache_bytes), slots)
    connection.send(None)
    while message := connection.recv_bytes():
        task = _Unpickler(io.BytesIO(message), cache.layers, model.device).load()
        if isinstance(task, Logits):
            like = torch.empty(task.rows, loaded.config.dim, dtype=model.dtype, device=model.device)
            runner.logits(group.broadcast(like), task.stretches)
        elif isinstance(task, Fill):
            runner.fill(task.slot, task.adapter)
        else:
            runner.run(task)


def _dump(task: Batch | Logits | Fill, layers: dict[int, int]) -> bytes:
    file = io.BytesIO()
    _Pickler(file, layers).dump(task)
    return file.getvalue()


class _Pickler(pickle.Pickler):
    """Replaces cache layers by their numbers, and moves tensors off their device."""

    def __init__(self, file: io.BytesIO, layers: dict[int, int]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._layers = layers

    def persistent_id(self, value: Any) -> tuple[str, Any] | None:
        if isinstance(value, CacheLayer):
            return "layer", self._layers[id(value)]
        if isinstance(value, Tensor) and value.device.type != "cpu":
            return "tensor", value.cpu()
        return None


class _Unpickler(pickle.Unpickler):
    """Restores layers from this rank's cache, and moves tensors to its device."""

    def __init__(self, file: io.BytesIO, layers: Sequence[CacheLayer], device: torch.device) -> None:
        super().__init__(file)
        self._layers, self._device = layers, device

    def persistent_load(self, name: tuple[str, Any]) -> Any:
        kind, value = name
        return self._layers[value] if kind == "layer" else value.to(self._device)
