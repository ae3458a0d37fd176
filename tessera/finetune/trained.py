"""What a run trains: an adapter's matrices or the model's own weights, in groups that share a learning rate.

Trained weights compute in the model's dtype; the optimizer keeps them in float32.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tessera.errors import TesseraError, UsageError
from tessera.finetune.settings import Settings
from tessera.linears.quantized import QuantizedLinear, place
from tessera.linears.replace import innermost
from tessera.load import LoadedModel
from tessera.lora.adapter import LoraAdapter, LowRank, part_of
from tessera.lora.attach import attach, attached
from tessera.lora.names import live_path
from tessera.lora.peft import CONFIG, write_peft
from tessera.model.config import ModelConfig
from tessera.model.pixtral import Pixtral
from tessera.quantize.plan import Options, schemes_of
from tessera.quantize.rounding import round_to
from tessera.training.optimizer import ParameterGroup, learning_rate_at
from tessera.weights.checkpoint import Checkpoint
from tessera.weights.fill import linear_shapes
from tessera.weights.write import Writer, write_files

FLOOR = 0.1  # of the peak rate, at the end
PARAMS = "params.json"
MARKS = (CONFIG, PARAMS)  # files by which a folder is known as an adapter or a model
VISION = "vision_encoder."
# Parts with a rate of their own, by the beginnings of their parameters' names; the decoder is the rest.
PARTS = {"vision": (VISION,), "adapter": ("vision_language_adapter.", "pre_mm_projector_norm.", "patch_merger.")}


def quantize_base(model: Pixtral, bits: int) -> None:
    """Round the decoder's linears of a plain model to `bits`, one after the other; quantized ones stay."""
    for name, scheme in schemes_of(model.config, Options(bits=str(bits), head="16")).items():
        linear = model.get_submodule(name)
        if not isinstance(innermost(linear), QuantizedLinear):
            place(model, name, round_to(scheme, linear.get_parameter("weight").detach()).to(model.device))


def new_adapter(config: ModelConfig, settings: Settings, base: str) -> LoraAdapter:
    """Make the adapter that changes nothing yet: B is 0, and A is drawn from the seed."""
    dice = torch.Generator().manual_seed(settings.seed)
    modules = {}
    for name in chosen_linears(config, settings):
        rows, columns = linear_shapes(config)[name]
        a_RK = (torch.rand(settings.rank, columns, generator=dice) * 2 - 1) * columns**-0.5
        modules[name] = LowRank(a_RK, torch.zeros(rows, settings.rank), settings.alpha / settings.rank)
    return LoraAdapter.of(modules, config, "the new adapter", base=base)


def chosen_linears(config: ModelConfig, settings: Settings) -> list[str]:
    """Return the linears to adapt: by ends of their names, ours or transformers', or by the parts that are trained."""
    names = list(linear_shapes(config))
    if not settings.targets:
        parts = ("decoder", "adapter", *(["vision"] if settings.train_vision else []))
        return [name for name in names if part_of(name) in parts]
    chosen = []
    for target in settings.targets:
        found = [name for name in names if _meant(name, target)]
        if not found:
            raise UsageError(
                f"no linear's name ends with {target!r}; examples are {names[0]} and {live_path(names[0])}."
            )
        chosen += [name for name in found if settings.train_vision or part_of(name) != "vision"]
    if not chosen:
        raise UsageError("the targets are all in the vision encoder; add train_vision.")
    return [name for name in names if name in chosen]


def _meant(name: str, target: str) -> bool:
    """Return True if a target is the linear's part, or the end of its name, ours or transformers'."""
    return part_of(name) == target or any(f".{each}".endswith(f".{target}") for each in (name, live_path(name)))


class Trained:
    """The trained part of a loaded model: its parameters, their rates, and the files that it becomes."""

    def __init__(self, loaded: LoadedModel, checkpoint: Checkpoint, settings: Settings) -> None:
        self.model, self.config, self.settings = loaded.model, loaded.config, settings
        self.base, self.checkpoint = loaded.name, checkpoint
        self.model.requires_grad_(False)
        if settings.full:
            if any(isinstance(innermost(module), QuantizedLinear) for module in self.model.modules()):
                raise UsageError(f"{self.base} is quantized, and full training needs plain weights; train an adapter.")
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(settings.train_vision or not name.startswith(VISION))
        else:
            if settings.qlora:
                quantize_base(self.model, settings.qlora)
            attach(self.model, new_adapter(self.config, settings, self.base), trainable=True)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return {name: each for name, each in self.model.named_parameters() if each.requires_grad}

    @property
    def sees_pixels(self) -> bool:
        """Return True if the vision encoder itself is trained."""
        return any(name.startswith(VISION) for name in self.parameters)

    def groups(self) -> list[ParameterGroup]:
        """Return the groups, all stepped by AdamW."""
        groups: dict[str, dict[str, nn.Parameter]] = {}
        for name, parameter in self.parameters.items():
            part = next((part for part, names in PARTS.items() if name.startswith(names)), "decoder")
            group = part + (".B" if ".lora_B." in name else "")
            groups.setdefault(group, {})[name] = parameter
        return [ParameterGroup(name, {}, parameters) for name, parameters in groups.items()]

    def rates_at(self, step: int, steps: int, groups: list[ParameterGroup]) -> dict[str, float]:
        """Return each group's rate: up in the warm-up, then down in a line to a tenth."""
        settings = self.settings
        warmup = max(1, round(steps * settings.warmup))
        rate = learning_rate_at(step, steps, settings.peak_rate, warmup=warmup, fall=1.0, floor=FLOOR)
        factors = {
            "vision": settings.vision_factor, "adapter": settings.adapter_factor, "B": settings.plus_factor,
        }  # fmt: skip
        return {
            group.name: rate * math.prod(factors.get(word, 1.0) for word in group.name.split(".")) for group in groups
        }

    def check_gradients(self, masters: Mapping[str, Tensor], had_images: bool) -> None:
        """Raise after the first step if a matrix got no gradient: B, which began as 0, would still be 0."""
        dead = [
            name
            for name, master in masters.items()
            if ".lora_B." in name and not master.any() and (had_images or part_of(name) not in ("vision", "adapter"))
        ]
        if dead:
            raise TesseraError(
                f"{len(dead)} of {sum('.lora_B.' in name for name in masters)} adapted linears got no gradient in the "
                f"first step, first {dead[0].partition('.lora_B')[0]}; choose others with target_modules."
            )

    def write(self, folder: Path, *, first: bool = True) -> None:
        """Write the adapter or the model into a folder over that of before, which stays if anything goes wrong.

        Every rank must call it, because weights may be cut over the ranks; the first one writes.
        """
        tensors = self._whole_tensors(first) if self.settings.full else {}
        if not first:
            return
        folder.mkdir(parents=True, exist_ok=True)
        new = folder / ".new"
        shutil.rmtree(new, ignore_errors=True)
        if self.settings.full:
            self._write_model(new, tensors)
        else:
            write_peft(attached(self.model, self.base), new, self.config)
        # The weights are all that differs from the files of before; the mark last, as the sign of a whole folder.
        for file in sorted(new.iterdir(), key=lambda file: file.name in MARKS):
            file.replace(folder / file.name)
        new.rmdir()

    def _write_model(self, folder: Path, tensors: dict[str, Tensor]) -> None:
        source, params = self.checkpoint.tokenizer_file, json.dumps(self.config.to_params(), indent=2) + "\n"
        writers: dict[str, Writer] = {
            "consolidated.safetensors": partial(save_file, tensors),
            source.name: partial(shutil.copyfile, source),
            PARAMS: partial(Path.write_text, data=params, encoding="utf-8"),
        }
        size = sum(each.nbytes for each in tensors.values()) + source.stat().st_size + len(params)
        write_files(folder, writers, size)

    def _whole_tensors(self, first: bool) -> dict[str, Tensor]:
        """Return the model's weights on the CPU, gathered one after the other; nothing on ranks that do not write."""
        tensors = {}
        for name, each in self.model.state_dict().items():
            whole: Tensor = each.full_tensor() if hasattr(each, "full_tensor") else each
            if first:
                tensors[name] = whole.to("cpu", self.checkpoint.dtype).contiguous()
        return tensors
