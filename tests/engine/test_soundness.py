"""A reply that fails says why, to everybody: NaN and infinities in weights, overflow, a grammar without a way on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tessera import LLM, SamplingParams
from tessera.engine.engine import Engine
from tessera.engine.grammar import Matcher
from tessera.engine.sampler import Sampler
from tessera.engine.soundness import MANY, Soundness, damaged_tensor
from tessera.errors import GrammarError, NotFiniteError, ReplyError
from tessera.linears.quantized import place
from tessera.load import BUNDLED_FOLDER
from tessera.model.pixtral import Pixtral
from tessera.quantize.rounding import round_to
from tessera.sampling import Grammar
from tests.cli.commands import run as run_command
from tests.engine.tiny import prompt, tiny_engine, tiny_model
from tests.loading import load_model
from tests.server.conftest import Running, asking, start_server

HELLO = [{"role": "user", "content": "Hi"}]
NAN, INF = math.nan, math.inf


def spoiled(name: str, value: float) -> Pixtral:
    model = tiny_model()
    with torch.no_grad():
        model.get_parameter(name).flatten()[-1] = value
    return model


def test_sound_weights_are_sound() -> None:
    assert damaged_tensor(tiny_model()) is None


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["tok_embeddings.weight", "norm.weight", "layers.1.feed_forward.w2.weight"])
def test_the_damaged_weight_is_found(name: str, dtype: torch.dtype, value: float) -> None:
    assert damaged_tensor(spoiled(name, value).to(dtype)) == name


@pytest.mark.parametrize("scheme", ["int8", "int4", "fp8"])
@pytest.mark.parametrize("part", ["scales", "values"])
def test_the_damaged_part_of_a_quantized_weight_is_found(scheme: str, part: str) -> None:
    if part == "values" and scheme != "fp8":
        return  # codes of whole numbers are always finite
    model, name = tiny_model(), "layers.0.attention.wq"
    place(model, name, round_to(scheme, model.get_submodule(name).weight.detach()))
    assert damaged_tensor(model) is None
    tensor = model.get_submodule(name).quantized.tensors[part]
    tensor.flatten()[0] = NAN
    assert damaged_tensor(model) == f"{name}.{part}"


def last(engine: Engine, params: SamplingParams) -> ReplyError | GrammarError | None:
    """The error with which a reply ends."""
    engine.add(prompt("abc"), params)
    while engine.has_work:
        for _, delta in engine.step():
            if delta.finish_reason is not None:
                assert (delta.finish_reason == "error") == (delta.error is not None)
                return delta.error  # type: ignore[return-value]
    raise AssertionError("it did not end")


def test_damage_is_told_by_the_weights_name_and_stays() -> None:
    engine = tiny_engine(spoiled("layers.0.attention.wo.weight", NAN))
    assert engine.soundness.is_sound  # nothing was asked yet
    error = last(engine, SamplingParams(max_tokens=3))
    assert isinstance(error, NotFiniteError)
    assert "damaged (layers.0.attention.wo.weight)" in str(error)
    assert not engine.soundness.is_sound
    assert engine.stats().finished == {"error": 1}


def test_overflow_is_no_damage_and_only_a_model_that_never_answered_is_unsound() -> None:
    model = tiny_model()
    fresh, used = Soundness(model), Soundness(model)
    used.succeed()
    for count in range(1, MANY + 1):
        assert "overflow float32" in str(fresh.fail())
        assert "overflow float32" in str(used.fail())
        assert fresh.is_sound == (count < MANY)
        assert used.is_sound  # or a few hostile requests could have a working server restarted
    fresh.succeed()
    assert fresh.is_sound


def test_a_grammar_without_a_way_on_is_the_requests_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny_engine(tiny_model())
    monkeypatch.setattr(Matcher, "has_failed", True)
    monkeypatch.setattr(Matcher, "fill", lambda self, words_W: words_W.zero_())
    error = last(engine, SamplingParams(max_tokens=3, grammar=Grammar("regex", "[a-z]{30}")))
    assert isinstance(error, GrammarError)
    assert error.http_status == 400
    assert engine.soundness.is_sound


def test_a_fault_of_ours_is_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny_engine(tiny_model())
    monkeypatch.setattr(Sampler, "sample", lambda self, logits_RV, requests: [None] * len(requests))
    error = last(engine, SamplingParams(max_tokens=3))
    assert type(error) is ReplyError
    assert engine.soundness.is_sound


# Everywhere -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model with one number gone wrong."""
    folder = tmp_path_factory.mktemp("damaged")
    for file in BUNDLED_FOLDER.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    (weights,) = BUNDLED_FOLDER.glob("*.safetensors")
    tensors = load_file(weights)
    name = "layers.0.feed_forward.w2.weight"
    tensors[name] = tensors[name].clone()
    tensors[name][0, 0] = NAN
    save_file(tensors, folder / weights.name)
    return folder


def test_the_library_raises(damaged: Path) -> None:
    with LLM(damaged, kv_cache_bytes=2**22) as llm:
        with pytest.raises(NotFiniteError, match="weights are damaged"):
            llm.chat(HELLO)
        with pytest.raises(NotFiniteError, match="weights are damaged"):
            list(llm.stream(HELLO))
        with pytest.raises(NotFiniteError, match=r"conversation 0: .*weights are damaged"):
            llm.batch([HELLO, HELLO])


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_the_command_line_ends_with_the_cause(
    damaged: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert run_command(monkeypatch, "ask", "Hi", "-m", str(damaged), *flags) == 1
    said = capsys.readouterr()
    assert "tessera: error: the model's numbers are not finite: its weights are damaged" in said.err
    assert "Please report" not in said.err
    assert not said.out.strip()


def test_the_server_says_so_and_its_health_knows(damaged: Path) -> None:
    loaded = load_model(damaged)
    llm = LLM.from_parts(loaded.model, loaded.tokenizer, name="damaged", kv_cache_bytes=2**22)
    running: Running = start_server(llm)
    assert running.get("/health").status_code == 200
    bodies = {
        "/v1/chat/completions": asking(), "/v1/completions": {"prompt": "Hi"}, "/v1/responses": {"input": "Hi"},
    }  # fmt: skip
    for path, body in bodies.items():
        whole = running.post(path, body)
        assert whole.status_code == 500
        assert whole.json()["error"]["code"] == "model_not_finite"
        assert "damaged (layers.0.feed_forward.w2.weight)" in whole.json()["error"]["message"]
        events = running.post(path, body | {"stream": True}).text
        assert "[DONE]" not in events
        assert "damaged (layers.0.feed_forward.w2.weight)" in json.dumps(json.loads(events.rpartition("data: ")[2]))
    assert running.get("/health").status_code == running.get("/ready").status_code == 503
    text = running.get("/metrics").text
    assert 'tessera:model_sound{model_name="damaged"} 0.0' in text
    assert 'tessera:request_success_total{finished_reason="error",model_name="damaged"} 6.0' in text
    running.stop()
