"""`tessera info`: a model's facts, from its headers only."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from tessera.load import ModelSummary, describe, resolve


def run_info(model: str, mmproj: Path | None, *, as_json: bool) -> None:
    summary = describe(resolve(model), mmproj)
    if as_json:
        print(json.dumps(asdict(summary)))
        return
    for name, value in _rows(summary):
        print(f"{name:<14}{value}")
    for note in summary.notes:
        print(f"{'note':<14}{note}")


def _rows(summary: ModelSummary) -> list[tuple[str, str]]:
    cache = summary.kv_bytes_per_token * summary.max_seq_len
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
        ("stored as", f"{summary.dtype}, {summary.stored_bytes / 1e9:.2f} GB"),
        ("context", f"{summary.max_seq_len:,} tokens; the largest picture takes {summary.largest_image_tokens:,}"),
        (
            "to run",
            f"{summary.weight_bytes / 1e9:.2f} GB for weights, {summary.kv_bytes_per_token / 1024:.1f} KiB a token of "
            f"KV cache ({cache / 1e9:.2f} GB at full context)",
        ),
    ]
