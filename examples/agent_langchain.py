"""The agent of agent.py with LangChain: the image stays in the conversation after the tool call.

Start a server with `tessera serve MODEL`, then: `python agent_langchain.py FOLDER http://127.0.0.1:8000 MODEL`.
"""

import base64
import csv
import sys
from pathlib import Path

from tessera.documents.tables import csv_cell

try:
    from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI
except ImportError as error:
    sys.exit(f"{error.name} is not installed; run: pip install langchain-openai")

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
address = sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:8000"
name = sys.argv[3] if len(sys.argv) > 3 else "nano"
rows: list[dict[str, str]] = []


@tool
def enter(vendor: str, date: str, total: str) -> str:
    """Enter a receipt into the spreadsheet, each value as it is printed."""
    rows.append({"vendor": vendor, "date": date, "total": total})
    return f"Entered as row {len(rows)}."


model = ChatOpenAI(
    model=name, base_url=f"{address}/v1", api_key=lambda: "none", temperature=0, max_completion_tokens=300
)
clerk = model.bind_tools([enter], tool_choice="required")
for path in sorted(folder.glob("receipt*.png")):
    url = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    image = {"type": "image_url", "image_url": {"url": url}}
    messages: list[BaseMessage] = [HumanMessage([image, {"type": "text", "text": "Enter this receipt."}])]
    called = clerk.invoke(messages)
    messages.append(called)
    for call in called.tool_calls:
        said: ToolMessage = enter.invoke(call)
        messages.append(said)
    # The first message, with the image, goes along: the model can check what was entered against it.
    print(path.name, model.invoke([*messages, HumanMessage("Is the row the same as on the receipt?")]).text)
with open("receipts.csv", "w", encoding="utf-8", newline="") as file:
    table = csv.DictWriter(file, ["vendor", "date", "total"])
    table.writeheader()
    table.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows)
