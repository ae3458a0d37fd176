"""What clients may send: every field with its type and bounds, explicit nulls allowed everywhere.

Fields that would change the output and are not supported are refused by name; others that clients
send out of habit are accepted, and logged once.
"""

from __future__ import annotations

import logging
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tessera.chat import MAX_BIAS, MAX_BIASED_IDS, MAX_STOP_STRINGS
from tessera.server.errors import BadRequestError
from tessera.tools import MAX_TOOLS

logger = logging.getLogger(__name__)

MAX_MESSAGES = 4096
MAX_TOP_LOGPROBS = 20
MAX_PROMPTS = 256

# Fields without an effect on the reply of this server.
HARMLESS = {
    "user", "metadata", "store", "service_tier", "prompt_cache_key", "safety_identifier", "reasoning_effort",
    "safe_prompt", "prediction", "verbosity", "prompt_cache_retention", "include", "reasoning",
}  # fmt: skip
# What a field that changes the output is refused with: its neutral values, which change nothing, and the way out.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "prompt_logprobs": (0,),
    "suffix": ("",),
    "bad_words": ([],),
    "allowed_token_ids": ([],),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "documents": ([],),
    "mm_processor_kwargs": ({},),
    "truncate_prompt_tokens": (),
    "add_generation_prompt": (True,),
    "add_special_tokens": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
    "return_tokens_as_token_ids": (False,),
    "functions": ([],),
    "function_call": ("none",),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "prompt_mode": (),
    "priority": (0,),
    "guided_decoding_backend": (),
    "guided_whitespace_pattern": (),
    "structural_tag": (),
    "logits_processors": ([],),
    "vllm_xargs": ({},),
    "kv_transfer_params": (),
    "lora": (),
    "cache_control": (),
    "previous_response_id": (),
    "conversation": (),
    "background": (False,),
    "prompt": (),
    "max_tool_calls": (),
    "truncation": ("disabled",),
    # Known to other routes only.
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
}
_logged: set[str] = set()

Probability = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)]
Count = Annotated[int, Field(ge=1, le=2**20)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]  # whatever the vocabulary: a number of 4000 digits needs no echo
PromptId = Annotated[int, Field(ge=-(2**31), lt=2**31)]  # a negative one is refused later, in better words


class Request(BaseModel):
    """Unknown fields are kept, so that `check_extra_fields` can judge them."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=False)

    def check_extra_fields(self) -> None:
        for name, value in (self.model_extra or {}).items():
            if name in NEUTRAL:
                if value is not None and value not in NEUTRAL[name]:
                    raise BadRequestError(
                        f"the field {name} is not supported by this server; leave it out.",
                        param=name,
                        code="unsupported_parameter",
                    )
            elif name not in HARMLESS and name[:64] not in _logged and len(_logged) < 100:
                _logged.add(name[:64])
                logger.info("the unknown field %r was sent and has no effect", name[:64])


class StreamOptions(BaseModel):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class StructuredOutputs(BaseModel):
    """What a reply must look like, in vLLM's words; exactly one is given."""

    model_config = ConfigDict(extra="forbid")

    json_: dict[str, Any] | str | None = Field(None, alias="json")
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None


class JsonSchemaFormat(BaseModel):
    """OpenAI's wrapping of a schema; it is kept whether `strict` says so or not."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class Sampling(Request):
    """How a reply is drawn, shared by all generating routes."""

    model: str | None = Field(None, max_length=1024)
    temperature: float | None = Field(None, ge=0, le=10)
    top_p: Probability | None = None
    top_k: int | None = Field(None, ge=-1, le=2**20)
    min_p: Probability | None = None
    n: int | None = Field(None, ge=1, le=1024)
    max_tokens: Count | None = None
    min_tokens: int | None = Field(None, ge=0, le=2**20)
    stop: Annotated[str, Field(max_length=1024)] | Annotated[
        list[Annotated[str, Field(max_length=1024)]], Field(max_length=MAX_STOP_STRINGS)
    ] | None = None  # fmt: skip
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = None
    ignore_eos: bool | None = None
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    logit_bias: Annotated[dict[TokenId, Bias], Field(max_length=MAX_BIASED_IDS)] | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    cache_salt: str | None = Field(None, min_length=1, max_length=256)


class ChatRequest(Sampling):
    messages: list[dict[str, Any]] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: Count | None = None
    random_seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    response_format: ResponseFormat | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required", "any"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    continue_final_message: bool | None = None


class TextFormat(JsonSchemaFormat):
    """The wrapping of /v1/responses, which has the schema beside the type."""

    type: Literal["text", "json_object", "json_schema"]


class TextOptions(BaseModel):
    format: TextFormat | None = None


class ResponsesRequest(Sampling):
    input: str | Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_MESSAGES)]
    instructions: str | None = None
    max_output_tokens: Count | None = None
    n: Literal[1] | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    include: list[str] | None = None
    text: TextOptions | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    metadata: dict[str, Any] | None = None


class CompletionRequest(Sampling):
    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[list[PromptId], Field(min_length=1)]
        | Annotated[list[list[PromptId]], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    max_tokens: int | None = Field(None, ge=0, le=2**20)  # 0: the prompt alone is scored, with echo
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    echo: bool | None = None


class TokenizeRequest(Request):
    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = Field(None, min_length=1, max_length=MAX_MESSAGES)
    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(Request):
    model: str | None = None
    tokens: list[TokenId] = Field(max_length=2**20)
