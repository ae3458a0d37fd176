"""How many guessed tokens a request's next step computes beside its last one: as many as pay.

A guess costs a row of the step, and saves a step's share where it is right. So a token is drafted
when its odds are at least what its row costs, both in tokens. Only odds that the request itself has
shown count (`lookup`), nothing is timed: what a request computes does not depend on the machine's
other work. Tensors and the model are unknown here.
"""

from __future__ import annotations

from collections.abc import Iterable

from tessera.engine.config import EngineConfig
from tessera.engine.lookup import Lookup
from tessera.engine.request import Request

# What one more row costs of a step with one row, far less than a step since the weights are read once
# for all rows. On Zen 4: nano 0.16 at a context of 100 tokens and 0.30 at 600; a packed linear of Pixtral's
# width with 3 to 8 rows 0.15 to 0.4, less where memory and not arithmetic is the limit. A number and no
# measurement of the run, so that the same requests always give the same steps.
ROW_COST = 0.3


class Drafter:
    """`never_ids` are not drafted: what is never chosen, pictures' tokens foremost, and where a reply ends."""

    def __init__(self, config: EngineConfig, never_ids: Iterable[int]) -> None:
        self.config = config
        self.never_ids = frozenset(never_ids)

    def least_odds(self, num_rows: int, num_sampled: int) -> float:
        """The odds from which a further row pays, in a step of so many rows that gives so many tokens.

        A step takes 1 + ROW_COST * (num_rows - 1), so a token that long divided by num_sampled.
        Example: one row, one token: 0.3; eight of each: 0.3 / (3.1 / 8) = 0.77.
        """
        return ROW_COST * num_sampled / (1 + ROW_COST * (num_rows - 1))

    def draft(self, request: Request, room: int, least_odds: float) -> tuple[int, ...]:
        """At most `room` tokens to compute after the request's last one."""
        if request.lookup is None:
            request.lookup = Lookup(self.config.prompt_lookup_min, self.config.prompt_lookup_max)
        guessed, odds = request.lookup.guess(request.ids, self.config.num_speculative_tokens)
        # A step gives one token more than are drafted.
        room = min(room, request.max_tokens - request.num_output - 1)
        draft: list[int] = []
        for token_id, likely in zip(guessed[: max(room, 0)], odds, strict=False):
            if likely < least_odds or token_id in self.never_ids:
                break
            draft.append(token_id)
        if draft and request.matcher is not None:
            draft = draft[: request.matcher.count_allowed(draft)]
        return tuple(draft)
