"""Plain data on the family's published models, from their own params.json and config.json.

Code that runs a model does not read this; it serves commands that need no model: which models fit
(`tessera doctor`), what an image costs (`tessera tokens`), how fast such shapes are (`tessera bench`);
and it provides a model's name (`tessera info`).
"""

from __future__ import annotations

from dataclasses import replace

from tessera.model.config import ModelConfig, QueryScaling, VisionConfig, YarnConfig

PIXTRAL_12B = ModelConfig(
    dim=5120,
    n_layers=40,
    head_dim=128,
    hidden_dim=14336,
    n_heads=32,
    n_kv_heads=8,
    rope_theta=1e9,
    norm_eps=1e-5,
    vocab_size=131_072,
    vision_encoder=VisionConfig(
        hidden_size=1024,
        image_size=1024,
        patch_size=16,
        rope_theta=10_000.0,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
    ),
)
MISTRAL_SMALL_31 = ModelConfig(
    dim=5120,
    n_layers=40,
    head_dim=128,
    hidden_dim=32768,
    n_heads=32,
    n_kv_heads=8,
    rope_theta=1e9,
    norm_eps=1e-5,
    vocab_size=131_072,
    vision_encoder=VisionConfig(
        hidden_size=1024,
        image_size=1540,
        patch_size=14,
        rope_theta=10_000.0,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        adapter_bias=False,
        mm_projector_id="patch_merge",
        spatial_merge_size=2,
        add_pre_mm_projector_layer_norm=True,
    ),
)
PIXTRAL_LARGE = ModelConfig(
    dim=12288,
    n_layers=88,
    head_dim=128,
    hidden_dim=28672,
    n_heads=96,
    n_kv_heads=8,
    rope_theta=1e9,
    norm_eps=1e-5,
    vocab_size=32_768,
    vision_encoder=VisionConfig(
        hidden_size=1408,
        image_size=1024,
        patch_size=16,
        rope_theta=10_000.0,
        intermediate_size=6144,
        num_hidden_layers=40,
        num_attention_heads=16,
        image_break_token_id=14,
        image_end_token_id=15,
        adapter_bias=False,
    ),
)


def _ministral_3(dim: int, n_layers: int, hidden_dim: int, rope_theta: float, *, tied: bool) -> ModelConfig:
    return replace(
        MISTRAL_SMALL_31,
        dim=dim,
        n_layers=n_layers,
        hidden_dim=hidden_dim,
        rope_theta=rope_theta,
        max_seq_len=262_144,
        tied_embeddings=tied,
        yarn=YarnConfig(factor=16.0, original_max_position_embeddings=16_384),
        llama_4_scaling=QueryScaling(original_max_position_embeddings=16_384, beta=0.1),
    )


MINISTRAL_3_3B = _ministral_3(3072, 26, 9216, 1e6, tied=True)
MINISTRAL_3_8B = _ministral_3(4096, 34, 14336, 1e6, tied=False)
MINISTRAL_3_14B = _ministral_3(5120, 40, 16384, 1e9, tied=False)
FAMILY = {
    "Pixtral 12B": PIXTRAL_12B,
    "Mistral Small 3.1 or 3.2": MISTRAL_SMALL_31,
    "Pixtral Large": PIXTRAL_LARGE,
    "Ministral 3 3B": MINISTRAL_3_3B,
    "Ministral 3 8B": MINISTRAL_3_8B,
    "Ministral 3 14B": MINISTRAL_3_14B,
}


def family_name(config: ModelConfig) -> str:
    """Name the published model of this shape: decoder width, layers, feed-forward width, merge, and if YaRN is used."""
    return next((name for name, one in FAMILY.items() if _shape(one) == _shape(config)), "Pixtral family")


def _shape(config: ModelConfig) -> tuple[int, ...]:
    merge, is_scaled = config.vision_encoder.spatial_merge_size, config.yarn is not None
    return config.dim, config.n_layers, config.hidden_dim, merge, is_scaled
