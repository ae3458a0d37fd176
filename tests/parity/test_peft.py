"""peft itself over transformers: adapters that it wrote are computed with here, and ours are loaded by it.

The bound is the issue's, 1e-5, in float32. It needs peft (0.21 was used).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tessera.lora.adapter import LoraAdapter, LowRank
from tessera.lora.attach import attach
from tessera.lora.files import read_adapter
from tessera.lora.peft import write_peft
from tessera.model.attention import DensePlan
from tessera.weights.fill import linear_shapes
from tests.parity.oracle import Pair, make_pair

pytestmark = pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed; it is in the dev extra")

BOUND = 1e-5
GRIDS = [(3, 5), (2, 2)]
VISION = r".*vision_tower.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "all linears": {"target_modules": "all-linear", "r": 4, "lora_alpha": 8},
    "decoder": {"target_modules": r".*language_model.*\.(q_proj|k_proj|down_proj)", "r": 3, "lora_alpha": 7},
    "vision": {"target_modules": VISION, "r": 4, "lora_alpha": 4},
    "projector": {"target_modules": ["linear_1", "linear_2"], "r": 2, "lora_alpha": 16},
    "head": {"target_modules": ["lm_head", "v_proj"], "r": 4, "lora_alpha": 8},
    "rank-stabilized": {"target_modules": "all-linear", "r": 4, "lora_alpha": 8, "use_rslora": True},
    "patterns": {
        "target_modules": "all-linear", "r": 4, "lora_alpha": 8,
        "rank_pattern": {"q_proj": 2, r"^model\.language_model\.layers\.1\.mlp\.up_proj": 6, "linear_1": 3},
        "alpha_pattern": {"k_proj": 3, "q_proj": 5, "linear_2": 1.5},
    },
}  # fmt: skip


def our_logits(pair: Pair, ids: Tensor, pixels: list[Tensor]) -> Tensor:
    return pair.ours.logits(pair.ours(pair.ours.embed(ids, pair.ours.encode_images(pixels)), DensePlan([len(ids)])))


def their_logits(pair: Pair, model: Any, ids: Tensor, pixels: list[Tensor]) -> Tensor:
    logits: Tensor = model(input_ids=ids[None], **pair.their_pixels(pixels)).logits[0]
    return logits


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_what_peft_wrote_is_computed_here(tmp_path: Path, name: str) -> None:
    pair = make_pair(tmp_path / "base")
    ids, pixels = pair.prompt(GRIDS, [50, 51, 52, 4]), pair.pixels(GRIDS, seed=1)
    before = our_logits(pair, ids, pixels)
    from peft import LoraConfig, get_peft_model

    theirs = get_peft_model(pair.theirs, LoraConfig(**CONFIGS[name])).eval()
    for parameter_name, parameter in theirs.named_parameters():
        if ".lora_" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.1)
    theirs.save_pretrained(tmp_path / "adapter")
    wanted = their_logits(pair, theirs, ids, pixels)
    assert (wanted - before).abs().max() > 100 * BOUND
    attach(pair.ours, read_adapter(tmp_path / "adapter", pair.ours.config))
    assert (our_logits(pair, ids, pixels) - wanted).abs().max() < BOUND


@torch.no_grad()
def test_peft_loads_what_was_written_here(tmp_path: Path) -> None:
    """Ranks and scales differ by module; written, they are one."""
    pair = make_pair(tmp_path / "base")
    ids, pixels = pair.prompt(GRIDS, [50, 51, 52, 4]), pair.pixels(GRIDS, seed=1)
    dice = torch.Generator().manual_seed(5)
    modules = {}
    for number, (name, (rows, columns)) in enumerate(linear_shapes(pair.ours.config).items()):
        rank = 2 + number % 3
        a_RK, b_NR = (torch.randn(*size, generator=dice) * 0.1 for size in ((rank, columns), (rows, rank)))
        modules[name] = LowRank(a_RK, b_NR, 0.5 + number % 4)
    adapter = LoraAdapter.of(modules, pair.ours.config, "here")
    before = their_logits(pair, pair.theirs, ids, pixels)
    attach(pair.ours, adapter)
    wanted = our_logits(pair, ids, pixels)
    write_peft(adapter, tmp_path / "adapter", pair.ours.config)
    from peft import PeftModel

    theirs = PeftModel.from_pretrained(pair.theirs, tmp_path / "adapter").eval()
    assert sum(".lora_A." in each for each, _ in theirs.named_parameters()) == len(modules)
    assert (their_logits(pair, theirs, ids, pixels) - wanted).abs().max() < BOUND
    assert (wanted - before).abs().max() > 100 * BOUND
