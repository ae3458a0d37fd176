"""The hidden state of a prompt's last token, kept while the prompt is computed: a vector that stands for the prompt.

arXiv 2407.12580 (E5-V) reads it after a question that asks for a summary in one word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from torch import Tensor

from tessera.engine.request import Request
from tessera.prompt import Prompt


@dataclass(frozen=True)
class StatePrompt(Prompt):
    """A prompt whose last token's state is kept; `states` gets it once, in float32."""

    states: list[list[float]] = field(default_factory=list)


def keep_states(requests: Sequence[Request], drafts: Sequence[tuple[int, ...]], hidden_RD: Tensor) -> None:
    """Keep the states of prompts that want theirs; rows are each request's last token and then its draft."""
    rows = [0, *accumulate(1 + len(draft) for draft in drafts)]
    for request, row in zip(requests, rows, strict=False):
        prompt = request.prompt
        if isinstance(prompt, StatePrompt) and not request.num_output and not prompt.states:
            prompt.states.append(hidden_RD[row].float().tolist())
