"""Make a reply follow a JSON schema."""

import json

from tessera import LLM, Grammar, Image, Message, SamplingParams

fields = ["vendor", "date", "total"]
schema = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in fields},
    "required": fields,
    "additionalProperties": False,
}
conversation = [Message("user", (Image("receipt.png"), "Give vendor, date and total as JSON."))]
params = SamplingParams(grammar=Grammar("json_schema", json.dumps(schema)), max_tokens=200)
with LLM("nano") as llm:
    receipt = json.loads(llm.chat(conversation, params).text)
print(receipt["total"])
