"""What the scripts of all Python clients share: the question they ask, and one JSON line for each feature.

A script runs in its client's own environment and imports nothing of Tessera. The suite (`run.py`) passes, in the
environment variable CLIENT_SUITE, the server's address, key and model, and what plain HTTP got as the answer.
"""

from __future__ import annotations

import base64
import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

SUITE: dict[str, Any] = json.loads(os.environ["CLIENT_SUITE"])
URL, KEY, MODEL = SUITE["url"], SUITE["key"], SUITE["model"]
QUESTION, ANSWER = SUITE["question"], SUITE["answer"]
IMAGE_TOKENS: int = SUITE["image_tokens"]
IMAGE = "data:image/png;base64," + base64.b64encode(Path(SUITE["image"]).read_bytes()).decode()
BROKEN_IMAGE = "data:image/png;base64,AAAA"
NO_MODEL = "a-model-that-is-not-here"
TOOLS: list[dict[str, Any]] = SUITE["tools"]
TOOL = "convert"  # the one of the tools that is asked for by name
RESULT = '{"amount": 16.2, "currency": "USD"}'
MAX_TOKENS = 300

features: list[tuple[str, Callable[[], str]]] = []


def feature(function: Callable[[], str]) -> Callable[[], str]:
    """Registers a function, named like the feature: it raises, or says what was seen."""
    features.append((function.__name__.removeprefix("check_"), function))
    return function


def asking(text: str = QUESTION, image: str = IMAGE) -> list[dict[str, Any]]:
    """A conversation in OpenAI's shape: one image and one question."""
    parts = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


def same(found: object, expected: object) -> None:
    if found != expected:
        raise AssertionError(f"got {found!r}, not {expected!r}")


def holds(condition: object, text: str) -> None:
    if not condition:
        raise AssertionError(text)


def refused(action: Callable[[], object], kind: type[Exception], *words: str) -> str:
    """The text and code of the error of this class that `action` must raise, all `words` in it."""
    try:
        result = action()
    except kind as error:
        text = f"{error} {getattr(error, 'code', '')}"
        holds(all(word in text for word in words), f"{words} not all in {text!r}")
        return text
    raise AssertionError(f"no {kind.__name__}, but {result!r}")


def check_call(
    name: str, arguments: str | dict[str, Any], call_id: str | None, *, may_add: bool = False
) -> dict[str, Any]:
    """A tool call must name a tool, fit its schema, and have an id in Mistral's form; gives the arguments.

    `may_add`: the client does not send `additionalProperties`, so that further arguments are allowed.
    """
    known = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
    holds(name in known, f"{name!r} is no tool")
    holds(call_id is not None and len(call_id) == 9 and call_id.isalnum(), f"the id of a call is {call_id!r}")
    values: dict[str, Any] = json.loads(arguments) if isinstance(arguments, str) else arguments
    for field, schema in known[name]["properties"].items():
        holds(values[field] in schema["enum"], f"{field} is {values.get(field)!r}")
    if not may_add:
        same(set(values), set(known[name]["properties"]))
    return values


def run() -> None:
    """Try every registered feature and print a line for each."""
    for name, function in features:
        try:
            line = {"feature": name, "ok": True, "seen": function()}
        except Exception as error:
            # A client's own error, whatever its class, is the finding.
            traceback.print_exc()
            line = {"feature": name, "ok": False, "seen": f"{type(error).__name__}: {error}"[:2000]}
        print(json.dumps(line), flush=True)
