"""RayModels: a model on each machine of a Ray cluster, as one pool; replies come back to the caller's journal.

An actor opens the model and answers conversations. What a lost machine had in hand is asked again elsewhere, and an
actor is started anew as soon as the cluster has room for one. Ray's own queues and checkpoints are not used: the
journal is the only truth, so that a run goes on with or without Ray.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from tessera.chat import ChatModel, Completion, Conversation, Delta, Glance, Head, ToolDefinitions, Tools
from tessera.errors import EngineDeadError, TesseraError, UnreachableError, UsageError
from tessera.messages import images_digest, parse_messages
from tessera.model.config import VisionConfig
from tessera.pool import Pool
from tessera.sampling import SamplingParams
from tessera.threads import ThreadedChatModel

INSTALL = "pip install 'tessera[ray]'"
IN_FLIGHT = 8  # conversations of an actor, if not said otherwise
START_S = 900.0  # for a model to load
REPLY_S = 3600.0  # for a reply
Opening = Callable[[], ChatModel]


class _Actor:
    """What runs on a machine: the model, and calls on it; expected errors come back as values."""

    def __init__(self, opening: Opening) -> None:
        self.problem: TesseraError | None = None
        try:
            self.model = opening()
        except TesseraError as error:
            self.problem = error

    def facts(self) -> dict[str, Any] | TesseraError:
        """What the caller must know of the model without having it, or why it cannot be opened."""
        if self.problem is not None:
            return self.problem
        return {
            "model_name": self.model.model_name,
            "fingerprint": self.model.fingerprint,
            "vision": getattr(self.model, "vision", None),
            "context_tokens": getattr(self.model, "context_tokens", None),
        }

    def call(self, name: str, *values: Any, **more: Any) -> Any:
        if self.problem is not None:
            return EngineDeadError(f"the model cannot be opened on another machine: {self.problem}")
        try:
            return getattr(self.model, name)(*values, **more)
        except TesseraError as error:
            return error


class RayModel(ThreadedChatModel):
    """One actor; a dead one is replaced when the next conversation comes and the cluster has room."""

    def __init__(self, ray: Any, opening: Opening, in_flight: int, gpus: int) -> None:
        self.concurrency = in_flight
        needs = {"num_gpus": gpus} if gpus else {"num_cpus": 1}
        self._needs = {"GPU": gpus} if gpus else {"CPU": 1}
        self._ray = ray
        # Two more threads than conversations: questions about the model itself do not wait behind them.
        remote = ray.remote(_Actor).options(
            max_concurrency=in_flight + 2, max_restarts=0, scheduling_strategy="SPREAD", **needs
        )
        self._begin = partial(remote.remote, opening)
        self._lock = threading.Lock()
        self._actor: Any = self._begin()

    @property
    def model_name(self) -> str:  # type: ignore[override]
        return str(self.facts()["model_name"])

    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = _raised(self._got(lambda actor: actor.facts.remote(), START_S))
        return found

    def chat(
        self, messages: Conversation, params: SamplingParams | None = None, *, tools: Tools | ToolDefinitions = ()
    ) -> Completion:
        reply: Completion = self._called("chat", parse_messages(messages), params, tools=tools)
        return reply

    chat.__doc__ = ChatModel.chat.__doc__

    def stream(
        self, messages: Conversation, params: SamplingParams | None = None, *, tools: Tools | ToolDefinitions = ()
    ) -> Iterator[Delta]:
        """Yield the whole reply as one piece."""
        reply = self.chat(messages, params, tools=tools)
        yield Delta(
            reply.text, reply.token_ids, reply.logprobs, reply.finish_reason, reply.usage, reply.timings,
            reply.tool_calls, reply.prompt_logprobs, stop_string=reply.stop_string,
        )  # fmt: skip

    def locate(
        self,
        messages: Conversation,
        reply: Completion | str,
        spans: Sequence[tuple[int, int]],
        heads: Sequence[Head] = (),
    ) -> list[list[tuple[Glance, ...]]] | None:
        found: list[list[tuple[Glance, ...]]] | None = self._called(
            "locate", parse_messages(messages), reply, list(spans), tuple(heads)
        )
        return found

    locate.__doc__ = ChatModel.locate.__doc__

    def close(self) -> None:
        with self._lock:
            if self._actor is not None:
                self._ray.kill(self._actor)
                self._actor = None

    def _called(self, name: str, *values: Any, **more: Any) -> Any:
        return _raised(self._got(lambda actor: actor.call.remote(name, *values, **more), REPLY_S))

    def _got(self, call: Callable[[Any], Any], seconds: float) -> Any:
        """Await a call; raises EngineDeadError if the actor died in it, and UnreachableError if there is none."""
        errors, actor = self._ray.exceptions, self._living()
        try:
            return self._ray.get(call(actor), timeout=seconds)
        except errors.RayTaskError:
            raise  # a bug, or a library's failure while the model was opened
        except errors.GetTimeoutError as error:
            raise EngineDeadError(f"an actor did not answer within {seconds:g} s; look at its machine.") from error
        except errors.ActorUnavailableError as error:
            raise UnreachableError("an actor cannot be reached for now; look at its machine.") from error
        except errors.RayError as error:
            with self._lock:
                self._actor = None if self._actor is actor else self._actor
            raise EngineDeadError("an actor or its machine died while it answered; look at the cluster.") from error

    def _living(self) -> Any:
        """Return the actor, a new one if it died; raises UnreachableError while the cluster has no room for one."""
        with self._lock:
            if self._actor is None:
                room = self._ray.available_resources()
                if any(room.get(name, 0) < count for name, count in self._needs.items()):
                    raise UnreachableError("the cluster has no machine for an actor that died; add one.")
                self._actor = self._begin()
            return self._actor


def _raised(found: Any) -> Any:
    """Raise an error that came back as a value."""
    if isinstance(found, TesseraError):
        raise found
    return found


class RayModels(Pool):
    """Actors over a cluster: one for each GPU or, without any, one for each machine.

    `opening` opens the model on each machine, so it must be importable there. `address` is "auto" for the cluster of
    this machine, "local" for one that ends with this process, or a cluster's. Raises UsageError if there is none.
    """

    def __init__(self, opening: Opening, address: str, in_flight: int | None = None) -> None:
        ray = connected(address)
        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = gpus or sum(node["Alive"] and node["Resources"].get("CPU", 0) >= 1 for node in ray.nodes())
        if not count:
            raise UsageError(f"the Ray cluster at {address} has no machine with a processor to spare; add one.")
        models = [RayModel(ray, opening, in_flight or IN_FLIGHT, min(gpus, 1)) for _ in range(count)]
        super().__init__(models)
        self.facts: dict[str, Any] = self._ask(lambda model: model.facts(), b"")  # type: ignore[attr-defined]

    @property
    def model_name(self) -> str:  # type: ignore[override]
        return str(self.facts["model_name"])

    @property
    def fingerprint(self) -> str:
        return str(self.facts["fingerprint"])

    @property
    def vision(self) -> VisionConfig | None:
        found: VisionConfig | None = self.facts["vision"]
        return found

    @property
    def context_tokens(self) -> int | None:
        found: int | None = self.facts["context_tokens"]
        return found

    def locate(
        self,
        messages: Conversation,
        reply: Completion | str,
        spans: Sequence[tuple[int, int]],
        heads: Sequence[Head] = (),
    ) -> list[list[tuple[Glance, ...]]] | None:
        parsed = parse_messages(messages)
        return self._ask(lambda model: model.locate(parsed, reply, spans, heads), images_digest(parsed))

    locate.__doc__ = ChatModel.locate.__doc__


def connected(address: str) -> Any:
    """Return Ray, connected; raises UsageError without the package or the cluster."""
    try:
        import ray
    except ImportError as error:
        raise UsageError(f"--ray needs Ray, which is not installed; run {INSTALL}.") from error
    if not ray.is_initialized():
        where = {} if address == "local" else {"address": address}
        try:
            ray.init(**where, namespace="tessera", log_to_driver=False, configure_logging=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            place = "on this machine" if address == "auto" else f"at {address}"
            raise UsageError(
                f"there is no Ray cluster {place}, or one of another version; start one with `ray start --head`, or "
                "name its address."
            ) from error
    return ray
