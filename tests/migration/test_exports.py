"""What other programs read: promptfoo's folder, run by Node.js, and Inspect's logs, read by its own package."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tessera.errors import UsageError
from tessera.labels import by_path
from tessera.migration.agreement import Rules
from tessera.migration.cells import compare_records
from tessera.migration.exports import open_exports
from tests.documents.review.samples import pages
from tests.migration.samples import VALUE, failed, preset, record

SIDES = ("./models/old", "http://gpu-1:8000")
NAMES = ("old", "new-model")  # as they are served


def exported(kind: str, folder: Path) -> Path:
    (out, export) = next(iter(open_exports([kind], folder / "m.html", SIDES, NAMES, preset(), pages).items()))
    wrong = record({**VALUE, "vendor": "Wrong"})
    export.add(compare_records(record(), wrong, preset(), Rules(), by_path(VALUE)))
    export.add(compare_records(record(document="b.pdf"), record({**VALUE, "net": 1.0}, document="b.pdf"), preset(), Rules()))  # fmt: skip # noqa: E501
    export.add(compare_records(record(document="c.pdf"), failed("c.pdf"), preset(), Rules()))
    export.close("old and new")
    return out


def test_promptfoo_asks_both_models_for_labels_and_for_what_both_say(tmp_path: Path) -> None:
    out = exported("promptfoo", tmp_path)
    config = yaml.safe_load((out / "promptfooconfig.yaml").read_text())
    assert [each["config"]["apiBaseUrl"] for each in config["providers"]] == [
        "http://127.0.0.1:8000/v1",
        "http://gpu-1:8000/v1",
    ]
    assert [each["id"] for each in config["providers"]] == ["openai:chat:old", "openai:chat:new-model"]
    first, second = config["tests"]  # nothing is known of c.pdf
    says = {".".join(map(str, each["config"]["path"])): each["config"]["value"] for each in first["assert"][1:]}
    assert says["vendor"] == "Brightwater Press"
    assert says["items.1.amount"] == 40.0
    assert "net" not in [each["config"]["path"][0] for each in second["assert"][1:]]  # they differ, and no label tells
    assert (out / "pages" / first["vars"]["pages"]).read_bytes()[:2] == b"\xff\xd8"


@pytest.mark.skipif(shutil.which("node") is None, reason="promptfoo's files are JavaScript; there is no Node.js here")
def test_promptfoos_functions_run(tmp_path: Path) -> None:
    out = exported("promptfoo", tmp_path)
    config = yaml.safe_load((out / "promptfooconfig.yaml").read_text())
    test = config["tests"][0]
    program = f"""
      const test = {json.dumps(test)}, said = {json.dumps(json.dumps({**VALUE, "gross": "119.00 EUR", "vendor": "X"}))};
      const wrong = test.assert.slice(1).filter((each) => !require("./says.js")(said, each).pass);
      require("./prompt.js")(test).then((messages) => console.log(JSON.stringify([messages, wrong])));
    """
    done = subprocess.run(["node", "-e", program], cwd=out, capture_output=True, text=True, timeout=60, check=True)
    messages, wrong = json.loads(done.stdout)
    assert [each["config"]["path"] for each in wrong] == [["vendor"]]
    image, text = messages[1]["content"]
    assert image["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/")
    assert text["text"] == preset().question


def log_of(folder: Path, side: str) -> Path:
    (found,) = folder.glob(f"*_{side}.json")
    return found


def test_inspects_logs_have_a_score_for_each_document(tmp_path: Path) -> None:
    out = exported("inspect", tmp_path)
    log: dict[str, Any] = json.loads(log_of(out, "new").read_text())
    scores = [sample["scores"] for sample in log["samples"]]
    assert scores[0]["right"]["value"] == pytest.approx(8 / 9)
    assert scores[1]["agreement"]["value"] == pytest.approx(8 / 9)
    assert scores[2]["agreement"]["value"] == 0.0
    assert log["samples"][2]["error"]["message"] == "no reply"


def test_inspects_own_package_reads_them(tmp_path: Path) -> None:
    logs = pytest.importorskip("inspect_ai.log", reason="inspect_ai is not installed")
    log = logs.read_eval_log(str(log_of(exported("inspect", tmp_path), "new")))
    listed = logs.list_eval_logs(str(tmp_path))  # `inspect view` shows these
    assert {Path(each.name).name for each in listed} == {each.name for each in tmp_path.glob("*/*.json")}
    assert logs.read_eval_log(log.location, header_only=True).results.scores[0].name == "agreement"
    assert (log.status, len(log.samples), log.samples[0].id) == ("success", 3, "a.pdf")
    assert log.results.scores[0].metrics["mean"].value == pytest.approx((8 / 9 + 8 / 9 + 0) / 3)
    assert log.samples[0].output.completion == json.dumps({**VALUE, "vendor": "Wrong"})


def test_a_folder_of_others_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "m.inspect").mkdir()
    with pytest.raises(UsageError, match=r"holds no earlier \*old\.json"):
        exported("inspect", tmp_path)
