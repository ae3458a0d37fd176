"""An agent: receipts in a folder become a spreadsheet through tool calls, with OpenAI's client and our server."""

import base64
import contextlib
import csv
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai

from tessera.documents.tables import csv_cell

FIELDS = ["vendor", "date", "total"]
ENTER: dict[str, Any] = {
    "name": "enter",
    "description": "Enter a receipt into the spreadsheet, each value as it is printed.",
    "parameters": {
        "type": "object",
        "properties": {name: {"type": ["string", "null"], "maxLength": 40} for name in FIELDS},
        "required": FIELDS,
        "additionalProperties": False,
    },
}
TOOLS: Any = [{"type": "function", "function": ENTER}]


@contextlib.contextmanager
def served(model: str) -> Iterator[openai.OpenAI]:
    """Start a server with a model on a free port, and stop it at the end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "tessera", "serve", model, "--port", str(port)], stderr=-3)
    try:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        for _ in range(600):  # a large model takes minutes
            try:
                client.models.list()
                break
            except openai.APIConnectionError:
                if server.poll() is not None:
                    sys.exit(f"the server ended with code {server.returncode}; try `tessera serve {model}`")
                time.sleep(0.5)
        yield client
    finally:
        server.terminate()
        server.wait(30)


def book(client: openai.OpenAI, image: Path, rows: list[dict[str, str]]) -> str:
    """Show one receipt to the model; its tool call becomes a row, and what the tool says goes back to it."""
    url = f"data:image/png;base64,{base64.b64encode(image.read_bytes()).decode()}"
    messages: list[Any] = [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": url}},
                {"type": "text", "text": 'Enter this receipt: {"vendor", "date", "total"} as JSON.'},
            ],
        }
    ]
    asked = client.chat.completions.create(
        model=MODEL,
        messages=messages,
        tools=TOOLS,
        tool_choice="required",
        temperature=0,
        max_tokens=300,
    )
    calls = [call for call in asked.choices[0].message.tool_calls or [] if call.type == "function"]
    messages.append(asked.choices[0].message)
    for call in calls:
        row = json.loads(call.function.arguments)
        rows.append({"file": image.name, **row})
        messages.append({"role": "tool", "tool_call_id": call.id, "content": f"Entered as row {len(rows)}."})
    said = client.chat.completions.create(model=MODEL, messages=messages, temperature=0, max_tokens=60)
    return said.choices[0].message.content or ""


MODEL = sys.argv[2] if len(sys.argv) > 2 else "nano"
folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
rows: list[dict[str, str]] = []
with served(MODEL) as client:
    for image in sorted(folder.glob("receipt*.png")):
        print(image.name, book(client, image, rows))
with open("receipts.csv", "w", encoding="utf-8", newline="") as file:
    table = csv.DictWriter(file, ["file", *FIELDS])
    table.writeheader()
    # A receipt's text never becomes a formula in somebody's spreadsheet.
    table.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows)
print(f"rows in receipts.csv ({len(rows)}):", rows)
