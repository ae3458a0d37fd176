"""What a run would be, before it starts: counts, memory, hours, and samples with what is trained marked."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import torch

from tessera.finetune.memory import Estimate
from tessera.finetune.packing import Order
from tessera.finetune.samples import Picture, Sample, Samples
from tessera.finetune.settings import Settings
from tessera.kernels.wide_linear import product
from tessera.model.config import ModelConfig
from tessera.prompt import Tokenizer
from tessera.weights.fill import empty_model

OPEN, CLOSE = "⟦", "⟧"  # around what is trained
SHOWN, MAX_SHOWN = 3, 600  # samples, and characters of each
MAX_PROBLEMS = 20
EFFICIENCY = 0.4  # of the rate of large products; small models reach less
RATE_SIDE = 1024


def order_of(found: Samples, settings: Settings, replay: Samples | None = None) -> Order:
    """Return the order of the run that would be."""
    replayed = len(replay.samples) if replay else 0
    return Order(max(1, len(found.samples)), settings.step_samples, settings.seed, replayed, settings.replay_share)


def counts(found: Samples, settings: Settings, replay: Samples | None = None) -> dict[str, int]:
    """Return what the dry run reports of the data."""
    samples, order = found.samples, order_of(found, settings, replay)
    kinds = Counter("images" if sample.images else "text" for sample in samples)
    return {
        "rows": found.counts["rows"],
        "samples": len(samples),
        "with_images": kinds["images"],
        "text_only": kinds["text"],
        "images": sum(len(sample.images) for sample in samples),
        "tokens": sum(map(len, samples)),
        "trained_tokens": sum(sample.labelled for sample in samples),
        "longest": max(map(len, samples), default=0),
        "split": found.counts["split"],
        "shrunk": found.counts["shrunk"],
        "dropped": found.counts["dropped"],
        "bad": len(found.problems),
        "steps": settings.epochs * order.steps_per_epoch,
        **({"replayed": settings.epochs * order.steps_per_epoch * order.replays} if order.replays else {}),
    }


def largest_pass(samples: Sequence[Sample], settings: Settings, config: ModelConfig) -> tuple[int, int]:
    """Return the most tokens and image patches that one pass may have."""
    merge = config.vision_encoder.spatial_merge_size**2
    longest = max(map(len, samples), default=0)
    patches = max((sum(map(_tokens, sample.images)) * merge for sample in samples), default=0)
    largest = min(max(longest, settings.pass_tokens), sum(map(len, samples)))
    share = max((sum(map(_tokens, sample.images)) / len(sample) for sample in samples), default=0)
    return largest, max(patches, round(share * largest * merge))


def hours(samples: Sequence[Sample], settings: Settings, config: ModelConfig, rate: float) -> float:
    """Return the least time of all products at `rate` operations per second."""
    sizes: Counter[str] = Counter()
    for name, parameter in empty_model(config).named_parameters():
        part = "vision" if name.startswith("vision_encoder.") else "text"
        sizes[part] += 0 if name.startswith("tok_embeddings.") else parameter.numel()
    # Forward, again for the gradient, the inputs' gradient, and the weights' own when all are trained.
    passes = 4 if settings.full else 3
    merge = config.vision_encoder.spatial_merge_size**2
    patches = sum(_tokens(picture) * merge for sample in samples for picture in sample.images)
    work = 2 * sizes["text"] * sum(map(len, samples)) * passes * settings.epochs
    work += 2 * sizes["vision"] * patches * (passes * settings.epochs if settings.train_vision else 1)
    return work / rate / EFFICIENCY / 3600


def hours_with_replay(
    found: Samples, replay: Samples | None, settings: Settings, config: ModelConfig, rate: float
) -> float:
    """Return `hours` of a run, with those of the replayed samples, which a run may pass often or not all."""
    own = hours(found.samples, settings, config, rate)
    if replay is None:
        return own
    order = order_of(found, settings, replay)
    turns = order.steps_per_epoch * order.replays / len(replay.samples)
    return own + turns * hours(replay.samples, settings, config, rate)


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure operations per second of a large product on a device."""
    left = torch.randn(RATE_SIDE, RATE_SIDE, device=device).to(dtype)
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        product(left, left)[0, 0].item()
        seconds.append(time.perf_counter() - began)
    return 2 * RATE_SIDE**3 / min(seconds)


def shown(sample: Sample, tokenizer: Tokenizer, config: ModelConfig) -> str:
    """Return a sample as text: each image as its grid, control tokens by name, what is trained in brackets."""
    vision = config.vision_encoder
    parts: list[str] = []
    run: list[int] = []
    images, inside, trained = iter(sample.images), False, 0

    def flush() -> None:
        parts.append(tokenizer.decode(run))
        run.clear()

    for token, label in zip(sample.ids, sample.labels, strict=True):
        if label != trained:
            flush()
            parts.append(OPEN if label else CLOSE)
            trained = label
        is_image = token in (vision.image_token_id, vision.image_break_token_id, vision.image_end_token_id)
        if is_image:
            if not inside:
                flush()
                parts.append(_named(next(images)))
            inside = token != vision.image_end_token_id
        elif token in tokenizer.special_ids:
            flush()
            parts.append(tokenizer.token_text(token))
        else:
            run.append(token)
    flush()
    text = "".join(parts) + (CLOSE if trained else "")
    half = MAX_SHOWN // 2
    return text if len(text) <= MAX_SHOWN else f"{text[:half]} [...] {text[-half:]}"


def report(
    found: Samples, settings: Settings, config: ModelConfig, tokenizer: Tokenizer, memory: Estimate, time_h: float,
    *, replay: Samples | None = None,
) -> str:  # fmt: skip
    """Return the dry run's report."""
    values = counts(found, settings, replay)
    width = max(map(len, values))
    lines = [f"{name.replace('_', ' '):{width}}  {value:,}" for name, value in values.items()]
    lines += [f"{'memory':{width}}  about {memory}", f"{'time':{width}}  at least {_span(time_h)}"]
    for sample in found.samples[:SHOWN]:
        lines += ["", f"{sample.place} ({len(sample):,} tokens, {sample.labelled:,} trained, marked {OPEN} {CLOSE}):"]
        lines += [shown(sample, tokenizer, config)]
    return "\n".join(lines)


def problems(found: Samples) -> list[str]:
    """Return the first problems, one a line, and how many more there are."""
    lines = [f"{problem.place}: {problem.text} [{problem.code}]" for problem in found.problems[:MAX_PROBLEMS]]
    more = len(found.problems) - MAX_PROBLEMS
    return [*lines, f"and {more:,} more"] if more > 0 else lines


def _span(time_h: float) -> str:
    return f"{time_h * 60:.1f} minutes" if time_h < 1 else f"{time_h:.1f} hours"


def _tokens(picture: Picture) -> int:
    return picture.grid[0] * picture.grid[1]


def _named(picture: Picture) -> str:
    rows, columns = picture.grid
    name = str(picture.source).replace("\\", "/").rpartition("/")[2]
    return f"[image {name[:40]} {columns}x{rows}{' shrunk' if picture.shrunk else ''}]"
