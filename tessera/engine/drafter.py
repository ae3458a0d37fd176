"""How many guessed tokens a request's next step computes beside its last one: as many as pay.

A guess costs a row of the step, and saves a step's share where it is right. So a token is drafted
when its odds are at least what its row costs, both in tokens. Only odds that the request itself has
shown count (`lookup`), nothing is timed: what a request computes does not depend on the machine's
other work. Tensors and the model are unknown here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tessera.engine.config import EngineConfig
from tessera.engine.lookup import Lookup
from tessera.engine.request import Request

# What one more row costs of a step with one row, far less than a step since the weights are read once for all rows.
# Measured with 2 to 16 rows at contexts of 600 and 4096 tokens, Pixtral's widths on Zen 4: 0.06 to 0.16 at 4 bits, 0 to
# 0.10 at 8 bits and in bfloat16; nano 0.02 to 0.06 and the choice of each token. Played through on texts of twelve
# kinds, this number gives at most 3 % less than the best for any true cost from 0.05 to 0.3. It is no measurement of
# the run, so that the same requests always give the same steps.
ROW_COST = 0.15


@dataclass
class Step:
    """What a step is known to cost and to give before a further row is added: its rows, and the tokens it may give."""

    rows: int
    tokens: float

    @property
    def least_odds(self) -> float:
        """The odds from which a further row pays: what it costs, in tokens.

        A step takes 1 + ROW_COST * (rows - 1), so a token that long divided by the tokens.
        Example: one row, one token: 0.15; eight of each: 0.15 * 8 / 2.05 = 0.59.
        """
        return ROW_COST * self.tokens / (1 + ROW_COST * (self.rows - 1))

    def add(self, odds: float) -> None:
        """A row whose token is right with these odds."""
        self.rows += 1
        self.tokens += odds


class Drafter:
    """`never_ids` are not drafted: what is never chosen, pictures' tokens foremost, and where a reply ends."""

    def __init__(self, config: EngineConfig, never_ids: Iterable[int]) -> None:
        self.config = config
        self.never_ids = frozenset(never_ids)

    def draft(self, request: Request, room: int, step: Step) -> tuple[int, ...]:
        """At most `room` tokens to compute after the request's last one, in this step; it notes their rows."""
        if request.lookup is None:
            request.lookup = Lookup(self.config.prompt_lookup_min, self.config.prompt_lookup_max)
        guessed, odds = request.lookup.guess(request.ids, self.config.num_speculative_tokens)
        # A step gives one token more than are drafted.
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
