"""extract, transcribe and presets as a person meets them: files, exit codes, and what is said."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from PIL import Image as PILImage
from PIL import ImageDraw
from pytest_httpserver import HTTPServer
from typer.testing import CliRunner

from tessera.cli.app import app
from tessera.cli.batch_models import LocalModel
from tessera.errors import KeyRefusedError, TesseraError
from tessera.load import find_model
from tessera.weights.checkpoint import open_checkpoint
from tests.documents.fakes import Scripted, draw

SCHEMA = {"properties": {"vendor": {"type": "string"}, "total": {"type": "number"}}}
Run = Callable[..., Any]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    scripted = Scripted(lambda images, params: {"vendor": "Acme", "total": 5})
    monkeypatch.setattr(LocalModel, "open", lambda self: scripted)
    return scripted


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))

    def invoke(*words: str) -> Any:
        return CliRunner().invoke(app, list(words))

    return invoke


def test_good_records_exit_with_zero(run: Run, model: Scripted, tmp_path: Path) -> None:
    draw(tmp_path / "a.png", "x")
    done = run("extract", "a.png", "-s", "s.json", "-o", "t.xlsx")
    assert done.exit_code == 0, done.output
    assert openpyxl.load_workbook(tmp_path / "t.xlsx")["Rows"]["C2"].value == "Acme"
    assert "1 record is in t.xlsx: 1 good, 0 for review, 0 failed" in done.stderr


def test_doubtful_records_exit_with_three_and_failed_ones_with_one(run: Run, model: Scripted, tmp_path: Path) -> None:
    model.answer = lambda images, params: {"vendor": "Acme", "total": "?"}
    draw(tmp_path / "a.png", "x")
    assert run("extract", "a.png", "-s", "s.json", "-o", "t.csv").exit_code == 3
    done = run("extract", "a.png", "gone.pdf", "-s", "s.json", "-o", "t.csv")
    assert done.exit_code == 1
    assert "gone.pdf" in done.stderr


def test_the_same_command_again_asks_nothing_and_force_asks_all(run: Run, model: Scripted, tmp_path: Path) -> None:
    draw(tmp_path / "a.png", "x")
    words = ("extract", "a.png", "-s", "s.json", "-o", "t.jsonl")
    run(*words)
    first = (tmp_path / "t.jsonl").read_bytes()
    run(*words)
    assert len(model.asked) == 1
    assert (tmp_path / "t.jsonl").read_bytes() == first
    run(*words, "--force")
    assert len(model.asked) == 2


def test_a_folder_that_cannot_be_written_is_named_before_anything(
    run: Run, model: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "a.png", "x")
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    done = run("extract", "a.png", "-s", "s.json", "-o", "t.csv")
    assert "--out t.csv would be in a folder that you may not write to" in str(done.exception)
    assert not model.asked


def test_a_dry_run_counts_and_asks_nothing(run: Run, model: Scripted, tmp_path: Path) -> None:
    draw(tmp_path / "a.tif", "x", "", "y")
    done = run("extract", "a.tif", "-s", "s.json", "-o", "t.csv", "--dry-run", "--json")
    told = json.loads(done.stdout)
    assert (told["documents"], told["pages"], told["blank pages"], told["requests"]) == (1, 2, 1, 1)
    assert not model.asked
    assert not (tmp_path / "t.csv").exists()


def test_a_dry_run_counts_tokens_as_the_model_that_is_named_cuts_images(
    run: Run, tmp_path: Path, httpserver: HTTPServer
) -> None:
    PILImage.new("RGB", (1600, 2000), "white").save(tmp_path / "a.png")
    with PILImage.open(tmp_path / "a.png") as page:
        ImageDraw.Draw(page).text((100, 100), "Total 5.00", "black", font_size=200)
        page.save(tmp_path / "a.png")

    vision = asdict(open_checkpoint(find_model("nano")).config.vision_encoder)
    httpserver.expect_request("/v1/models").respond_with_json({"data": [{"id": "n", "vision_encoder": vision}]})

    def tokens(*words: str) -> int:
        done = run("extract", "a.png", "-s", "s.json", "-o", "t.csv", "--tiles", "off", "--dry-run", "--json", *words)
        assert done.exit_code == 0, done.output
        return int(json.loads(done.stdout)["prompt tokens, about"])

    # Pixtral's 1,024 pixels by 16 a token: 64 rows of 52 tokens, each with its break. Nano takes 1,032
    # by 12 a token, 86 rows of 69, but no more than such large type needs.
    assert tokens("--endpoint", "http://127.0.0.1:9/v1") == 64 * 53
    assert 0 < tokens("-m", "nano") < 86 * 70 / 2
    assert tokens("--endpoint", httpserver.url_for("/")) == tokens("-m", "nano")
    assert tokens("-m", "mistral-community/pixtral-absent") == 64 * 53


def test_a_dry_run_waits_little_for_a_server_and_says_that_it_refuses_the_key(
    run: Run, tmp_path: Path, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tessera.cli.documents.STATED_S", 0.2)
    draw(tmp_path / "a.png", "x")
    dry = "extract", "a.png", "-s", "s.json", "-o", "t.csv", "--dry-run", "--endpoint"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = run(*dry, f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert done.exit_code == 0
    assert "no server answers, so tokens are estimated as Pixtral 12B's" in done.stderr
    httpserver.expect_ordered_request("/v1/models").respond_with_data("", status=429)
    assert run(*dry, httpserver.url_for("/")).exit_code == 0
    httpserver.expect_ordered_request("/v1/models").respond_with_data("", status=401)
    assert isinstance(run(*dry, httpserver.url_for("/")).exception, KeyRefusedError)


def test_events_are_lines_of_json(run: Run, model: Scripted, tmp_path: Path) -> None:
    draw(tmp_path / "a.png", "x")
    done = run("extract", "a.png", "-s", "s.json", "-o", "t.csv", "--json", "--quiet")
    last = [json.loads(line) for line in done.stdout.splitlines()][-1]
    assert last == {"event": "written", "records": 1, "review": 0, "failed": 0, "out": "t.csv"}


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("extract", "a.png", "-s", "gone.json", "-o", "t.csv"), "no schema at gone.json"),
        (("extract", "a.png", "-s", "s.json", "-o", "t.ods"), "t.ods ends in .ods"),
        (("extract", "a.png", "-s", "s.json", "-o", "none/t.csv"), "none"),
        (
            ("extract", "a.png", "-s", "s.json", "-o", "n" * 250 + ".csv"),
            "has a name of 254 bytes, and the limit is 220",
        ),
        (("extract", "a.png", "-s", "s.json", "-o", "t.csv", "--max-error", "2"), "max_error is 2"),
        (
            ("extract", "a.png", "-s", "s.json", "-o", "t.csv", "--report", "./t.csv"),
            "--report and --out are both t.csv",
        ),
        (("extract", "a.png", "-s", "s.json", "-o", "t.csv", "--journal", "t.csv"), "the journal and --out are both"),
        (("extract", "a.png", "-s", "s.json", "-o", "t.csv", "--report", "a.png"), "the document a.png are both"),
        (("extract", "a.png", "-s", "s.json", "-o", "t.csv", "--password-file", "a.png"), "password file a.png"),
        (("extract", "a.png", "-s", "s.json", "-o", "t.csv", "--password-file", "gone"), "password file gone"),
        (("transcribe", "a.png", "-o", "t.pdf"), "t.pdf ends in .pdf"),
        (("transcribe", "a.png", "-o", "t.md", "--preset", "preset:invoice"), "gives records"),
        (("presets", "show", "gone"), "no preset 'gone'"),
    ],
)
def test_mistakes_are_named_before_a_model_is_loaded(
    words: tuple[str, ...], part: str, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(LocalModel, "open", lambda self: pytest.fail("a model was opened"))
    draw(tmp_path / "a.png", "x")
    done = run(*words)
    assert isinstance(done.exception, TesseraError), done.output
    assert part in str(done.exception)


def test_a_transcript_is_written(run: Run, model: Scripted, tmp_path: Path) -> None:
    model.answer = lambda images, params: "0" if params.grammar else "# Title"
    draw(tmp_path / "a.png", "x")
    assert run("transcribe", "a.png", "-o", "t.md").exit_code == 0
    assert (tmp_path / "t.md").read_text().endswith("\n\n# Title\n")


def test_a_transcript_that_goes_in_circles_is_tried_again_and_named(run: Run, model: Scripted, tmp_path: Path) -> None:
    model.answer = lambda images, params: "# Receipt\n\n" + "Sub total 10.01\n" * 30 + "Thank you."
    draw(tmp_path / "a.png", "x")
    done = run("transcribe", "a.png", "-o", "t.md", "--retries", "2")
    assert done.exit_code == 1
    assert [params.temperature for _, params in model.asked] == [0, 0.1, 0.1]
    assert "a.png, page 1: the reply repeated itself without end" in done.stderr
    assert "1 page has a problem" in done.stderr
    assert (tmp_path / "t.md").read_text().startswith("<!-- a.png, page 1: the reply repeated itself without end -->")


def test_passwords_are_read_from_a_file(run: Run, model: Scripted, tmp_path: Path) -> None:
    import pikepdf

    with pikepdf.new() as pdf:
        page = pdf.add_blank_page(page_size=(200, 200))
        page.contents_add(b"0 0 100 100 re f")
        pdf.save(tmp_path / "locked.pdf", encryption=pikepdf.Encryption(user="second", owner="o"))
    (tmp_path / "words").write_bytes(b"\xef\xbb\xbfsecond\r\nother\r\n")
    assert run("extract", "locked.pdf", "-s", "s.json", "-o", "t.csv").exit_code == 1
    assert run("extract", "locked.pdf", "-s", "s.json", "-o", "u.csv", "--password-file", "words").exit_code == 0


def test_presets_are_listed_and_shown(run: Run, tmp_path: Path) -> None:
    names = [line.split()[0] for line in run("presets").stdout.splitlines()]
    assert "invoice" in names
    (tmp_path / "mine.yaml").write_text(run("presets", "show", "invoice").stdout)
    shown = json.loads(run("presets", "--json", "--preset-dir", ".").stdout)
    assert "mine" in [each["name"] for each in shown["presets"]]


def test_the_output_may_lie_among_the_documents(run: Run, model: Scripted, tmp_path: Path) -> None:
    draw(tmp_path / "a.png", "x")
    (tmp_path / "s.json").rename(tmp_path / ".s.json")
    for _ in range(2):
        done = run("extract", ".", "-s", ".s.json", "-o", "t.csv", "--report", "t.html")
        assert done.exit_code == 0, done.output
        assert "1 record is" in done.stderr
