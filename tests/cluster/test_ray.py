"""A Ray cluster of two nodes on this machine: one is killed in the midst, and every page is there once."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tessera.chat import ChatModel
from tessera.cli.app import app
from tessera.cluster.ray_models import RayModel, RayModels, connected
from tessera.documents.journal import Journal
from tessera.documents.runner import run
from tessera.errors import EngineDeadError, UnreachableError, UsageError
from tessera.messages import Message
from tests.documents.stub import Stub, accept, ask

ITEMS = 120
SMALL = {"num_cpus": 1, "object_store_memory": 128 * 2**20}


def opened() -> ChatModel:
    return Stub(seconds=0.15, concurrency=4)


def refused() -> ChatModel:
    raise UsageError("no such model here.")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "240")  # instead of 30, on a busy machine
    ray = pytest.importorskip("ray", reason="ray is not installed")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**SMALL, "include_dashboard": False})
    cluster.add_node(**SMALL)
    cluster.wait_for_nodes()
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_the_package_is_named_if_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'tessera\[ray\]'"):
        connected("auto")


@pytest.mark.slow
def test_a_model_that_cannot_be_opened_is_named(cluster: Any) -> None:
    with pytest.raises(UsageError, match="no such model here"):
        RayModels(refused, cluster.address)


@pytest.mark.slow
def test_an_extraction_on_ray_is_the_same_as_without(cluster: Any, tmp_path: Path) -> None:
    """nano reads the demo's receipt on the cluster and here: the same rows, and a journal that either continues."""
    receipt = Path(__file__).parents[2] / "tessera" / "nano" / "demo" / "receipt.png"
    schema = tmp_path / "s.json"
    schema.write_text(json.dumps({"properties": {"vendor": {"type": "string"}, "total": {"type": "string"}}}))
    rows = []
    for name, words in (("here", ()), ("ray", ("--ray", cluster.address))):
        out = tmp_path / f"{name}.jsonl"
        given = ["extract", str(receipt), "-s", str(schema), "-o", str(out), "-q", *words]
        done = CliRunner().invoke(app, given, catch_exceptions=False)
        assert done.exit_code in (0, 3), done.output
        rows.append(out.read_bytes())
    assert rows[0] == rows[1]
    assert (tmp_path / "here.jsonl.journal").exists()
    again = ["extract", str(receipt), "-s", str(schema), "-o", str(tmp_path / "ray.jsonl"), "-q"]
    assert CliRunner().invoke(app, again, catch_exceptions=False).exit_code in (0, 3)


@pytest.mark.slow
def test_a_transcript_on_ray_is_the_same_as_without(cluster: Any, tmp_path: Path) -> None:
    receipt = Path(__file__).parents[2] / "tessera" / "nano" / "demo" / "receipt.png"
    texts = []
    for name, words in (("here", ()), ("ray", ("--ray", cluster.address))):
        out = tmp_path / f"{name}.md"
        done = CliRunner().invoke(app, ["transcribe", str(receipt), "-o", str(out), "-q", *words])
        assert done.exit_code in (0, 1, 3), done.output
        texts.append(out.read_text(encoding="utf-8"))
    assert texts[0] == texts[1]
    assert "receipt.png" in texts[0]


@pytest.mark.slow
def test_a_killed_node_loses_nothing(cluster: Any, tmp_path: Path) -> None:
    node = cluster.add_node(**SMALL)
    cluster.wait_for_nodes()
    with RayModels(opened, cluster.address, 4) as models, Journal.open(tmp_path / "j", {"input": "x"}) as journal:
        assert len(models._replicas) == 3
        journal.add((f"page {number}", f"text {number}") for number in range(ITEMS))

        def kill() -> None:
            while journal.counts().done < 20:
                time.sleep(0.05)
            cluster.remove_node(node, allow_graceful=False)

        killer = threading.Thread(target=kill)
        killer.start()
        counts = run(journal, models, ask, accept)
        killer.join()
        assert (counts.done, counts.failed, counts.left) == (ITEMS, 0, 0)
        results = [json.loads(each.result) for each in journal.results()]
        assert results == [[f"page {number}", f"<text {number}>"] for number in range(ITEMS)]
        assert any(each.failures for each in models._replicas)  # the node was at work when it died


@pytest.mark.slow
def test_ray_data_llm_works_against_our_server(cluster: Any, tmp_path: Path) -> None:
    """HttpRequestProcessorConfig of ray.data.llm, unmodified: every row gets its reply."""
    import ray

    pytest.importorskip("aiohttp", reason="ray.data.llm needs aiohttp")
    from ray.data.llm import HttpRequestProcessorConfig, build_processor

    from tests.clients.run import KEY, Server

    data = base64.b64encode((Path(__file__).parents[2] / "tessera/nano/demo/chart.png").read_bytes()).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    questions = ["Which bar is highest?", "What is the value of Rome?"] * 4
    with Server(tmp_path / "server.log") as server:
        ray.init(address=cluster.address, ignore_reinit_error=True)
        headers = {"Authorization": f"Bearer {KEY}"}
        config = HttpRequestProcessorConfig(
            url=f"{server.url}/v1/chat/completions", headers=headers, batch_size=2, concurrency=1
        )
        processor = build_processor(
            config,
            preprocess=lambda row: {
                "payload": {
                    "model": "nano",
                    "temperature": 0.0,
                    "max_tokens": 16,
                    "messages": [{"role": "user", "content": [image, {"type": "text", "text": row["question"]}]}],
                }
            },
            postprocess=lambda row: {
                "answer": row["http_response"]["choices"][0]["message"]["content"],
                "question": row["question"],
            },
        )
        rows = processor(ray.data.from_items([{"question": each} for each in questions])).take_all()
    assert sorted((row["question"], row["answer"]) for row in rows) == sorted(
        [("Which bar is highest?", "Rome"), ("What is the value of Rome?", "81")] * 4
    )


class _FakeRay:
    """Ray without machines: `room` processors, and actors whose calls raise what they are told."""

    class exceptions:
        class RayError(Exception): ...

        class RayTaskError(RayError): ...

        class GetTimeoutError(RayError): ...

        class ActorUnavailableError(RayError): ...

    def __init__(self) -> None:
        self.room, self.started, self.raises = 1.0, 0, [self.exceptions.RayError(), None]

    def remote(self, kind: type) -> _FakeRay:
        self.kind = kind
        return self

    def options(self, **given: Any) -> Any:
        fake = self

        class Remote:
            @staticmethod
            def remote(opening: Any) -> Any:
                fake.started += 1
                held = fake.kind(opening)
                call = type("Method", (), {"remote": staticmethod(lambda *a, **k: partial(held.call, *a, **k))})
                return type("Handle", (), {"call": call})()

        return Remote

    def get(self, reference: Any, timeout: float) -> Any:
        if (error := self.raises.pop(0)) is not None:
            raise error
        return reference()

    def available_resources(self) -> dict[str, float]:
        return {"CPU": self.room}

    def kill(self, actor: Any) -> None: ...


def test_a_dead_actor_is_replaced_when_there_is_room() -> None:
    fake = _FakeRay()
    model = RayModel(fake, lambda: Stub(), 4, 0)
    question = [Message("user", ("hello",))]
    with pytest.raises(EngineDeadError, match="died while it answered"):
        model.chat(question)
    fake.room = 0.0
    with pytest.raises(UnreachableError, match="no machine for an actor"):
        model.chat(question)
    fake.room = 1.0
    assert (model.chat(question).text, fake.started) == ("<hello>", 2)
    fake.raises = [fake.exceptions.ActorUnavailableError(), None]
    with pytest.raises(UnreachableError, match="cannot be reached"):
        model.chat(question)
    assert (model.chat(question).text, fake.started) == ("<hello>", 2)
    model.close()
