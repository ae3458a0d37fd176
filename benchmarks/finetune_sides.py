"""The program that trains a LoRA adapter for `benchmarks.finetune`: with Tessera, or with peft over transformers.

Each line of JSON on standard input is a request, answered by one line of JSON on standard output. Both sides have the
same random weights, the same beginning of the adapter (its B is 0) and the same samples; both keep the adapter's
float32 numbers and step them by AdamW at one rate. With one thread, seconds are the processor's: other programs on the
machine disturb wall times.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from tessera.bench.peer import WIDTHS, peer_of, random_model
from tessera.finetune.lean import lean_blocks
from tessera.finetune.loss import checkpoint_blocks, mark
from tessera.finetune.packing import packs
from tessera.finetune.samples import Sample
from tessera.finetune.settings import Settings
from tessera.finetune.trained import new_adapter, quantize_base
from tessera.lora.attach import attach
from tessera.lora.peft import write_peft
from tessera.machine import peak_bytes, reset_peak
from tessera.model.config import ModelConfig
from tessera.training.loop import training_steps
from tessera.training.optimizer import MasterOptimizer, ParameterGroup

SETTINGS = Settings(targets=("decoder",))
RATE, CLIP_NORM, BETAS = 2e-4, 1.0, (0.9, 0.999)
IGNORED = -100


def shape_of(layers: int, vocab_size: int) -> ModelConfig:
    """Return Pixtral 12B's widths with few decoder layers; no image is trained on, so one of vision."""
    return dataclasses.replace(
        WIDTHS,
        n_layers=layers,
        vocab_size=vocab_size,
        vision_encoder=dataclasses.replace(WIDTHS.vision_encoder, num_hidden_layers=1),
    )


def samples_of(lengths: Sequence[int], share: float, vocab_size: int) -> list[Sample]:
    """Make random samples whose last part, `share` of each, is labelled."""
    dice = torch.Generator().manual_seed(1)
    made = []
    for number, length in enumerate(lengths):
        ids = torch.randint(1000, vocab_size, (length,), generator=dice).tolist()
        labelled = max(1, round(length * share))
        made.append(Sample(f"row {number}", "random", array("i", ids), bytes(length - labelled) + b"\1" * labelled))
    return made


class Trainer(Protocol):
    """The requests that each side answers."""

    def step(self, lengths: list[int], share: float) -> float:
        """Train one step and return its loss."""
        ...


class Tessera:
    """As `tessera finetune` trains."""

    def __init__(self, config: ModelConfig, options: argparse.Namespace) -> None:
        self.model = random_model(config)
        if options.bits:
            quantize_base(self.model, options.bits)
        attach(self.model, new_adapter(config, SETTINGS, ""), trainable=True)
        lean_blocks(self.model)
        if options.recompute:
            checkpoint_blocks(self.model)
        trained = {name: each for name, each in self.model.named_parameters() if each.requires_grad}
        self.optimizer = MasterOptimizer([ParameterGroup("all", {}, trained)], clip_norm=CLIP_NORM, betas=BETAS)
        self.pass_tokens = options.pass_tokens

    def step(self, lengths: list[int], share: float) -> float:
        samples = samples_of(lengths, share, self.model.config.vocab_size)
        batch = packs(samples, self.pass_tokens)
        (record,) = training_steps(
            self.optimizer, [batch], lambda pack: mark(self.model, pack, []), lambda step: {"all": RATE}
        )
        return sum(part.total for part in record.marks) / sum(part.labelled for part in record.marks)


class Peft:
    """peft's model in a plain loop: one sample at a time, without padding, the mean over all labelled tokens."""

    def __init__(self, config: ModelConfig, options: argparse.Namespace) -> None:
        from peft import PeftModel

        with tempfile.TemporaryDirectory() as folder:
            write_peft(new_adapter(config, SETTINGS, ""), Path(folder) / "adapter", config)
            base = peer_of(random_model(config))
            if options.float32:
                base.float()
            base.requires_grad_(False)
            self.model: Any = PeftModel.from_pretrained(base, Path(folder) / "adapter", is_trainable=True)
        if options.recompute:
            self.model.enable_input_require_grads()
            base.gradient_checkpointing_enable({"use_reentrant": False})
        self.model.train()
        self.vocab_size = config.vocab_size
        self.trained = [each for each in self.model.parameters() if each.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=RATE, betas=BETAS, weight_decay=0.0, fused=True)

    def step(self, lengths: list[int], share: float) -> float:
        samples = samples_of(lengths, share, self.vocab_size)
        labelled = sum(sample.labelled for sample in samples)
        total = 0.0
        for sample in samples:
            ids = torch.tensor([list(sample.ids)])
            labels = torch.where(torch.tensor([list(sample.labels)]) == 1, ids, IGNORED)
            loss = self.model(input_ids=ids, labels=labels, num_items_in_batch=torch.tensor(labelled)).loss
            loss.backward()
            total += float(loss.detach())
        nn.utils.clip_grad_norm_(self.trained, CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total


SIDES: dict[str, Callable[..., Trainer]] = {"tessera": Tessera, "peft": Peft}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetune_sides", description=__doc__)
    parser.add_argument("program", choices=SIDES)
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--vocab-size", type=int, required=True)
    parser.add_argument("--bits", type=int, default=0, help="round the frozen decoder")
    parser.add_argument("--recompute", action="store_true", help="keep only what enters each layer")
    parser.add_argument("--float32", action="store_true", help="peft's frozen weights in float32")
    parser.add_argument("--pass-tokens", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    side = SIDES[options.program](shape_of(options.layers, options.vocab_size), options)
    loaded = reset_peak()
    clock = time.process_time if options.threads == 1 else time.perf_counter
    for line in sys.stdin:
        request = json.loads(line)
        assert request.pop("do") == "step"
        start = clock()
        loss = side.step(**request)
        seconds = clock() - start
        print(json.dumps({"seconds": seconds, "loss": loss, "peak": peak_bytes(), "loaded": loaded}), flush=True)


if __name__ == "__main__":
    main()
