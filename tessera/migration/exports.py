"""Comparisons for other programs: an evaluation that promptfoo can run again, and logs that Inspect shows.

promptfoo (npm) gets a configuration with both models, pages as images, and a test for each document: its values by
label or, without one, those on which both models agree. Inspect (inspect_ai) gets a log in its JSON format for each
model, with a score for each document. Both hold at most `MAX_DOCUMENTS`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import yaml

from tessera.documents.plan import instructions
from tessera.documents.presets import Preset
from tessera.documents.review.embedded import Pages
from tessera.errors import DocumentError, UsageError, counted
from tessera.machine import written_whole
from tessera.migration.cells import UNKNOWN, Cell, Compared

KINDS = ("promptfoo", "inspect")
MAX_DOCUMENTS, MAX_PAGES, SIDE = 2_000, 8, 1024  # documents, pages of one, pixels along a page's longer edge
PROMPT = """\
// Builds a document's messages as Tessera asks: instructions and schema, the pages, and a short line after them.
const fs = require("fs");
const path = require("path");
const asked = require("./asked.json");

module.exports = async function ({ vars }) {
  const images = vars.pages.split(" ").map((name) => {
    const data = fs.readFileSync(path.join(__dirname, "pages", name)).toString("base64");
    return { type: "image_url", image_url: { url: `data:image/jpeg;base64,${data}` } };
  });
  return [
    { role: "system", content: asked.system },
    { role: "user", content: [...images, { type: "text", text: asked.question }] },
  ];
};
"""
SAYS = """\
// Compares one value of the reply: numbers as numbers, texts without case and outer space.
module.exports = (output, { config }) => {
  const record = typeof output === "string" ? JSON.parse(output) : output;
  const found = config.path.reduce((inner, step) => (inner ?? {})[step], record) ?? null;
  const number = (text) => Number(String(text).replace(/[^0-9.-]/g, ""));
  const plain = (value) => String(value ?? "").trim().toLowerCase();
  const isNumber = typeof config.value === "number" && found !== null && /\\d/.test(String(found));
  const pass = isNumber ? number(found) === config.value : plain(found) === plain(config.value);
  return { pass, score: pass ? 1 : 0, reason: `${config.path.join(".")}: ${JSON.stringify(found)}, wanted ${JSON.stringify(config.value)}` };
};
"""  # noqa: E501


class Promptfoo:
    """A folder for `promptfoo eval`: its configuration, the prompt, one assertion, and the pages."""

    def __init__(self, folder: Path, sides: Sequence[str], names: Sequence[str], preset: Preset, pages: Pages) -> None:
        if preset.schema.plain:
            raise UsageError(f"{preset.name} has no fields; promptfoo's tests are of records.")
        _empty(folder, "promptfooconfig.yaml")
        (folder / "pages").mkdir()
        self.folder, self.sides, self.names, self.preset, self.pages = folder, sides, names, preset, pages
        self.tests: list[dict[str, Any]] = []

    def add(self, compared: Compared) -> None:
        record = compared.new if compared.new.pages else compared.old
        values = [(cell, value) for cell in compared.cells if (value := _wanted(cell)) is not UNKNOWN]
        if len(self.tests) == MAX_DOCUMENTS or not values or not 0 < len(record.pages) <= MAX_PAGES:
            return
        names = []
        for number in record.pages:
            with suppress(DocumentError):
                if (page := self.pages(record.document, number)) is not None:
                    names.append(f"{len(self.tests):04d}-{number}.jpg")
                    page.image(SIDE).convert("RGB").save(self.folder / "pages" / names[-1], "JPEG", quality=85)
        if len(names) < len(record.pages):
            return
        says = [
            {"type": "javascript", "value": "file://says.js", "metric": cell.name,
             "config": {"path": _steps(cell.path), "value": value}}
            for cell, value in values
        ]  # fmt: skip
        test = {"description": record.document, "vars": {"pages": " ".join(names)}}
        self.tests.append(test | {"assert": [{"type": "is-json", "metric": "is JSON"}, *says]})

    def close(self, title: str) -> None:
        asked = {"system": instructions(self.preset), "question": self.preset.question}
        (self.folder / "asked.json").write_text(json.dumps(asked, ensure_ascii=False), encoding="utf-8")
        (self.folder / "prompt.js").write_text(PROMPT, encoding="utf-8")
        (self.folder / "says.js").write_text(SAYS, encoding="utf-8")
        config = {
            "description": title,
            "prompts": ["file://prompt.js"],
            "providers": [self._provider(number, side) for number, side in enumerate(self.sides)],
            "tests": self.tests,
        }
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=120)
        (self.folder / "promptfooconfig.yaml").write_text(text, encoding="utf-8")

    def _provider(self, number: int, side: str) -> dict[str, Any]:
        """A server as it is; a model that was opened here as `tessera serve` would serve it, each on its own port."""
        is_server = side.startswith(("http://", "https://"))
        base = side.partition("#")[0].rstrip("/") if is_server else f"http://127.0.0.1:{8000 + number}"
        schema = {"name": "record", "schema": self.preset.schema.wire, "strict": True}
        return {
            "id": f"openai:chat:{self.names[number]}",
            "label": f"{('old', 'new')[number]}: {side}",
            "config": {
                "apiBaseUrl": base if base.endswith("/v1") else f"{base}/v1", "apiKey": "none",
                "temperature": self.preset.temperature, "max_tokens": 4096,
                "response_format": {"type": "json_schema", "json_schema": schema},
            },
        }  # fmt: skip


class Inspect:
    """A folder with two logs for `inspect view`, which lists files named by time, task and an identifier."""

    def __init__(self, folder: Path, sides: Sequence[str], preset: Preset) -> None:
        _empty(folder, "*old.json")
        self.folder, self.sides, self.preset = folder, sides, preset
        self.samples: tuple[list[Any], list[Any]] = ([], [])
        self.began = datetime.now(UTC)

    def add(self, compared: Compared) -> None:
        if len(self.samples[0]) == MAX_DOCUMENTS:
            return
        for number, (side, record) in enumerate((("old", compared.old), ("new", compared.new))):
            told = [cell for cell in compared.cells if cell.truth is not UNKNOWN]
            scores = {"agreement": _score([cell.match.agrees for cell in compared.cells])}
            if told:
                scores["right"] = _score([cell.right in (side, "both") for cell in told])
            reply = json.dumps(record.value, ensure_ascii=False)
            message = {"role": "assistant", "content": reply}
            error = {"message": record.message or record.error, "traceback": "", "traceback_ansi": ""}
            self.samples[number].append({
                "id": record.document, "epoch": 1,
                "input": [{"role": "user", "content": f"{self.preset.question}\n[pages of {record.document}]"}],
                "target": json.dumps({cell.path: cell.truth for cell in told}, ensure_ascii=False),
                "messages": [message],
                "output": {"model": self.sides[number], "choices": [{"message": message, "stop_reason": "stop"}]},
                "scores": scores, "metadata": {"pages": list(record.pages), "checks": list(record.checks)},
                "total_time": record.seconds, **({"error": error} if record.error else {}),
            })  # fmt: skip

    def close(self, title: str) -> None:
        for number, side in enumerate(("old", "new")):
            name = f"{self.began:%Y-%m-%dT%H-%M-%S+00-00}_tessera-compare_{side}.json"
            with written_whole(self.folder / name) as partial, partial.open("w", encoding="utf-8") as file:
                self._write(file, number, title)

    def _write(self, file: IO[str], number: int, title: str) -> None:
        samples, now = self.samples[number], datetime.now(UTC).isoformat()
        names = [each for each in ("agreement", "right") if any(each in sample["scores"] for sample in samples)]
        scores = []
        for name in names:
            values = [sample["scores"][name]["value"] for sample in samples if name in sample["scores"]]
            mean = {"name": "mean", "value": sum(values) / max(1, len(values))}
            scores.append({"name": name, "scorer": name, "metrics": {"mean": mean}})
        log = {
            "version": 2, "status": "success",
            "eval": {
                "task": f"tessera compare {self.preset.name}", "task_id": f"compare-{('old', 'new')[number]}",
                "run_id": title, "eval_id": f"{title} {('old', 'new')[number]}", "created": self.began.isoformat(),
                "model": self.sides[number], "config": {},
                "dataset": {"name": self.preset.name, "samples": len(samples),
                            "sample_ids": [sample["id"] for sample in samples]},
            },
            "plan": {"name": "plan", "steps": [], "config": {}},  # without it the header alone cannot be read
            "results": {"total_samples": len(samples), "completed_samples": len(samples), "scores": scores},
            "stats": {"started_at": self.began.isoformat(), "completed_at": now},
            "samples": samples,
        }  # fmt: skip
        json.dump(log, file, ensure_ascii=False)


def _score(right: Sequence[bool]) -> dict[str, Any]:
    return {
        "value": sum(right) / len(right) if right else 0.0,
        "explanation": f"{sum(right)} of {counted(len(right), 'value')}",
    }


def _wanted(cell: Cell) -> Any:
    """What a test asks for: the label or, without one, what both models say; UNKNOWN if there is neither."""
    if cell.truth is not UNKNOWN:
        return cell.truth
    return cell.new.value if cell.match.agrees and cell.new is not None else UNKNOWN


def _steps(path: str) -> list[str | int]:
    steps: list[str | int] = []
    for part in path.replace("[", ".[").split("."):
        if part:
            steps.append(int(part[1:-1]) if part.startswith("[") and part[1:-1].isdigit() else part)
    return steps


def _empty(folder: Path, mark: str) -> None:
    """Make an empty folder; only one that an earlier comparison wrote is replaced."""
    if folder.exists():
        if not any(folder.glob(mark)):
            raise UsageError(f"{folder} exists and holds no earlier {mark}; move it away, or name another --report.")
        shutil.rmtree(folder)
    folder.mkdir()


def export_folders(kinds: Sequence[str], report: Path) -> list[Path]:
    return [report.with_name(f"{report.stem}.{kind}") for kind in dict.fromkeys(kinds)]


def open_exports(
    kinds: Sequence[str], report: Path, sides: Sequence[str], names: Sequence[str], preset: Preset, pages: Pages
) -> Mapping[Path, Promptfoo | Inspect]:
    """Begin the exports beside a report: migration.promptfoo/ and migration.inspect/ for migration.html.

    `names` are those that the models are served under.
    """
    found: dict[Path, Promptfoo | Inspect] = {}
    for kind, folder in zip(dict.fromkeys(kinds), export_folders(kinds, report), strict=True):
        found[folder] = (
            Promptfoo(folder, sides, names, preset, pages) if kind == "promptfoo" else Inspect(folder, sides, preset)
        )
    return found
