"""`tessera info`: a model's facts, from its headers only."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from tessera.load import find_model
from tessera.summary import ModelSummary, describe


def run_info(model: str, mmproj: Path | None, *, as_json: bool) -> None:
    summary = describe(find_model(model), mmproj)
    if as_json:
        print(json.dumps(asdict(summary)))
        return
    for name, value in _rows(summary):
        print(f"{name:<14}{value}")
    for note in summary.notes:
        print(f"{'note':<14}{note}")


def _rows(summary: ModelSummary) -> list[tuple[str, str]]:
    return [
        ("model", summary.name),
        ("family", summary.family),
        ("layout", summary.layout),
        ("tokenizer", summary.tokenizer),
        (
            "parameters",
            f"{summary.parameters:,} (decoder {summary.decoder_parameters:,}, "
            f"vision {summary.vision_parameters:,}, adapter {summary.adapter_parameters:,})",
        ),
        ("stored as", f"{_precisions(summary)}, {summary.stored_bytes / 1e9:.2f} GB"),
        ("context", f"{summary.max_seq_len:,} tokens; the largest image takes {summary.largest_image_tokens:,}"),
        ("to run", f"{summary.weight_bytes / 1e9:.2f} GB for weights, and the KV cache"),
        (
            "KV cache",
            f"{_cache(summary.kv_bytes_per_token, summary)}; with --kv-cache-dtype int8 "
            f"{_cache(summary.kv_bytes_per_token_int8, summary)}",
        ),
    ]


def _precisions(summary: ModelSummary) -> str:
    """Example: "int4 (280 linears), int8 (1 linear), bfloat16 (the rest)"."""
    if not summary.quantized:
        return summary.dtype
    counts = (f"{scheme} ({count} linear{'s' * (count > 1)})" for scheme, count in summary.quantized.items())
    return f"{', '.join(counts)}, {summary.dtype} (the rest)"


def _cache(token_bytes: int, summary: ModelSummary) -> str:
    full = token_bytes * summary.max_seq_len
    return f"{token_bytes / 1024:.1f} KiB a token, {full / 1e9:.2f} GB at full context"
