"""docs/serving.md says what is so: its tables are made from the code, its blocks run, its names exist.

`python -m tests.server.test_docs` writes the tables anew.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tessera.cli.serve import foreign_names
from tessera.server.batch_schemas import BatchCreateRequest, BatchJobRequest
from tessera.server.extraction_schemas import ExtractionRequest
from tessera.server.ocr_schemas import OcrRequest
from tessera.server.schemas import (
    HARMLESS,
    NEUTRAL,
    ChatRequest,
    CompletionRequest,
    MessagesRequest,
    ResponsesRequest,
    Sampling,
)
from tessera.server.settings import Settings, describe, panel_of
from tests.server.conftest import DEMO, Running

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "serving.md"
BLOCK = re.compile(r"(<!-- (\w+): .*? -->\n).*?(<!-- end -->)", re.DOTALL)


def settings_table() -> str:
    shown = {name: value for name, value, _ in describe(Settings(), dict.fromkeys(Settings.model_fields, ""))}
    rows, panel = [], ""
    for name, field in Settings.model_fields.items():
        if panel_of(name) != panel:
            panel = panel_of(name)
            rows.append(f"| **{panel}** | | |")
        rows.append(f"| `{name}` | {shown[name]} | {field.description} |")
    return "| setting | default | what it is |\n| --- | --- | --- |\n" + "\n".join(rows)


def vllm_table() -> str:
    rows = [f"| `--{name.replace('_', '-')}` | {text} |" for name, text in foreign_names()]
    return "| flag | what it means here |\n| --- | --- |\n" + "\n".join(rows)


def fields_table() -> str:
    shared = set(Sampling.model_fields)

    def names(fields: object) -> str:
        return ", ".join(f"`{name}`" for name in sorted(fields))  # type: ignore[call-overload]

    rows = [
        ("honoured by all of them", names(shared)),
        ("by `/v1/chat/completions`", names(set(ChatRequest.model_fields) - shared)),
        ("by `/v1/responses`", names(set(ResponsesRequest.model_fields) - shared)),
        ("by `/v1/messages`", names(set(MessagesRequest.model_fields) - shared)),
        ("by `/v1/completions`", names(set(CompletionRequest.model_fields) - shared)),
        ("by `/v1/ocr`", names(set(OcrRequest.model_fields))),
        ("by `/v1/batches`", names(set(BatchCreateRequest.model_fields))),
        ("by `/v1/batch/jobs`", names(set(BatchJobRequest.model_fields))),
        ("by `/v1/extractions`", names({each.alias or name for name, each in ExtractionRequest.model_fields.items()})),
        ("without effect on a reply", names(HARMLESS)),
        ("refused unless neutral", names(NEUTRAL)),
    ]
    return "| | fields |\n| --- | --- |\n" + "\n".join(f"| {what} | {which} |" for what, which in rows)


TABLES = {"fields": fields_table, "settings": settings_table, "vllm": vllm_table}


def rewritten(text: str) -> str:
    return BLOCK.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", text)


def blocks() -> list[tuple[str, str]]:
    found = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [(language, code) for language, code in found if language in ("sh", "python")]


def test_the_tables_are_those_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert {found[1] for found in BLOCK.findall(text)} == set(TABLES)
    assert text == rewritten(text), "run `python -m tests.server.test_docs`"


@pytest.mark.parametrize(("language", "code"), blocks(), ids=[code.split("\n")[0][:40] for _, code in blocks()])
def test_the_block_runs(running: Running, language: str, code: str, tmp_path: Path) -> None:
    for image in DEMO.glob("*.png"):
        shutil.copy(image, tmp_path)
    code = code.replace("localhost:8000", running.url.removeprefix("http://"))
    command = ["bash", "-euo", "pipefail", "-c", code] if language == "sh" else [sys.executable, "-c", code]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}  # this checkout, whichever is installed
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert '"error"' not in done.stdout


def test_the_metrics_exist_and_all_are_told(running: Running) -> None:
    running.get("/version")
    kinds = re.findall(r"^# TYPE (tessera:\w+|process_\w+) (\w+)$", running.get("/metrics").text, re.MULTILINE)
    exist = {name for name, _ in kinds if not name.endswith("_created")}
    told = set(re.findall(r"`(tessera:\w+|process_\w+)`", PAGE.read_text(encoding="utf-8")))
    assert told <= exist
    assert {name for name in exist if name.startswith("tessera:")} <= told


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)\)", PAGE.read_text()))))
def test_the_link_leads_somewhere(target: str) -> None:
    assert (PAGE.parent / target).exists()


def test_the_alerts_are_explained() -> None:
    alerts = re.findall(r"alert: (\w+)", (ROOT / "deploy" / "alerts.yaml").read_text(encoding="utf-8"))
    assert set(alerts) == set(re.findall(r"\bTessera[A-Z]\w+", PAGE.read_text(encoding="utf-8")))


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
