"""`tessera compare` as a person meets it: two models, planted errors, exit codes, and what is said."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from PIL import Image as PILImage
from typer.testing import CliRunner

from tessera.chat import ChatModel
from tessera.cli.app import app
from tessera.cli.batch_models import LocalModel
from tessera.documents import rotation
from tessera.errors import EndpointError, TesseraError, UsageError
from tests.cli.stub_server import Handler
from tests.documents.fakes import Scripted, draw

SCHEMA = {"properties": {"vendor": {"type": "string"}, "total": {"type": "number"}, "tax": {"type": "number"}}}
DOCUMENTS, PLANTED = 12, (3, 8)  # documents whose total the new model gets wrong
Run = Callable[..., Any]


def true_record(number: int) -> dict[str, Any]:
    return {"vendor": f"Shop {number}", "total": 10.5 + number, "tax": 1.25}


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Scripted]:
    """An old model that is right and a new one with planted errors; a document's number is its red."""
    for number in range(DOCUMENTS):
        image = PILImage.new("RGB", (64, 64), "white")
        image.paste((20 * number, 0, 0), (16, 16, 48, 48))
        image.save(tmp_path / f"{number}.png")

    def answer(planted: bool) -> Callable[..., Any]:
        def said(images: list[Any], params: Any) -> dict[str, Any]:
            image = images[0]
            number = image.getpixel((image.width // 2, image.height // 2))[0] // 20
            return true_record(number) | ({"total": 1} if planted and number in PLANTED else {})

        return said

    scripted = [Scripted(answer(False)), Scripted(answer(True))]
    sides = iter(scripted * 4)

    def opened(self: LocalModel) -> ChatModel:
        return next(sides)

    monkeypatch.setattr(LocalModel, "open", opened)
    return scripted


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))

    def invoke(*words: str) -> Any:
        given = ["compare", "nano", "nano", *words, "-s", "s.json", "--report", "r.html"]
        return CliRunner().invoke(app, given, catch_exceptions=False)

    return invoke


def test_planted_errors_are_found(run: Run, models: list[Scripted], tmp_path: Path) -> None:
    lines = (json.dumps({"document": f"{n}.png", "value": true_record(n)}) for n in range(DOCUMENTS))
    (tmp_path / "truth.jsonl").write_text("\n".join(lines))
    names = [f"{number}.png" for number in range(DOCUMENTS)]
    done = run(*names, "--labels", "truth.jsonl", "-o", "c.jsonl", "--json", "-q", "--min-agreement", "0.95")
    assert done.exit_code == 1  # 34 of 36 are fewer than 95 %
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["new_errors"], told["fixed"], told["undecided"]) == (2, 0, 0)
    agreement = told["agreement"]
    assert agreement["value"] == pytest.approx(34 / 36)
    assert agreement["low"] < 34 / 36 < agreement["high"]
    wrong = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    assert {(each["document"], each["path"]) for each in wrong if each["right"] == "old"} == {
        (f"{number}.png", "total") for number in PLANTED
    }
    assert told["sides"][0]["facts"]["memory_bytes"] > 2**20
    assert b"Save clicks" in (tmp_path / "r.html").read_bytes()
    # The same command asks nothing again, and a lower bar is passed.
    again = run(*names, "--labels", "truth.jsonl", "-q", "--min-agreement", "0.9")
    assert again.exit_code == 0
    assert [len(model.asked) for model in models] == [DOCUMENTS, DOCUMENTS]
    assert "right, by labels, new: 94.4%" in again.stdout
    assert "2 new errors, 0 fixed" in again.stdout


def test_ctrl_c_says_how_far_it_came_and_the_same_command_goes_on(
    run: Run, models: list[Scripted], tmp_path: Path
) -> None:
    """It comes while the new model reads its third document; outputs and the schema lie among the documents."""

    def interrupting(images: list[Any], params: Any) -> dict[str, Any]:
        if len(models[1].asked) == 3:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return true_record(0)

    models[1].answer = interrupting
    words = (".", "-j", "1", "--export", "inspect", "-o", "c.jsonl")
    stopped = run(*words)
    assert stopped.exit_code == 130
    assert "of 12 requests are done and kept in r.new.journal; the same command goes on from there" in stopped.output
    assert not (tmp_path / "r.html").exists()
    for _ in range(2):
        assert "13 documents" in run(*words, "-q").stdout
    assert len(models[0].asked) == DOCUMENTS
    assert DOCUMENTS <= len(models[1].asked) <= DOCUMENTS + 2


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("0.png", "--out", "c.csv"), "does not end in .jsonl"),
        (("0.png", "--labels", "gone.jsonl"), "--labels gone.jsonl is no file"),
        (("0.png", "--tolerance", "3"), "tolerance is 3"),
    ],
)
def test_mistakes_are_named_before_a_model_is_loaded(
    words: tuple[str, ...], part: str, run: Run, tmp_path: Path
) -> None:
    draw(tmp_path / "0.png", "x")
    with pytest.raises(UsageError, match=part):
        run(*words)


def test_labels_of_other_documents_are_an_error(run: Run, models: list[Scripted], tmp_path: Path) -> None:
    (tmp_path / "truth.jsonl").write_text('{"document": "other.png", "value": {"total": 1}}')
    with pytest.raises(UsageError, match="no label names one of these documents"):
        run("0.png", "--labels", "truth.jsonl", "-q")


def test_a_failing_side_is_told_with_its_codes(run: Run, models: list[Scripted]) -> None:
    models[1].answer = lambda images, params: EndpointError("no")
    done = run("0.png", "-q")
    assert (done.exit_code, "NO-GO" in done.stdout or "UNDECIDED" in done.stdout) == (1, True)
    assert re.search(r"^new: .* 1 failed \(\w+\), 0 refused$", done.stdout, re.MULTILINE)


def test_a_server_is_compared_with_a_model_here(models: list[Scripted], tmp_path: Path) -> None:
    """The server is asked over HTTP, once a document; after a run that broke off only for what is missing."""
    asked: list[str] = []
    turns: list[str] = []  # which way each document is up

    class Answering(Handler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            is_turn = rotation.QUESTION in json.dumps(body["messages"])
            (turns if is_turn else asked).append(body["model"])
            if len(asked) == 2 and not is_turn:
                return self.answer({"error": {"message": "the key was withdrawn"}}, 401)
            message = {"role": "assistant", "content": "0" if is_turn else json.dumps(true_record(0))}
            self.answer({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": {
                "prompt_tokens": 3, "completion_tokens": 2}})  # fmt: skip

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    Thread(target=server.serve_forever, daemon=True).start()
    schema = tmp_path / "s.json"
    schema.write_text(json.dumps(SCHEMA))
    paths = [str(tmp_path / f"{number}.png") for number in range(2)]
    given = ["compare", "nano", f"http://127.0.0.1:{server.server_port}#small", *paths, "-s", str(schema), "-j", "1"]
    given += ["--report", str(tmp_path / "r.html"), "--min-agreement", "0.6", "--json", "-q"]
    try:
        with pytest.raises(TesseraError, match="the key was withdrawn"):
            CliRunner().invoke(app, given, catch_exceptions=False)
        models.reverse()
        done = CliRunner().invoke(app, given, catch_exceptions=False)
    finally:
        server.shutdown()
        server.server_close()
    told = json.loads(done.stdout.splitlines()[-1])
    assert (done.exit_code, told["agreement"]["value"]) == (0, pytest.approx(4 / 6))  # vendor and total of the second
    assert asked == turns == ["small"] * 3
    assert [len(model.asked) for model in models].count(2) == 1
    assert "memory_bytes" not in told["sides"][1]["facts"]


def test_a_side_may_be_a_server_and_one_of_its_models(tmp_path: Path) -> None:
    from tessera.cli.compare import Comparing
    from tessera.documents.presets import open_preset

    given = Comparing(
        sides=("nano", "http://gpu-1:8000/v1#small"), paths=[], preset=open_preset(SCHEMA), report=tmp_path / "m.html",
        out=None, labels=[], exports=[], least=0.95, rules={}, reading={}, settings={}, api_key="k", in_flight=None,
        retry_failed=False, force=False, as_json=False, quiet=True,
    )  # fmt: skip
    old, new = given.job(0), given.job(1)
    assert (old.model, old.endpoints, old.api_key, old.journal_path.name) == ("nano", [], None, "m.old.journal")
    assert (new.model, new.endpoints, new.api_key) == ("small", ["http://gpu-1:8000/v1"], "k")


@pytest.mark.slow
def test_a_damaged_nano_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nano's own readings are the labels: what a nano with noise in its weights reads otherwise is an error."""
    import torch
    from safetensors.torch import load_file, save_file

    import tessera.nano
    from tessera.documents.readings import agree

    weights = Path(tessera.nano.__file__).parent / "weights"
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in weights.iterdir():
        if file.suffix != ".safetensors" and file.is_file():
            (damaged / file.name).write_bytes(file.read_bytes())
    noise = torch.Generator().manual_seed(0)
    tensors = load_file(weights / "consolidated.safetensors")
    for name, tensor in tensors.items():
        if name.startswith("layers.") and tensor.ndim == 2:
            values = tensor.float()
            values += 0.3 * values.std() * torch.randn(values.shape, generator=noise)
            tensors[name] = values.to(tensor.dtype)
    save_file(tensors, damaged / "consolidated.safetensors")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
    names = [str(draw(tmp_path / f"{n}.png", f"Shop {n}\nTotal {3 * n + 5}.50\nTax 1.25")) for n in range(6)]
    rows = []
    for model in ("nano", str(damaged)):
        words = ["extract", *names, "-s", "s.json", "-m", model, "-o", "rows.jsonl", "--force", "-q", "--retries", "0"]
        CliRunner().invoke(app, words, catch_exceptions=False)
        rows.append([json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()])
    (tmp_path / "truth.jsonl").write_text("\n".join(json.dumps(row) for row in rows[0]))
    pairs = [(old["value"][key], new["value"][key]) for old, new in zip(*rows, strict=True) for key in old["value"]]
    wrong = sum(not agree(old or None, new or None) for old, new in pairs)
    assert wrong
    given = ["compare", "nano", str(damaged), *names, "-s", "s.json", "--report", "r.html", "--labels", "truth.jsonl"]
    done = CliRunner().invoke(app, [*given, "--json", "-q"], catch_exceptions=False)
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["new_errors"], told["fixed"], told["agreement"]["count"]) == (wrong, 0, len(pairs))
    assert told["agreement"]["low"] <= 1 - wrong / len(pairs) <= told["agreement"]["high"]
    assert told["decision"]["word"] != "go"
