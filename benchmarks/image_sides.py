"""`python -m benchmarks.image_sides`: what a smaller `max_image_side` saves, and what it costs.

Nano answers questions about pictures larger than the smallest side: pages of manuals, papers printed by a browser, and
drawn charts of unseen layouts, all held out. Each page is asked at all sides in turn, and the time is the process's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tessera.chat import ChatModel
from tessera.llm import LLM
from tessera.messages import Image, Message
from tessera.nano.evaluate import SPARE_TOKENS, result_of, share, trials_in
from tessera.nano.measure.trial import LAYOUTS, REAL_PAGES, RENDERERS, Trial
from tessera.sampling import SamplingParams

SIDES = (512, 640, 768, 1024)
GROUPS = (REAL_PAGES, RENDERERS, LAYOUTS)


@dataclass(frozen=True)
class Answer:
    """A reply at one side: whether it is right, its prompt's tokens, and processor seconds to its first token."""

    trial: Trial
    side: int
    text: str
    prompt_tokens: int
    seconds: float


def large_trials(samples: int) -> Iterator[Trial]:
    """Yield the trials with a picture larger than the smallest side; the others are the same at every side."""
    for group in GROUPS:
        yield from (trial for trial in trials_in(group, samples) if trial.longest_side > min(SIDES))


def answer(model: ChatModel, trial: Trial, side: int) -> Answer:
    pictures = tuple(Image(picture, max_side=side) for picture in trial.pictures)
    params = SamplingParams(max_tokens=2 * len(trial.answer.encode()) + SPARE_TOKENS)
    begun, first = time.process_time(), 0.0
    text, usage = "", None
    for delta in model.stream([Message("user", (*pictures, trial.question))], params):
        first = first or time.process_time() - begun
        text, usage = text + delta.text, delta.usage or usage
    assert usage is not None  # of every whole reply
    return Answer(trial, side, text, usage.prompt_tokens, first)


def table(answers: list[Answer]) -> str:
    lines = ["| side | tokens of a prompt | seconds to the first token | right (95 %) |", "| --- | --- | --- | --- |"]
    for side in SIDES:
        there = [each for each in answers if each.side == side]
        tokens = sum(each.prompt_tokens for each in there) / len(there)
        seconds = sum(each.seconds for each in there) / len(there)
        right = share([result_of(each.trial, each.text) for each in there])
        lines.append(f"| {side} | {tokens:,.0f} | {seconds:.2f} | {right} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", default="nano")
    parser.add_argument("--samples", type=int, default=4, help="as in `tessera nano eval`")
    parser.add_argument("--skip", type=int, default=0, help="trials that are left out, from the first")
    given = parser.parse_args()
    answers: list[Answer] = []
    with LLM(given.model, enable_prefix_caching=False) as model:
        for number, trial in enumerate(list(large_trials(given.samples))[given.skip :], 1):
            answers += [answer(model, trial, side) for side in SIDES]
            if number % 8 == 0:
                print(f"after {number} questions\n{table(answers)}", flush=True)
    print(f"{len(answers) // len(SIDES)} questions about pictures larger than {min(SIDES)} pixels\n\n{table(answers)}")


if __name__ == "__main__":
    main()
