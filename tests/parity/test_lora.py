"""Our adapters against transformers: its weights plus scale * B @ A, in its own order of rows, float32.

peft's own arithmetic is W x + scale * B (A x); transformers with the changed weights is the same up to rounding.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tessera.lora.attach import attach
from tessera.lora.files import read_adapter
from tessera.lora.merge import merge
from tessera.lora.peft import write_peft
from tessera.model.attention import DensePlan
from tessera.weights.checkpoint import open_checkpoint
from tessera.weights.fill import empty_model, fill_model
from tests.lora.adapters import live_paths, random_pairs, write_peft_folder
from tests.parity.oracle import Pair, make_pair
from tests.weights.checkpoints import write_tokenizer

BOUND = 1e-5  # measured: 2.7e-6, on logits of 2; the adapter changes them by more than 0.01
GRIDS = [(3, 5), (2, 2)]


def our_logits(pair: Pair, ids: Tensor, pixels: list[Tensor]) -> Tensor:
    return pair.ours.logits(pair.ours(pair.ours.embed(ids, pair.ours.encode_images(pixels)), DensePlan([len(ids)])))


def their_logits(pair: Pair, ids: Tensor, pixels: list[Tensor]) -> Tensor:
    logits: Tensor = pair.theirs(input_ids=ids[None], **pair.their_pixels(pixels)).logits[0]
    return logits


@torch.no_grad()
@pytest.mark.parametrize("parts", [".", "language_model", "vision_tower", "multi_modal_projector"])
def test_logits_equal_those_of_the_changed_weights(tmp_path: Path, parts: str) -> None:
    pair = make_pair(tmp_path / "base")
    ids, pixels = pair.prompt(GRIDS, [50, 51, 52, 4]), pair.pixels(GRIDS, seed=1)
    shapes = {path: shape for path, shape in live_paths(pair.ours.config).items() if parts in path}
    linears = {
        path: tuple(module.weight.shape)
        for path, module in pair.theirs.named_modules()
        if isinstance(module, torch.nn.Linear) and parts in path and path != "lm_head"
    }
    assert shapes == linears, "the paths are those of the live model"
    folder = write_peft_folder(tmp_path / "adapter", random_pairs(shapes))
    before = their_logits(pair, ids, pixels)
    assert (our_logits(pair, ids, pixels) - before).abs().max() < BOUND

    adapter = read_adapter(folder, pair.ours.config)
    attach(pair.ours, adapter)
    for path, (a_RK, b_NR) in random_pairs(shapes).items():
        pair.theirs.get_submodule(path).weight += 2.0 * b_NR @ a_RK  # alpha 8, rank 4
    after = their_logits(pair, ids, pixels)
    assert (our_logits(pair, ids, pixels) - after).abs().max() < BOUND
    assert (after - before).abs().max() > 1000 * BOUND

    write_peft(adapter, tmp_path / "again", pair.ours.config)
    old, new = (load_file(each / "adapter_model.safetensors") for each in (folder, tmp_path / "again"))
    assert old.keys() == new.keys()
    assert all(torch.equal(old[key], new[key]) for key in old)


@torch.no_grad()
def test_a_merged_model_is_what_transformers_computes(tmp_path: Path) -> None:
    from transformers import LlavaForConditionalGeneration

    pair = make_pair(tmp_path / "base", TEXT_vocab_size=1280)
    write_tokenizer(tmp_path / "base" / "tekken.json")
    ids, pixels = pair.prompt(GRIDS, [50, 51, 52, 4]), pair.pixels(GRIDS, seed=1)
    folder = write_peft_folder(tmp_path / "adapter", random_pairs(live_paths(pair.ours.config)))
    attach(pair.ours, read_adapter(folder, pair.ours.config))
    beside = our_logits(pair, ids, pixels)
    for into in ("hf", "mistral"):
        merged = merge(folder, tmp_path / "base", tmp_path / into, into)
        assert merged.counts == "decoder 21/21, vision 21/21, adapter 2/2"
    pair.theirs = LlavaForConditionalGeneration.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    assert (their_logits(pair, ids, pixels) - beside).abs().max() < BOUND
    checkpoint = open_checkpoint(tmp_path / "mistral")
    pair.ours = empty_model(checkpoint.config)
    fill_model(pair.ours, checkpoint.sources, dtype=torch.float32, device=torch.device("cpu"))
    assert (our_logits(pair, ids, pixels) - beside).abs().max() < BOUND
