"""Let the model call a tool."""

from tessera import LLM, Image, Message

book = {
    "type": "function",
    "function": {
        "name": "book",
        "description": "Enter a receipt into the books.",
        "parameters": {
            "type": "object",
            "properties": {"vendor": {"type": "string", "maxLength": 40}, "total": {"type": "string", "maxLength": 10}},
            "required": ["vendor", "total"],
        },
    },
}
conversation = [Message("user", (Image("receipt.png"), "Book this receipt."))]
with LLM("nano") as llm:
    completion = llm.chat(conversation, tools=[book], tool_choice="required")
for call in completion.tool_calls:
    print(call.name, call.arguments)
