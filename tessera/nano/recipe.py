"""Everything that decides what nano becomes: its shape, its vocabulary and its course of training.

Nano is a Pixtral in every respect but size. Its vocabulary is the official one cut after the 256
single bytes, so it writes letter by letter; ids below 1000 are the official special tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from tessera.model.config import ModelConfig, VisionConfig

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
    max_seq_len=4096,
    vision_encoder=VisionConfig(
        hidden_size=192,
        image_size=512,
        patch_size=16,
        rope_theta=10_000.0,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=4,
    ),
)


@dataclass(frozen=True)
class Recipe:
    """The course of one training run; the defaults are those of the published weights."""

    cycle_ends: tuple[int, ...] = (1700, 5600)  # steps at which the learning rate has fallen, the last is the end
    samples_per_step: int = 64
    samples_per_pass: int = 8  # of one forward and backward: alike in length, so little is padding
    learning_rate: float = 3e-3
    warmup_steps: int = 100
    easy_steps: int = 800  # over these the difficulty of the pictures grows from 0 to 1
    dense_weight: float = 1.0  # of the loss that names each patch's characters
    pointer_weight: float = 0.5  # of the loss that guides two attention heads along the text
    first_seed: int = 1_000_000  # seeds below are for held-out evaluation

    @property
    def steps(self) -> int:
        return self.cycle_ends[-1]

    def difficulty(self, step: int) -> float:
        return min(1.0, step / self.easy_steps)
