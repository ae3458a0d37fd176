"""Comparison of sides: each is measured in turn, along with the machine's limits at the same moment.

Machines are noisy. So every round measures the limits and then each side once, in an order that
rotates from round to round; a ratio is the median over the rounds, with the lowest and highest beside
it. Every side must see as many image tokens as the model does, and where the weights are random say the
ids that these weights say, or nothing is reported: two programs that compute different things are not compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

import torch

from tessera.bench.limits import Limits
from tessera.bench.process import Side
from tessera.bench.random_values import CYCLE, next_ids
from tessera.bench.work import decoder_flops, encode_flops
from tessera.engine.kv_cache import kv_bytes_per_token
from tessera.errors import MeasurementError
from tessera.model.config import ModelConfig

PROMPT_TOKENS = 512
SHORT_PROMPT_TOKENS = 32  # before decoding: little context, so that mainly weights are read
SEQUENCES = 8
NEW_TOKENS = 33  # in each reply; the first comes with the prompt, so 32 are decoded
# A transcription: the prompt holds the reply except for one token in this many.
REPEATED_TOKENS, REPEATED_RUN = 129, 32

Phase = Literal["seconds", "prefill_s", "decode_s"]


@dataclass(frozen=True)
class Row:
    """One measurement: the request to each side, the time in the answer that counts, and the minimum work."""

    name: str
    what: str
    arguments: Mapping[str, Any]
    phase: Phase
    tokens: int  # covered by the time; 0 to show the time itself
    flops: float
    read_bytes: float
    expected: Mapping[str, Any] = field(default_factory=dict)  # parts of the answer known in advance
    peer_arguments: Mapping[str, Any] = field(default_factory=dict)  # changes to the request for a peer

    def seconds(self, side: Side, *, is_peer: bool) -> float:
        """Have one side run it; raises MeasurementError if it did something else."""
        answer = side.ask(self.what, **{**self.arguments, **(self.peer_arguments if is_peer else {})})
        for name, known in self.expected.items():
            if answer[name] != known:
                raise MeasurementError(
                    f"{self.name}: the {name} of {side.name} are {answer[name]}, and of this model they are {known}; "
                    "it computes something else, so nothing is compared."
                )
        return float(answer[self.phase])

    def show(self, seconds: float) -> str:
        return f"{self.tokens / seconds:.2f} tokens/s" if self.tokens else f"{seconds:.2f} s"


@dataclass(frozen=True)
class Result:
    """A row's seconds by side and round, and the least seconds that the machine's limits allowed then."""

    row: Row
    seconds: dict[str, tuple[float, ...]]
    least_s: tuple[float, ...]

    def time(self, side: str) -> float:
        return median(self.seconds[side])

    def fraction(self, side: str) -> float:
        """The fraction of the limit: 1 would be the machine's own speed."""
        return median(least / taken for least, taken in zip(self.least_s, self.seconds[side], strict=True))

    def ratio(self, ours: str, theirs: str) -> tuple[float, float, float]:
        """Our speed-up: the median, lowest and highest over the rounds."""
        ratios = [b / a for a, b in zip(self.seconds[ours], self.seconds[theirs], strict=True)]
        return median(ratios), min(ratios), max(ratios)


def measure(
    rows: Sequence[Row], sides: Sequence[Side], rounds: int, limits: Callable[[], Limits], note: Callable[[str], None]
) -> list[Result]:
    """Measure every row on every side, ours first; `note` receives progress messages."""
    results = []
    for row in rows:
        note(f"{row.name}: warming up")
        for side in sides:
            row.seconds(side, is_peer=side is not sides[0])
        seconds: dict[str, list[float]] = {side.name: [] for side in sides}
        least_s = []
        for number in range(rounds):
            note(f"{row.name}: round {number + 1} of {rounds}")
            least_s.append(limits().seconds(row.flops, row.read_bytes))
            for side in sides if number % 2 else reversed(sides):
                seconds[side.name].append(row.seconds(side, is_peer=side is not sides[0]))
        results.append(Result(row, {name: tuple(each) for name, each in seconds.items()}, tuple(least_s)))
    return results


def rows_of(config: ModelConfig, step_bytes: int, *, known: bool, peer: bool) -> list[Row]:
    """The rows to measure; one decoding step reads `step_bytes` of weights.

    `known`: the weights are those of `random_weights`, so the replies are known too. Text that repeats its context
    is measured with these only, since they allow choosing what repeats.
    """
    side = config.vision_encoder.image_size
    first = first_id(config)
    token_bytes = kv_bytes_per_token(config, torch.bfloat16)

    def generate(name: str, prompts: list[list[int]], new_tokens: int, **peer_arguments: Any) -> Row:
        """A row of generation: with one new token it measures the prompt; with more, the tokens after the first."""
        replies = [next_ids(prompt[-1], new_tokens, config.vocab_size) for prompt in prompts]
        lengths = [len(prompt) for prompt in prompts]
        steps = new_tokens - 1
        if steps:
            tokens, pairs, logits = steps * len(prompts), steps * sum(lengths), steps * len(prompts)
        else:
            tokens, pairs, logits = sum(lengths), sum(length**2 for length in lengths) // 2, len(prompts)
        return Row(
            name,
            "generate",
            {"prompts": prompts, "new_tokens": new_tokens, "lookup": bool(peer_arguments)},
            "decode_s" if steps else "prefill_s",
            tokens,
            flops=decoder_flops(config, tokens, pairs, logits),
            read_bytes=max(steps, 1) * (step_bytes + (token_bytes * sum(lengths) if steps else 0)),
            expected={"replies": replies} if known else {},
            peer_arguments=peer_arguments,
        )

    seen = {"tokens": (side // config.vision_encoder.token_size) ** 2}
    encode = Row(
        f"image encode, {side}x{side}", "encode", {"side": side}, "seconds", 0, encode_flops(config, side), 0, seen
    )
    short = [unrelated(first + 8 * number, SHORT_PROMPT_TOKENS + number, config) for number in range(SEQUENCES)]
    rows = [
        encode,
        generate(f"prefill of {PROMPT_TOKENS} tokens", [unrelated(first, PROMPT_TOKENS, config)], 1),
        generate("decode of one sequence", short[:1], NEW_TOKENS),
        generate(f"decode of {SEQUENCES} sequences at once", short, NEW_TOKENS),
    ]
    if known:
        name = "decode of repeated text, by look-up"
        held = [transcription(first, config)]
        rows.append(generate(f"{name}{'; the peer plain' if peer else ''}", held, REPEATED_TOKENS, lookup=False))
        if peer:
            rows.append(generate(f"{name}; the peer too", held, REPEATED_TOKENS, lookup=True))
    return rows


def first_id(config: ModelConfig) -> int:
    """Return the first id of a cycle without special tokens."""
    return min(CYCLE, config.vocab_size // CYCLE * CYCLE)


def unrelated(last: int, length: int, config: ModelConfig) -> list[int]:
    """Make a prompt that counts down to `last`: nothing in it predicts a reply that counts up."""
    first = first_id(config)
    span = min(CYCLE, config.vocab_size - first)
    return [1, *(first + (last - first + place) % span for place in reversed(range(length - 1)))]


def transcription(first: int, config: ModelConfig) -> list[int]:
    """Make a prompt that holds its own reply, except for one token in REPEATED_RUN."""
    reply = next_ids(first, REPEATED_TOKENS, config.vocab_size)
    other = first + min(CYCLE, config.vocab_size - first) - 1
    held = [other if place % REPEATED_RUN == 0 else id_ for place, id_ in enumerate(reply, 1)]
    return [1, first, *held, other, first]


def table(results: Sequence[Result], sides: Sequence[str]) -> str:
    """Format the results as a Markdown table: ours first with its fraction of the limit, then each peer's."""
    ours, *peers = sides
    head = [
        "what",
        ours,
        "of the limit",
        *(cell for peer in peers for cell in (peer, "of the limit", "ratio (spread)")),
    ]
    lines = [head, ["---"] * len(head)]
    for result in results:
        cells = [result.row.name, result.row.show(result.time(ours)), f"{result.fraction(ours):.0%}"]
        for peer in peers:
            middle, low, high = result.ratio(ours, peer)
            cells += [result.row.show(result.time(peer)), f"{result.fraction(peer):.0%}"]
            cells.append(f"{middle:.2f}x ({low:.2f}-{high:.2f})")
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
