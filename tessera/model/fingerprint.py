"""A model's fingerprint: what calibrations and measurements of one model are kept under."""

from __future__ import annotations

import hashlib

import torch

from tessera.model.pixtral import Pixtral

VALUES_PER_TENSOR = 64


@torch.inference_mode()
def fingerprint(model: Pixtral) -> str:
    """Return a digest of the settings, the kinds of linears, and some numbers of each tensor, in any dtype the same.

    It tells models and quantizations apart; it is no proof of the weights' integrity.
    """
    config = model.config
    digest = hashlib.sha256(repr(config).encode())
    if config.tied_embeddings or config.yarn or config.llama_4_scaling:
        digest.update(f"{config.tied_embeddings} {config.yarn} {config.llama_4_scaling}".encode())
    for name, module in model.named_modules():
        kind = getattr(module, "kind", type(module).__name__)  # linears with slots for adapters are the same model
        digest.update(f"{name} {kind}".encode())
    for name, tensor in model.state_dict().items():
        stride = max(tensor.numel() // VALUES_PER_TENSOR, 1)
        values = tensor.flatten()[::stride][:VALUES_PER_TENSOR].to("cpu", torch.float32)
        digest.update(name.encode())
        digest.update(values.to(torch.bfloat16).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:32]
