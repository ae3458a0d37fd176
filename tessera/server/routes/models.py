"""/v1/models, /tokenize and /detokenize."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException

from tessera.messages import parse_messages, scaled
from tessera.prompt import Tokenizer
from tessera.server.errors import BadRequestError
from tessera.server.handlers import Handlers, field_named, unless_left
from tessera.server.schemas import DetokenizeRequest, TokenizeRequest
from tessera.server.wire import created_now


def add(app: FastAPI, handlers: Handlers) -> None:
    backend = handlers.backend
    started = created_now()

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        names = [*handlers.names.own, *(each.name for each in backend.adapters)]
        return {"object": "list", "data": [_model(name, handlers, started) for name in names]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if not name:
            raise HTTPException(404)
        handlers.check_model(name)
        return _model(name, handlers, started)

    @app.post("/tokenize")
    async def tokenize(body: TokenizeRequest, request: Request) -> dict[str, Any]:
        body.check_extra_fields()
        handlers.check_model(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise BadRequestError("give either prompt or messages.", param="prompt")
        if body.messages is not None:
            messages = scaled(parse_messages(body.messages, lenient=True), body.max_image_side)
            preparing = backend.prompt(messages, body.tools or (), handlers.tenant_of(request))
            with field_named("messages"):
                ids = list((await unless_left(request, preparing)).ids)
        else:
            ids = await backend.encode(body.prompt or "", bos=body.add_special_tokens is not False)
        shown = await backend.call(_shown, backend.tokenizer, ids) if body.return_token_strs else None
        return {"count": len(ids), "max_model_len": backend.config.max_model_len, "tokens": ids, "token_strs": shown}

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> dict[str, Any]:
        body.check_extra_fields()
        handlers.check_model(body.model)
        return {"prompt": await backend.call(_text, backend.tokenizer, body.tokens)}


def _shown(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    return [tokenizer.token_text(token) for token in ids]


def _text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    if ids and max(ids) >= tokenizer.vocab_size:
        raise BadRequestError(
            f"token id {max(ids)} is not in the vocabulary of {tokenizer.vocab_size} ids.", param="tokens"
        )
    return tokenizer.decode(ids)


def _model(name: str, handlers: Handlers, started: int) -> dict[str, Any]:
    """A model object with the fields that OpenAI's, vLLM's and Mistral's clients look for.

    An adapter's `parent` is the model that it changes, and its `root` where it lies. By `vision_encoder` our own client
    sizes the pages of documents.
    """
    own = handlers.names.own
    root = next((str(each.path) for each in handlers.backend.adapters if each.name == name), None)
    length = handlers.backend.config.max_model_len
    return {
        "id": name,
        "object": "model",
        "created": started,
        "owned_by": "tessera",
        "root": own[0] if root is None else root,
        "parent": None if root is None else own[0],
        "max_model_len": length,
        "type": "base" if root is None else "fine-tuned",
        "max_context_length": length,
        "aliases": [other for other in own if other != name] if root is None else [],
        "capabilities": {
            "completion_chat": True,
            "completion_fim": False,
            "function_calling": handlers.calls_tools,
            "fine_tuning": False,
            "vision": True,
        },
        "vision_encoder": asdict(handlers.backend.vision),
    }
