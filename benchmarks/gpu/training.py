"""A QLoRA step at Pixtral 12B's true shapes: its time, tokens a second, and peak memory beside the estimate.

Random 4-bit weights, rank 16 on decoder and adapter, text in four stretches, a quarter of it trained.
"""

from __future__ import annotations

import time
from array import array

import torch

from benchmarks.gpu.drive import text_prompt
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.table import Row
from benchmarks.gpu.weights import quantize_layers
from tessera.bench.peer import random_model
from tessera.finetune.loss import checkpoint_blocks, mark
from tessera.finetune.memory import GB, estimate
from tessera.finetune.packing import packs
from tessera.finetune.samples import Sample
from tessera.finetune.settings import Settings
from tessera.finetune.trained import new_adapter
from tessera.lora.attach import attach
from tessera.training.loop import training_steps
from tessera.training.optimizer import MasterOptimizer, ParameterGroup

STRETCHES, STEPS = 4, 4  # of the steps the first is not timed


def qlora_line(device: torch.device, sizes: Sizes, deadline_s: float) -> str:
    """Measure the step and return its row of the table, or one that says why it failed."""
    name = f"QLoRA step, {sizes.prefills[0]:,} tokens in {STRETCHES} stretches, int4"
    try:
        if time.perf_counter() > deadline_s:
            raise TimeoutError("no time left")
        return str(_measure(name, device, sizes))
    except Exception as error:  # the other rows stand
        said = f"{type(error).__name__}: {error}".split("\n", 1)[0][:160].replace("|", "/")
        return str(Row(name, notes=(f"ours FAILED: {said}",)))


def _measure(name: str, device: torch.device, sizes: Sizes) -> Row:
    config, settings = sizes.config, Settings(qlora=4)
    with torch.no_grad():
        model = random_model(config, str(device))
        quantize_layers(model, "int4")
    attach(model, new_adapter(config, settings, "random"), trainable=True)
    checkpoint_blocks(model)
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    optimizer = MasterOptimizer([ParameterGroup("adapter", {}, trained)])
    length = sizes.prefills[0] // STRETCHES
    labels = bytes(length - length // 4) + b"\1" * (length // 4)
    samples = [
        Sample("", "random", array("i", text_prompt(length, seed, config).ids), labels) for seed in range(STRETCHES)
    ]
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    batches = [packs(samples, sizes.prefills[0])] * STEPS
    ends = []
    for _ in training_steps(optimizer, batches, lambda pack: mark(model, pack, ()), lambda step: {"adapter": 1e-4}):
        if on_gpu:
            torch.cuda.synchronize(device)
        ends.append(time.perf_counter())
    step_s = (ends[-1] - ends[0]) / (STEPS - 1)
    found = estimate(config, settings, model.dtype, device, length * STRETCHES, 0)
    expected = found.weights + found.trained + found.kept + found.layer + found.logits  # the runtime is not torch's
    peak = f"peak {torch.cuda.max_memory_allocated(device) / GB:.2f} GB" if on_gpu else "peak not measured"
    speed = f"{length * STRETCHES / step_s:,.0f} tokens/s"
    return Row(name, step_s, notes=(speed, f"{peak}, estimated {expected / GB:.2f} GB"))
