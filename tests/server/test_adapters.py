"""Adapters as models: every route that takes a model takes their names, and they come and go while the server runs."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tessera import LLM, Client, SamplingParams
from tessera.errors import CheckpointError, UsageError
from tessera.load import BUNDLED_FOLDER
from tessera.lora.files import write_mistral
from tessera.lora.peft import write_peft
from tessera.server.run import open_model
from tessera.server.settings import Settings
from tessera.weights.checkpoint import open_checkpoint
from tests.lora.adapters import random_adapter
from tests.server.conftest import DEMO, RECEIPT, Running, asking, run_server

LIMIT = {"max_tokens": 8}
QUESTION = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": str(DEMO / "receipt.png")}},
                                         {"type": "text", "text": "What is the total?"}]}]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters of nano: one of the decoder, one of everything, and one whose rank is too large."""
    folder = tmp_path_factory.mktemp("served") / "adapters"
    config = open_checkpoint(BUNDLED_FOLDER).config
    write_peft(random_adapter(config, lambda name: name.startswith("layers."), scale=8.0), folder / "decoder", config)
    write_peft(random_adapter(config, scale=5.0), folder / "whole", config)
    write_peft(random_adapter(config, lambda name: name == "layers.0.attention.wq", rank=9), folder / "wide", config)
    write_peft(random_adapter(config), folder.parent / "outside", config)
    (folder / "way-out").symlink_to(folder.parent)
    (folder / "link").symlink_to(folder / "wide")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    running = run_server(
        enable_lora=True, max_loras=2, max_lora_rank=8, max_cpu_loras=3, allowed_lora_path=folder,
        lora_modules=(f"invoices={folder / 'decoder'}", {"name": "all", "path": str(folder / "whole")}),
        served_model_name=("nano", "pixtral"),
    )  # fmt: skip
    yield running
    running.stop()


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, str]:
    """What the model with one adapter beside it answers."""
    params, told = SamplingParams(**LIMIT), {}
    for name, adapter in (("nano", None), ("invoices", "decoder"), ("all", "whole")):
        with LLM("nano", adapter=None if adapter is None else folder / adapter) as llm:
            told[name] = llm.chat(QUESTION, params).text
    assert len(set(told.values())) == 3
    return told


def chat(body: dict[str, Any]) -> str:
    return str(body["choices"][0]["message"]["content"])


ASKED: dict[str, tuple[str, dict[str, Any], Callable[[Any], str]]] = {
    "chat": ("/v1/chat/completions", asking() | LIMIT, chat),
    "responses": (
        "/v1/responses",
        {"input": [{"role": "user", "content": asking()["messages"][0]["content"]}], "max_output_tokens": 8},
        lambda body: body["output"][0]["content"][0]["text"],
    ),
    "messages": (
        "/v1/messages",
        {"messages": [{"role": "user", "content": [
            {"type": "image", "source": {"type": "base64", "media_type": "image/png",
                                         "data": RECEIPT.partition(",")[2]}},
            {"type": "text", "text": "What is the total?"}]}]} | LIMIT,
        lambda body: body["content"][0]["text"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("route", ASKED)
def test_each_route_answers_with_the_adapter_that_is_named(
    server: Running, expected: dict[str, str], route: str
) -> None:
    path, body, text_of = ASKED[route]
    for name, text in expected.items():
        told = server.post(path, body | {"model": name}).json()
        assert (text_of(told), told["model"]) == (text, name)
    refused = server.post(path, body | {"model": "receipts"})
    assert refused.status_code == 404
    assert "'receipts' is not served here; use 'nano' or an adapter of GET /v1/models" in refused.text


def test_plain_completions_and_counting_take_the_names_too(server: Running) -> None:
    told = [
        server.post("/v1/completions", {"prompt": "Total", "max_tokens": 6, "ignore_eos": True, "model": name}).json()
        for name in ("nano", "invoices", "all")
    ]
    assert [each["model"] for each in told] == ["nano", "invoices", "all"]
    assert len({each["choices"][0]["text"] for each in told}) == 3
    assert server.post("/tokenize", {"prompt": "Total", "model": "all"}).status_code == 200


def test_a_client_names_an_adapter_as_its_model_or_in_the_parameters(server: Running, expected: dict[str, str]) -> None:
    with Client(server.url, model="invoices") as client:
        assert client.chat(QUESTION, SamplingParams(**LIMIT)).text == expected["invoices"]
        assert client.chat(QUESTION, SamplingParams(adapter="all", **LIMIT)).text == expected["all"]


def test_models_lists_adapters_with_parent_and_root(server: Running, folder: Path) -> None:
    data = {each["id"]: each for each in server.get("/v1/models").json()["data"]}
    assert list(data)[:4] == ["nano", "pixtral", "invoices", "all"]
    assert (data["invoices"]["parent"], data["invoices"]["root"]) == ("nano", str(folder / "decoder"))
    assert (data["nano"]["parent"], data["nano"]["root"], data["nano"]["aliases"]) == (None, "nano", ["pixtral"])
    assert server.get("/v1/models/all").json() == data["all"]
    assert server.get("/v1/models/none").status_code == 404


def done(server: Running, path: str) -> dict[str, Any]:
    """The job once it has ended."""
    began = time.monotonic()
    while (told := server.get(path).json())["status"].lower() in ("queued", "running", "validating", "in_progress",
                                                                 "finalizing"):  # fmt: skip
        assert time.monotonic() - began < 60
        time.sleep(0.05)
    return dict(told)


def test_lines_of_a_batch_name_adapters_or_have_the_job_s(server: Running, expected: dict[str, str]) -> None:
    named = [asking() | LIMIT | ({} if name is None else {"model": name}) for name in (None, "nano", "all", "none")]
    body = {"endpoint": "/v1/chat/completions", "model": "invoices",
            "requests": [{"custom_id": str(number), "body": each} for number, each in enumerate(named)]}  # fmt: skip
    job = server.post("/v1/batch/jobs", body).json()
    assert job["model"] == "invoices"
    done(server, f"/v1/batch/jobs/{job['id']}")
    outputs = server.get(f"/v1/batch/jobs/{job['id']}?inline=true").json()["outputs"]
    told = {each["custom_id"]: each["response"] for each in outputs}
    replies = [told[key]["body"] for key in ("0", "1", "2")]
    assert [chat(each) for each in replies] == [expected[name] for name in ("invoices", "nano", "all")]
    assert [each["model"] for each in replies] == ["invoices", "nano", "all"]
    assert told["3"]["status_code"] == 404


@pytest.mark.slow
def test_ocr_and_extractions_take_an_adapter(server: Running) -> None:
    document = {"type": "image_url", "image_url": RECEIPT}
    pages = {}
    for name in ("nano", "all"):
        told = server.post("/v1/ocr", {"model": name, "document": document}).json()
        assert told["model"] == name
        pages[name] = told["pages"][0]["markdown"]
    assert pages["nano"] != pages["all"]
    assert server.post("/v1/ocr", {"model": "none", "document": document}).status_code == 404
    with (DEMO / "receipt.png").open("rb") as file:
        uploaded = server_upload(server, file.read())
    rows = {}
    for name in ("nano", "all"):
        made = server.post("/v1/extractions", {"input_file_ids": [uploaded], "preset": "receipt", "model": name}).json()
        assert done(server, f"/v1/extractions/{made['id']}")["status"] == "completed"
        rows[name] = server.get(f"/v1/extractions/{made['id']}/records").json()["data"][0]["value"]
    assert rows["nano"] != rows["all"]


def server_upload(server: Running, data: bytes) -> str:
    import httpx2

    with httpx2.Client(timeout=60) as client:
        made = client.post(server.url + "/v1/files", data={"purpose": "user_data"}, files={"file": ("r.png", data)})
    return str(made.json()["id"])


def test_adapters_come_change_and_go_while_the_server_runs(
    server: Running, folder: Path, expected: dict[str, str]
) -> None:
    def ask() -> Any:
        return server.post("/v1/chat/completions", asking() | LIMIT | {"model": "late"})

    def load(name: str, **more: Any) -> Any:
        return server.post("/v1/load_lora_adapter", {"lora_name": "late", "lora_path": name} | more)

    assert ask().status_code == 404
    assert load("decoder").text == "Success: LoRA adapter 'late' added successfully."
    assert chat(ask().json()) == expected["invoices"]
    assert load("whole").status_code == 400
    assert load("whole", load_inplace=True).status_code == 200
    assert chat(ask().json()) == expected["all"]
    full = server.post("/v1/load_lora_adapter", {"lora_name": "more", "lora_path": "whole"})
    assert "the limit is max_cpu_loras=3" in full.text
    metrics = server.get("/metrics").text
    assert re.search(r'^tessera:lora_adapters\{model_name="nano"\} 3', metrics, re.MULTILINE)
    assert 'tessera:lora_requests_total{adapter="late",model_name="nano"} 2.0' in metrics
    gone = server.post("/v1/unload_lora_adapter", {"lora_name": "late"})
    assert gone.text == "Success: LoRA adapter 'late' removed successfully."
    assert ask().status_code == 404
    assert 'adapter="late"' not in server.get("/metrics").text
    assert server.post("/v1/unload_lora_adapter", {"lora_name": "late"}).status_code == 404


def test_what_may_not_be_loaded_is_refused(server: Running, folder: Path) -> None:
    for path in (
        "../outside",
        "way-out/outside",
        "/etc",
        "none",
        ".",
        "",
        "a\0b",
        "x/" * 3000,
        str(folder.parent / "outside"),
    ):
        told = server.post("/v1/load_lora_adapter", {"lora_name": "bad", "lora_path": path})
        assert told.status_code in (400, 404), path
        assert str(folder.parent) not in told.text.replace(json.dumps(path), "")
    # Links inside the folder that stay inside it are followed.
    wide = server.post("/v1/load_lora_adapter", {"lora_name": "bad", "lora_path": "link"})
    assert "has rank 9 and the limit is max_lora_rank=8" in wide.json()["error"]["message"]
    for name in ("nano", "pixtral", "a b", "../x"):
        told = server.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": "whole"})
        assert told.status_code == 400, name
    assert server.post("/v1/load_lora_adapter", {"lora_name": "bad"}).status_code == 400
    assert "bad" not in server.get("/v1/models").text


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "consolidated"])
def test_a_link_out_of_the_folder_is_named_and_not_followed(server: Running, folder: Path, name: str) -> None:
    """Links within it, such as those of the hub's cache, are followed."""
    outside, inside = folder.parent / "outside", folder / f"linked-{name}"
    shutil.copytree(folder / "whole", inside)
    files = [file for file in inside.iterdir() if name in (file.name, "consolidated")]
    for file in files:
        file.unlink()
    link = inside / name
    link.symlink_to(outside / name if name != "consolidated" else outside)
    told = server.post("/v1/load_lora_adapter", {"lora_name": "linked", "lora_path": inside.name})
    assert (told.status_code, told.json()["error"]["code"]) == (400, "adapter_link")
    assert f"{inside.name}/{name} is a link out of the folder that this server allows" in told.text
    link.unlink()
    link.symlink_to(folder / "decoder" / name if name != "consolidated" else folder / "decoder")
    again = server.post("/v1/load_lora_adapter", {"lora_name": "linked", "lora_path": inside.name})
    assert "adapter_link" not in again.text
    server.post("/v1/unload_lora_adapter", {"lora_name": "linked"})


def test_a_file_s_scale_is_not_read_through_a_link_either(server: Running, folder: Path) -> None:
    config = open_checkpoint(BUNDLED_FOLDER).config
    write_mistral(random_adapter(config, lambda name: name.startswith("layers.")), folder / "theirs", config)
    scale = folder / "theirs" / "params.json"
    scale.rename(folder.parent / "params.json")
    scale.symlink_to(folder.parent / "params.json")
    for path in ("theirs", "theirs/lora.safetensors"):
        told = server.post("/v1/load_lora_adapter", {"lora_name": "theirs", "lora_path": path})
        assert "theirs/params.json is a link out of the folder" in told.text


def test_loading_is_off_by_default(running: Running) -> None:
    for path, body in (
        ("/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "a"}),
        ("/v1/unload_lora_adapter", {"lora_name": "a"}),
    ):
        told = running.post(path, body)
        assert told.status_code == 403
        assert "--allowed-lora-path" in told.json()["error"]["message"]


def test_settings_say_what_is_missing(folder: Path) -> None:
    with pytest.raises(UsageError, match="lora_modules needs enable_lora"):
        Settings(lora_modules=(f"a={folder / 'decoder'}",))
    with pytest.raises(UsageError, match="is no LoRA adapter"):
        open_model(Settings(enable_lora=True, lora_modules=(f"a={folder}/none",)))
    module = {"name": "a", "path": str(folder / "decoder"), "base_model_name": "other"}
    with pytest.raises(UsageError, match="said to be for the model 'other'"):
        open_model(Settings(enable_lora=True, lora_modules=(module,)))
    with pytest.raises((UsageError, CheckpointError), match="is the model's own name"):
        open_model(Settings(enable_lora=True, lora_modules=(f"nano={folder / 'decoder'}",), kv_cache_bytes=2**23))
