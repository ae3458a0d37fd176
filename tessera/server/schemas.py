"""Request schemas: every field with its type and bounds; explicit nulls are allowed everywhere.

Unsupported fields that would change the output are refused by name, also inside objects;
harmless ones that clients send out of habit are accepted and logged once. Other servers' field
names are accepted too (`dialects`). Every list, mapping and string is bounded, and validation stops at the
first mistake: pydantic records each one, which takes hundreds of times the bytes sent.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from tessera.messages import LEAST_SIDE, MOST_SIDE
from tessera.sampling import BOUNDS, MAX_BIAS, MAX_BIASED_IDS, MAX_STOP_STRINGS
from tessera.server.body import MAX_JSON_VALUES
from tessera.server.dialects import in_our_words
from tessera.server.errors import BadRequestError
from tessera.tool_calls import MAX_TOOLS

logger = logging.getLogger(__name__)

MAX_MESSAGES = 4096
MAX_TOP_LOGPROBS = 20
MAX_PROMPTS = 256
MAX_FIELDS = 8192  # in a request, known or not
MAX_KEYS = 1024  # in an object inside it
MAX_NAME = 1024  # characters
MAX_GRAMMAR = 1_000_000  # characters; the compiler's own limits are lower, and say more
MAX_TEXT = 64_000_000  # characters; the context limit is checked before tokenizing

# Fields without effect on this server's replies.
HARMLESS = {
    "user", "metadata", "store", "service_tier", "prompt_cache_key", "safety_identifier", "reasoning_effort",
    "safe_prompt", "prediction", "verbosity", "prompt_cache_retention", "include", "reasoning", "cache_control",
}  # fmt: skip
# Refused fields: the neutral values that are accepted since they change nothing, and the way out.
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
    "mcp_servers": ([],),
    "previous_response_id": (),
    "conversation": (),
    "background": (False,),
    "prompt": (),
    "max_tool_calls": (),
    "truncation": ("disabled",),
    "typical_p": (1, 1.0),
    "typical": (1, 1.0),
    "tfs_z": (1, 1.0),
    "top_a": (0, 0.0),
    "epsilon_cutoff": (0, 0.0),
    "eta_cutoff": (0, 0.0),
    "dynatemp_range": (0, 0.0),
    "xtc_probability": (0, 0.0),
    "dry_multiplier": (0, 0.0),
    "top_n_sigma": (-1, -1.0, 0, 0.0),
    "smoothing_factor": (0, 0.0),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1, 1.0),
    "penalty_alpha": (0, 0.0),
    "guidance_scale": (1, 1.0),
    "negative_prompt": ("",),
    "suppress_tokens": ([],),
    "bad_words_ids": ([],),
    "force_words_ids": ([],),
    "sequence_bias": ({}, []),
    "stop_regex": ("", []),
    "no_stop_trim": (False,),
    "guided_json_object": (False,),
    "watermark": (False,),
    "think": (False,),
    "mirostat": (0,),
    "mirostat_mode": (0,),
    "do_sample": (True,),
    "num_beams": (1,),
    "max_length": (),
    "thinking": ({"type": "disabled"},),
    "enable_thinking": (False,),
    "custom_params": ({},),
    "sampling_params": ({},),
    "options": ({},),
    "template": (),
    "raw": (False,),
    "output_format": (),
    "output_config": ({},),
    "response_schema": (),
    "response_mime_type": ("text/plain",),
    "json_mode": (False,),
    "json_object": (False,),
    "schema": (),
    "choices": (),
    "choice": (),
    "constraint": (),
    "grammar_type": (),
    # Known on other routes only.
    "response_format": ({"type": "text"},),
    "text": ({}, {"format": {"type": "text"}}),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "messages": (),
    "input": (),
    "instructions": ("",),
    "system": ("", []),
    "echo": (False,),
    "max_image_side": (),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "continue_final_message": (False,),
}
_logged: set[str] = set()


def counted(limit: int) -> BeforeValidator:
    """Refuse a mapping with too many entries before reading any of them."""

    def check(value: Any) -> Any:
        if isinstance(value, Mapping) and len(value) > limit:
            raise PydanticCustomError("too_many_keys", "too many", {"max_length": limit})
        return value

    return BeforeValidator(check)


def _within(name: str, least: float | None = None) -> Any:
    """The bounds of a sampling parameter; `least` allows lower values that mean the default."""
    low, high = BOUNDS[name]
    return Field(ge=low if least is None else least, le=high)


Bias = Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)]
Count = Annotated[int, _within("max_tokens")]
# Clients send -1 for "as many as fit", the same as leaving the field out.
ReplyLength = Annotated[Count | None, BeforeValidator(lambda value: None if value == -1 else value)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]  # for any vocabulary: a number of 4000 digits needs no echo
PromptId = Annotated[int, Field(ge=-(2**31), lt=2**31)]  # a negative one is refused later, with a better message
Name = Annotated[str, Field(max_length=MAX_NAME)]
ImageSide = Annotated[int, Field(ge=LEAST_SIDE, le=MOST_SIDE)]  # pixels along each image's longer edge, at most
ModelName = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
GrammarText = Annotated[str, Field(max_length=MAX_GRAMMAR)]
JsonObject = Annotated[dict[Name, Any], counted(MAX_KEYS), Field(max_length=MAX_KEYS)]
JsonSchema = Annotated[dict[Name, Any], counted(MAX_KEYS), Field(max_length=MAX_KEYS)] | GrammarText
StopString = Annotated[str, Field(max_length=1024)]
Choices = Annotated[list[GrammarText], Field(max_length=MAX_JSON_VALUES, fail_fast=True)]
Messages = Annotated[list[JsonObject], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
SystemBlocks = Annotated[list[JsonObject], Field(max_length=MAX_MESSAGES, fail_fast=True)]
Tools = Annotated[list[JsonObject], Field(max_length=MAX_TOOLS, fail_fast=True)]
PromptIds = Annotated[list[PromptId], Field(min_length=1, max_length=MAX_JSON_VALUES, fail_fast=True)]


class Request(BaseModel):
    """Unknown fields are kept, so that `check_extra_fields` can judge them."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=False)

    @model_validator(mode="before")
    @classmethod
    def _in_our_words(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        if len(values) > MAX_FIELDS:
            raise BadRequestError(f"the body has {len(values)} fields and the limit is {MAX_FIELDS}; leave some out.")
        return in_our_words(values, cls.model_fields)

    def check_extra_fields(self) -> None:
        for name, value in (self.model_extra or {}).items():
            if name in NEUTRAL:
                if value is not None and not any(_is_same(value, neutral) for neutral in NEUTRAL[name]):
                    raise BadRequestError(
                        f"the field {name} is not supported by this server; leave it out.",
                        param=name,
                        code="unsupported_parameter",
                    )
            elif name not in HARMLESS and name[:64] not in _logged and len(_logged) < 100:
                _logged.add(name[:64])
                logger.info("the unknown field %r was sent and has no effect", name[:64])


def _is_same(value: Any, neutral: Any) -> bool:
    """Return True if equal, without taking true for 1: they differ to a client."""
    return bool(value == neutral) and isinstance(value, bool) == isinstance(neutral, bool)


class Part(BaseModel):
    """An object inside of a request: an unknown key that says something is refused by name."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    harmless: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _leave_out(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        if len(values) > MAX_KEYS:
            raise PydanticCustomError("too_many_keys", "too many", {"max_length": MAX_KEYS})
        told = {key: value for key, value in values.items() if value is not None and key not in cls.harmless}
        unknown = [key for key in told if key not in cls._names()]
        return {key: value for key, value in told.items() if key not in unknown[1:]}  # report the first

    @classmethod
    def _names(cls) -> set[str]:
        return {field.alias or name for name, field in cls.model_fields.items()}


class StreamOptions(Part):
    harmless = frozenset({"include_obfuscation"})

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class StructuredOutputs(Part):
    """What a reply must look like, in vLLM's words; exactly one is given."""

    json_: JsonSchema | None = Field(None, alias="json")
    json_object: bool | None = None
    regex: GrammarText | None = None
    choice: Choices | None = None
    grammar: GrammarText | None = None


class JsonSchemaFormat(Part):
    """OpenAI's wrapping of a schema; it is kept whether `strict` says so or not."""

    name: Name | None = None
    description: Text | None = None
    schema_: JsonObject | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(JsonSchemaFormat):
    """OpenAI's, and what other servers have put into it: a schema beside the type, `json`, `regex` and `grammar`."""

    type: Literal["text", "json_object", "json_schema", "json", "regex", "grammar"]
    json_schema: JsonSchemaFormat | None = None
    value: JsonSchema | None = None
    pattern: GrammarText | None = None
    grammar: GrammarText | None = None


class TypedGrammar(Part):
    """TGI's way to say what a reply must look like."""

    type: Literal["json", "json_object", "json_schema", "regex"]
    value: JsonSchema | None = None


class Sampling(Request):
    """How a reply is drawn, shared by all generating routes."""

    model: ModelName | None = None
    temperature: Annotated[float, _within("temperature")] | None = None
    top_p: Annotated[float, _within("top_p", least=0)] | None = None
    top_k: Annotated[int, _within("top_k", least=-1)] | None = None
    min_p: Annotated[float, _within("min_p")] | None = None
    n: int | None = Field(None, ge=1, le=1024)
    max_tokens: ReplyLength = None
    min_tokens: Annotated[int, _within("min_tokens")] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS, fail_fast=True)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64, fail_fast=True)] | None = None
    ignore_eos: bool | None = None
    seed: Annotated[int, _within("seed")] | None = None
    presence_penalty: Annotated[float, _within("presence_penalty")] | None = None
    frequency_penalty: Annotated[float, _within("frequency_penalty")] | None = None
    repetition_penalty: Annotated[float, _within("repetition_penalty")] | None = None
    logit_bias: (
        Annotated[dict[TokenId, Bias], counted(MAX_BIASED_IDS), Field(max_length=MAX_BIASED_IDS)] | None
    ) = None  # fmt: skip
    structured_outputs: StructuredOutputs | None = None
    guided_decoding: StructuredOutputs | None = None
    json_schema: JsonSchema | None = None  # llama.cpp's
    format: Literal["json", ""] | JsonObject | None = None  # Ollama's
    grammar: GrammarText | TypedGrammar | None = None  # llama.cpp's is a string, TGI's an object
    regex: GrammarText | None = None  # SGLang's, like the next
    ebnf: GrammarText | None = None
    guided_json: JsonSchema | None = None
    guided_regex: GrammarText | None = None
    guided_choice: Choices | None = None
    guided_grammar: GrammarText | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    cache_salt: str | None = Field(None, min_length=1, max_length=256)


class ChatRequest(Sampling):
    messages: Messages
    max_image_side: ImageSide | None = None
    max_completion_tokens: ReplyLength = None
    random_seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    response_format: ResponseFormat | None = None
    tools: Tools | None = None
    tool_choice: Literal["none", "auto", "required", "any"] | JsonObject | None = None
    parallel_tool_calls: bool | None = None
    continue_final_message: bool | None = None
    preset: Name | None = None  # ours: the name of one of /v1/presets


class TextFormat(JsonSchemaFormat):
    """The wrapping of /v1/responses, which has the schema beside the type."""

    type: Literal["text", "json_object", "json_schema"]


class TextOptions(Part):
    harmless = frozenset({"verbosity"})

    format: TextFormat | None = None


class ResponsesRequest(Sampling):
    input: Text | Messages
    instructions: Text | None = None
    max_image_side: ImageSide | None = None
    max_output_tokens: ReplyLength = None
    n: Literal[1] | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    include: Annotated[list[Name], Field(max_length=64, fail_fast=True)] | None = None
    text: TextOptions | None = None
    tools: Tools | None = None
    tool_choice: Literal["none", "auto", "required"] | JsonObject | None = None
    parallel_tool_calls: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: JsonObject | None = None
    preset: Name | None = None  # as in a chat


class CountTokensRequest(Request):
    """Anthropic's conversation, whose prompt is counted and not answered."""

    model: ModelName | None = None
    messages: Messages
    max_image_side: ImageSide | None = None
    system: Text | SystemBlocks | None = None
    tools: Tools | None = None
    tool_choice: JsonObject | None = None
    thinking: JsonObject | None = None
    output_config: JsonObject | None = None
    output_format: JsonObject | None = None


class MessagesRequest(Sampling):
    """Anthropic's messages."""

    messages: Messages
    max_image_side: ImageSide | None = None
    max_tokens: Count
    system: Text | SystemBlocks | None = None
    n: Literal[1] | None = None
    stop_sequences: Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS, fail_fast=True)] | None = None
    tools: Tools | None = None
    tool_choice: JsonObject | None = None
    thinking: JsonObject | None = None
    metadata: JsonObject | None = None
    output_config: JsonObject | None = None
    output_format: JsonObject | None = None


class CompletionRequest(Sampling):
    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
        | PromptIds
        | Annotated[list[PromptIds], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
    )
    # 0: the prompt alone is scored, with echo; left out: OpenAI's 16; -1: as many as fit
    max_tokens: int | None = Field(None, ge=-1, le=2**20)
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    echo: bool | None = None


class TokenizeRequest(Request):
    model: ModelName | None = None
    prompt: Text | None = None
    messages: Messages | None = None
    max_image_side: ImageSide | None = None
    tools: Tools | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(Request):
    model: ModelName | None = None
    tokens: Annotated[list[TokenId], Field(max_length=MAX_JSON_VALUES, fail_fast=True)]
