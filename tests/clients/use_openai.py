"""OpenAI's Python client."""

from __future__ import annotations

import json
import time
from typing import Any

import openai
from probe import (
    ANSWER,
    BROKEN_IMAGE,
    IMAGE,
    IMAGE_TOKENS,
    KEY,
    MAX_TOKENS,
    MODEL,
    NO_MODEL,
    QUESTION,
    RESULT,
    TOOL,
    TOOLS,
    URL,
    asking,
    check_call,
    feature,
    holds,
    refused,
    run,
    same,
)
from pydantic import BaseModel

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
chat = client.chat.completions


class Receipt(BaseModel):
    vendor: str
    total: float


@feature
def check_chat() -> str:
    reply = chat.create(model=MODEL, messages=asking(), max_completion_tokens=MAX_TOKENS, logprobs=True, top_logprobs=2)
    same(reply.choices[0].message.content, ANSWER)
    same(reply.usage.prompt_tokens_details.image_tokens, IMAGE_TOKENS)
    same("".join(entry.token for entry in reply.choices[0].logprobs.content), ANSWER)
    return ANSWER


@feature
def check_stream() -> str:
    chunks = list(chat.create(model=MODEL, messages=asking(), stream=True, stream_options={"include_usage": True}))
    same("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices), ANSWER)
    with chat.stream(model=MODEL, messages=asking()) as stream:
        stream.until_done()
        same(stream.get_final_completion().choices[0].message.content, ANSWER)
    return f"{len(chunks)} chunks, {chunks[-1].usage.total_tokens} tokens"


@feature
def check_schema() -> str:
    options: dict[str, Any] = {"model": MODEL, "messages": asking("Give vendor and total as JSON.")}
    parsed = chat.parse(**options, response_format=Receipt).choices[0].message.parsed
    with chat.stream(**options, response_format=Receipt) as stream:
        stream.until_done()
        same(stream.get_final_completion().choices[0].message.parsed, parsed)
    loose = chat.create(**options, response_format={"type": "json_object"}, max_tokens=MAX_TOKENS).choices[0]
    holds(loose.message.content.startswith("{"), f"json_object gave {loose.message.content!r}")
    return repr(parsed)


@feature
def check_tools() -> str:
    named = {"type": "function", "function": {"name": TOOL}}
    for choice in ("required", named):
        reply = chat.create(model=MODEL, messages=asking(), tools=TOOLS, tool_choice=choice, max_tokens=MAX_TOKENS)
        message = reply.choices[0].message
        for call in message.tool_calls:
            check_call(call.function.name, call.function.arguments, call.id)
    same({call.function.name for call in message.tool_calls}, {TOOL})
    holds(not message.content, f"text beside the calls: {message.content!r}")
    with chat.stream(model=MODEL, messages=asking(), tools=TOOLS, tool_choice=named) as stream:
        stream.until_done()
        streamed = stream.get_final_completion().choices[0].message.tool_calls
    same([c.function.arguments for c in streamed], [c.function.arguments for c in message.tool_calls])
    results = [{"role": "tool", "tool_call_id": call.id, "content": RESULT} for call in message.tool_calls]
    conversation = [*asking(), message, *results]
    reply = chat.create(model=MODEL, messages=conversation, tools=TOOLS, tool_choice="none", max_tokens=MAX_TOKENS)
    holds(reply.choices[0].message.content, "no answer after the tool's result")
    same(reply.usage.prompt_tokens_details.image_tokens, IMAGE_TOKENS)
    chat.create(model=MODEL, messages=conversation, tools=TOOLS, max_tokens=20)
    return f"{TOOL}({message.tool_calls[0].function.arguments}) -> {reply.choices[0].message.content}"


@feature
def check_errors() -> str:
    refused(lambda: chat.create(model=NO_MODEL, messages=asking()), openai.NotFoundError, "model_not_found", NO_MODEL)
    broken = asking(image=BROKEN_IMAGE)
    refused(lambda: chat.create(model=MODEL, messages=broken), openai.BadRequestError, "invalid_image")
    refused(lambda: chat.create(model=MODEL, messages=broken, stream=True), openai.BadRequestError, "invalid_image")
    stranger = client.with_options(api_key="wrong").chat.completions
    return refused(lambda: stranger.create(model=MODEL, messages=asking()), openai.AuthenticationError, "API key")


@feature
def check_models() -> str:
    names = [model.id for model in client.models.list()]
    holds(MODEL in names, f"the models are {names}")
    return ", ".join(names)


@feature
def check_responses() -> str:
    parts = [{"type": "input_image", "image_url": IMAGE}, {"type": "input_text", "text": QUESTION}]
    options: dict[str, Any] = {"model": MODEL, "input": [{"role": "user", "content": parts}], "store": False}
    same(client.responses.create(**options).output_text, ANSWER)
    with client.responses.stream(**options) as stream:
        kinds = [event.type for event in stream]
        same(stream.get_final_response().output_text, ANSWER)
    parsed = client.responses.parse(**options, text_format=Receipt).output_parsed
    holds(isinstance(parsed, Receipt), f"parsed is {parsed!r}")
    flat = [{"type": "function", **tool["function"]} for tool in TOOLS]
    called = client.responses.create(**options, tools=flat, tool_choice={"type": "function", "name": TOOL})
    calls = [item for item in called.output if item.type == "function_call"]
    for call in calls:
        check_call(call.name, call.arguments, call.call_id)
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": RESULT} for call in calls]
    conversation = [*options["input"], *called.output, *results]
    final = client.responses.create(model=MODEL, input=conversation, tools=flat, tool_choice="none", store=False)
    holds(final.output_text, "no answer after the tool's result")
    return f"{len(kinds)} events, {parsed!r}"


@feature
def check_batches() -> str:
    body = {"model": MODEL, "messages": asking(), "max_completion_tokens": MAX_TOKENS}
    rows = [{"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body} for name in "ab"]
    content = "\n".join(json.dumps(row) for row in rows).encode()
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"suite": "clients"}
    )
    while batch.status not in ("completed", "failed"):
        time.sleep(0.2)
        batch = client.batches.retrieve(batch.id)
    told = [json.loads(row) for row in client.files.content(batch.output_file_id).text.splitlines()]
    same([row["custom_id"] for row in told], ["a", "b"])
    for row in told:
        same(row["response"]["body"]["choices"][0]["message"]["content"], ANSWER)
    same(client.batches.cancel(batch.id).status, "completed")
    holds(client.files.delete(file.id).deleted, "the file stays")
    return batch.id


run()
