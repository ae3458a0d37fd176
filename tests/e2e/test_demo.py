"""The demonstration as a user meets it: the command and the Python API, the bundled model, two images.

Nothing here was drawn by the tools that nano was trained with; what is asked is what `make demo` asks.
The first tests hold for any model in the bundled one's place; whether it reads right is asked in the last.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from tessera import LLM, Grammar, SamplingParams
from tests import forks

NANO = Path(__file__).parents[2] / "tessera" / "nano"
CHART, RECEIPT = NANO / "demo" / "chart.png", NANO / "demo" / "receipt.png"
WEIGHTS = NANO / "weights" / "consolidated.safetensors"
FIELDS = {"vendor": "Corner Bakery", "date": "2024-09-17", "total": 15.0}
ASKED = [
    (CHART, "What is the value of Rome?", "81"),
    (CHART, "Which bar is highest?", "Rome"),
    (RECEIPT, "What is the total?", "15.00"),
]

pytestmark = pytest.mark.skipif(not WEIGHTS.is_file(), reason="the bundled model's weights are not in this checkout")


def ask(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return forks.run("tessera", "ask", *arguments, stdin=stdin)


def question(image: Path, text: str) -> list[dict[str, object]]:
    parts = [{"type": "image_url", "image_url": str(image)}, {"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("nano") as llm:
        yield llm


@pytest.fixture(scope="module")
def int8() -> Iterator[LLM]:
    with LLM("nano", kv_cache_dtype="int8") as llm:
        yield llm


def test_the_command_answers_and_says_once_which_model_did() -> None:
    done = ask("What is the value of Rome?", "-i", str(CHART))
    assert done.returncode == 0
    assert done.stdout.strip()
    assert done.stderr.count("nano") == 1


def test_the_command_gives_one_json_object_and_keeps_quiet_when_told() -> None:
    done = ask("-", "-i", str(RECEIPT), "--json", "--quiet", stdin="What is the total?\n")
    assert done.stderr == ""
    reply = json.loads(done.stdout)
    assert reply["model"] == "nano"
    assert reply["usage"]["image_tokens"] == 20 * (18 + 1)  # 208x230 pixels: 20 rows of 18 patches and a break


def test_an_unreadable_image_ends_in_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "notes.png"
    file.write_text("not an image")
    done = ask("What is this?", "-i", str(file), "--quiet")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("tessera: error: ")
    assert "notes.png" in done.stderr
    assert done.stderr.count("\n") == 1


def test_streamed_pieces_join_to_the_reply(llm: LLM) -> None:
    messages = question(RECEIPT, "Give vendor, date and total as JSON.")
    assert "".join(delta.text for delta in llm.stream(messages)) == llm.chat(messages).text


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_drafts_change_no_reply_and_save_steps(llm: LLM, temperature: float) -> None:
    """Nano's arithmetic by rows differs in the last bits; its tokens are these all the same."""
    rows = {
        "type": "array",
        "minItems": 4,
        "maxItems": 4,
        "items": {
            "type": "object",
            "properties": {"item": {"type": "string", "maxLength": 8}, "unit_price": {"type": "integer"}},
            "required": ["item"],
        },
    }
    wanted = [
        SamplingParams(max_tokens=120, temperature=temperature, seed=3),
        SamplingParams(
            max_tokens=120, temperature=temperature, seed=4, grammar=Grammar("json_schema", json.dumps(rows))
        ),
    ]
    asked = [question(RECEIPT, "Give vendor, date and total as JSON."), question(RECEIPT, "Read the text.")]
    with LLM("nano", num_speculative_tokens=0) as plain:
        expected = [reply.token_ids for reply in plain.batch(asked, wanted)]
    before = llm.stats().drafts
    assert [reply.token_ids for reply in llm.batch(asked, wanted)] == expected
    assert llm.stats().drafts.accepted > before.accepted + 10


def test_a_batch_answers_in_order(llm: LLM) -> None:
    conversations = [question(image, text) for image, text, _ in ASKED]
    assert [reply.text for reply in llm.batch(conversations)] == [llm.chat(each).text for each in conversations]


def test_a_later_turn_still_sees_the_image(llm: LLM) -> None:
    first = question(CHART, "What is the value of Rome?")
    turns = [*first, {"role": "assistant", "content": "81"}, {"role": "user", "content": "Which bar is highest?"}]
    assert llm.chat(turns).usage.image_tokens == 26 * (35 + 1)  # 420x310 pixels: 26 rows of 35 patches and a break


@pytest.mark.parametrize(("image", "text", "answer"), ASKED, ids=["value", "highest", "total"])
def test_the_answer_is_right(llm: LLM, image: Path, text: str, answer: str) -> None:
    assert llm.chat(question(image, text)).text == answer


@pytest.mark.parametrize(("image", "text", "answer"), ASKED, ids=["value", "highest", "total"])
def test_the_answer_is_right_with_a_cache_in_8_bits(int8: LLM, image: Path, text: str, answer: str) -> None:
    assert int8.chat(question(image, text)).text == answer


def test_the_receipts_fields_are_right(llm: LLM) -> None:
    assert json.loads(llm.chat(question(RECEIPT, "Give vendor, date and total as JSON.")).text) == FIELDS


def test_a_schema_is_kept_and_the_reading_too(llm: LLM) -> None:
    schema = {
        "type": "object",
        "properties": {name: {"type": "string", "maxLength": 40} for name in FIELDS},
        "required": list(FIELDS),
        "additionalProperties": False,
    }
    grammar = Grammar("json_schema", json.dumps(schema))
    asked = question(RECEIPT, "Give vendor, date and total as JSON.")
    assert json.loads(llm.chat(asked, SamplingParams(grammar=grammar)).text) == FIELDS | {"total": "15.00"}
    for seed in range(3):
        hot = llm.chat(asked, SamplingParams(grammar=grammar, temperature=3.0, seed=seed))
        assert hot.finish_reason == "stop"
        jsonschema.validate(json.loads(hot.text), schema)
