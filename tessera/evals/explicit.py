"""What the tasks with explicit prompts share: step-by-step reasoning, then `Final Answer: X`, read at four levels."""

from __future__ import annotations

from collections.abc import Sequence

from tessera.evals.levels import LEVELS, right_by_level
from tessera.sampling import SamplingParams

PARAMS = SamplingParams(temperature=0.0, max_tokens=2048)
STEPS = """Analyze the image and question carefully, using step-by-step reasoning.
First, describe any image provided in detail. Then, present your reasoning. And finally your final answer in this \
format:
Final Answer: <answer>
"""
CHOICE_OR_VALUE = (
    STEPS
    + """where <answer> is:
- The single correct letter choice A, B, C, D, E, F, etc. when options are provided. Only include the letter.
- Your direct answer if no options are given, as a single phrase or number.
- If your answer is a number, only include the number without any unit.
- If your answer is a word or phrase, do not paraphrase or reformat the text you see in the image.
- You cannot answer that the question is unanswerable. You must either pick an option or provide a direct answer.
IMPORTANT: Remember, to end your answer with Final Answer: <answer>."""
)
LEVEL_NAMES = {
    "level 0": "the reply ends with `Final Answer: X`, as the paper's tables want it",
    "level 1": "also a plain `Answer: X`",
    "level 2": "also one in bold or italics; mistral-evals' explicit metric",
    "level 3": "the right answer anywhere in a reply without any of these: an upper bound, no score",
}


def level_scores(reply: str, answers: Sequence[str]) -> dict[str, float]:
    """Return the points of each level by its name."""
    right = right_by_level(reply, answers)
    return {f"level {level}": float(right[level]) for level in LEVELS}
