"""vLLM flags that this server does not have as settings: aliases, and flags with only one accepted value.

A command line written for vLLM should start this server, or be refused with a sentence that says what
to do instead. So a flag that asks for what this server does anyway is accepted, any other value is
refused, and nothing is silently ignored. Source: vLLM 0.32, `vllm serve --help`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tessera.errors import UsageError

ALIASES = {"kv_cache_memory_bytes": "kv_cache_bytes"}
OPPOSITES = {"disable_uvicorn_access_log": "access_log"}
# Flags that hold several settings in one JSON object, and the keys that are settings here.
JOINED = {"speculative_config": ("num_speculative_tokens", "prompt_lookup_min", "prompt_lookup_max")}
SEVERAL_AFTER_ONE_FLAG = (
    "--served-model-name", "--api-key", "--allowed-media-domains", "--allowed-origins", "--lora-modules",
)  # fmt: skip


@dataclass(frozen=True)
class Fixed:
    """A flag for which this server supports only `accepted`; `instead` says why, and the way out."""

    accepted: tuple[str, ...]
    instead: str

    @property
    def is_switch(self) -> bool:
        return self.accepted in (("true",), ("false",))

    def check(self, name: str, value: Any, origin: str) -> None:
        """Raise UsageError unless the value asks for what the server does anyway."""
        told = "none" if value is None else str(value).strip().lower()
        if self.is_switch:
            told = {"1": "true", "yes": "true", "on": "true", "0": "false", "no": "false", "off": "false"}.get(
                told, told
            )
        if told not in self.accepted:
            only = f"only {' or '.join(self.accepted)} is supported" if self.accepted else "it is not supported"
            raise UsageError(f"the setting {name} ({origin}) is {told[:80]!r}, and {only}: {self.instead}.")


def taken_apart(name: str, value: Any, origin: str) -> dict[str, Any]:
    """Read settings from a JSON object such as {"method": "ngram", "num_speculative_tokens": 4}; raises UsageError."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, Mapping):
        raise UsageError(f"the setting {name} ({origin}) must be a JSON object, such as {_EXAMPLE}.")
    if value.get("method") != "ngram":
        raise UsageError(
            f"the setting {name} ({origin}) has the method {str(value.get('method'))[:40]!r}, and only ngram is "
            "supported, which needs no second model: give it, or leave the setting out."
        )
    unknown = sorted(set(value) - {"method", *JOINED[name]})
    if unknown:
        raise UsageError(
            f"the setting {name} ({origin}) has {str(unknown[0])[:40]!r}, which is not supported; known are method, "
            f"{', '.join(JOINED[name])}."
        )
    return {key: entry for key, entry in value.items() if key != "method"}


_EXAMPLE = '{"method": "ngram", "num_speculative_tokens": 4}'
_ONE_PROCESS = "one server runs one copy of the model; start more servers behind a proxy for more requests"
_NO_CONTENT = "the log never holds what requests contain; --access-log gives a line for each request"

FIXED = {
    "pipeline_parallel_size": Fixed(("1",), "devices share each layer instead: --tensor-parallel-size"),
    "data_parallel_size": Fixed(("1",), _ONE_PROCESS),
    "api_server_count": Fixed(("1",), _ONE_PROCESS),
    "quantization": Fixed(("none",), "the checkpoint says which; tessera quantize writes smaller ones, leave it out"),
    "tokenizer": Fixed((), "the tokenizer is the one in the model's folder; leave it out"),
    "tokenizer_mode": Fixed(("auto", "mistral"), "prompts are written by mistral-common alone; leave it out"),
    "trust_remote_code": Fixed(("false",), "code from a model's repository is never run; leave it out"),
    "hf_overrides": Fixed((), "a model's configuration is what its checkpoint says; edit a copy of its side file"),
    "enable_chunked_prefill": Fixed(("true",), "prompts always go in chunks of --max-num-batched-tokens"),
    "cpu_offload_gb": Fixed(("0",), "weights stay on one device; choose --device cpu or a smaller --dtype"),
    "swap_space": Fixed(("0",), "what does not fit is computed again, not swapped; leave it out"),
    "fully_sharded_loras": Fixed(("false",), "an adapter's matrices are cut as their linears are; leave it out"),
    "lora_dtype": Fixed(("auto",), "adapters compute in the model's dtype; leave it out"),
    "enable_tower_connector_lora": Fixed(("true",), "an adapter's modules of the vision encoder always count"),
    "default_mm_loras": Fixed((), "name the adapter as the model of each request"),
    "enable_auto_tool_choice": Fixed(("true",), "tools are offered to the model whenever a request has them"),
    "tool_call_parser": Fixed(("mistral",), "tool calls are read in the model's own format; leave it out"),
    "chat_template": Fixed((), "prompts have the model's own format; leave it out"),
    "chat_template_content_format": Fixed(("auto", "openai"), "messages have OpenAI's shape; leave it out"),
    "generation_config": Fixed((), "replies are greedy unless a request says otherwise; leave it out"),
    "guided_decoding_backend": Fixed(("auto", "guidance"), "llguidance is the one grammar engine; leave it out"),
    "mm_processor_cache_gb": Fixed(("0",), "--image-cache-bytes caches embeddings instead"),
    "mm_processor_kwargs": Fixed((), "images are prepared as the model was trained; leave it out"),
    "max_logprobs": Fixed(("20",), "a request may ask for up to 20 log-probabilities a token; leave it out"),
    "task": Fixed(("auto", "generate"), "this server generates text; leave it out"),
    "runner": Fixed(("auto", "generate"), "this server generates text; leave it out"),
    "disable_log_requests": Fixed(("true",), _NO_CONTENT),
    "enable_log_requests": Fixed(("false",), _NO_CONTENT),
    "disable_log_stats": Fixed(("true",), "counts are not logged; read them at /metrics"),
    "allow_credentials": Fixed(("false",), "keys go in a header, never in a cookie; leave it out"),
    "allowed_methods": Fixed(('["*"]',), "all that a route takes is allowed; leave it out"),
    "allowed_headers": Fixed(('["*"]',), "all headers are allowed; leave it out"),
    "ssl_keyfile": Fixed((), "the server speaks plain HTTP; put a proxy with TLS in front, such as deploy/nginx.conf"),
    "ssl_certfile": Fixed((), "the server speaks plain HTTP; put a proxy with TLS in front, such as deploy/nginx.conf"),
}  # fmt: skip
