"""How a reply is drawn: sampling parameters, their bounds, the grammar a reply follows, and the adapter's name."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from tessera.errors import UsageError, shown

GrammarKind = Literal["json_object", "json_schema", "regex", "choice", "lark", "tool_calls"]
GRAMMAR_KINDS = get_args(GrammarKind)
MAX_STOP_STRINGS = 16
MAX_BIASED_IDS = 300
MAX_BIAS = 100.0
BOUNDS: dict[str, tuple[float, float]] = {
    "max_tokens": (1, 2**20),
    "min_tokens": (0, 2**20),
    "temperature": (0.0, 10.0),
    "top_p": (1e-6, 1.0),
    "top_k": (0, 2**20),
    "min_p": (0.0, 1.0),
    "frequency_penalty": (-2.0, 2.0),
    "presence_penalty": (-2.0, 2.0),
    "repetition_penalty": (0.01, 100.0),
    "seed": (-(2**63), 2**63 - 1),
    "logprobs": (0, 20),
    "prompt_logprobs": (0, 20),
}
WHOLE = {"max_tokens", "min_tokens", "top_k", "seed", "logprobs", "prompt_logprobs"}


@dataclass(frozen=True)
class Grammar:
    """A constraint on a reply. `source` is, by kind: nothing, for json_object (any JSON object); the JSON
    text of a schema; a regular expression; a JSON list of strings, one of which is the reply; a Lark grammar in
    llguidance's dialect, or GBNF. The kind tool_calls is Lark that may name special tokens; `tool_calls` writes it.

    With `compact`, JSON is written on one line as `json.dumps` does, ", " and ": " between its parts, so that no token
    is spent on white space. Requests to other servers have no field for it: they get the same JSON, laid out freely.
    """

    kind: GrammarKind
    source: str = ""
    compact: bool = False

    def __post_init__(self) -> None:
        if self.kind not in GRAMMAR_KINDS:
            raise UsageError(f"grammar kind {shown(self.kind)} is unknown; use one of {', '.join(GRAMMAR_KINDS)}.")
        if not isinstance(self.source, str):
            raise UsageError(f"a grammar's source must be a string, not {shown(self.source)}.")
        if bool(self.source) == (self.kind == "json_object"):
            wanted = "takes no source; leave it out" if self.source else "needs a source; give one"
            raise UsageError(f"grammar kind {self.kind} {wanted}.")
        if self.compact and self.kind not in ("json_object", "json_schema"):
            raise UsageError(f"grammar kind {self.kind} has no compact form, which is one of JSON; leave compact out.")


class _NamedFields(type):
    """Base of classes with values given by name: the error for an unknown name suggests the nearest one."""

    def __call__(cls, *values: Any, **named: Any) -> Any:
        known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        if values:
            raise UsageError(
                f"{cls.__name__} takes values by their names, such as {known[0]}=..., not {shown(values[0])}."
            )
        for name in named:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"the nearest known one is {near[0]!r}" if near else f"known are {', '.join(known)}"
                raise UsageError(f"sampling parameter {name!r} is unknown; {hint}.")
        return super().__call__(**named)


@dataclass(frozen=True, kw_only=True)
class SamplingParams(metaclass=_NamedFields):
    """How one reply is drawn; every field is checked, and the defaults give the greedy reply."""

    max_tokens: int | None = None  # None: as many as the context holds
    min_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None  # None: none; n: the chosen token's and the n likeliest
    prompt_logprobs: int | None = None  # the same for the prompt's tokens, sent with the first delta
    # Added to these ids' logits; a mapping is kept as a tuple of pairs.
    logit_bias: Mapping[int, float] | tuple[tuple[int, float], ...] = ()
    # The reply follows it and ends with it. A stop string still cuts the reply, as max_tokens does.
    grammar: Grammar | None = None
    # The name of a loaded LoRA adapter that computes the reply; for a server, the name of the model to ask.
    adapter: str | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in BOUNDS.items():
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise UsageError(f"{name} must be a finite number, not {shown(value)}.")
            if name in WHOLE and not isinstance(value, int):
                raise UsageError(f"{name} must be a whole number, not {shown(value)}.")
            if not low <= value <= high:
                raise UsageError(f"{name} is {value}; it must lie between {low} and {high}.")
        stops = self.stop if isinstance(self.stop, Sequence) and not isinstance(self.stop, (str, bytes)) else (None,)
        if not all(isinstance(stop, str) and stop for stop in stops):
            raise UsageError(f"stop must be a tuple of non-empty strings, not {shown(self.stop)}.")
        ids = self.stop_token_ids if isinstance(self.stop_token_ids, (Sequence, Set)) else (None,)
        if not all(isinstance(each, int) and not isinstance(each, bool) for each in ids):
            raise UsageError(f"stop_token_ids must be a tuple of token ids, not {shown(self.stop_token_ids)}.")
        if len(self.stop) > MAX_STOP_STRINGS:
            raise UsageError(f"stop has {len(self.stop)} strings; at most {MAX_STOP_STRINGS} are allowed.")
        if self.adapter is not None and (not isinstance(self.adapter, str) or not self.adapter):
            raise UsageError(f"adapter must be the name of a loaded adapter, not {shown(self.adapter)}.")
        object.__setattr__(self, "logit_bias", _parse_logit_bias(self.logit_bias))
        if self.grammar is None:
            return
        if not isinstance(self.grammar, Grammar):
            raise UsageError(f"grammar must be a Grammar, not {shown(self.grammar)}.")
        for name in ("min_tokens", "ignore_eos"):
            if getattr(self, name):
                raise UsageError(f"{name} cannot be combined with a grammar or tools, which say where a reply ends.")


def sampling_params_from_dict(values: Mapping[str, Any]) -> SamplingParams:
    """Build the parameters from names and values; the error for an unknown name suggests the nearest."""
    return SamplingParams(**values)


def _parse_logit_bias(given: Any) -> tuple[tuple[int, float], ...]:
    """Parse pairs of id and bias; raises UsageError that names the pair."""
    if isinstance(given, (str, bytes)) or not isinstance(given, (Mapping, Sequence)):
        raise UsageError(f"logit_bias must map token ids to numbers, not {shown(given)}.")
    if len(given) > MAX_BIASED_IDS:
        raise UsageError(f"logit_bias has {len(given)} entries; at most {MAX_BIASED_IDS} are allowed.")
    pairs: dict[int, float] = {}
    for pair in given.items() if isinstance(given, Mapping) else given:
        if not isinstance(pair, Sequence) or len(pair) != 2 or type(pair[0]) is not int:
            raise UsageError(f"a logit_bias entry must be a token id and a number, not {shown(pair)}.")
        token_id, bias = pair
        if type(bias) not in (int, float) or not -MAX_BIAS <= bias <= MAX_BIAS:
            raise UsageError(
                f"the logit_bias of token {shown(token_id)} is {shown(bias)}; it must be a number between "
                f"{-MAX_BIAS:g} and {MAX_BIAS:g}."
            )
        if token_id in pairs:
            raise UsageError(f"logit_bias names token {token_id} twice; give it one bias.")
        pairs[token_id] = bias
    return tuple(pairs.items())
