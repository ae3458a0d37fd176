"""Decides how many guessed tokens a request computes after its last one: only as many as save time.

A guess costs a row of the step, and saves a step's share if it is right. So a token is drafted
when its odds are at least the cost of its row, both in tokens. The odds come from the request's own
history (`lookup`) and nothing is timed, so a request's computation does not depend on the machine's
other work. It uses neither tensors nor the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tessera.engine.config import EngineConfig
from tessera.engine.lookup import Lookup
from tessera.engine.request import Request

# Cost of one more row relative to a one-row step: small, since the weights are read once for all rows.
# Measured with 2 to 16 rows at contexts of 600 and 4096 tokens, Pixtral's widths on Zen 4: 0.06 to 0.16 at 4 bits, 0 to
# 0.10 at 8 bits and in bfloat16; nano 0.02 to 0.06 plus choosing each token. Simulated on twelve kinds of text,
# this number is at most 3 % below the best for any true cost from 0.05 to 0.3. It is not measured at run time,
# so that the same requests always take the same steps.
ROW_COST = 0.15


@dataclass
class Step:
    """A step's rows (its cost) and the tokens it is expected to yield, before another row is added."""

    rows: int
    tokens: float

    @property
    def least_odds(self) -> float:
        """Return the lowest odds at which another row pays: its cost in tokens.

        A step takes 1 + ROW_COST * (rows - 1), and one token that time divided by the tokens.
        Example: one row, one token: 0.15; eight of each: 0.15 * 8 / 2.05 = 0.59.
        """
        return ROW_COST * self.tokens / (1 + ROW_COST * (self.rows - 1))

    def add(self, odds: float) -> None:
        """Add a row whose token is right with these odds."""
        self.rows += 1
        self.tokens += odds


class Drafter:
    """Drafts tokens, except `never_ids`: those never chosen, mainly image tokens, and those that end a reply."""

    def __init__(self, config: EngineConfig, never_ids: Iterable[int]) -> None:
        self.config = config
        self.never_ids = frozenset(never_ids)

    def draft(self, request: Request, room: int, step: Step) -> tuple[int, ...]:
        """Return at most `room` tokens to compute after the request's last one, and add their rows to `step`."""
        if request.lookup is None:
            request.lookup = Lookup(self.config.prompt_lookup_min, self.config.prompt_lookup_max)
        guessed, odds = request.lookup.guess(request.ids, self.config.num_speculative_tokens)
        # A step yields one token more than are drafted.
        room = min(room, request.max_tokens - request.num_output - 1)
        if not guessed or odds[0] < step.least_odds:
            return ()
        if request.matcher is not None:
            guessed = guessed[: request.matcher.count_allowed(guessed)]
        draft: list[int] = []
        for token_id, likely in zip(guessed[: max(room, 0)], odds, strict=False):
            if likely < step.least_odds or token_id in self.never_ids:
                break
            draft.append(token_id)
            step.add(likely)
        return tuple(draft)
