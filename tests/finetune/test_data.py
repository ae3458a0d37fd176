"""Data files in other trainers' shapes become one form, and bad rows are named by line."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage

from tessera.errors import UsageError
from tessera.finetune.data import Conversation, Problem, Reader
from tessera.messages import Image


def png(width: int = 24, height: int = 12) -> bytes:
    held = io.BytesIO()
    PILImage.new("RGB", (width, height), "red").save(held, "png")
    return held.getvalue()


def read(folder: Path, *rows: Any) -> list[Conversation | Problem]:
    """Rows as JSON lines; a text is written as it is."""
    path = folder / "data.jsonl"
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return list(Reader(folder / "kept").read(path))


def seen(row: Conversation | Problem) -> list[tuple[str, list[str]]]:
    """Roles and contents; an image is the name of its file."""
    assert isinstance(row, Conversation), row
    return [
        (each.role, [f"<{Path(str(p.source)).name}>" if isinstance(p, Image) else p for p in each.content])
        for each in row.messages
    ]


ASKED = [("user", ["<a.png>", "What?"]), ("assistant", ["Red."])]
USER, REPLY = {"role": "user", "content": "What?"}, {"role": "assistant", "content": "Red."}
WHAT = {"type": "text", "text": "What?"}
SHAPES: dict[str, dict[str, Any]] = {
    "openai": {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}, WHAT]},
            REPLY,
        ]
    },
    "trl, one column": {
        "messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}, REPLY],
        "images": ["a.png"],
    },
    "trl, prompt and completion": {"prompt": [USER], "completion": [REPLY], "image": "a.png"},
    "swift and LLaMA-Factory": {"messages": [{"role": "user", "content": "<image>What?"}, REPLY], "images": ["a.png"]},
    "swift, structs": {"messages": [{"role": "user", "content": "<image>What?"}, REPLY], "images": [{"path": "a.png"}]},
    "mistral": {
        "interactions": [
            {"role": "user", "content": [{"type": "image_url", "image_url": "a.png"}, WHAT]},
            {"role": "assistant", "text": "Red.", "weight": 1},
        ]
    },
    "labels": {"image": "a.png", "question": "What?", "answer": "Red.", "skill": "colour"},
    "JSON as text": {"messages": json.dumps([{"role": "user", "content": "<image>What?"}, REPLY]), "images": ["a.png"]},
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_becomes_the_same_conversation(shape: str, tmp_path: Path) -> None:
    (row,) = read(tmp_path, SHAPES[shape])
    assert seen(row) == ASKED
    assert isinstance(row, Conversation)
    assert row.taught == {1}
    assert row.messages[0].images[0].source == tmp_path / "a.png"


@pytest.mark.parametrize("shape", ["openai", "labels"])
def test_paths_are_beside_the_file_wherever_it_is_read_from(
    shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "data.jsonl").write_text(json.dumps(SHAPES[shape]) + "\n")
    monkeypatch.chdir(tmp_path)
    (row,) = Reader(tmp_path / "kept").read(Path("in/data.jsonl"))
    assert isinstance(row, Conversation), row
    assert row.messages[0].images[0].source == tmp_path / "in" / "a.png"


def test_several_images_keep_their_places(tmp_path: Path) -> None:
    content = "Left: <image> right: <image>."
    (row,) = read(tmp_path, {"messages": [{"role": "user", "content": content}, REPLY], "images": ["a.png", "b.png"]})
    assert seen(row)[0] == ("user", ["Left: ", "<a.png>", " right: ", "<b.png>", "."])


def test_weights_choose_what_is_trained(tmp_path: Path) -> None:
    off = ({"weight": 0}, {"weight": 0.0}, {"loss": False})
    rows = read(tmp_path, *({"messages": [USER, REPLY | each, USER, REPLY | {"weight": 1}]} for each in off))
    assert [isinstance(row, Conversation) and sorted(row.taught) for row in rows] == [[3]] * 3


def test_images_given_as_bytes_become_files(tmp_path: Path) -> None:
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]
    rows = read(tmp_path, *[{"messages": [{"role": "user", "content": content}, REPLY]}] * 2)
    paths = {row.messages[0].images[0].source for row in rows if isinstance(row, Conversation)}
    assert [Path(str(path)).read_bytes() for path in paths] == [png()]


def test_parquet_with_image_structs(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"messages": [{"role": "user", "content": "What?"}, REPLY], "images": [{"bytes": png(), "path": "x.png"}]}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data.parquet")
    (row,) = Reader(tmp_path / "kept").read(tmp_path / "data.parquet")
    assert isinstance(row, Conversation), row
    assert Path(str(row.messages[0].images[0].source)).read_bytes() == png()
    assert row.place.endswith("row 1")


BAD: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "no JSON"),
    "no known shape": ({"text": "a"}, "known shapes"),
    "weight": ({"messages": [USER, REPLY | {"weight": 0.5}]}, "must be 0 or 1"),
    "nothing trained": ({"messages": [USER, REPLY | {"weight": 0}]}, "no message of the assistant"),
    "empty answer": ({"messages": [USER, {"role": "assistant", "content": ""}]}, "is empty"),
    "no question": ({"messages": [REPLY]}, "answers nothing"),
    "unknown role": ({"messages": [{"role": "human", "content": "a"}, REPLY]}, "human"),
    "unknown field": ({"messages": [USER | {"wieght": 1}, REPLY]}, "unknown"),
    "too few images": ({"messages": [{"role": "user", "content": "<image><image>"}, REPLY], "images": ["a"]}, "more"),
    "too many images": ({"messages": [{"role": "user", "content": "<image>"}, REPLY], "images": ["a", "b"]}, "1 of"),
    "marker without a column": ({"messages": [{"role": "user", "content": "<image> a"}, REPLY]}, "no `images`"),
    "a URL": ({"question": "a", "answer": "b", "image": "https://example.com/a.png"}, "is a URL"),
    "tools": ({"messages": [USER, REPLY], "tools": "{"}, "tools is no JSON"),
    "a number as answer": ({"question": "a", "answer": 5}, "answer is 5; write it as text"),
    "an image as answer": ({"messages": [USER, {"role": "assistant", "content": "<image>"}], "image": "a"}, "holds an"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_a_problem_with_its_line(case: str, tmp_path: Path) -> None:
    row, words = BAD[case]
    line = row if isinstance(row, str) else json.dumps(row)
    good, bad, again = read(tmp_path, {"messages": [USER, REPLY]}, "\n" + line, {"messages": [USER, REPLY]})
    assert isinstance(good, Conversation)
    assert isinstance(again, Conversation)
    assert isinstance(bad, Problem), bad
    assert bad.place.endswith("data.jsonl, line 3")
    assert words in bad.text
    assert "row 2" not in bad.text  # one number of a place, that of editors
    assert bad.code


def test_an_empty_or_missing_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    for name, words in (("empty.jsonl", "0 rows"), ("absent.jsonl", "not a file")):
        with pytest.raises(UsageError, match=words):
            list(Reader(tmp_path).read(tmp_path / name))


@pytest.mark.parametrize("arguments", ['{"city": Paris}', "Paris", '["Paris"]', "[" * 3000, ["Paris"]])
def test_calls_whose_arguments_are_no_object_are_not_taught(tmp_path: Path, arguments: Any) -> None:
    def row(value: Any, weight: int = 1) -> dict[str, Any]:
        call = {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": value}}
        asked = {"role": "user", "content": "Weather?"}
        said = [
            {"role": "assistant", "content": "", "tool_calls": [call], "weight": weight},
            {"role": "tool", "tool_call_id": "abcdefghi", "content": "sunny"},
            {"role": "assistant", "content": "Sunny."},
        ]
        return {"messages": [asked, *said]}

    broken = row("{}")
    broken["messages"][1]["tool_calls"][0]["function"] = 1.5
    good, bad, left_out, problem = read(tmp_path, row('{"city": "Paris"}'), row(arguments), row("{", 0), broken)
    assert isinstance(good, Conversation)
    assert isinstance(bad, Problem)
    assert bad.place.endswith(":2") or "line 2" in bad.place
    assert "tool_calls.0" in bad.text
    assert isinstance(left_out, Conversation)
    assert isinstance(problem, Problem)
    assert "messages.1.tool_calls.0.function is 1.5" in problem.text
