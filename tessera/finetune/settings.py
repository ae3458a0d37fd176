"""What a run is told: its method, rates, sizes and rules, with their bounds; two runs of equal settings are equal."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tessera.errors import UsageError
from tessera.finetune.samples import TOO_LONG

RECOMPUTE = ("auto", "always", "never")
LORA_RATE, FULL_RATE = 2e-4, 2e-5  # of adapters, ten times full training's (Schulman 2025, "LoRA Without Regret")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run; `rate` None is the method's default."""

    full: bool = False  # all weights, instead of an adapter
    qlora: int | None = None  # bits of the frozen base
    train_vision: bool = False
    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = ()  # ends of names of linears; default: all of decoder and adapter
    rate: float | None = None
    vision_factor: float = 0.5  # of the rate, for the vision encoder
    adapter_factor: float = 1.0  # of the rate, for the vision-language adapter
    plus_factor: float = 1.0  # of the rate, for B (LoRA+, arXiv 2402.12354)
    warmup: float = 0.03  # of all steps
    epochs: int = 1
    step_samples: int = 16
    replay_share: float = 0.0  # of each step's samples, if others are replayed
    pass_tokens: int = 8192
    recompute: str = "auto"  # of each layer's inner values for the gradient, which takes time and saves memory
    max_tokens: int = 8192  # of one sample
    too_long: str = "stop"
    drop_bad: bool = False
    seed: int = 0
    eval_steps: int = 50
    save_steps: int = 50
    patience: int = 0  # evaluations without a better loss before the run ends; 0: never
    sample: int = 2  # held-out samples that are answered at each evaluation

    def __post_init__(self) -> None:
        bounds = {
            "rank": (1, 1024), "alpha": (1e-6, 1e6), "rate": (0.0, 1.0), "vision_factor": (0.0, 100.0),
            "adapter_factor": (0.0, 100.0),
            "plus_factor": (1e-3, 1e3), "warmup": (0.0, 1.0), "epochs": (1, 10_000), "step_samples": (1, 100_000),
            "replay_share": (0.0, 0.9),
            "pass_tokens": (1, 1 << 20), "max_tokens": (8, 1 << 20), "seed": (0, 2**63 - 1),
            "eval_steps": (1, 1 << 30), "save_steps": (1, 1 << 30), "patience": (0, 1 << 30),
            "sample": (0, 64),
        }  # fmt: skip
        for name, (least, most) in bounds.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise UsageError(f"{name} is {value}; it must be between {least:g} and {most:g}.", param=name)
        if self.too_long not in TOO_LONG:
            raise UsageError(f"too_long is {self.too_long!r}; use {', '.join(TOO_LONG)}.", param="too_long")
        if self.recompute not in RECOMPUTE:
            raise UsageError(f"recompute is {self.recompute!r}; use {', '.join(RECOMPUTE)}.", param="recompute")
        if self.qlora not in (None, 4, 8):
            raise UsageError(f"qlora is {self.qlora}; use 4 or 8 bits.", param="qlora")
        if self.full and (self.qlora or self.targets):
            raise UsageError("full trains all weights as they are; leave out qlora and targets, or full.")

    @property
    def peak_rate(self) -> float:
        return self.rate if self.rate is not None else FULL_RATE if self.full else LORA_RATE

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"targets": list(self.targets)}
