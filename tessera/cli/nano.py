"""`tessera nano`: draw, train and evaluate the small model that ships."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path


def run_draw(out: Path, count: int, seed: int, difficulty: float) -> None:
    from tessera.nano.synthesize import draw

    out.mkdir(parents=True, exist_ok=True)
    with (out / "labels.jsonl").open("w", encoding="utf-8") as labels:
        for number in range(seed, seed + count):
            sample = draw(number, difficulty)
            name = f"{number:08}.png"
            sample.image.save(out / name)
            label = {"image": name, "skill": sample.skill, "question": sample.question, "answer": sample.answer}
            labels.write(json.dumps(label, ensure_ascii=False) + "\n")
    print(out)


def run_train(out: Path, steps: int | None, workers: int, processes: int, device: str) -> None:
    from tessera.nano.recipe import Recipe
    from tessera.nano.train import train

    recipe = Recipe() if steps is None else replace(Recipe(), cycle_ends=(steps,))
    train(out, recipe, device=device, workers=workers, processes=processes, log=_log)
    print(out)


def _log(line: str) -> None:
    # A function of the module, because training in several processes sends it to them.
    print(line, file=sys.stderr, flush=True)


def run_eval(model: str, samples: int, kv_cache_dtype: str) -> None:
    from tessera.llm import LLM
    from tessera.nano.evaluate import evaluate, table

    scores = []
    with LLM(model, kv_cache_dtype=kv_cache_dtype) as llm:
        for score in evaluate(llm, samples):
            print(f"{score.skill}, {score.style}: {score.exact} of {score.samples} exact", file=sys.stderr)
            scores.append(score)
    print(table(scores))
