"""Request parsing shared by all generating routes: sampling parameters, tools, and several choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tessera.chat import ToolChoice, ToolDefinitions, Tools
from tessera.sampling import SamplingParams
from tessera.server.errors import BadRequestError
from tessera.server.presets import preset_of, temperature_of
from tessera.server.schemas import Sampling
from tessera.server.structured import grammar_of


def sampling_of(request: Sampling) -> SamplingParams:
    """The parameters of one reply; greedy by default, as everywhere in Tessera."""
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    return SamplingParams(
        max_tokens=request.max_tokens,
        min_tokens=request.min_tokens or 0,
        temperature=temperature_of(preset_of(getattr(request, "preset", None)), request.temperature),
        top_p=1.0 if request.top_p is None else max(request.top_p, 1e-6),
        top_k=max(request.top_k or 0, 0),
        min_p=request.min_p or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        repetition_penalty=1.0 if request.repetition_penalty is None else request.repetition_penalty,
        seed=request.seed,
        stop=tuple(text for text in stop if text),
        stop_token_ids=tuple(request.stop_token_ids or ()),
        ignore_eos=bool(request.ignore_eos),
        logit_bias=request.logit_bias or {},
        grammar=grammar_of(request),
    )


def tools_among(tools: ToolDefinitions, choice: ToolChoice, parallel: bool | None) -> Tools:
    """All tools, and those that OpenAI's choice `allowed_tools` permits; raises BadRequestError."""
    if not isinstance(choice, Mapping):
        return Tools(tuple(tools), choice, parallel is not False)
    if choice.get("type") != "allowed_tools":
        _only(choice, "tool_choice", ("type", "function"))
        return Tools(tuple(tools), choice, parallel is not False)
    _only(choice, "tool_choice", ("type", "allowed_tools"))
    wanted = choice.get("allowed_tools")
    if not isinstance(wanted, Mapping) or wanted.get("mode") not in ("auto", "required"):
        raise BadRequestError("tool_choice.allowed_tools must have a mode, auto or required.", param="tool_choice")
    _only(wanted, "tool_choice.allowed_tools", ("mode", "tools"))
    given = wanted.get("tools")
    names = [_tool_name(entry) for entry in given] if isinstance(given, list) else []
    known = {_tool_name(tool): tool for tool in tools}
    for name in names or [None]:
        if name is None or name not in known:
            shown = repr(name[:64]) if isinstance(name, str) else "no tool"
            raise BadRequestError(
                f"tool_choice.allowed_tools.tools names {shown}; name some of the tools in this request.",
                param="tool_choice",
            )
    allowed = tuple(tool for name, tool in known.items() if name in names)
    return Tools(tuple(tools), wanted["mode"], parallel is not False, allowed)


def _tool_name(tool: Any) -> str | None:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) else None


def _only(given: Mapping[str, Any], where: str, known: Sequence[str]) -> None:
    for key, value in given.items():
        if value is not None and key not in known:
            raise BadRequestError(
                f"{where}.{key[:64]} is not known here; known are {', '.join(known)}.", param="tool_choice"
            )


def choices_of(params: SamplingParams, n: int) -> list[SamplingParams]:
    """The parameters of `n` replies; a given seed is incremented, or all would be alike."""
    return [params if params.seed is None else replace(params, seed=params.seed + index) for index in range(n)]
