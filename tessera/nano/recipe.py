"""Nano's recipe: its shape, its vocabulary and its training stages.

Nano is a Pixtral in every respect but size. Its vocabulary is the official one cut after the 256
single bytes, so it writes letter by letter; ids below 1000 are the official special tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from tessera.model.config import ModelConfig, VisionConfig
from tessera.nano.pictures.mix import CLEAN, DENSE, MIXED, PRINTED, SMALL, Course

VOCABULARY_RANKS = 256
SPECIAL_TOKENS = 1000

NANO = ModelConfig(
    dim=192,
    n_layers=5,
    head_dim=48,
    hidden_dim=512,
    n_heads=4,
    n_kv_heads=2,
    rope_theta=10_000.0,
    norm_eps=1e-5,
    vocab_size=SPECIAL_TOKENS + VOCABULARY_RANKS,
    max_seq_len=16_384,
    vision_encoder=VisionConfig(
        hidden_size=192,
        image_size=1032,  # whole tokens, so that pages of 1024 px are not resized
        patch_size=12,  # 9 px type is two letters a patch, and 144 grey values fit into 192 channels
        rope_theta=10_000.0,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=4,
    ),
)


@dataclass(frozen=True)
class Stage:
    """A part of the run: the pages drawn, the parts trained, and their learning rates.

    A rate of 0 freezes that part of the model. The rates rise over `warmup` steps, stay, and
    fall over the last `fall` of the stage.
    """

    name: str
    steps: int
    course: Course
    pages: int  # in a step
    encoder_rate: float  # of encoder, adapter and character head
    decoder_rate: float
    dense_weight: float = 0.0  # weight of the loss that names each patch's characters
    pointer_weight: float = 0.0  # weight of the loss that guides two attention heads along the text
    warmup: int = 50
    fall: float = 0.3
    average_steps: int = 0  # the last steps, over which the weights are averaged


@dataclass(frozen=True)
class Recipe:
    """The course of one training run; the defaults are those of the published weights."""

    stages: tuple[Stage, ...] = (
        Stage("first letters", 500, CLEAN, 6, encoder_rate=3e-3, decoder_rate=0.0, dense_weight=1.0, fall=0.0),
        Stage("letters", 4500, DENSE, 8, encoder_rate=3e-3, decoder_rate=0.0, dense_weight=1.0, fall=0.25),
        Stage("answers", 2000, SMALL, 16, encoder_rate=0.0, decoder_rate=3e-3, pointer_weight=0.5, fall=0.2),
        Stage(
            "together", 1420, MIXED, 16, encoder_rate=1e-3, decoder_rate=2e-3,
            dense_weight=0.5, pointer_weight=0.3, fall=0.0,
        ),
        Stage(
            "finish", 1430, PRINTED, 16, encoder_rate=1e-3, decoder_rate=2e-3,
            dense_weight=0.5, pointer_weight=0.3, warmup=1, fall=1.0, average_steps=300,
        ),
    )  # fmt: skip
    tokens_per_pass: int = 4096  # of one forward and backward
    average_decay: float = 0.995
    first_seed: int = 1_000_000  # seeds below are for held-out evaluation

    @property
    def ends(self) -> list[int]:
        """Return the step at which each stage ends."""
        return list(accumulate(stage.steps for stage in self.stages))

    @property
    def steps(self) -> int:
        return self.ends[-1]
