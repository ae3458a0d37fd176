"""Minimum work of a computation, counted from the shapes: operations, and bytes read."""

from __future__ import annotations

from tessera.model.config import ModelConfig
from tessera.model.pixtral import Pixtral


def decoder_parameters(config: ModelConfig) -> int:
    """Weights of the decoder layers' matrices and of the head."""
    return layer_parameters(config) + config.vocab_size * config.dim


def layer_parameters(config: ModelConfig) -> int:
    """Weights of the decoder layers' matrices."""
    heads = (2 * config.n_heads + 2 * config.n_kv_heads) * config.head_dim
    return config.n_layers * config.dim * (heads + 3 * config.hidden_dim)


def decoder_flops(config: ModelConfig, tokens: int, pairs: int, logits: int) -> float:
    """Operations for `tokens`, `pairs` of a token and one that it sees, and `logits` rows of logits."""
    attention = 4 * config.n_layers * config.n_heads * config.head_dim * pairs
    return 2.0 * (layer_parameters(config) * tokens + config.vocab_size * config.dim * logits) + attention


def encode_flops(config: ModelConfig, side: int, images: int = 1) -> float:
    """Operations for square images of `side` pixels in encoder and adapter; each attends to itself."""
    vision = config.vision_encoder
    patches = (side // vision.patch_size) ** 2
    width, hidden = vision.hidden_size, vision.intermediate_size
    layer = 2 * patches * (4 * width * width + 3 * width * hidden) + 4 * patches * patches * width
    patch = vision.num_channels * vision.patch_size**2 * width
    adapter = width * config.dim + config.dim * config.dim
    return float(images * (vision.num_hidden_layers * layer + 2 * patches * (patch + adapter)))


def prefill_flops(config: ModelConfig, tokens: int) -> float:
    """Operations for a prompt with logits for the last token only; each token sees half of it on average."""
    return decoder_flops(config, tokens, tokens * tokens // 2, 1)


def step_bytes(model: Pixtral) -> int:
    """Bytes of weights that one decoding step reads: the layers, the last norm and the head."""
    total = 0
    for module in (*model.layers.modules(), model.norm, model.output):
        tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        total += sum(tensor.nbytes for tensor in tensors)
    return total
