"""`truncation: auto` of /v1/responses: drop the oldest turns of a conversation that is too long.

A turn begins with a user message, so that calls keep their results. System messages stay,
and so does the last turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tessera.errors import PromptTooLongError, TooManyImagesError
from tessera.messages import Message
from tessera.prompt import Prompt


def longest_that_fits(
    messages: Sequence[Message], prepare: Callable[[Sequence[Message]], Prompt], max_tokens: int
) -> Prompt:
    """Return the longest prompt that fits; raises as `prepare` does if the last turn alone does not."""
    starts = [index for index, message in enumerate(messages) if message.role == "user"] or [0]

    def attempt(number: int) -> Prompt | None:
        try:
            prompt = prepare(_from(messages, starts[number] if number else 0))
        except (PromptTooLongError, TooManyImagesError):
            return None
        return prompt if len(prompt.ids) <= max_tokens else None

    if (whole := attempt(0)) is not None:
        return whole
    best: Prompt | None = None
    too_few, enough = 0, len(starts)  # turns dropped
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if (prompt := attempt(middle)) is None:
            too_few = middle
        else:
            best, enough = prompt, middle
    return prepare(_from(messages, starts[-1])) if best is None else best


def _from(messages: Sequence[Message], start: int) -> list[Message]:
    return [message for index, message in enumerate(messages) if index >= start or message.role == "system"]
