"""Mistral's Python client."""

from __future__ import annotations

import json
import time
from typing import Any

from mistralai.client import Mistral
from mistralai.client.errors import SDKError
from probe import (
    ANSWER,
    BROKEN_IMAGE,
    IMAGE,
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

client = Mistral(api_key=KEY, server_url=URL)


class Receipt(BaseModel):
    vendor: str
    total: float


@feature
def check_chat() -> str:
    plain = [{"type": "image_url", "image_url": IMAGE}, {"type": "text", "text": QUESTION}]  # Mistral's own shape
    for messages in (asking(), [{"role": "user", "content": plain}]):
        reply = client.chat.complete(model=MODEL, messages=messages, random_seed=3)
        same(reply.choices[0].message.content, ANSWER)
    return ANSWER


@feature
def check_stream() -> str:
    events = list(client.chat.stream(model=MODEL, messages=asking()))
    same("".join(str(event.data.choices[0].delta.content or "") for event in events), ANSWER)
    same(events[-1].data.choices[0].finish_reason, "stop")
    return f"{len(events)} events, {events[-1].data.usage.total_tokens} tokens"


@feature
def check_schema() -> str:
    options: dict[str, Any] = {"model": MODEL, "messages": asking("Give vendor and total as JSON.")}
    parsed = client.chat.parse(response_format=Receipt, **options).choices[0].message.parsed
    holds(isinstance(parsed, Receipt), f"parsed is {parsed!r}")
    with client.chat.parse_stream(response_format=Receipt, **options) as stream:
        text = "".join(str(event.data.choices[0].delta.content or "") for event in stream)
    same(Receipt.model_validate_json(text), parsed)
    loose = client.chat.complete(**options, response_format={"type": "json_object"}, max_tokens=MAX_TOKENS)
    holds(loose.choices[0].message.content.startswith("{"), "json_object gave no object")
    return repr(parsed)


@feature
def check_tools() -> str:
    options: dict[str, Any] = {"model": MODEL, "tools": TOOLS, "max_tokens": MAX_TOKENS}
    for choice in ("any", "required", {"type": "function", "function": {"name": TOOL}}):
        reply = client.chat.complete(**options, messages=asking(), tool_choice=choice)
        message = reply.choices[0].message
        for call in message.tool_calls:
            check_call(call.function.name, call.function.arguments, call.id)
    same({call.function.name for call in message.tool_calls}, {TOOL})
    with client.chat.stream(**options, messages=asking(), tool_choice=choice) as stream:
        deltas = [event.data.choices[0].delta for event in stream]
    streamed = [call.function.arguments for delta in deltas for call in delta.tool_calls or []]
    same(streamed, [call.function.arguments for call in message.tool_calls])
    results = [
        {"role": "tool", "tool_call_id": call.id, "name": call.function.name, "content": RESULT}
        for call in message.tool_calls
    ]
    conversation = [*asking(), message, *results]
    reply = client.chat.complete(**options, messages=conversation, tool_choice="none")
    holds(reply.choices[0].message.content, "no answer after the tool's result")
    client.chat.complete(**options, messages=conversation, tool_choice="auto")
    return f"{TOOL}({message.tool_calls[0].function.arguments}) -> {reply.choices[0].message.content}"


@feature
def check_errors() -> str:
    refused(lambda: client.chat.complete(model=NO_MODEL, messages=asking()), SDKError, "model_not_found", "404")
    broken = asking(image=BROKEN_IMAGE)
    refused(lambda: client.chat.complete(model=MODEL, messages=broken), SDKError, "invalid_image", "400")
    refused(lambda: client.chat.stream(model=MODEL, messages=broken), SDKError, "invalid_image", "400")
    stranger = Mistral(api_key="wrong", server_url=URL)
    return refused(lambda: stranger.chat.complete(model=MODEL, messages=asking()), SDKError, "401", "API key")


@feature
def check_models() -> str:
    names = [model.id for model in client.models.list().data or [] if model.capabilities.vision]
    holds(MODEL in names, f"the models that see are {names}")
    return ", ".join(names)


@feature
def check_batches() -> str:
    row = {"custom_id": "a", "body": {"messages": asking(), "max_tokens": MAX_TOKENS}}
    content = json.dumps(row).encode()
    file = client.files.upload(file={"file_name": "in.jsonl", "content": content}, purpose="batch")
    job = client.batch.jobs.create(endpoint="/v1/chat/completions", input_files=[file.id], model=MODEL)
    while job.status in ("QUEUED", "RUNNING"):
        time.sleep(0.2)
        job = client.batch.jobs.get(job_id=job.id)
    same((job.status, job.succeeded_requests), ("SUCCESS", 1))
    told = json.loads(b"".join(client.files.download(file_id=job.output_file).iter_bytes()))
    same((told["custom_id"], told["response"]["body"]["choices"][0]["message"]["content"]), ("a", ANSWER))
    same(client.batch.jobs.cancel(job_id=job.id).status, "SUCCESS")
    holds(client.files.delete(file_id=file.id).deleted, "the file stays")
    return job.id


@feature
def check_ocr() -> str:
    schema = {"type": "object", "properties": {"total": {"type": "string"}}, "required": ["total"]}
    told = client.ocr.process(
        model=MODEL,
        document={"type": "image_url", "image_url": IMAGE},
        document_annotation_format={"type": "json_schema", "json_schema": {"name": "receipt", "schema": schema}},
    )
    same(list(json.loads(told.document_annotation)), ["total"])
    same(told.usage_info.pages_processed, 1)
    return told.document_annotation


run()
